// A loaded model: its weights where they lie in mapped files, the KV pool, the threads and the scratch of a
// batch.
//
// Ownership  The model owns the mappings, the pool and the threads; Weight pointers point into the mappings.
// Threading  One batch at a time (Model::busy); everything but the scratch and the KV pool is constant after
//            creation.
#ifndef QUARTERMASTER_CPU_MODEL_H
#define QUARTERMASTER_CPU_MODEL_H

#include <quartermaster_host.h>

#include <atomic>
#include <memory>
#include <vector>

#include "../kernels.h"
#include "mapped_memory.h"
#include "rope.h"
#include "sampling.h"
#include "thread_pool.h"

namespace qm {

struct LayerWeights {
  Weight attentionNorm, q, k, v, qBias, kBias, vBias, o;
  Weight mlpNorm, gate, up, down;
};

// Where a layer's K and V lie, as layer `index` of its group's shape, and how many tokens its queries see.
struct LayerPlace {
  KvShape kv;
  uint32_t index, window, group;
};

// Floats on a 64-byte boundary.
class FloatBuffer {
 public:
  FloatBuffer() = default;
  FloatBuffer(const FloatBuffer&) = delete;
  FloatBuffer& operator=(const FloatBuffer&) = delete;
  ~FloatBuffer();

  // Room for `count` floats, contents lost when it grows. Throws std::bad_alloc and keeps what it had.
  float* reserve(size_t count);
  float* data() const { return data_; }

 private:
  float* data_ = nullptr;
  size_t count_ = 0;
};

// What one thread of the pool needs to itself.
struct ThreadScratch {
  explicit ThreadScratch(uint32_t vocab) : sampling(vocab) { attend.reserve(ATTEND_SCRATCH); }

  FloatBuffer attend;
  FloatBuffer weights;  // of attention that is measured
  SamplingScratch sampling;
};

struct Model {
  // Throws Refusal or std::bad_alloc.
  Model(const qmh_config& config, const char* const* files, uint32_t fileCount, const qmh_tensor* tensors,
        uint32_t tensorCount);

  uint32_t queryWidth() const { return config.heads * config.kv.head_dim; }
  uint32_t kvWidth() const { return config.kv.kv_heads * config.kv.head_dim; }

  qmh_config config;
  qmh_isa isa;
  const Kernels* kernels;
  KvShape kv;                      // of group 0; layers and page of the whole model
  std::vector<KvShape> groups;     // group 0 first
  std::vector<LayerPlace> places;  // [layers]

  std::vector<MappedMemory> files;
  uint64_t weightBytes = 0;
  Weight embedding, finalNorm, head;
  std::vector<LayerWeights> layers;

  MappedMemory pool;
  RopeTable rope;
  ThreadPool threads;
  std::vector<std::unique_ptr<ThreadScratch>> threadScratch;
  FloatBuffer activations;
  FloatBuffer logits;
  FloatBuffer compared;
  std::atomic<bool> busy{false};
};

// Throws Refusal naming the field that is outside its range.
void checkConfig(const qmh_config& config);

}  // namespace qm

#endif  // QUARTERMASTER_CPU_MODEL_H
