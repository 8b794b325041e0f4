// Fork-join threads for the regions of a forward pass.
//
// A region is `count` independent tasks; the calling thread works too. Workers that are awake join the
// region, late ones find its gate closed and are not waited for: a region costs the caller two atomic
// operations more than a loop.
//
//   gate_   bit 63: open; bits 32..62: region number; bits 0..31: workers that joined
//   next_   first task nobody took yet
//   left_   workers that joined and are done
//
// Invariants  1. A worker touches the region only after it joined through an open gate.
//             2. The caller closes the gate, then waits until left_ equals the number that joined: nobody is
//                inside when the region's fields change.
// Threading   One caller at a time. Workers spin for some ten microseconds (a forward pass has a region every
//             few), then sleep, so that an idle model costs nothing.
#ifndef QUARTERMASTER_CPU_THREAD_POOL_H
#define QUARTERMASTER_CPU_THREAD_POOL_H

#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace qm {

class ThreadPool {
 public:
  // REQUIRES: threads >= 1. Starts threads - 1 workers.
  explicit ThreadPool(uint32_t threads);
  // REQUIRES: no region is running.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  uint32_t threads() const { return static_cast<uint32_t>(workers_.size()) + 1; }

  // Calls task(index, thread) for each index below count, thread < threads(), and returns when all are done.
  // The task must not throw.
  template <class Task>
  void run(size_t count, const Task& task) {
    if (workers_.empty() || count < 2) {
      for (size_t i = 0; i < count; i++) task(i, uint32_t{0});
      return;
    }
    runRegion(
        count,
        [](const void* context, size_t i, uint32_t thread) {
          (*static_cast<const Task*>(context))(i, thread);
        },
        &task);
  }

 private:
  using Call = void (*)(const void* context, size_t index, uint32_t thread);

  void runRegion(size_t count, Call call, const void* context);
  void takeTasks(uint32_t thread);
  void worker(uint32_t thread);
  uint64_t awaitGate(uint64_t seen);

  // The region, written by the caller while the gate is closed.
  Call call_ = nullptr;
  const void* context_ = nullptr;
  size_t count_ = 0;

  alignas(64) std::atomic<uint64_t> gate_{0};
  alignas(64) std::atomic<size_t> next_{0};
  alignas(64) std::atomic<uint32_t> left_{0};

  alignas(64) std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

}  // namespace qm

#endif  // QUARTERMASTER_CPU_THREAD_POOL_H
