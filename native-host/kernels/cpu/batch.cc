#include "batch.h"

#include <algorithm>

#include "lanes.h"
#include "refusal.h"

namespace qm {
namespace {

// `lanes`: the row has a record, which says how many of its blocks are needed.
void checkRow(const Model& model, const qmh_batch& b, uint32_t row, bool lanes) {
  const qmh_config& c = model.config;
  const uint64_t end = uint64_t{b.computed_before[row]} + b.new_tokens[row];
  if (b.phases[row] > PHASE_LAST_CHUNK)
    refuse(QMH_BAD_BATCH, "row %u has phase %u; allowed: 0 to 2", row, b.phases[row]);
  if (b.new_tokens[row] == 0) refuse(QMH_BAD_BATCH, "row %u has no new tokens", row);
  if (b.token_start[row] > b.total_tokens ||
      b.token_start[row + 1] != uint64_t{b.token_start[row]} + b.new_tokens[row]) {
    refuse(QMH_BAD_BATCH, "row %u has %u new tokens but starts at %u and ends at %u", row, b.new_tokens[row],
           b.token_start[row], b.token_start[row + 1]);
  }
  if (end > c.max_sequence_tokens) {
    refuse(QMH_BAD_BATCH, "row %u reaches %llu tokens; the most is %u", row,
           static_cast<unsigned long long>(end), c.max_sequence_tokens);
  }
  const uint64_t blocksNeeded = lanes ? 0 : (end + c.kv.block_size - 1) / c.kv.block_size;
  if (b.table_count[row] < blocksNeeded) {
    refuse(QMH_BAD_BATCH, "row %u has %u blocks for %llu tokens", row, b.table_count[row],
           static_cast<unsigned long long>(end));
  }
  if (uint64_t{b.table_start[row]} + b.table_count[row] > b.table_words) {
    refuse(QMH_BAD_BATCH, "the table of row %u ends at %llu of %zu", row,
           static_cast<unsigned long long>(uint64_t{b.table_start[row]} + b.table_count[row]), b.table_words);
  }
  const uint32_t* table = b.tables + b.table_start[row];
  for (uint64_t i = 0; i < blocksNeeded; i++) {
    if (table[i] >= c.kv.blocks) {
      refuse(QMH_BAD_BATCH, "block %llu of row %u is %u; the pool has %u", static_cast<unsigned long long>(i),
             row, table[i], c.kv.blocks);
    }
  }
}

void checkTransfer(const Model& model, const Transfer& t, uint32_t i) {
  const qmh_kv_shape& kv = model.config.kv;
  if (t.op > TRANSFER_WAIT && (!t.copies() || t.group() >= model.groups.size()))
    refuse(QMH_BAD_BATCH, "transfer %u has operation %u; allowed: 0 to 3, and 256 times a group", i, t.op);
  if (!t.copies()) return;
  if (t.sourceTier != 0 || t.targetTier != 0) {
    refuse(QMH_BAD_BATCH, "transfer %u is from tier %u to tier %u; allowed: 0", i, t.sourceTier,
           t.targetTier);
  }
  if (t.source >= kv.blocks || t.target >= kv.blocks) {
    refuse(QMH_BAD_BATCH, "transfer %u is from block %u to %u; the pool has %u", i, t.source, t.target,
           kv.blocks);
  }
  const uint32_t blockSize = model.groups[t.group()].blockSize;
  if (t.tokens > blockSize)
    refuse(QMH_BAD_BATCH, "transfer %u has %u tokens; a block has %u", i, t.tokens, blockSize);
  if (t.mark > 1) refuse(QMH_BAD_BATCH, "transfer %u has mark %u; allowed: 0 and 1", i, t.mark);
}

// Tables and slots in group `g` >= 1. Blocks that its layers' window has left behind need not be there.
void checkGroup(const Model& model, const qmh_batch& b, uint32_t g) {
  const qmh_group_tables& tables = b.groups[g - 1];
  const KvShape& shape = model.groups[g];
  const auto firstSeen = [&](uint32_t position) {
    uint32_t first = position;
    for (const LayerPlace& place : model.places) {
      if (place.group != g) continue;
      first = std::min(first, place.window != 0 && position >= place.window ? position - place.window + 1 : 0);
    }
    return first;
  };
  for (uint32_t row = 0; row < b.rows; row++) {
    const uint32_t first = b.computed_before[row], count = tables.table_count[row];
    const uint64_t end = uint64_t{first} + b.new_tokens[row];
    if (count * uint64_t{shape.blockSize} < end || uint64_t{tables.table_start[row]} + count > tables.table_words)
      refuse(QMH_BAD_BATCH, "row %u has %u blocks in group %u, which its tokens or the tables forbid", row, count,
             g);
    const uint32_t* table = tables.tables + tables.table_start[row];
    for (uint64_t i = firstSeen(first) / shape.blockSize; i * shape.blockSize < end; i++) {
      if (table[i] >= shape.blocks)
        refuse(QMH_BAD_BATCH, "block %u of row %u in group %u is %u; the pool has %u", uint32_t(i), row, g,
               table[i], shape.blocks);
    }
  }
  for (uint32_t i = 0; i < b.total_tokens; i++) {
    if (tables.slots[i] / shape.blockSize >= shape.blocks)
      refuse(QMH_BAD_BATCH, "slot of token %u in group %u is %u", i, g, tables.slots[i]);
  }
}

}  // namespace

void checkBatch(const Model& model, const qmh_batch& b, const qmh_sampling* sampling, const uint32_t* history,
                size_t historyCount, bool layered) {
  if (b.rows != 0 && b.token_start[0] != 0)
    refuse(QMH_BAD_BATCH, "the first row starts at token %u", b.token_start[0]);
  uint32_t samplingRows = 0;
  size_t record = 0;
  if (b.lanes && reinterpret_cast<uintptr_t>(b.lanes->floats) % sizeof(double) != 0)
    refuse(QMH_BAD_BATCH, "the floats of statistics do not lie on a multiple of 8 bytes");
  for (uint32_t row = 0; row < b.rows; row++) {
    const bool lanes = b.lanes && record < b.lanes->row_count && b.lanes->rows[record].row == row;
    checkRow(model, b, row, lanes);
    if (lanes) {
      checkLaneRow(*b.lanes, static_cast<uint32_t>(record++), b.tables + b.table_start[row],
                   {model.kv, model.config.heads, model.config.sliding_window, b.computed_before[row],
                    b.new_tokens[row], b.table_count[row], layered});
    }
    samplingRows += samples(b.phases[row]) ? 1 : 0;
  }
  if (b.lanes && record != b.lanes->row_count)
    refuse(QMH_BAD_BATCH, "record %zu of lanes is for row %u, out of order or beyond the rows", record,
           b.lanes->rows[record].row);
  const uint32_t tokens = b.rows == 0 ? 0 : b.token_start[b.rows];
  if (tokens != b.total_tokens)
    refuse(QMH_BAD_BATCH, "rows hold %u tokens, totalTokens is %u", tokens, b.total_tokens);
  if (samplingRows != b.sampling_rows) {
    refuse(QMH_BAD_BATCH, "%u rows sample, samplingRows is %u", samplingRows, b.sampling_rows);
  }
  const uint32_t slots = model.config.kv.blocks * model.config.kv.block_size;
  for (uint32_t i = 0; i < b.total_tokens; i++) {
    if (b.tokens[i] >= model.config.vocab) {
      refuse(QMH_BAD_BATCH, "token %u is %u; the vocabulary has %u", i, b.tokens[i], model.config.vocab);
    }
  }
  for (uint32_t row = 0, next = 0; row < b.rows; row++) {
    if (b.lanes && next < b.lanes->row_count && b.lanes->rows[next].row == row) {
      next++;
      continue;
    }
    for (uint32_t i = b.token_start[row]; i < b.token_start[row + 1]; i++) {
      if (b.slots[i] >= slots)
        refuse(QMH_BAD_BATCH, "slot of token %u is %u; the pool has %u", i, b.slots[i], slots);
    }
  }
  if (b.group_count + 1 != model.groups.size())
    refuse(QMH_BAD_BATCH, "the batch has tables of %u groups, the model %zu", b.group_count,
           model.groups.size() - 1);
  if (b.lanes && b.lanes->row_count > 0 && model.groups.size() > 1)
    refuse(QMH_UNSUPPORTED, "lanes and statistics in a model whose layers are in groups");
  for (uint32_t g = 1; g < model.groups.size(); g++) checkGroup(model, b, g);
  for (uint32_t i = 0; i < b.transfer_count; i++) checkTransfer(model, transferAt(b, i), i);
  for (uint32_t i = 0; i < b.sampling_rows; i++)
    checkSampling(sampling[i], model.config.vocab, history, historyCount);
}

}  // namespace qm
