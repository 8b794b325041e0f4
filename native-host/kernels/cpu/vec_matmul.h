// Matrix product of activations (f32) with a weight stored [outputs][inputs], over one vector type V.
//
// Tile        W accumulators of W lanes: 4 tokens x W/4 outputs, 2 x W/2 or 1 x W. Both operands run along
//             `inputs`, so nothing is packed and the weights are read where they lie; f16 and bf16 become
//             float in the register.
// Invariant   Lane j of an accumulator sums inputs j, j + W, j + 2W, ... in order and V::reduce adds the
//             lanes in one fixed tree, whatever the tile. A token's product has the same bits alone (decode)
//             and among others.
// Cost        The 4 x W/4 tile does W multiply-adds for 4 + W/4 loads; 1 x W streams the weights at memory
//             speed.
#ifndef QUARTERMASTER_CPU_VEC_MATMUL_H
#define QUARTERMASTER_CPU_VEC_MATMUL_H

#include "vec_elementwise.h"

namespace qm {
namespace {

// sums[t * TO + o] = x[t] . w[o]
template <class V, class T, uint32_t TT, uint32_t TO>
inline typename V::F dotTile(const float* x, size_t xStride, const T* const (&w)[TO], uint32_t inputs) {
  static_assert(TT * TO == V::W, "one lane of the result for each accumulator");
  typename V::F acc[V::W];
#pragma GCC unroll 16
  for (uint32_t a = 0; a < V::W; a++) acc[a] = V::zero();
  const auto step = [&](uint32_t i, uint32_t lanes) __attribute__((always_inline)) {
    typename V::F xs[TT];
#pragma GCC unroll 16
    for (uint32_t t = 0; t < TT; t++) xs[t] = loadLanes<V>(x + t * xStride + i, lanes);
#pragma GCC unroll 16
    for (uint32_t o = 0; o < TO; o++) {
      const typename V::F ws = loadLanes<V>(w[o] + i, lanes);
#pragma GCC unroll 16
      for (uint32_t t = 0; t < TT; t++) acc[t * TO + o] = V::fma(xs[t], ws, acc[t * TO + o]);
    }
  };
  uint32_t i = 0;
  for (; i + V::W <= inputs; i += V::W) step(i, V::W);
  if (i < inputs) step(i, inputs - i);
  return V::reduce(acc);
}

// Adds what belongs to the products of one token and puts them into y.
template <class T>
inline __attribute__((always_inline)) void finish(const MatmulArgs& a, float* sums, uint32_t outputs,
                                                  uint32_t o, float* y) {
  if (a.bias.data) {
    const T* bias = static_cast<const T*>(a.bias.data) + o;
    for (uint32_t j = 0; j < outputs; j++) sums[j] += toFloat(bias[j]);
  }
  if (a.accumulate) {
    for (uint32_t j = 0; j < outputs; j++) y[j] += sums[j];
  } else {
    for (uint32_t j = 0; j < outputs; j++) y[j] = sums[j];
  }
}

// TT tokens from token `t`, all outputs of the call.
template <class V, class T, uint32_t TT>
inline void tokenRows(const MatmulArgs& a, uint32_t t) {
  constexpr uint32_t TO = V::W / TT;
  const T* weight = static_cast<const T*>(a.w.data);
  const float* x = a.x + t * a.xStride;
  float* y = a.y + t * a.yStride;
  float sums[V::W];
  const T* rows[TO];
  uint32_t o = a.outBegin;
  for (; o + TO <= a.outEnd; o += TO) {
    for (uint32_t j = 0; j < TO; j++) rows[j] = weight + size_t{o + j} * a.inputs;
    V::store(sums, dotTile<V, T, TT, TO>(x, a.xStride, rows, a.inputs));
    for (uint32_t u = 0; u < TT; u++) finish<T>(a, sums + u * TO, TO, o, y + u * a.yStride + o);
  }
  if (o == a.outEnd) return;
  // Outputs past the end repeat the last row: read again, then dropped.
  for (uint32_t j = 0; j < TO; j++)
    rows[j] = weight + size_t{o + j < a.outEnd ? o + j : a.outEnd - 1} * a.inputs;
  V::store(sums, dotTile<V, T, TT, TO>(x, a.xStride, rows, a.inputs));
  for (uint32_t u = 0; u < TT; u++) finish<T>(a, sums + u * TO, a.outEnd - o, o, y + u * a.yStride + o);
}

template <class V>
void matmul(const MatmulArgs& a) {
  withType(a.w.data, a.w.type, [&](auto* numbers) {
    using T = Plain<decltype(*numbers)>;
    uint32_t t = 0;
    for (; t + 4 <= a.tokens; t += 4) tokenRows<V, T, 4>(a, t);
    if (t + 2 <= a.tokens) tokenRows<V, T, 2>(a, t), t += 2;
    if (t < a.tokens) tokenRows<V, T, 1>(a, t);
  });
}

}  // namespace
}  // namespace qm

#endif  // QUARTERMASTER_CPU_VEC_MATMUL_H
