// Paged attention over one vector type V: softmax(q K^T / sqrt(d)) V with a running maximum (arXiv
// 1805.02867), tile by tile, as FlashAttention (arXiv 2205.14135) does; K and V are found through a block
// table (arXiv 2309.06180).
//
// Order       A query passes over tiles of 32 absolute positions in ascending order. Within a tile: scores by
//             V::reduce; position p goes to partial sum p mod 4. Block size, chunking and the other queries
//             of the call never enter, hence the same bits for a token however it was batched.
// Sharing     A tile of K and V is fetched once for all queries and all heads of the group. f32 is read where
//             it lies; f16 and bf16 tiles are widened into scratch once.
// Masking     Positions outside a query's range repeat the nearest valid entry and get weight 0, so that
//             nothing unwritten is ever read. A tile of positions is one word of a bitmap of live ones.
// Measuring   The weights of measured query heads stay in scratch, and what is asked for is read off them at
//             the end (vec_measure.h): nothing is asked of K twice.
#ifndef QUARTERMASTER_CPU_VEC_ATTENTION_H
#define QUARTERMASTER_CPU_VEC_ATTENTION_H

#include "vec_elementwise.h"
#include "vec_measure.h"

namespace qm {
#ifdef QM_COUNT_KV_ROWS
// Instrumented builds: told of the rows of K, and as many of V, that a tile fetches.
void countKvRows(uint32_t rows);
#endif
namespace {

// One tile's K and V rows as float, by position within the tile.
struct Tile {
  const float* k[ATTEND_TILE];
  const float* v[ATTEND_TILE];
};

// Widens one row of K or V into scratch unless it is float already.
template <class V, class T>
inline const float* asFloat(const T* row, uint32_t headDim, float** wide) {
  if constexpr (sizeof(T) == sizeof(float)) return row;
  float* to = *wide;
  forVectors<V>(headDim, [&](size_t i, uint32_t n) { storeLanes<V>(to + i, n, loadLanes<V>(row + i, n)); });
  *wide += headDim;
  return to;
}

// Positions [from, to) of tile [start, start + 32): those that some query of the call may see.
template <class V, class T>
inline void fetchTile(const AttendArgs& a, uint32_t start, uint32_t from, uint32_t to, Tile* tile) {
  const KvShape& s = a.shape;
  const size_t toV = kvOffset(s, 0, 0, KV_V, 0);
  float* wide = a.scratch;
#ifdef QM_COUNT_KV_ROWS
  countKvRows(to - from);
#endif
  for (uint32_t p = from; p < to;) {
    const uint32_t offset = p % s.blockSize;
    const uint8_t* block = a.kv + kvOffset(s, a.table[p / s.blockSize], a.layer, KV_K, a.kvHead);
    const T* k = reinterpret_cast<const T*>(block) + size_t{offset} * s.headDim;
    const T* v = reinterpret_cast<const T*>(block + toV) + size_t{offset} * s.headDim;
    const uint32_t end = to - p < s.blockSize - offset ? to : p + s.blockSize - offset;
    for (; p < end; p++, k += s.headDim, v += s.headDim) {
      tile->k[p - start] = asFloat<V>(k, s.headDim, &wide);
      tile->v[p - start] = asFloat<V>(v, s.headDim, &wide);
    }
  }
  for (uint32_t j = 0; j < from - start; j++) {
    tile->k[j] = tile->k[from - start];
    tile->v[j] = tile->v[from - start];
  }
  for (uint32_t j = to - start; j < ATTEND_TILE; j++) {
    tile->k[j] = tile->k[to - start - 1];
    tile->v[j] = tile->v[to - start - 1];
  }
}

// scores[j] = q . k[j] * scale for W positions.
template <class V>
inline typename V::F scoreRow(const float* q, const float* const* k, uint32_t headDim, typename V::F scale) {
  typename V::F acc[V::W];
#pragma GCC unroll 16
  for (uint32_t j = 0; j < V::W; j++) acc[j] = V::zero();
  const auto step = [&](uint32_t i, uint32_t lanes) __attribute__((always_inline)) {
    const typename V::F qs = loadLanes<V>(q + i, lanes);
#pragma GCC unroll 16
    for (uint32_t j = 0; j < V::W; j++) acc[j] = V::fma(qs, loadLanes<V>(k[j] + i, lanes), acc[j]);
  };
  uint32_t i = 0;
  for (; i + V::W <= headDim; i += V::W) step(i, V::W);
  if (i < headDim) step(i, headDim - i);
  return V::mul(V::reduce(acc), scale);
}

// out = out * rescale + sum over positions of weights[j] * v[j].
template <class V>
inline void addValues(const float* weights, const float* const* v, uint32_t positions, uint32_t headDim,
                      typename V::F rescale, float* out) {
  const auto column = [&](size_t i, uint32_t lanes) __attribute__((always_inline)) {
    typename V::F a0 = V::mul(loadLanes<V>(out + i, lanes), rescale);
    typename V::F a1 = V::zero(), a2 = V::zero(), a3 = V::zero();
    for (uint32_t j = 0; j < positions; j += 4) {
      a0 = V::fma(V::set1(weights[j]), loadLanes<V>(v[j] + i, lanes), a0);
      a1 = V::fma(V::set1(weights[j + 1]), loadLanes<V>(v[j + 1] + i, lanes), a1);
      a2 = V::fma(V::set1(weights[j + 2]), loadLanes<V>(v[j + 2] + i, lanes), a2);
      a3 = V::fma(V::set1(weights[j + 3]), loadLanes<V>(v[j + 3] + i, lanes), a3);
    }
    storeLanes<V>(out + i, lanes, V::add(V::add(a0, a1), V::add(a2, a3)));
  };
  forVectors<V>(headDim, column);
}

// What a query head carries from tile to tile, beside the unscaled sum in `out`.
template <class V>
struct Running {
  float largest;
  typename V::F total;
};

// One query head against positions [from, to) of the tile that starts at `start`, those alone whose bit in
// `live` is set if MASKED. Leaves the weights, relative to state->largest, in `weights`.
template <class V, bool MASKED>
inline void attendTile(const Tile& tile, uint32_t start, uint32_t from, uint32_t to, uint32_t live,
                       const float* q, uint32_t headDim, Running<V>* state, float* weights, float* out) {
  constexpr uint32_t GROUPS = ATTEND_TILE / V::W;
  const uint32_t groups = (to - start + V::W - 1) / V::W;
  const typename V::F scale = V::set1(1.0f / __builtin_sqrtf(static_cast<float>(headDim)));
  typename V::F scores[GROUPS];
  typename V::F most = V::set1(-__builtin_inff());
  for (uint32_t g = 0; g < groups; g++) {
    scores[g] =
        V::keepLanes(scoreRow<V>(q, tile.k + g * V::W, headDim, scale), from - start, to - start, g * V::W);
    if constexpr (MASKED) scores[g] = V::keepBits(scores[g], live >> (g * V::W));
    most = V::max(most, scores[g]);
  }
  const float tileLargest = V::largest(most);
  const float largest = tileLargest > state->largest ? tileLargest : state->largest;
  const typename V::F rescale = expV<V>(V::set1(state->largest - largest));
  typename V::F total = V::mul(state->total, rescale);
  for (uint32_t g = 0; g < groups; g++) {
    const typename V::F weight = expV<V>(V::sub(scores[g], V::set1(largest)));
    total = V::add(total, weight);
    V::store(weights + g * V::W, weight);
  }
  state->largest = largest;
  state->total = total;
  // W is a multiple of 4, and lanes past `to` have weight 0.
  addValues<V>(weights, tile.v, (to - start + 3) / 4 * 4, headDim, rescale, out);
}

// PROBE_MAX: another softmax over the same scores. Weights of the tiles before the one where the row's new
// tokens begin never saw those; what that one tile holds of the cached positions is scored again.
template <class V, class T>
void measureProbes(const AttendArgs& a, const Recorder& recorder, uint32_t begin) {
  constexpr uint32_t GROUPS = ATTEND_TILE / V::W;
  const AttendMeasures& m = *a.measures;
  const uint32_t d = a.shape.headDim, border = m.cached / ATTEND_TILE * ATTEND_TILE, rest = m.cached - border;
  const typename V::F scale = V::set1(1.0f / __builtin_sqrtf(static_cast<float>(d)));
  Tile tile;
  if (rest != 0) fetchTile<V, T>(a, border, begin > border ? begin : border, m.cached, &tile);
  for (uint32_t r = recorder.firstRow; r < a.queries * a.group; r++) {
    const uint32_t query = r / a.group, position = a.firstPosition + query;
    const uint32_t first = a.window != 0 && position >= a.window ? position - a.window + 1 : 0;
    if (m.queriesAfter + a.queries - 1 - query >= m.probeRows || first >= m.cached) continue;
    const uint32_t firstTile = first / ATTEND_TILE * ATTEND_TILE;
    float largest = firstTile < border ? *recorder.largest(r, border - ATTEND_TILE) : -__builtin_inff();
    const float* q = a.q + query * a.qStride + size_t{r % a.group} * d;
    typename V::F scores[GROUPS];
    const uint32_t groups = (rest + V::W - 1) / V::W;
    for (uint32_t g = 0; g < groups; g++) {
      scores[g] = V::keepLanes(scoreRow<V>(q, tile.k + g * V::W, d, scale),
                               first > border ? first - border : 0, rest, g * V::W);
      if (a.live) scores[g] = V::keepBits(scores[g], a.live[border / ATTEND_TILE] >> (g * V::W));
      const float most = V::largest(scores[g]);
      largest = most > largest ? most : largest;
    }
    if (largest == -__builtin_inff()) continue;  // no cached position is live
    float weights[ATTEND_TILE];
    typename V::F total = V::zero();
    for (uint32_t g = 0; g < groups; g++) {
      const typename V::F weight = expV<V>(V::sub(scores[g], V::set1(largest)));
      total = V::add(total, weight);
      V::store(weights + g * V::W, weight);
    }
    recorder.rescale<V>(r, firstTile, border, largest, 1);
    recorder.eachWeight<V>(r, firstTile, border,
                           [&](uint32_t, uint32_t, typename V::F w) { total = V::add(total, w); });
    const typename V::F inverse = V::set1(1.0f / V::sum(total));
    const auto raise = [&](uint32_t p, uint32_t n, typename V::F weight) {
      const typename V::F before = loadLanes<V>(m.probeMax + p, n);
      storeLanes<V>(m.probeMax + p, n, V::max(V::mul(weight, inverse), before));
    };
    recorder.eachWeight<V>(r, firstTile, border, raise);
    for (uint32_t j = 0; j < rest; j += V::W) {
      raise(border + j, rest - j < V::W ? rest - j : V::W, V::load(weights + j));
    }
  }
}

template <class V, class T>
inline void attendTyped(const AttendArgs& a) {
  const uint32_t d = a.shape.headDim, rows = a.queries * a.group;
  constexpr uint32_t MOST = ATTEND_MOST_ROWS > MAX_GROUP ? ATTEND_MOST_ROWS : MAX_GROUP;
  Running<V> states[MOST];
  const auto qOf = [&](uint32_t r) { return a.q + r / a.group * a.qStride + size_t{r % a.group} * d; };
  const auto outOf = [&](uint32_t r) { return a.out + r / a.group * a.outStride + size_t{r % a.group} * d; };
  for (uint32_t r = 0; r < rows; r++) {
    states[r] = {-__builtin_inff(), V::zero()};
    float* out = outOf(r);
    for (uint32_t i = 0; i < d; i++) out[i] = 0;
  }
  const auto firstSeen = [&](uint32_t position) {
    return a.window != 0 && position >= a.window ? position - a.window + 1 : 0;
  };
  const uint32_t end = a.firstPosition + a.queries, begin = firstSeen(a.firstPosition);
  const Recorder recorder(a, begin, end);
  for (uint32_t start = begin / ATTEND_TILE * ATTEND_TILE; start < end; start += ATTEND_TILE) {
    const uint32_t tileEnd = start + ATTEND_TILE;
    const uint32_t live = a.live ? a.live[start / ATTEND_TILE] : ALL_LIVE;
    Tile tile;
    fetchTile<V, T>(a, start, begin > start ? begin : start, end < tileEnd ? end : tileEnd, &tile);
    for (uint32_t r = 0; r < rows; r++) {
      const uint32_t position = a.firstPosition + r / a.group, first = firstSeen(position);
      const uint32_t from = first > start ? first : start,
                     to = position + 1 < tileEnd ? position + 1 : tileEnd;
      if (from >= to) continue;
      float unrecorded[ATTEND_TILE];
      float* weights = recorder.records(r) ? recorder.weights(r, start) : unrecorded;
      if (live == ALL_LIVE) {
        attendTile<V, false>(tile, start, from, to, live, qOf(r), d, &states[r], weights, outOf(r));
      } else if ((live & bitsBetween(from - start, to - start)) != 0) {
        attendTile<V, true>(tile, start, from, to, live, qOf(r), d, &states[r], weights, outOf(r));
      } else {
        memset(weights, 0, ATTEND_TILE * sizeof(float));
      }
      if (recorder.records(r)) *recorder.largest(r, start) = states[r].largest;
    }
  }
  for (uint32_t r = 0; r < rows; r++) {
    float* out = outOf(r);
    const typename V::F scale = V::set1(1.0f / V::sum(states[r].total));
    forVectors<V>(
        d, [&](size_t i, uint32_t n) { storeLanes<V>(out + i, n, V::mul(loadLanes<V>(out + i, n), scale)); });
  }
  if (a.measures == nullptr) return;
  for (uint32_t r = recorder.firstRow; r < rows; r++) {
    const uint32_t position = a.firstPosition + r / a.group;
    measureHead<V>(a, recorder, r, firstSeen(position), states[r].largest, V::sum(states[r].total));
  }
  if (a.measures->probeMax != nullptr && begin < a.measures->cached) measureProbes<V, T>(a, recorder, begin);
}

template <class V>
void attend(const AttendArgs& a) {
  withType(a.kv, a.shape.type, [&](auto* numbers) { attendTyped<V, Plain<decltype(*numbers)>>(a); });
}

}  // namespace
}  // namespace qm

#endif  // QUARTERMASTER_CPU_VEC_ATTENTION_H
