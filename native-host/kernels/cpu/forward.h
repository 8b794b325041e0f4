// The forward pass of one batch: a Llama, Mistral or Qwen2 decoder over the paged KV cache.
#ifndef QUARTERMASTER_CPU_FORWARD_H
#define QUARTERMASTER_CPU_FORWARD_H

#include <quartermaster_host.h>

#include <memory>

#include "model.h"

namespace qm {

// Copies the first `tokens` tokens of a block of a group, every layer and head. REQUIRES: ids and count within
// the pool.
void copyBlock(Model* model, uint32_t group, uint32_t source, uint32_t target, uint32_t tokens);

// REQUIRES: checkBatch passed. Throws std::bad_alloc before anything is written.
void forward(Model* model, const qmh_batch& batch, const qmh_sampling* sampling, const uint32_t* history,
             uint32_t* tokensOut, float* logitsOut);

// The same in parts, for callers that look and move K and V between layers: next() until done(), then end(). Block
// tables are copied; the other arrays stay the caller's, and stay.
class LayeredPass {
 public:
  // REQUIRES: checkBatch passed. Throws std::bad_alloc before anything is written.
  LayeredPass(Model* model, const qmh_batch& batch, const qmh_sampling* sampling, const uint32_t* history,
              uint32_t* tokensOut, float* logitsOut);
  ~LayeredPass();
  bool done() const;
  // Computes the next layer. Throws Refusal (QMH_BAD_BATCH), before anything is written, for slices beyond the pool.
  void next();
  void end();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qm

#endif  // QUARTERMASTER_CPU_FORWARD_H
