// The forward pass of one batch: a Llama, Mistral or Qwen2 decoder over the paged KV cache.
#ifndef QUARTERMASTER_CPU_FORWARD_H
#define QUARTERMASTER_CPU_FORWARD_H

#include <quartermaster_host.h>

#include "model.h"

namespace qm {

// Copies the first `tokens` tokens of a block's every layer and head. REQUIRES: ids and count within the
// pool.
void copyBlock(Model* model, uint32_t source, uint32_t target, uint32_t tokens);

// REQUIRES: checkBatch passed. Throws std::bad_alloc before anything is written.
void forward(Model* model, const qmh_batch& batch, const qmh_sampling* sampling, const uint32_t* history,
             uint32_t* tokensOut, float* logitsOut);

}  // namespace qm

#endif  // QUARTERMASTER_CPU_FORWARD_H
