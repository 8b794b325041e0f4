// Rows whose attention is not the plain one: lanes of different lengths, statistics, or both.
//
// A row's lanes (one a layer and KV head) are found through its one block table: slot s of a lane lies in
// block table[s / blockSize] at s % blockSize; or through a table a layer of slices, to which the pool is one of
// blocks of one layer. Within a lane, slots are to the kernels what positions are in a plain row.
#ifndef QUARTERMASTER_CPU_LANES_H
#define QUARTERMASTER_CPU_LANES_H

#include <quartermaster_host.h>

#include "../kernels.h"

namespace qm {

// Order of a layer's offsets in qmh_lane_row::outputs.
enum LaneOutput : uint32_t {
  OUT_LAST_ROW,
  OUT_WINDOW,
  OUT_COLSUM,
  OUT_MOMENTS,
  OUT_ENTROPY,
  OUT_PROBE_MAX,
  OUT_KEYS,
  OUT_OUTPUT_ERROR,
  LANE_OUTPUTS
};

// A record with what its offsets start from.
struct LaneRow {
  qmh_lane_row record;
  const uint32_t* words;
  float* floats;
  const uint32_t* table;
  uint32_t newTokens, heads;
  KvShape shape;

  bool sliced() const { return record.slices != QMH_NONE; }
  const uint32_t* tableOf(uint32_t layer) const {
    return sliced() ? words + words[record.slices + 2 * layer] : table;
  }
  // Shape whose blocks that table counts, and the layer in it.
  KvShape shapeOf() const { return sliced() ? slicesOf(shape) : shape; }
  uint32_t layerIn(uint32_t layer) const { return sliced() ? 0 : layer; }
  // Slots held before the new tokens.
  uint32_t length(uint32_t layer, uint32_t kvHead) const {
    return words[record.lengths + layer * shape.kvHeads + kvHead];
  }
  // The only new token takes a slot that was held.
  bool takesPlace(uint32_t layer, uint32_t kvHead) const {
    return record.write_slots != QMH_NONE &&
           words[record.write_slots + layer * shape.kvHeads + kvHead] != QMH_NONE;
  }
  uint32_t lengthAfter(uint32_t layer, uint32_t kvHead) const {
    return length(layer, kvHead) + (takesPlace(layer, kvHead) ? 0 : newTokens);
  }
  // Slot of the pool that new token `query` takes.
  uint32_t poolSlot(uint32_t layer, uint32_t kvHead, uint32_t query) const {
    const uint32_t slot = takesPlace(layer, kvHead)
                              ? words[record.write_slots + layer * shape.kvHeads + kvHead]
                              : length(layer, kvHead) + query;
    return tableOf(layer)[slot / shape.blockSize] * shape.blockSize + slot % shape.blockSize;
  }
  // Offset in floats, or QMH_NONE.
  uint32_t output(uint32_t layer, LaneOutput which) const {
    return record.outputs == QMH_NONE ? QMH_NONE : words[record.outputs + layer * LANE_OUTPUTS + which];
  }
  // Something of a layer is measured.
  bool measures(uint32_t layer) const;
  // Queries of a layer must attend one after the other, since what is measured of them adds up.
  bool accumulates(uint32_t layer) const;
  // Last queries of the row of which something is read off the attention of a layer.
  uint32_t measuredQueries(uint32_t layer) const;
  uint32_t longest() const;
};

// Queries [first, first + count) of a row, of query heads from firstHead on: [query][heads][headDim] at q and
// out.
struct LaneQueries {
  uint32_t first, count, firstHead;
  const float* q;
  size_t qStride;
  float* out;
  size_t outStride;
};

// Query heads of one kernel call that measures all its queries: their weights should stay in a second-level
// cache.
constexpr uint32_t MEASURED_ROWS = 32;

// Attention of args.group query heads of one KV head over its lane: all of the group, or some where PROBE_MAX
// is not measured, each head being alone with its statistics. `args` has the pool, the layer, the head, the
// window and scratch too. `kept`: over the slots that OUTPUT_ERROR keeps, nothing measured. `weights`:
// laneWeights floats. `entropies`: [heads], added to.
void attendLane(const Kernels& kernels, const LaneRow& row, AttendArgs args, const LaneQueries& queries,
                bool kept, float* weights, double* entropies);
size_t laneWeights(const LaneRow& row);
// Takes the sums of a layer's heads off its entropy, if it is asked for.
void addEntropy(const LaneRow& row, uint32_t layer, const double* entropies);

// Copies the keys of one lane to the statistics as floats. REQUIRES: KEYS is asked for.
void copyKeys(const Kernels& kernels, const LaneRow& row, const uint8_t* kv, uint32_t layer, uint32_t kvHead);

// What a record is checked against.
struct LaneLimits {
  KvShape shape;
  uint32_t heads, slidingWindow, computedBefore, newTokens, tableCount;
  bool layered;  // slices are not there yet
};

// Throws Refusal (QMH_BAD_BATCH, or QMH_UNSUPPORTED for missing tokens under a sliding window) naming the
// first thing out of its limits. REQUIRES: table has tableCount entries.
void checkLaneRow(const qmh_lanes& lanes, uint32_t index, const uint32_t* table, const LaneLimits& limits);

// Throws Refusal (QMH_BAD_BATCH) unless the layer's slices, if the row has any, hold its slots.
void checkSlices(const LaneRow& row, uint32_t layer);

// The row of checked record `index`.
LaneRow laneRowAt(const qmh_lanes& lanes, uint32_t index, const uint32_t* table, uint32_t newTokens,
                  uint32_t heads, const KvShape& shape);

// Checks all records (throwing Refusal, QMH_INVALID_ARGUMENT), then moves or merges K and V in the pool.
void moveSlots(uint8_t* pool, const KvShape& shape, const uint32_t* moves, size_t words);
void mergeSlots(uint8_t* pool, const KvShape& shape, const uint32_t* merges, size_t words);

}  // namespace qm

#endif  // QUARTERMASTER_CPU_LANES_H
