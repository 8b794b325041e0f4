// Kernels for any machine: four lanes in the compiler's own vector type (SSE2, NEON, or plain registers).
//
// No fused multiply-add is assumed and -ffp-contract=off forbids the compiler to invent one, so that the bits
// are the same in every loop the compiler makes of this.
#include "../kernels.h"

namespace qm {
namespace {

struct Portable {
  static constexpr uint32_t W = 4;
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16)));

  static F load(const float* p) {
    F v;
    memcpy(&v, p, sizeof v);
    return v;
  }
  // Four 16-bit numbers, each in the low half of a lane.
  static I widen(const void* p) {
    typedef uint16_t H __attribute__((vector_size(8)));
    H half;
    memcpy(&half, p, sizeof half);
    return __builtin_convertvector(half, I);
  }
  static F load(const BF16* p) { return (F)(widen(p) << 16); }
  // As toFloat(F16), lane by lane.
  static F load(const F16* p) {
    const I bits = widen(p);
    const I magnitude = (bits & 0x7fff) << 13;
    const I number = (I)((F)magnitude * set1(floatOfBits((127 + 112) << 23)));
    const I special = (magnitude >= 0x7c00 << 13) & 0x7f800000;
    return (F)(number | special | (bits & 0x8000) << 16);
  }
  template <class T>
  static void store(T* p, F v) {
    for (uint32_t i = 0; i < W; i++) fromFloat(v[i], p + i);
  }
  static F set1(float x) { return F{x, x, x, x}; }
  static F zero() { return F{}; }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F fma(F a, F b, F c) { return a * b + c; }
  static F max(F a, F b) { return a > b ? a : b; }
  static F min(F a, F b) { return a < b ? a : b; }
  // value * 2^n, n in the low bits of `shifted`.
  static F addExponent(F value, F shifted) { return (F)((I)value + ((I)shifted << 23)); }
  // x = mantissa * 2^exponent of a normal x > 0, mantissa in [1, 2).
  static F splitExponent(F x, F* exponent) {
    *exponent = __builtin_convertvector(((I)x >> 23) - 127, F);
    return (F)(((I)x & 0x7fffff) | 0x3f800000);
  }
  static F zeroBelow(F x, F limit, F value) { return x < limit ? zero() : value; }
  static F keepLanes(F v, uint32_t from, uint32_t to, uint32_t base) {
    for (uint32_t i = 0; i < W; i++) {
      if (base + i < from || base + i >= to) v[i] = -__builtin_inff();
    }
    return v;
  }
  // Lane i where bit i is set, else minus infinity.
  static F keepBits(F v, uint32_t bits) {
    for (uint32_t i = 0; i < W; i++) {
      if (((bits >> i) & 1) == 0) v[i] = -__builtin_inff();
    }
    return v;
  }
  static float sum(F v) { return (v[0] + v[2]) + (v[1] + v[3]); }
  static float largest(F v) {
    const float a = v[0] > v[2] ? v[0] : v[2], b = v[1] > v[3] ? v[1] : v[3];
    return a > b ? a : b;
  }
  static F reduce(const F (&v)[W]) { return F{sum(v[0]), sum(v[1]), sum(v[2]), sum(v[3])}; }
};

}  // namespace
}  // namespace qm

#include "vec_attention.h"
#include "vec_matmul.h"

namespace qm {

const Kernels* portableKernels() {
  using V = Portable;
  static const Kernels kernels = {"portable", embed<V>,  rmsnorm<V>, matmul<V>, rope<V>,
                                  kvWrite<V>, attend<V>, swiglu<V>,  burn<V>};
  return &kernels;
}

}  // namespace qm
