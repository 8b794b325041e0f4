// Plain kernels, accumulating in double: what the fast ones are compared with.
//
// Each is the formula written as a loop. Nothing here is tuned, and nothing should be.
#include <math.h>

#include <vector>

#include "../kernels.h"

namespace qm {
namespace {

float at(Weight weight, size_t i) {
  switch (weight.type) {
    case NumberType::F32:
      return static_cast<const float*>(weight.data)[i];
    case NumberType::F16:
      return toFloat(static_cast<const F16*>(weight.data)[i]);
    default:
      return toFloat(static_cast<const BF16*>(weight.data)[i]);
  }
}

void put(void* data, NumberType type, size_t i, float value) {
  switch (type) {
    case NumberType::F32:
      static_cast<float*>(data)[i] = value;
      break;
    case NumberType::F16:
      fromFloat(value, static_cast<F16*>(data) + i);
      break;
    default:
      fromFloat(value, static_cast<BF16*>(data) + i);
  }
}

void embed(Weight table, uint32_t width, const uint32_t* tokens, uint32_t count, float* out) {
  for (uint32_t t = 0; t < count; t++) {
    for (uint32_t i = 0; i < width; i++)
      out[size_t{t} * width + i] = at(table, size_t{tokens[t]} * width + i);
  }
}

// Root mean square normalization (arXiv 1910.07467).
void rmsnorm(const float* x, Weight weight, uint32_t rows, uint32_t width, float eps, float* out) {
  for (uint32_t r = 0; r < rows; r++, x += width, out += width) {
    double sum = 0;
    for (uint32_t i = 0; i < width; i++) sum += double{x[i]} * x[i];
    const double scale = 1 / sqrt(sum / width + double{eps});
    for (uint32_t i = 0; i < width; i++) out[i] = static_cast<float>(x[i] * scale * at(weight, i));
  }
}

void matmul(const MatmulArgs& a) {
  for (uint32_t t = 0; t < a.tokens; t++) {
    for (uint32_t o = a.outBegin; o < a.outEnd; o++) {
      double sum = a.bias.data ? at(a.bias, o) : 0;
      for (uint32_t k = 0; k < a.inputs; k++)
        sum += double{a.x[t * a.xStride + k]} * at(a.w, size_t{o} * a.inputs + k);
      float* y = a.y + t * a.yStride + o;
      *y = static_cast<float>(a.accumulate ? *y + sum : sum);
    }
  }
}

// Rotary position embedding (arXiv 2104.09864).
void rope(float* x, size_t stride, const uint32_t* positions, uint32_t count, uint32_t heads,
          uint32_t headDim, const float* cosSin, bool interleaved) {
  const uint32_t half = headDim / 2;
  for (uint32_t t = 0; t < count; t++) {
    const float* angles = cosSin + size_t{positions[t]} * headDim;
    for (uint32_t h = 0; h < heads; h++) {
      float* head = x + t * stride + size_t{h} * headDim;
      for (uint32_t i = 0; i < half; i++) {
        float* a = interleaved ? head + 2 * i : head + i;
        float* b = interleaved ? a + 1 : a + half;
        const double cosine = angles[2 * i], sine = angles[2 * i + 1], first = *a, second = *b;
        *a = static_cast<float>(first * cosine - second * sine);
        *b = static_cast<float>(second * cosine + first * sine);
      }
    }
  }
}

void kvWrite(uint8_t* kv, const KvShape& shape, uint32_t layer, const uint32_t* slots, uint32_t count,
             const float* k, const float* v, size_t stride) {
  for (uint32_t t = 0; t < count; t++) {
    const uint32_t block = slots[t] / shape.blockSize, offset = slots[t] % shape.blockSize;
    for (uint32_t h = 0; h < shape.kvHeads; h++) {
      for (uint32_t i = 0; i < shape.headDim; i++) {
        const size_t from = t * stride + size_t{h} * shape.headDim + i,
                     to = size_t{offset} * shape.headDim + i;
        put(kv + kvOffset(shape, block, layer, KV_K, h), shape.type, to, k[from]);
        put(kv + kvOffset(shape, block, layer, KV_V, h), shape.type, to, v[from]);
      }
    }
  }
}

// Scaled dot-product attention (arXiv 1706.03762), two passes: all scores, then the weighted sum.
void attendOne(const AttendArgs& a, const float* q, uint32_t position, float* out) {
  const KvShape& s = a.shape;
  const uint32_t first = a.window != 0 && position >= a.window ? position - a.window + 1 : 0;
  const auto entry = [&](KvPart part, uint32_t p) {
    const uint8_t* base = a.kv + kvOffset(s, a.table[p / s.blockSize], a.layer, part, a.kvHead);
    return Weight{base + size_t{p % s.blockSize} * s.headDim * bytesOf(s.type), s.type};
  };
  std::vector<double> scores(position - first + 1), sum(s.headDim, 0.0);
  double largest = -INFINITY, total = 0;
  for (uint32_t p = first; p <= position; p++) {
    double dot = 0;
    for (uint32_t i = 0; i < s.headDim; i++) dot += double{q[i]} * at(entry(KV_K, p), i);
    scores[p - first] = dot / sqrt(double(s.headDim));
    largest = fmax(largest, scores[p - first]);
  }
  for (uint32_t p = first; p <= position; p++) {
    const double weight = exp(scores[p - first] - largest);
    total += weight;
    for (uint32_t i = 0; i < s.headDim; i++) sum[i] += weight * at(entry(KV_V, p), i);
  }
  for (uint32_t i = 0; i < s.headDim; i++) out[i] = static_cast<float>(sum[i] / total);
}

void attend(const AttendArgs& a) {
  for (uint32_t t = 0; t < a.queries; t++) {
    for (uint32_t g = 0; g < a.group; g++) {
      const size_t head = size_t{g} * a.shape.headDim;
      attendOne(a, a.q + t * a.qStride + head, a.firstPosition + t, a.out + t * a.outStride + head);
    }
  }
}

// SwiGLU (arXiv 2002.05202).
void swiglu(float* gate, const float* up, size_t count) {
  for (size_t i = 0; i < count; i++) {
    const double g = gate[i];
    gate[i] = static_cast<float>(g / (1 + exp(-g)) * up[i]);
  }
}

double burn(float* sink) {
  float a = 1;
  for (uint32_t i = 0; i < 1 << 20; i++) a = a * 0.999f + 0.001f;
  *sink = a;
  return 2.0 * (1 << 20);
}

const Kernels KERNELS = {"reference", embed, rmsnorm, matmul, rope, kvWrite, attend, swiglu, burn};

}  // namespace

const Kernels* referenceKernels() { return &KERNELS; }

}  // namespace qm
