// The number types of weights and KV entries, and their conversion to and from float, one number at a time.
//
// Everything here has internal linkage on purpose: these functions are compiled once for each instruction
// set, and a shared inline function could leave the linker with the copy that an older machine cannot run.
#ifndef QUARTERMASTER_KERNELS_NUMBERS_H
#define QUARTERMASTER_KERNELS_NUMBERS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace qm {

enum class NumberType : uint32_t { F32, F16, BF16 };

struct F16 {
  uint16_t bits;
};
struct BF16 {
  uint16_t bits;
};

static inline size_t bytesOf(NumberType type) { return type == NumberType::F32 ? 4 : 2; }

static inline float floatOfBits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t bitsOfFloat(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float toFloat(float value) { return value; }

static inline float toFloat(BF16 value) { return floatOfBits(static_cast<uint32_t>(value.bits) << 16); }

static inline float toFloat(F16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t magnitude = value.bits & 0x7fff;
  if (magnitude >= 0x7c00) return floatOfBits(sign | 0x7f800000 | ((magnitude & 0x3ff) << 13));
  // Read as a float, the exponent is too small by 112; the product with 2^112 is exact, subnormals included.
  return floatOfBits(sign | bitsOfFloat(floatOfBits(magnitude << 13) * floatOfBits((127 + 112) << 23)));
}

static inline void fromFloat(float value, float* out) { *out = value; }

// Rounds to nearest, ties to even; a NaN stays one.
static inline void fromFloat(float value, BF16* out) {
  const uint32_t bits = bitsOfFloat(value);
  if ((bits & 0x7fffffff) > 0x7f800000) {
    out->bits = static_cast<uint16_t>((bits >> 16) | 0x40);
  } else {
    out->bits = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
}

// Rounds to nearest, ties to even; beyond 65504 is infinite.
static inline void fromFloat(float value, F16* out) {
  const uint32_t bits = bitsOfFloat(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00 | ((magnitude >> 13) & 0x3ff);
  } else if (magnitude >= 0x47800000) {
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {
    // Subnormal in f16: adding 0.5 leaves the rounded number of 2^-24 units in the low bits.
    half = bitsOfFloat(floatOfBits(magnitude) + 0.5f) - bitsOfFloat(0.5f);
  } else {
    half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  out->bits = static_cast<uint16_t>(sign | half);
}

}  // namespace qm

#endif  // QUARTERMASTER_KERNELS_NUMBERS_H
