// Kernels for AVX-512 (F, BW, DQ, VL): sixteen lanes. Compiled with those flags, called only where the
// machine has them.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)

#include <immintrin.h>

#include "../kernels.h"

namespace qm {
namespace {

struct Avx512 {
  static constexpr uint32_t W = 16;
  using F = __m512;

  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const F16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static F load(const BF16* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static void store(F16* p, F v) {
    const __m256i half = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
  }
  static void store(BF16* p, F v) {
    float lanes[W];
    _mm512_storeu_ps(lanes, v);
    for (uint32_t i = 0; i < W; i++) fromFloat(lanes[i], p + i);
  }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F zero() { return _mm512_setzero_ps(); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  // value * 2^n, n in the low bits of `shifted`.
  static F addExponent(F value, F shifted) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(value), exponent));
  }
  // x = mantissa * 2^exponent of a normal x > 0, mantissa in [1, 2).
  static F splitExponent(F x, F* exponent) {
    *exponent = _mm512_getexp_ps(x);
    return _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_zero);
  }
  static F zeroBelow(F x, F limit, F value) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_GE_OQ), value);
  }
  static F keepLanes(F v, uint32_t from, uint32_t to, uint32_t base) {
    const __m512i lane =
        _mm512_add_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                         _mm512_set1_epi32(int(base)));
    const __mmask16 keep = _mm512_cmp_epu32_mask(lane, _mm512_set1_epi32(int(from)), _MM_CMPINT_NLT) &
                           _mm512_cmp_epu32_mask(lane, _mm512_set1_epi32(int(to)), _MM_CMPINT_LT);
    return _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), keep, v);
  }
  // Lane i where bit i is set, else minus infinity.
  static F keepBits(F v, uint32_t bits) {
    return _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), static_cast<__mmask16>(bits), v);
  }
  static __m256 low(F v) { return _mm512_castps512_ps256(v); }
  static __m256 high(F v) { return _mm512_extractf32x8_ps(v, 1); }
  static float sum(F v) {
    const __m256 eight = _mm256_add_ps(low(v), high(v));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  }
  static float largest(F v) {
    const __m256 eight = _mm256_max_ps(low(v), high(v));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
  }
  static F addHalves(F a, F b) {
    return add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
  static F addQuarters(F a, F b) {
    return add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
  // Lane i of the result is the sum of v[i], in the tree of `sum`: transposes by halves and adds on the way.
  static F reduce(const F (&v)[W]) {
    F quarter[4];
#pragma GCC unroll 4
    for (uint32_t i = 0; i < 4; i++) {
      quarter[i] = addQuarters(addHalves(v[i], v[i + 4]), addHalves(v[i + 8], v[i + 12]));
    }
    const F a =
        add(_mm512_shuffle_ps(quarter[0], quarter[1], 0x44), _mm512_shuffle_ps(quarter[0], quarter[1], 0xee));
    const F b =
        add(_mm512_shuffle_ps(quarter[2], quarter[3], 0x44), _mm512_shuffle_ps(quarter[2], quarter[3], 0xee));
    return add(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
  }
};

}  // namespace
}  // namespace qm

#include "vec_attention.h"
#include "vec_matmul.h"

namespace qm {

const Kernels* avx512Kernels() {
  using V = Avx512;
  static const Kernels kernels = {"avx512",   embed<V>,  rmsnorm<V>, matmul<V>, rope<V>,
                                  kvWrite<V>, attend<V>, swiglu<V>,  burn<V>};
  return &kernels;
}

}  // namespace qm

#else

#include "../kernels.h"

const qm::Kernels* qm::avx512Kernels() { return nullptr; }

#endif
