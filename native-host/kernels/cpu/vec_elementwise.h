// Row-wise kernels over one vector type V: embedding, RMSNorm, RoPE, KV write, SwiGLU.
//
// V (portable.cc, avx2.cc, avx512.cc) gives W lanes of float and loads and stores of each number type.
// Included inside an unnamed namespace, once for each instruction set.
#ifndef QUARTERMASTER_CPU_VEC_ELEMENTWISE_H
#define QUARTERMASTER_CPU_VEC_ELEMENTWISE_H

#include <type_traits>

#include "../kernels.h"

namespace qm {
namespace {

// The first `count` < W numbers at p, then zeros.
template <class V, class T>
inline typename V::F loadPart(const T* p, uint32_t count) {
  T lanes[V::W] = {};
  memcpy(lanes, p, count * sizeof(T));
  return V::load(lanes);
}

template <class V, class T>
inline void storePart(T* p, uint32_t count, typename V::F value) {
  T lanes[V::W];
  V::store(lanes, value);
  memcpy(p, lanes, count * sizeof(T));
}

// Calls body(load, store, i) for each whole vector of [0, count), then once for what is left.
template <class V, class Body>
inline void forVectors(size_t count, Body body) {
  size_t i = 0;
  for (; i + V::W <= count; i += V::W) body(i, uint32_t{V::W});
  if (i < count) body(i, static_cast<uint32_t>(count - i));
}

template <class V, class T>
inline typename V::F loadLanes(const T* p, uint32_t lanes) {
  return lanes == V::W ? V::load(p) : loadPart<V>(p, lanes);
}

template <class V, class T>
inline void storeLanes(T* p, uint32_t lanes, typename V::F value) {
  if (lanes == V::W) {
    V::store(p, value);
  } else {
    storePart<V>(p, lanes, value);
  }
}

// The number type behind a `const T&`.
template <class Reference>
using Plain = std::remove_cv_t<std::remove_reference_t<Reference>>;

// Calls body with `data` as a pointer to its number type.
template <class Body>
inline void withType(const void* data, NumberType type, Body body) {
  switch (type) {
    case NumberType::F32:
      return body(static_cast<const float*>(data));
    case NumberType::F16:
      return body(static_cast<const F16*>(data));
    case NumberType::BF16:
      return body(static_cast<const BF16*>(data));
  }
}

// exp(x), relative error below 2e-7; 0 below -87. Cody-Waite reduction and the polynomial of Cephes' expf.
template <class V>
inline typename V::F expV(typename V::F x) {
  const typename V::F lowest = V::set1(-87.0f);
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  const typename V::F magic = V::set1(12582912.0f);
  const typename V::F clamped = V::min(V::max(x, lowest), V::set1(88.0f));
  const typename V::F shifted = V::fma(clamped, V::set1(1.44269504088896341f), magic);
  const typename V::F n = V::sub(shifted, magic);
  typename V::F r = V::fma(n, V::set1(-0.693359375f), clamped);
  r = V::fma(n, V::set1(2.12194440e-4f), r);
  typename V::F p = V::set1(1.9875691500e-4f);
  p = V::fma(p, r, V::set1(1.3981999507e-3f));
  p = V::fma(p, r, V::set1(8.3334519073e-3f));
  p = V::fma(p, r, V::set1(4.1665795894e-2f));
  p = V::fma(p, r, V::set1(1.6666665459e-1f));
  p = V::fma(p, r, V::set1(5.0000001201e-1f));
  p = V::add(V::fma(p, V::mul(r, r), r), V::set1(1.0f));
  return V::zeroBelow(x, lowest, V::addExponent(p, shifted));
}

// ln(x) of a normal x > 0, relative error below 2e-7 away from 1: the polynomial of Cephes' logf.
template <class V>
inline typename V::F logV(typename V::F x) {
  typename V::F e;
  typename V::F m = V::splitExponent(x, &e);  // [1, 2), to become [sqrt(1/2), sqrt(2))
  const typename V::F halve = V::zeroBelow(m, V::set1(1.41421356237309505f), V::set1(1.0f));
  e = V::add(e, halve);
  m = V::sub(m, V::mul(V::mul(halve, V::set1(0.5f)), m));
  const typename V::F r = V::sub(m, V::set1(1.0f)), square = V::mul(r, r);
  typename V::F p = V::set1(7.0376836292e-2f);
  p = V::fma(p, r, V::set1(-1.1514610310e-1f));
  p = V::fma(p, r, V::set1(1.1676998740e-1f));
  p = V::fma(p, r, V::set1(-1.2420140846e-1f));
  p = V::fma(p, r, V::set1(1.4249322787e-1f));
  p = V::fma(p, r, V::set1(-1.6668057665e-1f));
  p = V::fma(p, r, V::set1(2.0000714765e-1f));
  p = V::fma(p, r, V::set1(-2.4999993993e-1f));
  p = V::fma(p, r, V::set1(3.3333331174e-1f));
  p = V::mul(V::mul(p, r), square);
  p = V::fma(e, V::set1(-2.12194440e-4f), p);
  p = V::fma(square, V::set1(-0.5f), p);
  return V::fma(e, V::set1(0.693359375f), V::add(r, p));
}

template <class V>
void embed(Weight table, uint32_t width, const uint32_t* tokens, uint32_t count, float* out) {
  withType(table.data, table.type, [&](auto* numbers) {
    for (uint32_t t = 0; t < count; t++) {
      const auto* row = numbers + size_t{tokens[t]} * width;
      float* to = out + size_t{t} * width;
      forVectors<V>(width, [&](size_t i, uint32_t n) { storeLanes<V>(to + i, n, loadLanes<V>(row + i, n)); });
    }
  });
}

template <class V>
void rmsnorm(const float* x, Weight weight, uint32_t rows, uint32_t width, float eps, float* out) {
  withType(weight.data, weight.type, [&](auto* w) {
    for (uint32_t r = 0; r < rows; r++, x += width, out += width) {
      typename V::F sum = V::zero();
      forVectors<V>(width, [&](size_t i, uint32_t n) {
        const typename V::F v = loadLanes<V>(x + i, n);
        sum = V::fma(v, v, sum);
      });
      const typename V::F scale =
          V::set1(1.0f / __builtin_sqrtf(V::sum(sum) / static_cast<float>(width) + eps));
      forVectors<V>(width, [&](size_t i, uint32_t n) {
        storeLanes<V>(out + i, n, V::mul(V::mul(loadLanes<V>(x + i, n), scale), loadLanes<V>(w + i, n)));
      });
    }
  });
}

template <class V>
void rope(float* x, size_t stride, const uint32_t* positions, uint32_t count, uint32_t heads,
          uint32_t headDim, const float* cosSin, bool interleaved) {
  const uint32_t half = headDim / 2;
  const uint32_t step = interleaved ? 2 : 1, apart = interleaved ? 1 : half;
  for (uint32_t t = 0; t < count; t++) {
    const float* angles = cosSin + size_t{positions[t]} * headDim;
    for (uint32_t h = 0; h < heads; h++) {
      float* head = x + t * stride + size_t{h} * headDim;
      for (uint32_t i = 0; i < half; i++) {
        const float cosine = angles[2 * i], sine = angles[2 * i + 1];
        const float a = head[i * step], b = head[i * step + apart];
        head[i * step] = a * cosine - b * sine;
        head[i * step + apart] = b * cosine + a * sine;
      }
    }
  }
}

template <class V, class T>
inline void writeHeads(uint8_t* base, size_t headBytes, uint32_t heads, uint32_t headDim, const float* from) {
  for (uint32_t h = 0; h < heads; h++, base += headBytes, from += headDim) {
    T* to = reinterpret_cast<T*>(base);
    forVectors<V>(headDim,
                  [&](size_t i, uint32_t n) { storeLanes<V>(to + i, n, loadLanes<V>(from + i, n)); });
  }
}

template <class V>
void kvWrite(uint8_t* kv, const KvShape& s, uint32_t layer, uint32_t headBegin, uint32_t headEnd,
             const uint32_t* slots, uint32_t count, const float* k, const float* v, size_t stride) {
  const size_t skip = size_t{headBegin} * s.headDim;
  const uint32_t heads = headEnd - headBegin;
  withType(kv, s.type, [&](auto* numbers) {
    using T = Plain<decltype(*numbers)>;
    for (uint32_t t = 0; t < count; t++) {
      const uint32_t block = slots[t] / s.blockSize;
      const size_t within = size_t{slots[t] % s.blockSize} * s.headDim * sizeof(T);
      uint8_t* base = kv + within;
      writeHeads<V, T>(base + kvOffset(s, block, layer, KV_K, headBegin), kvHeadBytes(s), heads, s.headDim,
                       k + t * stride + skip);
      writeHeads<V, T>(base + kvOffset(s, block, layer, KV_V, headBegin), kvHeadBytes(s), heads, s.headDim,
                       v + t * stride + skip);
    }
  });
}

template <class V>
void swiglu(float* gate, const float* up, size_t count) {
  forVectors<V>(count, [&](size_t i, uint32_t n) {
    const typename V::F g = loadLanes<V>(gate + i, n);
    const typename V::F sigmoid = V::add(V::set1(1.0f), expV<V>(V::sub(V::zero(), g)));
    storeLanes<V>(gate + i, n, V::mul(V::div(g, sigmoid), loadLanes<V>(up + i, n)));
  });
}

// As many independent chains as hide the latency of a multiply-add.
template <class V>
double burn(float* sink) {
  constexpr uint32_t CHAINS = 12, ROUNDS = 1 << 18;
  typename V::F acc[CHAINS];
  for (uint32_t c = 0; c < CHAINS; c++) acc[c] = V::set1(1.0f + static_cast<float>(c));
  typename V::F a = V::set1(0.999f), b = V::set1(0.001f);
  for (uint32_t r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 12
    for (uint32_t c = 0; c < CHAINS; c++) acc[c] = V::fma(acc[c], a, b);
  }
  typename V::F total = V::zero();
  for (uint32_t c = 0; c < CHAINS; c++) total = V::add(total, acc[c]);
  *sink = V::sum(total);
  return 2.0 * CHAINS * ROUNDS * V::W;
}

}  // namespace
}  // namespace qm

#endif  // QUARTERMASTER_CPU_VEC_ELEMENTWISE_H
