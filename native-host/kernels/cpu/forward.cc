// The forward pass, region by region.
//
//   embed -> per layer { norm, q k v, rope, write K and V, attend, + o, norm, gate up, swiglu, + down } ->
//   norm -> head
//
// All tokens of all rows go through each product together; attention alone looks at rows. In the last layer
// only the tokens that sample go on after their K and V are written: nothing reads the others.
//
// Scratch, one allocation:  x | normed [tokens][hidden], qkv [tokens][q + 2 kv], attended [tokens][q],
//                           gate up [tokens][2 intermediate]
//
// Threads: a region is split by outputs and by blocks of tokens, or by (query chunk, KV head). How never
// shows in the bits (kernels.h). Regions too small to be worth waking a thread run on the caller.
#include "forward.h"

#include <string.h>

#include <algorithm>
#include <initializer_list>

#include "batch.h"

namespace qm {
namespace {

// Multiply-adds below which a region stays on one thread: some 5 us of work, a few times the cost of joining.
constexpr uint64_t PARALLEL_FROM = 1 << 18;
// Weights of one task of a product: half of a usual second-level cache, so that blocks of tokens find them
// there.
constexpr size_t TASK_WEIGHT_BYTES = 256 << 10;
constexpr uint32_t TASK_TOKENS = 64;
// Outputs of a task are a multiple of the widest vector.
constexpr uint32_t OUTPUT_UNIT = 16;

struct Projection {
  Weight w, bias;
  uint32_t outputs;
};

// One row of `width` floats a token.
struct Rows {
  const float* data;
  size_t stride;
  uint32_t width;
};

// Queries of one row that attend together.
struct QueryChunk {
  uint32_t row, first, count, position;
};

uint32_t roundUp(uint32_t outputs) {
  return std::max((outputs + OUTPUT_UNIT - 1) / OUTPUT_UNIT, 1u) * OUTPUT_UNIT;
}

class Forward {
 public:
  Forward(Model* model, const qmh_batch& batch, float* logits);
  void run();
  void sample(const qmh_sampling* sampling, const uint32_t* history, uint32_t* tokensOut);

 private:
  void layer(const LayerWeights& w, uint32_t index);
  void keepSamplingTokens();
  void planAttention(bool samplingOnly);
  void norm(Weight weight);
  void attend(uint32_t layer);
  void swiglu();
  void project(Rows x, std::initializer_list<Projection> projections, float* y, bool accumulate);
  template <class Task>
  void parallel(size_t count, uint64_t multiplyAdds, const Task& task);

  Model& model_;
  const qmh_batch& batch_;
  const Kernels& kernels_;
  const uint32_t hidden_, queryWidth_, kvWidth_, qkvWidth_, intermediate_;
  uint32_t tokens_;  // tokens still computed
  float *x_, *normed_, *qkv_, *attended_, *gateUp_, *logits_;
  std::vector<uint32_t> positions_;
  std::vector<uint32_t> samplingTokens_;  // index of each sampling row's last token
  std::vector<QueryChunk> chunks_;
  uint64_t attentionWork_ = 0;
};

Forward::Forward(Model* model, const qmh_batch& batch, float* logits)
    : model_(*model),
      batch_(batch),
      kernels_(*model->kernels),
      hidden_(model->config.hidden),
      queryWidth_(model->queryWidth()),
      kvWidth_(model->kvWidth()),
      qkvWidth_(queryWidth_ + 2 * kvWidth_),
      intermediate_(model->config.intermediate),
      tokens_(batch.total_tokens) {
  const size_t n = tokens_;
  x_ = model->activations.reserve(
      n * (size_t{2} * hidden_ + qkvWidth_ + queryWidth_ + size_t{2} * intermediate_));
  normed_ = x_ + n * hidden_;
  qkv_ = normed_ + n * hidden_;
  attended_ = qkv_ + n * qkvWidth_;
  gateUp_ = attended_ + n * queryWidth_;
  logits_ = logits ? logits : model->logits.reserve(size_t{batch.sampling_rows} * model->config.vocab);
  uint32_t end = 0;
  positions_.reserve(n);
  for (uint32_t row = 0; row < batch.rows; row++) {
    for (uint32_t i = 0; i < batch.new_tokens[row]; i++) positions_.push_back(batch.computed_before[row] + i);
    end = std::max(end, batch.computed_before[row] + batch.new_tokens[row]);
    if (samples(batch.phases[row])) samplingTokens_.push_back(batch.token_start[row + 1] - 1);
  }
  model->rope.cover(end);
  chunks_.reserve(n);
  planAttention(false);
}

template <class Task>
void Forward::parallel(size_t count, uint64_t multiplyAdds, const Task& task) {
  if (multiplyAdds >= PARALLEL_FROM) return model_.threads.run(count, task);
  for (size_t i = 0; i < count; i++) task(i, uint32_t{0});
}

void Forward::run() {
  if (tokens_ == 0) return;
  parallel(tokens_, uint64_t{tokens_} * hidden_, [&](size_t t, uint32_t) {
    kernels_.embed(model_.embedding, hidden_, batch_.tokens + t, 1, x_ + t * hidden_);
  });
  for (uint32_t i = 0; i < model_.kv.layers; i++) layer(model_.layers[i], i);
  if (tokens_ == 0) return;
  norm(model_.finalNorm);
  project({normed_, hidden_, hidden_}, {{model_.head, {nullptr, NumberType::F32}, model_.config.vocab}},
          logits_, false);
}

void Forward::layer(const LayerWeights& w, uint32_t index) {
  const Weight none = {nullptr, NumberType::F32};
  norm(w.attentionNorm);
  const Rows normed = {normed_, hidden_, hidden_};
  project(normed, {{w.q, w.qBias, queryWidth_}, {w.k, w.kBias, kvWidth_}, {w.v, w.vBias, kvWidth_}}, qkv_,
          false);
  parallel(tokens_, uint64_t{tokens_} * qkvWidth_, [&](size_t t, uint32_t) {
    float* q = qkv_ + t * qkvWidth_;
    float* k = q + queryWidth_;
    // q and k lie together, so that one call rotates the heads of both.
    kernels_.rope(q, qkvWidth_, &positions_[t], 1, model_.config.heads + model_.kv.kvHeads, model_.kv.headDim,
                  model_.rope.pairs(), model_.config.rope.layout == QMH_INTERLEAVED);
    kernels_.kvWrite(model_.pool.data(), model_.kv, index, batch_.slots + t, 1, k, k + kvWidth_, qkvWidth_);
  });
  if (index + 1 == model_.kv.layers) keepSamplingTokens();
  attend(index);
  project({attended_, queryWidth_, queryWidth_}, {{w.o, none, hidden_}}, x_, true);
  norm(w.mlpNorm);
  project(normed, {{w.gate, none, intermediate_}, {w.up, none, intermediate_}}, gateUp_, false);
  swiglu();
  project({gateUp_, size_t{2} * intermediate_, intermediate_}, {{w.down, none, hidden_}}, x_, true);
}

// From here on token i is the last one of sampling row i.
void Forward::keepSamplingTokens() {
  tokens_ = static_cast<uint32_t>(samplingTokens_.size());
  for (uint32_t i = 0; i < tokens_; i++) {
    const size_t from =
        samplingTokens_[i];  // never below i, so that moving up in order overwrites nothing needed
    if (from == i) continue;
    memcpy(x_ + size_t{i} * hidden_, x_ + from * hidden_, hidden_ * sizeof(float));
    memcpy(qkv_ + size_t{i} * qkvWidth_, qkv_ + from * qkvWidth_, queryWidth_ * sizeof(float));
  }
  planAttention(true);
}

void Forward::planAttention(bool samplingOnly) {
  const uint32_t group = model_.config.heads / model_.kv.kvHeads;
  const uint32_t most = std::max(ATTEND_ROWS / group, 1u);
  chunks_.clear();
  attentionWork_ = 0;
  uint32_t sampling = 0;
  for (uint32_t row = 0; row < batch_.rows; row++) {
    const uint32_t before = batch_.computed_before[row], count = batch_.new_tokens[row];
    if (samplingOnly) {
      if (samples(batch_.phases[row])) chunks_.push_back({row, sampling++, 1, before + count - 1});
    } else {
      for (uint32_t i = 0; i < count; i += most) {
        chunks_.push_back({row, batch_.token_start[row] + i, std::min(most, count - i), before + i});
      }
    }
  }
  for (const QueryChunk& chunk : chunks_)
    attentionWork_ += uint64_t{chunk.count} * (chunk.position + chunk.count);
  attentionWork_ *= 2 * uint64_t{queryWidth_};
  // The longest first, so that no thread is left alone with one at the end.
  std::sort(chunks_.begin(), chunks_.end(), [](const QueryChunk& a, const QueryChunk& b) {
    return uint64_t{a.count} * (a.position + a.count) > uint64_t{b.count} * (b.position + b.count);
  });
}

void Forward::norm(Weight weight) {
  parallel(tokens_, uint64_t{tokens_} * hidden_, [&](size_t t, uint32_t) {
    kernels_.rmsnorm(x_ + t * hidden_, weight, 1, hidden_, model_.config.rms_eps, normed_ + t * hidden_);
  });
}

void Forward::attend(uint32_t layer) {
  const uint32_t kvHeads = model_.kv.kvHeads, group = model_.config.heads / kvHeads;
  parallel(chunks_.size() * kvHeads, attentionWork_, [&](size_t task, uint32_t thread) {
    const QueryChunk& chunk = chunks_[task / kvHeads];
    const uint32_t kvHead = static_cast<uint32_t>(task % kvHeads);
    const size_t head = size_t{kvHead} * group * model_.kv.headDim;
    AttendArgs args;
    args.q = qkv_ + chunk.first * size_t{qkvWidth_} + head;
    args.qStride = qkvWidth_;
    args.out = attended_ + chunk.first * size_t{queryWidth_} + head;
    args.outStride = queryWidth_;
    args.queries = chunk.count;
    args.firstPosition = chunk.position;
    args.group = group;
    args.window = model_.config.sliding_window;
    args.kv = model_.pool.data();
    args.shape = model_.kv;
    args.layer = layer;
    args.kvHead = kvHead;
    args.table = batch_.tables + batch_.table_start[chunk.row];
    args.scratch = model_.threadScratch[thread]->attend.data();
    kernels_.attend(args);
  });
}

// gate[t] = silu(gate[t]) * up[t], within rows of [gate, up].
void Forward::swiglu() {
  // An exponential and a division cost about as much as eight multiply-adds.
  parallel(tokens_, uint64_t{tokens_} * intermediate_ * 8, [&](size_t t, uint32_t) {
    float* gate = gateUp_ + t * 2 * intermediate_;
    kernels_.swiglu(gate, gate + intermediate_, intermediate_);
  });
}

// y[t] = the projections of x[t], one after the other; added to y[t] if accumulate.
void Forward::project(Rows x, std::initializer_list<Projection> projections, float* y, bool accumulate) {
  if (tokens_ == 0) return;
  uint32_t outputs = 0;
  for (const Projection& p : projections) outputs += p.outputs;
  const size_t weightRowBytes = size_t{x.width} * bytesOf(projections.begin()->w.type);
  const uint32_t tokenBlocks = (tokens_ + TASK_TOKENS - 1) / TASK_TOKENS;
  uint32_t taskOutputs =
      roundUp(static_cast<uint32_t>(std::min<size_t>(TASK_WEIGHT_BYTES / weightRowBytes, outputs)));
  // A few tasks for each thread, so that one that is late leaves little to wait for.
  const uint32_t tasksWanted = 4 * model_.threads.threads();
  if (tokenBlocks < tasksWanted) {
    taskOutputs = std::min(taskOutputs, roundUp(uint32_t(uint64_t{outputs} * tokenBlocks / tasksWanted)));
  }
  const uint32_t outputBlocks = (outputs + taskOutputs - 1) / taskOutputs;
  const uint64_t work = uint64_t{tokens_} * outputs * x.width;
  // Neighbouring tasks share the weights.
  parallel(size_t{outputBlocks} * tokenBlocks, work, [&](size_t task, uint32_t) {
    const uint32_t firstToken = static_cast<uint32_t>(task % tokenBlocks) * TASK_TOKENS;
    const uint32_t begin = static_cast<uint32_t>(task / tokenBlocks) * taskOutputs;
    const uint32_t end = std::min(begin + taskOutputs, outputs);
    uint32_t base = 0;
    for (const Projection& p : projections) {
      const uint32_t from = std::max(begin, base), to = std::min(end, base + p.outputs);
      if (from < to) {
        MatmulArgs args;
        args.x = x.data + firstToken * x.stride;
        args.xStride = x.stride;
        args.tokens = std::min(TASK_TOKENS, tokens_ - firstToken);
        args.inputs = x.width;
        args.w = p.w;
        args.bias = p.bias;
        args.outBegin = from - base;
        args.outEnd = to - base;
        args.y = y + size_t{firstToken} * outputs + base;
        args.yStride = outputs;
        args.accumulate = accumulate;
        kernels_.matmul(args);
      }
      base += p.outputs;
    }
  });
}

void Forward::sample(const qmh_sampling* sampling, const uint32_t* history, uint32_t* tokensOut) {
  const uint32_t rows = batch_.sampling_rows, vocab = model_.config.vocab;
  // Ordering a row costs some twenty times a look at it.
  uint64_t work = 0;
  for (uint32_t i = 0; i < rows; i++) work += uint64_t{vocab} * (sampling[i].temperature == 0 ? 1 : 20);
  parallel(rows, work, [&](size_t row, uint32_t thread) {
    SamplingScratch* scratch = &model_.threadScratch[thread]->sampling;
    tokensOut[row] = sampleRow(logits_ + row * vocab, vocab, sampling[row], history, scratch);
  });
}

}  // namespace

void copyBlock(Model* model, uint32_t source, uint32_t target, uint32_t tokens) {
  if (source == target) return;
  const KvShape& s = model->kv;
  uint8_t* pool = model->pool.data();
  if (tokens == s.blockSize) {
    memcpy(pool + target * kvBlockBytes(s), pool + source * kvBlockBytes(s), kvBlockBytes(s));
    return;
  }
  const size_t bytes = size_t{tokens} * s.headDim * bytesOf(s.type);
  for (size_t head = 0; head < size_t{s.layers} * 2 * s.kvHeads; head++) {
    const size_t within = head * kvHeadBytes(s);
    memcpy(pool + target * kvBlockBytes(s) + within, pool + source * kvBlockBytes(s) + within, bytes);
  }
}

void forward(Model* model, const qmh_batch& batch, const qmh_sampling* sampling, const uint32_t* history,
             uint32_t* tokensOut, float* logitsOut) {
  const auto transfers = [&](uint32_t mark) {
    for (uint32_t i = 0; i < batch.transfer_count; i++) {
      const Transfer t = transferAt(batch, i);
      if (t.mark == mark) copyBlock(model, t.source, t.target, t.tokens);
    }
  };
  Forward pass(model, batch, logitsOut);
  transfers(0);
  pass.run();
  pass.sample(sampling, history, tokensOut);
  transfers(1);
}

}  // namespace qm
