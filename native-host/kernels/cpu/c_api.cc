// The C boundary: arguments in, statuses out, nothing thrown.
#include <quartermaster_host.h>
#include <stdarg.h>
#include <stdio.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "attention_tiles.h"
#include "batch.h"
#include "forward.h"
#include "guarded.h"
#include "isa.h"
#include "lanes.h"
#include "model.h"
#include "refusal.h"

struct qmh_model : qm::Model {
  using qm::Model::Model;
  std::unique_ptr<qm::LayeredPass> layered;  // a batch between two layers
};

namespace qm {
namespace {

thread_local char lastError[sizeof(Refusal::message)] = "";

template <class Body>
int withKernels(qmh_isa isa, Body body) {
  return guarded([&] {
    const Kernels* kernels = kernelsFor(isa);
    if (!kernels) refuse(QMH_UNSUPPORTED, "isa %s cannot run here", qmh_isa_name(isa));
    body(*kernels);
  });
}

// Marks the model busy for a scope.
class Running {
 public:
  explicit Running(Model* model) : model_(model) {
    if (model->busy.exchange(true)) refuse(QMH_BUSY, "the model is running a batch");
  }
  ~Running() { model_->busy = false; }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  Model* model_;
};

KvShape kvShapeOf(const qmh_kv_shape& s) {
  return packed({s.blocks, s.layers, s.kv_heads, s.head_dim, s.block_size, static_cast<NumberType>(s.type), 0});
}

// Lanes are for pools that all layers share in one way.
void requireOneGroup(const Model& model) {
  if (model.groups.size() > 1) refuse(QMH_UNSUPPORTED, "moves and merges in a model whose layers are in groups");
}

Weight weightOf(const void* data, qmh_dtype type) { return {data, static_cast<NumberType>(type)}; }

// The best of a few short runs, since the machine does other things too.
double measurePeak(const Kernels& kernels) {
  using Clock = std::chrono::steady_clock;
  double best = 0;
  float sink;
  for (int i = 0; i < 20; i++) {
    const Clock::time_point start = Clock::now();
    const double operations = kernels.burn(&sink);
    best = std::max(best, operations / std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

}  // namespace

int remember(qmh_status status, const char* message) {
  snprintf(lastError, sizeof lastError, "%s", message);
  return status;
}

void refuse(qmh_status status, const char* format, ...) {
  Refusal refusal;
  refusal.status = status;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(refusal.message, sizeof refusal.message, format, arguments);
  va_end(arguments);
  throw refusal;
}

}  // namespace qm

using namespace qm;

uint32_t qmh_abi_version(void) { return QMH_ABI_VERSION; }

const char* qmh_last_error(void) { return lastError; }

const char* qmh_status_name(int status) {
  static const char* const NAMES[] = {"OK",         "INVALID_ARGUMENT", "OUT_OF_MEMORY", "BAD_BATCH",
                                      "BAD_TENSOR", "MISSING_TENSOR",   "UNSUPPORTED",   "IO",
                                      "BUSY"};
  return status <= QMH_OK && status >= QMH_BUSY ? NAMES[-status] : "UNKNOWN";
}

const char* qmh_isa_name(qmh_isa isa) {
  static const char* const NAMES[] = {"auto", "portable", "avx2", "avx512", "reference"};
  return isa >= QMH_AUTO && isa <= QMH_REFERENCE ? NAMES[isa] : "unknown";
}

int qmh_isa_available(qmh_isa isa) { return kernelsFor(isa) != nullptr; }

int qmh_model_create(const qmh_config* config, const char* const* files, uint32_t file_count,
                     const qmh_tensor* tensors, uint32_t tensor_count, qmh_model** model) {
  return guarded([&] {
    *model = nullptr;
    *model = new qmh_model(*config, files, file_count, tensors, tensor_count);
  });
}

void qmh_model_free(qmh_model* model) { delete model; }

qmh_isa qmh_model_isa(const qmh_model* model) { return model->isa; }

uint32_t qmh_model_threads(const qmh_model* model) { return model->threads.threads(); }

uint64_t qmh_model_weight_bytes(const qmh_model* model) { return model->weightBytes; }

void* qmh_model_kv(const qmh_model* model, uint64_t* bytes) {
  *bytes = model->pool.bytes();
  return model->pool.data();
}

int qmh_forward(qmh_model* model, const qmh_batch* batch, const qmh_sampling* sampling,
                const uint32_t* history, size_t history_count, uint32_t* tokens_out, float* logits_out) {
  return guarded([&] {
    const Running running(model);
    if (model->layered) refuse(QMH_BUSY, "a batch of the model is between two layers");
    checkBatch(*model, *batch, sampling, history, history_count, false);
    forward(model, *batch, sampling, history, tokens_out, logits_out);
  });
}

int qmh_layers_begin(qmh_model* model, const qmh_batch* batch, const qmh_sampling* sampling,
                     const uint32_t* history, size_t history_count, uint32_t* tokens_out,
                     float* logits_out) {
  return guarded([&] {
    const Running running(model);
    if (model->layered) refuse(QMH_BUSY, "a batch of the model is between two layers");
    checkBatch(*model, *batch, sampling, history, history_count, true);
    model->layered =
        std::make_unique<LayeredPass>(model, *batch, sampling, history, tokens_out, logits_out);
  });
}

int qmh_layers_next(qmh_model* model) {
  return guarded([&] {
    const Running running(model);
    if (!model->layered || model->layered->done())
      refuse(QMH_INVALID_ARGUMENT, "no layer of a batch is left to compute");
    model->layered->next();
  });
}

int qmh_layers_end(qmh_model* model) {
  return guarded([&] {
    const Running running(model);
    if (!model->layered || !model->layered->done())
      refuse(QMH_INVALID_ARGUMENT, "layers of a batch are left to compute, or there is none");
    const std::unique_ptr<LayeredPass> pass = std::move(model->layered);
    pass->end();
  });
}

int qmh_layers_abandon(qmh_model* model) {
  return guarded([&] {
    const Running running(model);
    model->layered.reset();
  });
}

int qmh_copy_block(qmh_model* model, uint32_t source, uint32_t target, uint32_t tokens) {
  return guarded([&] {
    const Running running(model);
    const KvShape& kv = model->kv;
    if (source >= kv.blocks || target >= kv.blocks || tokens > kv.blockSize) {
      refuse(QMH_INVALID_ARGUMENT, "copy of %u tokens from block %u to %u; the pool has %u blocks of %u",
             tokens, source, target, kv.blocks, kv.blockSize);
    }
    copyBlock(model, 0, source, target, tokens);
  });
}

int qmh_move(qmh_model* model, const uint32_t* moves, size_t words) {
  return guarded([&] {
    const Running running(model);
    requireOneGroup(*model);
    moveSlots(model->pool.data(), model->kv, moves, words);
  });
}

int qmh_merge(qmh_model* model, const uint32_t* merges, size_t words) {
  return guarded([&] {
    const Running running(model);
    requireOneGroup(*model);
    mergeSlots(model->pool.data(), model->kv, merges, words);
  });
}

int qmh_embed(qmh_isa isa, const void* table, qmh_dtype type, uint32_t width, const uint32_t* tokens,
              uint32_t count, float* out) {
  return withKernels(isa,
                     [&](const Kernels& k) { k.embed(weightOf(table, type), width, tokens, count, out); });
}

int qmh_rmsnorm(qmh_isa isa, const float* x, const void* weight, qmh_dtype type, uint32_t rows,
                uint32_t width, float eps, float* out) {
  return withKernels(isa,
                     [&](const Kernels& k) { k.rmsnorm(x, weightOf(weight, type), rows, width, eps, out); });
}

int qmh_matmul(qmh_isa isa, const float* x, const void* weight, qmh_dtype type, const void* bias,
               uint32_t tokens, uint32_t inputs, uint32_t outputs, float* out) {
  return withKernels(isa, [&](const Kernels& k) {
    k.matmul({x, inputs, tokens, inputs, weightOf(weight, type), weightOf(bias, type), 0, outputs, out,
              outputs, false});
  });
}

int qmh_rope_apply(qmh_isa isa, float* x, const uint32_t* positions, uint32_t count, uint32_t heads,
                   uint32_t head_dim, const qmh_rope* rope) {
  return withKernels(isa, [&](const Kernels& k) {
    RopeTable table(*rope, head_dim);
    for (uint32_t i = 0; i < count; i++) table.cover(positions[i] + 1);
    k.rope(x, size_t{heads} * head_dim, positions, count, heads, head_dim, table.pairs(),
           rope->layout == QMH_INTERLEAVED);
  });
}

int qmh_kv_write(qmh_isa isa, void* kv, const qmh_kv_shape* shape, uint32_t layer, const uint32_t* slots,
                 uint32_t count, const float* k, const float* v) {
  return withKernels(isa, [&](const Kernels& kernels) {
    const size_t stride = size_t{shape->kv_heads} * shape->head_dim;
    kernels.kvWrite(static_cast<uint8_t*>(kv), kvShapeOf(*shape), layer, 0, shape->kv_heads, slots, count, k,
                    v, stride);
  });
}

int qmh_attention(qmh_isa isa, const void* kv, const qmh_kv_shape* shape, uint32_t layer,
                  const uint32_t* table, uint32_t first_position, uint32_t count, uint32_t heads,
                  uint32_t window, const float* q, float* out) {
  return withKernels(isa, [&](const Kernels& k) {
    static thread_local FloatBuffer scratch;
    const uint32_t group = heads / shape->kv_heads;
    const uint32_t most = attendRows(cacheWords(), shape->head_dim, group) / group;
    const size_t stride = size_t{heads} * shape->head_dim;
    AttendArgs args;
    args.qStride = args.outStride = stride;
    args.group = group;
    args.window = window;
    args.kv = static_cast<const uint8_t*>(kv);
    args.shape = kvShapeOf(*shape);
    args.layer = layer;
    args.table = table;
    args.scratch = scratch.reserve(ATTEND_SCRATCH);
    for (uint32_t first = 0; first < count; first += most) {
      args.queries = count - first < most ? count - first : most;
      args.firstPosition = first_position + first;
      for (args.kvHead = 0; args.kvHead < shape->kv_heads; args.kvHead++) {
        const size_t at = first * stride + size_t{args.kvHead} * group * shape->head_dim;
        args.q = q + at;
        args.out = out + at;
        k.attend(args);
      }
    }
  });
}

int qmh_attention_lanes(qmh_isa isa, const void* kv, const qmh_kv_shape* given, uint32_t layer,
                        const uint32_t* table, uint32_t table_count, const qmh_lanes* lanes, uint32_t count,
                        uint32_t heads, const float* q, float* out) {
  return withKernels(isa, [&](const Kernels& k) {
    const KvShape shape = kvShapeOf(*given);
    if (lanes->row_count != 1) refuse(QMH_INVALID_ARGUMENT, "%zu records; allowed: 1", lanes->row_count);
    // A single kernel knows no position: a lane may be as long as a number says.
    checkLaneRow(*lanes, 0, table, {shape, heads, 0, UINT32_MAX, count, table_count, false});
    const LaneRow row = laneRowAt(*lanes, 0, table, count, heads, shape);
    static thread_local FloatBuffer scratch, weights;
    weights.reserve(laneWeights(row));
    std::vector<double> entropies(heads);
    AttendArgs args = {};
    args.group = heads / shape.kvHeads;
    args.kv = static_cast<const uint8_t*>(kv);
    args.shape = shape;
    args.layer = layer;
    args.scratch = scratch.reserve(ATTEND_SCRATCH);
    const size_t stride = size_t{heads} * shape.headDim;
    for (args.kvHead = 0; args.kvHead < shape.kvHeads; args.kvHead++) {
      const size_t at = size_t{args.kvHead} * args.group * shape.headDim;
      attendLane(k, row, args, {0, count, args.kvHead * args.group, q + at, stride, out + at, stride}, false,
                 weights.data(), entropies.data());
      if (row.output(layer, OUT_KEYS) != QMH_NONE) copyKeys(k, row, args.kv, layer, args.kvHead);
    }
    addEntropy(row, layer, entropies.data());
  });
}

int qmh_swiglu(qmh_isa isa, float* gate, const float* up, size_t count) {
  return withKernels(isa, [&](const Kernels& k) { k.swiglu(gate, up, count); });
}

int qmh_sample(const float* logits, uint32_t vocab, const qmh_sampling* sampling, const uint32_t* history,
               size_t history_count, uint32_t* token) {
  return guarded([&] {
    checkSampling(*sampling, vocab, history, history_count);
    SamplingScratch scratch(vocab);
    *token = sampleRow(logits, vocab, *sampling, history, &scratch);
  });
}

int qmh_peak_flops(qmh_isa isa, double* flops) {
  return withKernels(isa, [&](const Kernels& k) { *flops = measurePeak(k); });
}
