// Batches of block copies, carried out by threads of each direction in the order that their blocks ask for.
//
//   handed over --(those before it that touch its blocks are done)--> ready[direction] --> a thread --> done
//
// Invariants  1. `touched_` has, for each block of a tier, the ticket of the last batch that reads or writes it.
//             2. A batch counts those it waits for: the unfinished ones of the tickets it found on its blocks.
//                They, in turn, wait for the ones before them. It is in no queue before the count is 0.
//             3. A batch is in `unfinished_` from enqueue() until its copies have ended; then those that wait
//                for it are told, in one step under the mutex.
//             4. A queue is first in, first out.
// Cost        enqueue(): O(b log b) for b blocks, whatever is in flight.
#ifndef QUARTERMASTER_CPU_COPY_ENGINE_H
#define QUARTERMASTER_CPU_COPY_ENGINE_H

#include <quartermaster_copy.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "copy_backend.h"

namespace qm {

class CopyEngine {
 public:
  // Throws Refusal naming the field that is outside its range.
  explicit CopyEngine(const qmh_copier_config& config);
  ~CopyEngine();
  CopyEngine(const CopyEngine&) = delete;
  CopyEngine& operator=(const CopyEngine&) = delete;

  uint8_t* host() const { return host_.get(); }
  // Throws Refusal (QMH_INVALID_ARGUMENT) naming the first copy that leaves its tier or goes another way.
  void enqueue(const qmh_copy* copies, size_t count, qmh_copy_done done, void* context);

 private:
  // Runs of blocks that follow each other on both sides.
  struct Run {
    uint64_t source, target, blocks;
  };

  struct Batch {
    CopyDirection direction;
    uint64_t ticket = 0;
    std::vector<Run> runs;
    qmh_copy_done done;
    void* context;
    size_t waitsFor = 0;
    std::vector<Batch*> waiters;
  };

  void check(const qmh_copy& copy, size_t index, CopyDirection direction) const;
  std::vector<Batch*> conflicts(const Batch& batch) const;
  void touch(const Batch& batch, uint64_t ticket);
  void start(CopyDirection direction, uint32_t thread);
  void work(CopyDirection direction, uint32_t thread);
  uint64_t carryOut(const Batch& batch, CopyStream* stream, uint64_t* random);
  void ready(Batch* batch);
  void stop();

  const qmh_copier_config config_;
  const CopyBackend& backend_;
  std::shared_ptr<uint8_t> host_;

  std::mutex mutex_;
  std::condition_variable wake_[COPY_DIRECTIONS];
  std::deque<Batch*> ready_[COPY_DIRECTIONS];
  std::unordered_map<uint64_t, std::unique_ptr<Batch>> unfinished_;  // by ticket
  std::vector<uint64_t> touched_[2];                                 // by tier and block
  uint64_t tickets_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace qm

#endif  // QUARTERMASTER_CPU_COPY_ENGINE_H
