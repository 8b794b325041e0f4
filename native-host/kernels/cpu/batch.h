// Checks of a batch before anything is touched.
#ifndef QUARTERMASTER_CPU_BATCH_H
#define QUARTERMASTER_CPU_BATCH_H

#include <quartermaster_host.h>

#include "model.h"

namespace qm {

enum Phase : uint32_t { PHASE_PREFILL_CHUNK, PHASE_DECODE, PHASE_LAST_CHUNK };

// A transfer record: op, source tier, source block, target tier, target block, tokens, mark, 0.
constexpr uint32_t TRANSFER_WORDS = 8;

// Copies are the batch's own, in a group its number times 256; swaps to the host, back, and waits for them happen
// beside it.
enum TransferOp : uint32_t { TRANSFER_COPY, TRANSFER_SWAP_OUT, TRANSFER_SWAP_IN, TRANSFER_WAIT };

struct Transfer {
  uint32_t op, sourceTier, source, targetTier, target, tokens, mark, reserved;

  bool copies() const { return op % 256 == TRANSFER_COPY; }
  uint32_t group() const { return op / 256; }
};

static inline Transfer transferAt(const qmh_batch& batch, uint32_t i) {
  Transfer transfer;
  memcpy(&transfer, batch.transfers + size_t{i} * TRANSFER_WORDS, sizeof transfer);
  return transfer;
}

static inline bool samples(uint32_t phase) { return phase != PHASE_PREFILL_CHUNK; }

// Throws Refusal (QMH_BAD_BATCH, or QMH_INVALID_ARGUMENT for sampling records) naming the first thing out of
// its limits. Cost: one look at each row, token, slot, transfer and needed block id. `layered`: slices of lanes are
// checked as each layer begins.
void checkBatch(const Model& model, const qmh_batch& batch, const qmh_sampling* sampling,
                const uint32_t* history, size_t historyCount, bool layered);

}  // namespace qm

#endif  // QUARTERMASTER_CPU_BATCH_H
