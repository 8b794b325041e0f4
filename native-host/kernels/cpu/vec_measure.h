// What attention measures of itself, over one vector type V: read off the weights that attending left behind.
//
// Scratch     [query head][tile][32] weights, [query head][tile] the largest score when the tile was passed,
//             to which its weights are relative, and [tile] factors that make probabilities of them: one
//             exponential a tile instead of one a position.
// Order       Statistics add up over queries in their order, each position alone, so that cutting a row's
//             queries into calls changes no bit.
#ifndef QUARTERMASTER_CPU_VEC_MEASURE_H
#define QUARTERMASTER_CPU_VEC_MEASURE_H

#include <initializer_list>

#include "vec_elementwise.h"

namespace qm {
namespace {

constexpr uint32_t ALL_LIVE = 0xffffffff;

// Bits [from, to) of a word, from < to <= 32.
static inline uint32_t bitsBetween(uint32_t from, uint32_t to) {
  return (ALL_LIVE >> (ATTEND_TILE - (to - from))) << from;
}

// Where the weights of a call's measured query heads are kept. Query heads are numbered as in the call,
// positions are absolute.
class Recorder {
 public:
  // Positions [begin, end) are seen by some query of the call.
  Recorder(const AttendArgs& a, uint32_t begin, uint32_t end) {
    if (a.measures == nullptr) return;
    const AttendMeasures& m = *a.measures;
    // Measured queries are the row's last ones; COLSUM takes all.
    uint32_t last = m.lastRow ? 1 : 0;
    if ((m.window || m.moments) && m.windowRows > last) last = m.windowRows;
    if (m.probeMax && m.probeRows > last) last = m.probeRows;
    const uint32_t measured = last > m.queriesAfter ? last - m.queriesAfter : 0;
    const uint32_t queries = m.colsum || measured > a.queries ? a.queries : measured;
    firstRow = (a.queries - queries) * a.group;
    firstTile_ = begin / ATTEND_TILE;
    tiles_ = (end + ATTEND_TILE - 1) / ATTEND_TILE - firstTile_;
    weights_ = m.weights;
    largest_ = weights_ + size_t{queries} * a.group * tiles_ * ATTEND_TILE;
    factors_ = largest_ + size_t{queries} * a.group * tiles_;
  }

  bool records(uint32_t r) const { return r >= firstRow; }

  float* weights(uint32_t r, uint32_t position) const {
    return weights_ + size_t{r - firstRow} * tiles_ * ATTEND_TILE + (position - firstTile_ * ATTEND_TILE);
  }

  // Of the tile that starts at `start`.
  float* largest(uint32_t r, uint32_t start) const {
    return largest_ + size_t{r - firstRow} * tiles_ + (start / ATTEND_TILE - firstTile_);
  }

  // Makes factors of the tiles that start in [from, end): weights times them are exp(score - largest) *
  // scale.
  template <class V>
  void rescale(uint32_t r, uint32_t from, uint32_t end, float largestScore, float scale) const {
    const float* relative = largest(r, from);
    float* factors = factors_ + (from / ATTEND_TILE - firstTile_);
    const typename V::F most = V::set1(largestScore), by = V::set1(scale);
    forVectors<V>((end - from + ATTEND_TILE - 1) / ATTEND_TILE, [&](size_t i, uint32_t n) {
      const typename V::F factor = expV<V>(V::sub(loadLanes<V>(relative + i, n), most));
      storeLanes<V>(factors + i, n, V::mul(factor, by));
    });
  }

  // body(position, lanes, weight * factor) for vectors of [from, end), from the start of a tile; lanes past
  // `end` are 0.
  template <class V, class Body>
  void eachWeight(uint32_t r, uint32_t from, uint32_t end, Body body) const {
    const float* row = weights(r, from);
    const float* factors = factors_ + (from / ATTEND_TILE - firstTile_);
    forVectors<V>(end > from ? end - from : 0, [&](size_t i, uint32_t n) {
      body(from + static_cast<uint32_t>(i), n,
           V::mul(loadLanes<V>(row + i, n), V::set1(factors[i / ATTEND_TILE])));
    });
  }

  uint32_t firstRow = ALL_LIVE;  // first measured query head: none

 private:
  uint32_t firstTile_ = 0, tiles_ = 0;
  float *weights_ = nullptr, *largest_ = nullptr, *factors_ = nullptr;
};

// Everything but PROBE_MAX of query head `r`, which saw positions from `first` on.
template <class V>
inline void measureHead(const AttendArgs& a, const Recorder& recorder, uint32_t r, uint32_t first,
                        float largest, float total) {
  using F = typename V::F;
  const AttendMeasures& m = *a.measures;
  const uint32_t query = r / a.group, head = r % a.group;
  const uint32_t after = m.queriesAfter + a.queries - 1 - query, seen = a.firstPosition + query + 1;
  const bool inWindow = after < m.windowRows;
  const bool windowed = inWindow && (m.windowHeads >> head & 1) != 0;
  float* last = after == 0 && m.lastRow ? m.lastRow + head * m.stride : nullptr;
  float* window = m.window && windowed
                      ? m.window + (size_t{head} * m.windowRows + m.windowRows - 1 - after) * m.stride
                      : nullptr;
  float* moments = inWindow && m.moments ? m.moments + 2 * head * m.stride : nullptr;
  if (!m.colsum && !last && !window && !moments) return;
  const uint32_t from = first / ATTEND_TILE * ATTEND_TILE, end = seen + after;
  recorder.rescale<V>(r, from, seen, largest, 1.0f / total);
  if (m.colsum) {
    float* sums = m.colsum + head * m.stride;
    recorder.eachWeight<V>(r, from, seen, [&](uint32_t p, uint32_t n, F value) {
      storeLanes<V>(sums + p, n, V::add(loadLanes<V>(sums + p, n), value));
    });
  }
  for (float* row : {last, window}) {
    if (row == nullptr) continue;
    memset(row, 0, from * sizeof(float));
    recorder.eachWeight<V>(r, from, seen,
                           [&](uint32_t p, uint32_t n, F value) { storeLanes<V>(row + p, n, value); });
    memset(row + seen, 0, (end - seen) * sizeof(float));
  }
  if (!moments) return;
  float* squares = moments + m.stride;
  recorder.eachWeight<V>(r, from, seen, [&](uint32_t p, uint32_t n, F value) {
    storeLanes<V>(moments + p, n, V::add(loadLanes<V>(moments + p, n), value));
    storeLanes<V>(squares + p, n, V::fma(value, value, loadLanes<V>(squares + p, n)));
  });
  // The window's own tokens are the last ones of the lane.
  const uint32_t outside = end > m.windowRows ? end - m.windowRows : 0;
  const uint32_t until = outside < seen ? outside : seen;
  for (uint32_t start = from; start < until; start += ATTEND_TILE) {
    F sum = V::zero();
    recorder.eachWeight<V>(r, start, until - start < ATTEND_TILE ? until : start + ATTEND_TILE,
                           [&](uint32_t, uint32_t, F value) {
                             sum = V::fma(value, logV<V>(V::add(value, V::set1(1e-10f))), sum);
                           });
    m.entropy[head] += V::sum(sum);
  }
}

}  // namespace
}  // namespace qm

#endif  // QUARTERMASTER_CPU_VEC_MEASURE_H
