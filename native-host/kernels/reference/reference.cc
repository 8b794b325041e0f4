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

void kvWrite(uint8_t* kv, const KvShape& shape, uint32_t layer, uint32_t headBegin, uint32_t headEnd,
             const uint32_t* slots, uint32_t count, const float* k, const float* v, size_t stride) {
  for (uint32_t t = 0; t < count; t++) {
    const uint32_t block = slots[t] / shape.blockSize, offset = slots[t] % shape.blockSize;
    for (uint32_t h = headBegin; h < headEnd; h++) {
      for (uint32_t i = 0; i < shape.headDim; i++) {
        const size_t from = t * stride + size_t{h} * shape.headDim + i,
                     to = size_t{offset} * shape.headDim + i;
        put(kv + kvOffset(shape, block, layer, KV_K, h), shape.type, to, k[from]);
        put(kv + kvOffset(shape, block, layer, KV_V, h), shape.type, to, v[from]);
      }
    }
  }
}

Weight kvEntry(const AttendArgs& a, KvPart part, uint32_t p) {
  const KvShape& s = a.shape;
  const uint8_t* base = a.kv + kvOffset(s, a.table[p / s.blockSize], a.layer, part, a.kvHead);
  return {base + size_t{p % s.blockSize} * s.headDim * bytesOf(s.type), s.type};
}

uint32_t firstSeen(const AttendArgs& a, uint32_t position) {
  return a.window != 0 && position >= a.window ? position - a.window + 1 : 0;
}

// Softmax of q . k / sqrt(d) over the live positions of [first, end); 0 at the others. [end]
std::vector<double> probabilities(const AttendArgs& a, const float* q, uint32_t first, uint32_t end) {
  const auto seen = [&](uint32_t p) {
    return p >= first && (a.live == nullptr || (a.live[p / 32] >> (p % 32) & 1) != 0);
  };
  std::vector<double> row(end, 0.0);
  double largest = -INFINITY, total = 0;
  for (uint32_t p = 0; p < end; p++) {
    double dot = 0;
    if (!seen(p)) continue;
    for (uint32_t i = 0; i < a.shape.headDim; i++) dot += double{q[i]} * at(kvEntry(a, KV_K, p), i);
    row[p] = dot / sqrt(double(a.shape.headDim));
    largest = fmax(largest, row[p]);
  }
  for (uint32_t p = 0; p < end; p++) total += row[p] = seen(p) ? exp(row[p] - largest) : 0;
  for (double& value : row) value = total == 0 ? 0 : value / total;
  return row;
}

// Scaled dot-product attention (arXiv 1706.03762): all probabilities, then the weighted sum.
void attendOne(const AttendArgs& a, const std::vector<double>& row, float* out) {
  std::vector<double> sum(a.shape.headDim, 0.0);
  for (uint32_t p = 0; p < row.size(); p++) {
    if (row[p] == 0) continue;
    for (uint32_t i = 0; i < a.shape.headDim; i++) sum[i] += row[p] * at(kvEntry(a, KV_V, p), i);
  }
  for (uint32_t i = 0; i < a.shape.headDim; i++) out[i] = static_cast<float>(sum[i]);
}

// Query t's head g; `row` is its probabilities.
void measureOne(const AttendArgs& a, uint32_t t, uint32_t g, const std::vector<double>& row, const float* q) {
  const AttendMeasures& m = *a.measures;
  const uint32_t after = m.queriesAfter + a.queries - 1 - t, seen = static_cast<uint32_t>(row.size());
  const auto write = [&](float* to) {
    for (uint32_t p = 0; p < seen + after; p++) to[p] = p < seen ? static_cast<float>(row[p]) : 0;
  };
  if (m.lastRow && after == 0) write(m.lastRow + g * m.stride);
  if (m.window && after < m.windowRows && (m.windowHeads >> g & 1) != 0)
    write(m.window + (size_t{g} * m.windowRows + m.windowRows - 1 - after) * m.stride);
  for (uint32_t p = 0; m.colsum && p < seen; p++) m.colsum[g * m.stride + p] += static_cast<float>(row[p]);
  if (m.moments && after < m.windowRows) {
    for (uint32_t p = 0; p < seen; p++) {
      m.moments[2 * g * m.stride + p] += static_cast<float>(row[p]);
      m.moments[(2 * g + 1) * m.stride + p] += static_cast<float>(row[p] * row[p]);
      if (p + m.windowRows < seen + after) m.entropy[g] += row[p] * log(row[p] + 1e-10);
    }
  }
  if (m.probeMax == nullptr || after >= m.probeRows) return;
  const std::vector<double> cached = probabilities(a, q, firstSeen(a, a.firstPosition + t), m.cached);
  for (uint32_t p = 0; p < m.cached; p++) m.probeMax[p] = fmaxf(m.probeMax[p], static_cast<float>(cached[p]));
}

void attend(const AttendArgs& a) {
  for (uint32_t t = 0; t < a.queries; t++) {
    for (uint32_t g = 0; g < a.group; g++) {
      const size_t head = size_t{g} * a.shape.headDim;
      const float* q = a.q + t * a.qStride + head;
      const uint32_t position = a.firstPosition + t;
      const std::vector<double> row = probabilities(a, q, firstSeen(a, position), position + 1);
      attendOne(a, row, a.out + t * a.outStride + head);
      if (a.measures) measureOne(a, t, g, row, q);
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
