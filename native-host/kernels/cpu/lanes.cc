#include "lanes.h"

#include <algorithm>

#include "refusal.h"

namespace qm {
namespace {

uint32_t atLeastOneGroup(uint32_t queryHeads, uint32_t group) { return std::max(queryHeads / group, 1u); }

// Queries of one kernel call.
uint32_t queriesOfCall(const LaneRow& row, uint32_t layer, uint32_t group) {
  return atLeastOneGroup(row.accumulates(layer) ? MEASURED_ROWS : ATTEND_ROWS, group);
}

float* place(const LaneRow& row, uint32_t layer, LaneOutput which, size_t skip) {
  const uint32_t offset = row.output(layer, which);
  return offset == QMH_NONE ? nullptr : row.floats + offset + skip;
}

uint64_t windowHeadsOf(const LaneRow& row, uint32_t layer, uint32_t firstHead, uint32_t group) {
  if (row.record.window_heads == QMH_NONE) return ~uint64_t{0};
  const uint32_t* words = row.words + row.record.window_heads + layer * ((row.heads + 31) / 32);
  uint64_t bits = 0;
  for (uint32_t g = 0; g < group; g++) {
    const uint32_t head = firstHead + g;
    bits |= uint64_t{words[head / 32] >> (head % 32) & 1} << g;
  }
  return bits;
}

AttendMeasures measuresOf(const LaneRow& row, uint32_t layer, uint32_t kvHead, uint32_t firstHead,
                          uint32_t group) {
  const size_t stride = row.record.stride, heads = firstHead * stride;
  AttendMeasures m = {};
  m.lastRow = place(row, layer, OUT_LAST_ROW, heads);
  m.window = place(row, layer, OUT_WINDOW, heads * row.record.window);
  m.colsum = place(row, layer, OUT_COLSUM, heads);
  m.moments = place(row, layer, OUT_MOMENTS, 2 * heads);
  m.probeMax = place(row, layer, OUT_PROBE_MAX, kvHead * stride);
  m.stride = stride;
  m.windowHeads = windowHeadsOf(row, layer, firstHead, group);
  m.windowRows = row.record.window;
  m.probeRows = row.record.probe;
  m.cached = row.length(layer, kvHead);
  return m;
}

const uint32_t* bitmapOf(const LaneRow& row, uint32_t offset, uint32_t layer, uint32_t kvHead) {
  if (offset == QMH_NONE) return nullptr;
  return row.words + offset + size_t{layer * row.shape.kvHeads + kvHead} * row.record.bitmap_words;
}

}  // namespace

bool LaneRow::measures(uint32_t layer) const {
  for (uint32_t i = 0; i < LANE_OUTPUTS; i++) {
    if (output(layer, static_cast<LaneOutput>(i)) != QMH_NONE) return true;
  }
  return false;
}

bool LaneRow::accumulates(uint32_t layer) const {
  return output(layer, OUT_COLSUM) != QMH_NONE || output(layer, OUT_MOMENTS) != QMH_NONE ||
         output(layer, OUT_PROBE_MAX) != QMH_NONE;
}

uint32_t LaneRow::measuredQueries(uint32_t layer) const {
  const auto asked = [&](LaneOutput which) { return output(layer, which) != QMH_NONE; };
  if (asked(OUT_COLSUM) || asked(OUT_OUTPUT_ERROR)) return newTokens;
  uint32_t queries = asked(OUT_LAST_ROW) ? 1 : 0;
  if (asked(OUT_WINDOW) || asked(OUT_MOMENTS)) queries = std::max(queries, record.window);
  return asked(OUT_PROBE_MAX) ? std::max(queries, record.probe) : queries;
}

uint32_t LaneRow::longest() const {
  const uint32_t* lengths = words + record.lengths;
  return *std::max_element(lengths, lengths + shape.layers * shape.kvHeads);
}

size_t laneWeights(const LaneRow& row) {
  if (row.record.outputs == QMH_NONE) return 0;
  const uint32_t group = row.heads / row.shape.kvHeads;
  return attendWeights(std::max(ATTEND_ROWS, group), size_t{row.longest()} + row.newTokens);
}

void attendLane(const Kernels& kernels, const LaneRow& row, AttendArgs args, const LaneQueries& queries,
                bool kept, float* weights, double* entropies) {
  const uint32_t layer = args.layer, kvHead = args.kvHead;
  const uint32_t length = row.length(layer, kvHead);
  // A token that took a slot in place sees what was held, and is the only one.
  const uint32_t before = row.takesPlace(layer, kvHead) ? length - 1 : length;
  const bool measured = !kept && row.measures(layer);
  const uint32_t most =
      measured ? queriesOfCall(row, layer, args.group) : atLeastOneGroup(ATTEND_ROWS, args.group);
  AttendMeasures measures = {};
  if (measured) {
    measures = measuresOf(row, layer, kvHead, queries.firstHead, args.group);
    measures.entropy = entropies + queries.firstHead;
    measures.weights = weights;
    args.measures = &measures;
  }
  args.table = row.tableOf(layer);
  args.shape = row.shapeOf();
  args.layer = row.layerIn(layer);
  args.live = bitmapOf(row, kept ? row.record.keep : row.record.live, layer, kvHead);
  args.qStride = queries.qStride;
  args.outStride = queries.outStride;
  for (uint32_t i = 0; i < queries.count; i += most) {
    args.queries = std::min(most, queries.count - i);
    args.q = queries.q + i * queries.qStride;
    args.out = queries.out + i * queries.outStride;
    args.firstPosition = before + queries.first + i;
    measures.queriesAfter = row.newTokens - (queries.first + i + args.queries);
    kernels.attend(args);
  }
}

void addEntropy(const LaneRow& row, uint32_t layer, const double* entropies) {
  double* to = reinterpret_cast<double*>(place(row, layer, OUT_ENTROPY, 0));
  for (uint32_t head = 0; to != nullptr && head < row.heads; head++) *to -= entropies[head];
}

void copyKeys(const Kernels& kernels, const LaneRow& row, const uint8_t* kv, uint32_t layer,
              uint32_t kvHead) {
  const KvShape s = row.shapeOf();
  const uint32_t slots = row.lengthAfter(layer, kvHead);
  const uint32_t* table = row.tableOf(layer);
  float* to = place(row, layer, OUT_KEYS, size_t{kvHead} * row.record.stride * s.headDim);
  for (uint32_t slot = 0; slot < slots; slot++, to += s.headDim) {
    // A block's keys are a table of rows, and to look one up is to widen it.
    const uint8_t* keys = kv + kvOffset(s, table[slot / s.blockSize], row.layerIn(layer), KV_K, kvHead);
    const uint32_t offset = slot % s.blockSize;
    kernels.embed({keys, s.type}, s.headDim, &offset, 1, to);
  }
}

LaneRow laneRowAt(const qmh_lanes& lanes, uint32_t index, const uint32_t* table, uint32_t newTokens,
                  uint32_t heads, const KvShape& shape) {
  return {lanes.rows[index], lanes.words, lanes.floats, table, newTokens, heads, shape};
}

namespace {

class LaneCheck {
 public:
  LaneCheck(const qmh_lanes& lanes, uint32_t index, const uint32_t* table, const LaneLimits& limits)
      : lanes_(lanes),
        r_(lanes.rows[index]),
        limits_(limits),
        row_(laneRowAt(lanes, index, table, limits.newTokens, limits.heads, limits.shape)) {}

  void run() {
    const KvShape& s = limits_.shape;
    const uint64_t count = uint64_t{s.layers} * s.kvHeads, bitmaps = count * r_.bitmap_words;
    if (r_.lengths == QMH_NONE) refuse(QMH_BAD_BATCH, "row %u has no lengths", r_.row);
    words("lengths", r_.lengths, count);
    words("writeSlots", r_.write_slots, count);
    words("live", r_.live, bitmaps);
    words("keep", r_.keep, bitmaps);
    words("windowHeads", r_.window_heads, uint64_t{s.layers} * ((limits_.heads + 31) / 32));
    words("outputs", r_.outputs, uint64_t{s.layers} * LANE_OUTPUTS);
    words("slices", r_.slices, uint64_t{s.layers} * 2);
    if (r_.slices != QMH_NONE) slices();
    if (r_.write_slots != QMH_NONE && limits_.newTokens != 1)
      refuse(QMH_BAD_BATCH, "row %u has slots for one new token and %u of them", r_.row, limits_.newTokens);
    for (uint32_t layer = 0; layer < s.layers; layer++) {
      for (uint32_t head = 0; head < s.kvHeads; head++) lane(layer, head);
      if (r_.outputs != QMH_NONE) outputs(layer);
    }
  }

 private:
  // Entries lie within the words; what they are is checked once they are there.
  void slices() {
    const KvShape& s = limits_.shape;
    if (uint64_t{s.blocks} * s.layers * s.blockSize > UINT32_MAX)
      refuse(QMH_UNSUPPORTED, "slices of a pool of %u blocks of %u tokens, %u layers", s.blocks, s.blockSize,
             s.layers);
    for (uint32_t layer = 0; layer < s.layers; layer++) {
      const uint32_t* place = lanes_.words + r_.slices + 2 * layer;
      if (uint64_t{place[0]} + place[1] > lanes_.word_count)
        refuse(QMH_BAD_BATCH, "slices of layer %u of row %u end beyond the words", layer, r_.row);
      if (!limits_.layered) checkSlices(row_, layer);
    }
  }

  void words(const char* name, uint32_t offset, uint64_t count) {
    if (offset != QMH_NONE && offset + count > lanes_.word_count)
      refuse(QMH_BAD_BATCH, "%s of row %u end beyond the %zu words", name, r_.row, lanes_.word_count);
  }

  void lane(uint32_t layer, uint32_t head) {
    const KvShape& s = limits_.shape;
    const uint32_t length = row_.length(layer, head);
    const uint64_t after = uint64_t{length} + (row_.takesPlace(layer, head) ? 0 : limits_.newTokens);
    const uint32_t lane = layer * s.kvHeads + head;
    const uint64_t blocks =
        r_.slices == QMH_NONE ? limits_.tableCount : lanes_.words[r_.slices + 2 * layer + 1];
    if (length > limits_.computedBefore || after > blocks * s.blockSize ||
        (r_.outputs != QMH_NONE && after > r_.stride)) {
      refuse(QMH_BAD_BATCH, "lane %u of row %u has %u slots, which its position, blocks or stride forbid",
             lane, r_.row, length);
    }
    const bool whole = length == limits_.computedBefore && r_.write_slots == QMH_NONE && r_.live == QMH_NONE;
    if (limits_.slidingWindow != 0 && !whole)
      refuse(QMH_UNSUPPORTED, "row %u lacks tokens, and the model has a sliding window", r_.row);
    if (row_.takesPlace(layer, head) && lanes_.words[r_.write_slots + lane] >= length)
      refuse(QMH_BAD_BATCH, "lane %u of row %u has no slot to write to", lane, r_.row);
    for (uint64_t block = 0; r_.slices == QMH_NONE && block * s.blockSize < after; block++) {
      if (row_.table[block] >= s.blocks)
        refuse(QMH_BAD_BATCH, "block %u of row %u is %u", uint32_t(block), r_.row, row_.table[block]);
    }
    for (const uint32_t offset : {r_.live, r_.keep}) {
      if (offset != QMH_NONE) bitmap(offset + uint64_t{lane} * r_.bitmap_words, layer, head, after);
    }
  }

  // What new tokens see of themselves must be there, or nothing might be.
  void bitmap(uint64_t at, uint32_t layer, uint32_t head, uint64_t after) {
    if (after > uint64_t{r_.bitmap_words} * 32)
      refuse(QMH_BAD_BATCH, "bitmaps of row %u are too short", r_.row);
    const bool inPlace = row_.takesPlace(layer, head);
    const uint32_t length = row_.length(layer, head);
    const uint64_t first =
        inPlace ? lanes_.words[r_.write_slots + layer * limits_.shape.kvHeads + head] : uint64_t{length};
    for (uint64_t slot = first; slot < (inPlace ? first + 1 : after); slot++) {
      if ((lanes_.words[at + slot / 32] >> (slot % 32) & 1) == 0)
        refuse(QMH_BAD_BATCH, "a bitmap of row %u hides its new tokens", r_.row);
    }
  }

  void outputs(uint32_t layer) {
    const KvShape& s = limits_.shape;
    const uint64_t stride = r_.stride, heads = limits_.heads * stride, lanes = s.kvHeads * stride;
    const uint64_t counts[LANE_OUTPUTS] = {heads, heads * r_.window, heads, 2 * heads, 2,
                                           lanes, lanes * s.headDim, 4};
    for (uint32_t i = 0; i < LANE_OUTPUTS; i++) {
      const uint32_t offset = row_.output(layer, static_cast<LaneOutput>(i));
      if (offset == QMH_NONE) continue;
      const bool isDouble = i == OUT_ENTROPY || i == OUT_OUTPUT_ERROR;
      if (offset + counts[i] > lanes_.float_count || (isDouble && offset % 2 != 0))
        refuse(QMH_BAD_BATCH, "output %u of row %u is beyond the %zu floats or not aligned", i, r_.row,
               lanes_.float_count);
      const uint32_t rows = i == OUT_WINDOW || i == OUT_MOMENTS ? r_.window
                            : i == OUT_PROBE_MAX                ? r_.probe
                                                                : 1;
      if (rows == 0 || rows > limits_.newTokens)
        refuse(QMH_BAD_BATCH, "output %u of row %u covers %u of its %u queries", i, r_.row, rows,
               limits_.newTokens);
    }
    if ((row_.output(layer, OUT_MOMENTS) == QMH_NONE) != (row_.output(layer, OUT_ENTROPY) == QMH_NONE))
      refuse(QMH_BAD_BATCH, "row %u asks for moments or entropy alone", r_.row);
    if (row_.output(layer, OUT_OUTPUT_ERROR) != QMH_NONE && r_.keep == QMH_NONE)
      refuse(QMH_BAD_BATCH, "row %u compares outputs and keeps nothing", r_.row);
  }

  const qmh_lanes& lanes_;
  const qmh_lane_row& r_;
  const LaneLimits& limits_;
  const LaneRow row_;
};

}  // namespace

void checkSlices(const LaneRow& row, uint32_t layer) {
  if (!row.sliced()) return;
  const uint32_t* place = row.words + row.record.slices + 2 * layer;
  for (uint32_t i = 0; i < place[1]; i++) {
    const uint32_t slice = row.words[place[0] + i];
    if (slice >= row.shape.blocks * row.shape.layers)
      refuse(QMH_BAD_BATCH, "slice %u of layer %u of row %u is %u", i, layer, row.record.row, slice);
  }
}

void checkLaneRow(const qmh_lanes& lanes, uint32_t index, const uint32_t* table, const LaneLimits& limits) {
  LaneCheck(lanes, index, table, limits).run();
}

}  // namespace qm
