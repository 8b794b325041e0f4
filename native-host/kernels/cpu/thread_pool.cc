#include "thread_pool.h"

#include <system_error>

namespace qm {
namespace {

constexpr uint64_t OPEN = uint64_t{1} << 63;
constexpr uint64_t ONE_REGION = uint64_t{1} << 32;
constexpr uint64_t JOINED = ONE_REGION - 1;
// Turns of a waiting loop before a worker sleeps, or the caller yields: 10 to 40 microseconds.
constexpr uint32_t SPINS = 1000;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

inline bool sameRegion(uint64_t a, uint64_t b) { return ((a ^ b) & ~(OPEN | JOINED)) == 0; }

}  // namespace

ThreadPool::ThreadPool(uint32_t threads) {
  workers_.reserve(threads - 1);
  try {
    for (uint32_t i = 1; i < threads; i++) workers_.emplace_back(&ThreadPool::worker, this, i);
  } catch (const std::system_error&) {
    // The system gives no more threads: work with those there are.
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::runRegion(size_t count, Call call, const void* context) {
  call_ = call;
  context_ = context;
  count_ = count;
  next_.store(0, std::memory_order_relaxed);
  left_.store(0, std::memory_order_relaxed);
  const uint64_t region = (gate_.load(std::memory_order_relaxed) & ~(OPEN | JOINED)) + ONE_REGION;
  // Sequentially consistent, as is a sleeper's announcement: one of the two sees the other.
  gate_.store((region & ~OPEN) | OPEN);
  if (sleepers_.load() != 0) {
    std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  takeTasks(0);
  const uint32_t joined = static_cast<uint32_t>(gate_.fetch_and(~OPEN) & JOINED);
  for (uint32_t spins = 0; left_.load(std::memory_order_acquire) != joined; spins++) {
    if (spins < SPINS) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::takeTasks(uint32_t thread) {
  for (size_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) call_(context_, i, thread);
}

void ThreadPool::worker(uint32_t thread) {
  uint64_t seen = 0;
  for (;;) {
    uint64_t gate = awaitGate(seen);
    if (stop_) return;
    seen = gate;
    while ((gate & OPEN) != 0 && sameRegion(gate, seen)) {
      if (!gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire)) continue;
      takeTasks(thread);
      left_.fetch_add(1, std::memory_order_release);
      break;
    }
  }
}

// Returns the gate of a region other than `seen`, or anything once the pool stops.
uint64_t ThreadPool::awaitGate(uint64_t seen) {
  uint64_t gate = 0;
  const auto changed = [&] { return stop_ || !sameRegion(gate = gate_.load(), seen); };
  for (uint32_t spins = 0; spins < SPINS; spins++) {
    if (changed()) return gate;
    pause();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_++;
  wake_.wait(lock, changed);
  sleepers_--;
  return gate;
}

}  // namespace qm
