// The single kernels as functions over typed arrays: shapes are checked here, since the C functions trust
// theirs.
#include "kernels.h"

#include <string.h>

#include <algorithm>
#include <chrono>
#include <vector>

namespace addon {
namespace {

void require(bool holds, const char* what) {
  if (!holds) refuse("INVALID_ARGUMENT", what);
}

qmh_isa toIsa(napi_env env, napi_value value) {
  static const char* const ISAS[] = {"auto", "portable", "avx2", "avx512", "reference"};
  return static_cast<qmh_isa>(toChoice(env, value, "isa", ISAS, 5));
}

size_t sizeOf(qmh_dtype type) { return type == QMH_F32 ? 4 : 2; }

bool aligned(const Span<uint8_t>& bytes, qmh_dtype type) {
  return reinterpret_cast<uintptr_t>(bytes.data) % sizeOf(type) == 0;
}

qmh_kv_shape toKvShape(napi_env env, napi_value object, const Span<uint8_t>& kv) {
  const auto count = [&](const char* name) { return toU32(env, property(env, object, name), name); };
  const qmh_kv_shape shape = {count("blocks"),    count("layers"),
                              count("kvHeads"),   count("headDim"),
                              count("blockSize"), toDtype(env, property(env, object, "kvType"), "kvType")};
  const uint64_t most = uint64_t{1} << 20;
  require(shape.blocks && shape.layers && shape.kv_heads && shape.head_dim && shape.block_size,
          "a count of shape is 0");
  require(shape.blocks <= most && shape.layers <= 1024 && shape.kv_heads <= 4096 && shape.head_dim <= 512 &&
              shape.block_size <= 4096,
          "a count of shape is too large");
  const double bytes = 2.0 * shape.blocks * shape.layers * shape.kv_heads * shape.head_dim *
                       shape.block_size * sizeOf(shape.type);
  require(bytes == static_cast<double>(kv.count), "kv does not have the size of its shape");
  require(aligned(kv, shape.type), "kv is not aligned to its numbers");
  return shape;
}

napi_value embed(napi_env env, const Arguments& a) {
  const Span<uint8_t> table = toBytes(env, a[1], "table");
  const qmh_dtype type = toDtype(env, a[2], "dtype");
  const uint32_t width = toU32(env, a[3], "width");
  const Span<uint32_t> tokens = toWords(env, a[4], "tokens");
  const Span<float> out = toFloats(env, a[5], "out");
  require(width != 0 && table.count % (width * sizeOf(type)) == 0, "table is not rows of width");
  require(aligned(table, type), "table is not aligned to its numbers");
  require(out.count == tokens.count * width, "out is not [tokens][width]");
  const size_t vocab = table.count / (width * sizeOf(type));
  require(std::all_of(tokens.data, tokens.data + tokens.count, [&](uint32_t t) { return t < vocab; }),
          "a token is outside the table");
  checkHost(qmh_embed(toIsa(env, a[0]), table.data, type, width, tokens.data,
                      static_cast<uint32_t>(tokens.count), out.data));
  return undefined(env);
}

napi_value rmsnorm(napi_env env, const Arguments& a) {
  const Span<float> x = toFloats(env, a[1], "x");
  const Span<uint8_t> weight = toBytes(env, a[2], "weight");
  const qmh_dtype type = toDtype(env, a[3], "dtype");
  const uint32_t width = toU32(env, a[4], "width");
  const Span<float> out = toFloats(env, a[6], "out");
  require(width != 0 && x.count % width == 0 && out.count == x.count, "x and out are not rows of width");
  require(weight.count == width * sizeOf(type) && aligned(weight, type), "weight is not [width]");
  checkHost(qmh_rmsnorm(toIsa(env, a[0]), x.data, weight.data, type, static_cast<uint32_t>(x.count / width),
                        width, static_cast<float>(toDouble(env, a[5], "eps")), out.data));
  return undefined(env);
}

napi_value matmul(napi_env env, const Arguments& a) {
  const Span<float> x = toFloats(env, a[1], "x");
  const Span<uint8_t> weight = toBytes(env, a[2], "weight");
  const qmh_dtype type = toDtype(env, a[3], "dtype");
  const uint32_t inputs = toU32(env, a[4], "inputs");
  const Span<float> out = toFloats(env, a[6], "out");
  require(inputs != 0 && x.count % inputs == 0, "x is not rows of inputs");
  require(weight.count % (inputs * sizeOf(type)) == 0 && aligned(weight, type),
          "weight is not rows of inputs");
  const size_t tokens = x.count / inputs, outputs = weight.count / (inputs * sizeOf(type));
  require(out.count == tokens * outputs, "out is not [tokens][outputs]");
  const void* bias = nullptr;
  if (!isNull(env, a[5])) {
    const Span<uint8_t> given = toBytes(env, a[5], "bias");
    require(given.count == outputs * sizeOf(type) && aligned(given, type), "bias is not [outputs]");
    bias = given.data;
  }
  checkHost(qmh_matmul(toIsa(env, a[0]), x.data, weight.data, type, bias, static_cast<uint32_t>(tokens),
                       inputs, static_cast<uint32_t>(outputs), out.data));
  return undefined(env);
}

napi_value rope(napi_env env, const Arguments& a) {
  const Span<float> x = toFloats(env, a[1], "x");
  const Span<uint32_t> positions = toWords(env, a[2], "positions");
  const uint32_t heads = toU32(env, a[3], "heads"), headDim = toU32(env, a[4], "headDim");
  qmh_rope rope;
  toRope(env, a[5], a[6], a[7], &rope);
  require(headDim != 0 && headDim % 2 == 0 && headDim <= 512, "headDim is not even, or above 512");
  require(x.count == positions.count * heads * headDim, "x is not [positions][heads][headDim]");
  require(
      std::all_of(positions.data, positions.data + positions.count, [](uint32_t p) { return p < 1 << 20; }),
      "a position is too large");
  checkHost(qmh_rope_apply(toIsa(env, a[0]), x.data, positions.data, static_cast<uint32_t>(positions.count),
                           heads, headDim, &rope));
  return undefined(env);
}

napi_value kvWrite(napi_env env, const Arguments& a) {
  const Span<uint8_t> kv = toBytes(env, a[1], "kv");
  const qmh_kv_shape shape = toKvShape(env, a[2], kv);
  const uint32_t layer = toU32(env, a[3], "layer");
  const Span<uint32_t> slots = toWords(env, a[4], "slots");
  const Span<float> k = toFloats(env, a[5], "k"), v = toFloats(env, a[6], "v");
  const uint64_t slotCount = uint64_t{shape.blocks} * shape.block_size;
  require(layer < shape.layers, "layer is outside shape");
  require(k.count == slots.count * shape.kv_heads * shape.head_dim && v.count == k.count,
          "k or v is not [slots][kvHeads][headDim]");
  require(std::all_of(slots.data, slots.data + slots.count, [&](uint32_t s) { return s < slotCount; }),
          "a slot is outside kv");
  checkHost(qmh_kv_write(toIsa(env, a[0]), kv.data, &shape, layer, slots.data,
                         static_cast<uint32_t>(slots.count), k.data, v.data));
  return undefined(env);
}

napi_value attention(napi_env env, const Arguments& a) {
  const Span<uint8_t> kv = toBytes(env, a[1], "kv");
  const qmh_kv_shape shape = toKvShape(env, a[2], kv);
  const uint32_t layer = toU32(env, a[3], "layer");
  const Span<uint32_t> table = toWords(env, a[4], "table");
  const uint32_t firstPosition = toU32(env, a[5], "firstPosition");
  const uint32_t heads = toU32(env, a[6], "heads"), window = toU32(env, a[7], "window");
  const Span<float> q = toFloats(env, a[8], "q"), out = toFloats(env, a[9], "out");
  require(layer < shape.layers, "layer is outside shape");
  require(heads != 0 && heads % shape.kv_heads == 0 && heads / shape.kv_heads <= 64,
          "heads is not 1 to 64 times kvHeads");
  const size_t width = size_t{heads} * shape.head_dim;
  require(q.count % width == 0 && out.count == q.count, "q and out are not [tokens][heads][headDim]");
  require(firstPosition + q.count / width <= table.count * shape.block_size,
          "table is too short for the positions");
  require(std::all_of(table.data, table.data + table.count, [&](uint32_t b) { return b < shape.blocks; }),
          "a block is outside kv");
  checkHost(qmh_attention(toIsa(env, a[0]), kv.data, &shape, layer, table.data, firstPosition,
                          static_cast<uint32_t>(q.count / width), heads, window, q.data, out.data));
  return undefined(env);
}

napi_value attentionLanes(napi_env env, const Arguments& a) {
  const Span<uint8_t> kv = toBytes(env, a[1], "kv");
  const qmh_kv_shape shape = toKvShape(env, a[2], kv);
  const uint32_t layer = toU32(env, a[3], "layer");
  const Span<uint32_t> table = toWords(env, a[4], "table");
  const uint32_t heads = toU32(env, a[5], "heads");
  const Span<float> q = toFloats(env, a[6], "q"), out = toFloats(env, a[7], "out");
  const qmh_lanes lanes = toLanes(env, a[8], a[9], a[10]);
  require(layer < shape.layers, "layer is outside shape");
  require(heads != 0 && heads % shape.kv_heads == 0 && heads / shape.kv_heads <= 64,
          "heads is not 1 to 64 times kvHeads");
  const size_t width = size_t{heads} * shape.head_dim;
  require(q.count != 0 && q.count % width == 0 && out.count == q.count,
          "q and out are not [tokens][heads][headDim]");
  require(reinterpret_cast<uintptr_t>(lanes.floats) % sizeof(double) == 0, "statistics are not aligned");
  checkHost(qmh_attention_lanes(toIsa(env, a[0]), kv.data, &shape, layer, table.data,
                                static_cast<uint32_t>(table.count), &lanes,
                                static_cast<uint32_t>(q.count / width), heads, q.data, out.data));
  return undefined(env);
}

napi_value swiglu(napi_env env, const Arguments& a) {
  const Span<float> gate = toFloats(env, a[1], "gate"), up = toFloats(env, a[2], "up");
  require(gate.count == up.count, "gate and up differ in length");
  checkHost(qmh_swiglu(toIsa(env, a[0]), gate.data, up.data, gate.count));
  return undefined(env);
}

napi_value sample(napi_env env, const Arguments& a) {
  const Span<float> logits = toFloats(env, a[0], "logits");
  const Span<uint32_t> record = toWords(env, a[1], "record"), history = toWords(env, a[2], "history");
  require(logits.count != 0, "logits is empty");
  require(record.count * sizeof(uint32_t) == sizeof(qmh_sampling), "record is not one sampling record");
  qmh_sampling sampling;
  memcpy(&sampling, record.data, sizeof sampling);
  uint32_t token;
  checkHost(qmh_sample(logits.data, static_cast<uint32_t>(logits.count), &sampling, history.data,
                       history.count, &token));
  return number(env, token);
}

// The best of repeated copies for a tenth of a second.
napi_value copyBandwidth(napi_env env, const Arguments& a) {
  using Clock = std::chrono::steady_clock;
  const size_t bytes = toU64(env, a[0], "bytes");
  require(bytes >= 64 && bytes <= size_t{1} << 32, "bytes is not from 64 to 2^32");
  std::vector<uint8_t> from(bytes, 1), to(bytes, 2);
  const size_t copies = std::max<size_t>((size_t{1} << 24) / bytes, 1);
  const Clock::time_point end = Clock::now() + std::chrono::milliseconds(100);
  double best = 0;
  for (Clock::time_point start = Clock::now(), now; start < end; start = now) {
    for (size_t i = 0; i < copies; i++) {
      memcpy(to.data(), from.data(), bytes);
      from[0] = to[bytes - 1];  // keeps the compiler from dropping a copy
    }
    now = Clock::now();
    best = std::max(
        best, 2.0 * static_cast<double>(bytes * copies) / std::chrono::duration<double>(now - start).count());
  }
  return number(env, best);
}

napi_value peakFlops(napi_env env, const Arguments& a) {
  double flops;
  checkHost(qmh_peak_flops(toIsa(env, a[0]), &flops));
  return number(env, flops);
}

}  // namespace

napi_value makeKernels(napi_env env) {
  napi_value object;
  check(env, napi_create_object(env, &object));
  setFunction(env, object, "embed", entry<embed>);
  setFunction(env, object, "rmsnorm", entry<rmsnorm>);
  setFunction(env, object, "matmul", entry<matmul>);
  setFunction(env, object, "rope", entry<rope>);
  setFunction(env, object, "kvWrite", entry<kvWrite>);
  setFunction(env, object, "attention", entry<attention>);
  setFunction(env, object, "attentionLanes", entry<attentionLanes>);
  setFunction(env, object, "swiglu", entry<swiglu>);
  setFunction(env, object, "sample", entry<sample>);
  setFunction(env, object, "copyBandwidth", entry<copyBandwidth>);
  setFunction(env, object, "peakFlops", entry<peakFlops>);
  return object;
}

}  // namespace addon
