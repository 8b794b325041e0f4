#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <map>
#include <new>
#include <string>

#include "isa.h"
#include "refusal.h"

namespace qm {
namespace {

static_assert(static_cast<int>(NumberType::F16) == QMH_F16 && static_cast<int>(NumberType::BF16) == QMH_BF16,
              "");

constexpr uint32_t MOST_DEFAULT_THREADS = 8, MOST_THREADS = 256;

uint32_t threadCount(uint32_t wanted) {
  if (wanted != 0) return wanted;
  return std::min(std::max(std::thread::hardware_concurrency(), 1u), MOST_DEFAULT_THREADS);
}

KvShape kvShape(const qmh_kv_shape& s) {
  return packed({s.blocks, s.layers, s.kv_heads, s.head_dim, s.block_size, static_cast<NumberType>(s.type), 0});
}

constexpr uint32_t MOST_GROUPS = 8, MOST_GROUP_BLOCK = 65536;

// Shapes of the groups that a configuration's layers are in; pages are as large as the largest needs.
std::vector<KvShape> groupShapes(const qmh_config& config) {
  const KvShape whole = kvShape(config.kv);
  if (config.places == nullptr) return {whole};
  std::vector<KvShape> groups(1, whole);
  groups[0].layers = 0;
  for (uint32_t i = 0; i < whole.layers; i++) {
    const qmh_layer_place& place = config.places[i];
    while (groups.size() <= place.group) {
      groups.push_back(whole);
      groups.back().layers = 0;
    }
    groups[place.group].layers++;
    groups[place.group].blockSize = place.block_size;
  }
  size_t page = 0;
  for (const KvShape& group : groups) page = std::max(page, packed(group).pageBytes);
  for (KvShape& group : groups) group.pageBytes = page;
  return groups;
}

std::vector<LayerPlace> layerPlaces(const qmh_config& config, const std::vector<KvShape>& groups) {
  std::vector<LayerPlace> places;
  std::vector<uint32_t> counts(groups.size(), 0);
  for (uint32_t i = 0; i < config.kv.layers; i++) {
    const qmh_layer_place one = {0, config.sliding_window, config.kv.block_size};
    const qmh_layer_place& place = config.places ? config.places[i] : one;
    places.push_back({groups[place.group], counts[place.group]++, place.window, place.group});
  }
  return places;
}

const Kernels* requireKernels(qmh_isa isa) {
  const Kernels* kernels = isa == QMH_REFERENCE ? nullptr : kernelsFor(isa);
  if (!kernels) refuse(QMH_UNSUPPORTED, "isa %s cannot run here", qmh_isa_name(isa));
  return kernels;
}

// Finds tensors by name and checks them against their file and the shape the model needs.
class TensorDirectory {
 public:
  TensorDirectory(const std::vector<MappedMemory>& files, const qmh_tensor* tensors, uint32_t count)
      : files_(files) {
    for (uint32_t i = 0; i < count; i++) byName_[tensors[i].name] = &tensors[i];
  }

  Weight vector(const std::string& name, uint64_t length) { return find(name, 1, length, 1); }
  Weight matrix(const std::string& name, uint64_t outputs, uint64_t inputs) {
    return find(name, 2, outputs, inputs);
  }
  uint64_t bytesUsed() const { return bytesUsed_; }

 private:
  Weight find(const std::string& name, uint32_t rank, uint64_t rows, uint64_t columns) {
    const auto found = byName_.find(name);
    if (found == byName_.end()) refuse(QMH_MISSING_TENSOR, "the model needs tensor %s", name.c_str());
    const qmh_tensor& t = *found->second;
    if (t.rank != rank || t.shape[0] != rows || (rank == 2 && t.shape[1] != columns)) {
      refuse(QMH_BAD_TENSOR, "tensor %s has shape [%llu, %llu], needed is [%llu, %llu]", name.c_str(),
             static_cast<unsigned long long>(t.shape[0]),
             static_cast<unsigned long long>(rank == 2 ? t.shape[1] : 1),
             static_cast<unsigned long long>(rows), static_cast<unsigned long long>(columns));
    }
    if (t.type > QMH_BF16) refuse(QMH_BAD_TENSOR, "tensor %s has number type %d", name.c_str(), int(t.type));
    const NumberType type = static_cast<NumberType>(t.type);
    if (t.bytes != rows * columns * bytesOf(type)) {
      refuse(QMH_BAD_TENSOR, "tensor %s has %llu bytes, its shape needs %llu", name.c_str(),
             static_cast<unsigned long long>(t.bytes),
             static_cast<unsigned long long>(rows * columns * bytesOf(type)));
    }
    if (t.file >= files_.size())
      refuse(QMH_BAD_TENSOR, "tensor %s is in file %u of %zu", name.c_str(), t.file, files_.size());
    const MappedMemory& file = files_[t.file];
    if (t.offset > file.bytes() || t.bytes > file.bytes() - t.offset) {
      refuse(QMH_BAD_TENSOR, "tensor %s ends beyond its file of %zu bytes", name.c_str(), file.bytes());
    }
    if (t.offset % bytesOf(type) != 0)
      refuse(QMH_BAD_TENSOR, "tensor %s is not aligned to its numbers", name.c_str());
    bytesUsed_ += t.bytes;
    return {file.data() + t.offset, type};
  }

  const std::vector<MappedMemory>& files_;
  std::map<std::string, const qmh_tensor*> byName_;
  uint64_t bytesUsed_ = 0;
};

LayerWeights bindLayer(TensorDirectory* tensors, const Model& model, uint32_t layer) {
  const qmh_config& c = model.config;
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const auto vector = [&](const char* name, uint64_t length) {
    return tensors->vector(prefix + name, length);
  };
  const auto matrix = [&](const char* name, uint64_t out, uint64_t in) {
    return tensors->matrix(prefix + name, out, in);
  };
  const auto bias = [&](const char* name, uint64_t length) {
    return c.attention_bias ? vector(name, length) : Weight{nullptr, NumberType::F32};
  };
  LayerWeights w;
  w.attentionNorm = vector("input_layernorm.weight", c.hidden);
  w.q = matrix("self_attn.q_proj.weight", model.queryWidth(), c.hidden);
  w.k = matrix("self_attn.k_proj.weight", model.kvWidth(), c.hidden);
  w.v = matrix("self_attn.v_proj.weight", model.kvWidth(), c.hidden);
  w.qBias = bias("self_attn.q_proj.bias", model.queryWidth());
  w.kBias = bias("self_attn.k_proj.bias", model.kvWidth());
  w.vBias = bias("self_attn.v_proj.bias", model.kvWidth());
  w.o = matrix("self_attn.o_proj.weight", c.hidden, model.queryWidth());
  w.mlpNorm = vector("post_attention_layernorm.weight", c.hidden);
  w.gate = matrix("mlp.gate_proj.weight", c.intermediate, c.hidden);
  w.up = matrix("mlp.up_proj.weight", c.intermediate, c.hidden);
  w.down = matrix("mlp.down_proj.weight", c.hidden, c.intermediate);
  return w;
}

void within(const char* field, double value, double lowest, double highest) {
  if (value >= lowest && value <= highest) return;
  refuse(QMH_INVALID_ARGUMENT, "%s is %.12g; allowed: %.12g to %.12g", field, value, lowest, highest);
}

size_t poolBytes(const qmh_config& config) {
  checkConfig(config);
  const KvShape shape = groupShapes(config)[0];
  const double bytes = static_cast<double>(kvBlockBytes(shape)) * shape.blocks;
  if (bytes > 0x1p46) refuse(QMH_OUT_OF_MEMORY, "a KV pool of %g bytes", bytes);
  return kvBlockBytes(shape) * shape.blocks;
}

}  // namespace

FloatBuffer::~FloatBuffer() { free(data_); }

float* FloatBuffer::reserve(size_t count) {
  if (count <= count_) return data_;
  const size_t rounded = (count + 15) / 16 * 16;
  void* data = nullptr;
  if (posix_memalign(&data, 64, rounded * sizeof(float)) != 0) throw std::bad_alloc();
  free(data_);
  data_ = static_cast<float*>(data);
  count_ = rounded;
  return data_;
}

void checkConfig(const qmh_config& c) {
  const double many = 1 << 24;
  within("layers", c.kv.layers, 1, 1024);
  within("hidden", c.hidden, 1, many);
  within("heads", c.heads, 1, 4096);
  within("kvHeads", c.kv.kv_heads, 1, c.heads);
  within("headDim", c.kv.head_dim, 2, MAX_HEAD_DIM);
  within("intermediate", c.intermediate, 1, many);
  within("vocab", c.vocab, 1, many);
  within("rmsEps", c.rms_eps, 0, 1);
  within("ropeTheta", c.rope.theta, 1e-3, 1e12);
  within("ropeLayout", c.rope.layout, QMH_HALF, QMH_INTERLEAVED);
  within("ropeScaling", c.rope.scaling, QMH_SCALING_NONE, QMH_SCALING_LLAMA3);
  if (c.rope.scaling != QMH_SCALING_NONE) within("ropeScaling.factor", c.rope.factor, 1e-3, 1e6);
  if (c.rope.scaling == QMH_SCALING_LLAMA3) {
    within("ropeScaling.lowFreqFactor", c.rope.low_freq_factor, 1e-3, 1e6);
    within("ropeScaling.highFreqFactor", c.rope.high_freq_factor, c.rope.low_freq_factor * (1 + 1e-9), 1e6);
    within("ropeScaling.originalMaxPositions", c.rope.original_max_positions, 1, 1e12);
  }
  within("maxSequenceTokens", c.max_sequence_tokens, 1, 1 << 26);
  within("blocks", c.kv.blocks, 1, 1 << 30);
  within("blockSize", c.kv.block_size, 1, 4096);
  within("blocks * blockSize", double{1} * c.kv.blocks * c.kv.block_size, 1, 4294967295.0);
  within("kvType", c.kv.type, QMH_F32, QMH_BF16);
  within("threads", c.threads, 0, MOST_THREADS);
  within("isa", c.isa, QMH_AUTO, QMH_AVX512);
  within("heads modulo kvHeads", c.heads % c.kv.kv_heads, 0, 0);
  within("heads / kvHeads", c.heads / c.kv.kv_heads, 1, MAX_GROUP);
  within("headDim modulo 2", c.kv.head_dim % 2, 0, 0);
  if (c.places == nullptr) return;
  uint32_t sizes[MOST_GROUPS] = {c.kv.block_size};
  for (uint32_t i = 0; i < c.kv.layers; i++) {
    const qmh_layer_place& place = c.places[i];
    within("places.group", place.group, 0, MOST_GROUPS - 1);
    uint32_t& size = sizes[place.group];
    within("places.blockSize", place.block_size, size == 0 ? 1 : size, size == 0 ? MOST_GROUP_BLOCK : size);
    size = place.block_size;
    within("blocks * places.blockSize", double{1} * c.kv.blocks * place.block_size, 1, 4294967295.0);
  }
}

Model::Model(const qmh_config& givenConfig, const char* const* paths, uint32_t fileCount,
             const qmh_tensor* given, uint32_t tensorCount)
    : config(givenConfig),
      isa(resolveIsa(givenConfig.isa)),
      kernels(requireKernels(givenConfig.isa)),
      kv(kvShape(givenConfig.kv)),
      pool(MappedMemory::zeroed(poolBytes(givenConfig))),
      rope(givenConfig.rope, givenConfig.kv.head_dim),
      threads(threadCount(givenConfig.threads)) {
  groups = groupShapes(config);
  places = layerPlaces(config, groups);
  kv.pageBytes = groups[0].pageBytes;
  config.places = nullptr;
  for (uint32_t i = 0; i < fileCount; i++) files.push_back(MappedMemory::file(paths[i]));
  TensorDirectory tensors(files, given, tensorCount);
  embedding = tensors.matrix("model.embed_tokens.weight", config.vocab, config.hidden);
  for (uint32_t i = 0; i < config.kv.layers; i++) layers.push_back(bindLayer(&tensors, *this, i));
  finalNorm = tensors.vector("model.norm.weight", config.hidden);
  head = config.tied_embeddings ? embedding : tensors.matrix("lm_head.weight", config.vocab, config.hidden);
  weightBytes = tensors.bytesUsed();
  for (uint32_t i = 0; i < threads.threads(); i++) {
    threadScratch.push_back(std::make_unique<ThreadScratch>(config.vocab));
  }
}

}  // namespace qm
