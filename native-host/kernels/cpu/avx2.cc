// Kernels for AVX2, FMA and F16C: eight lanes. Compiled with those flags, called only where the machine has
// them.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

#include "../kernels.h"

namespace qm {
namespace {

struct Avx2 {
  static constexpr uint32_t W = 8;
  using F = __m256;

  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load(const F16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static F load(const BF16* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static void store(F16* p, F v) {
    const __m128i half = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
  }
  static void store(BF16* p, F v) {
    float lanes[W];
    _mm256_storeu_ps(lanes, v);
    for (uint32_t i = 0; i < W; i++) fromFloat(lanes[i], p + i);
  }
  static F set1(float x) { return _mm256_set1_ps(x); }
  static F zero() { return _mm256_setzero_ps(); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  // value * 2^n, n in the low bits of `shifted`.
  static F addExponent(F value, F shifted) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), exponent));
  }
  // x = mantissa * 2^exponent of a normal x > 0, mantissa in [1, 2).
  static F splitExponent(F x, F* exponent) {
    const __m256i bits = _mm256_castps_si256(x);
    *exponent = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(127)));
    const __m256i fraction = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff));
    return _mm256_castsi256_ps(_mm256_or_si256(fraction, _mm256_set1_epi32(0x3f800000)));
  }
  static F zeroBelow(F x, F limit, F value) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, limit, _CMP_LT_OQ), value);
  }
  static F keepLanes(F v, uint32_t from, uint32_t to, uint32_t base) {
    const __m256i lane =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(int(base)));
    const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(int(from)), lane);
    const __m256i within = _mm256_cmpgt_epi32(_mm256_set1_epi32(int(to)), lane);
    const __m256i keep = _mm256_andnot_si256(below, within);
    return _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), v, _mm256_castsi256_ps(keep));
  }
  // Lane i where bit i is set, else minus infinity.
  static F keepBits(F v, uint32_t bits) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i keep = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int(bits)), bit), bit);
    return _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), v, _mm256_castsi256_ps(keep));
  }
  static float sum(F v) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(F v) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  // Lane i of the result is the sum of v[i], in the tree of `sum`: transposes by halves and adds on the way.
  static F reduce(const F (&v)[W]) {
    F half[4];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) {
      half[i] =
          add(_mm256_permute2f128_ps(v[i], v[i + 4], 0x20), _mm256_permute2f128_ps(v[i], v[i + 4], 0x31));
    }
    const F a = add(_mm256_shuffle_ps(half[0], half[1], 0x44), _mm256_shuffle_ps(half[0], half[1], 0xee));
    const F b = add(_mm256_shuffle_ps(half[2], half[3], 0x44), _mm256_shuffle_ps(half[2], half[3], 0xee));
    return add(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
  }
};

}  // namespace
}  // namespace qm

#include "vec_attention.h"
#include "vec_matmul.h"

namespace qm {

const Kernels* avx2Kernels() {
  using V = Avx2;
  static const Kernels kernels = {"avx2",     embed<V>,  rmsnorm<V>, matmul<V>, rope<V>,
                                  kvWrite<V>, attend<V>, swiglu<V>,  burn<V>};
  return &kernels;
}

}  // namespace qm

#else

#include "../kernels.h"

const qm::Kernels* qm::avx2Kernels() { return nullptr; }

#endif
