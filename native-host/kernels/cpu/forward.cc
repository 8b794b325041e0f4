// The forward pass, region by region.
//
//   embed -> per layer { norm, q k v, rope, write K and V, attend, + o, norm, gate up, swiglu, + down } ->
//   norm -> head
//
// A LayeredPass stops between layers; nothing else differs.
//
// All tokens of all rows go through each product together; attention alone looks at rows. In the last layer
// only the tokens that sample go on after their K and V are written: nothing reads the others, except where a
// row's attention is measured, which happens before they go.
//
// Longer than its neighbours because the regions share one scratch and one order of work.
//
// Scratch, one allocation:  x | normed [tokens][hidden], qkv [tokens][q + 2 kv], attended [tokens][q],
//                           gate up [tokens][2 intermediate]
//
// Threads: a region is split by outputs and by blocks of tokens, or by (query chunk, KV head). How never
// shows in the bits (kernels.h). What is measured of a row adds up in the order of its queries, so that such
// a row is one task a KV head. Regions too small to be worth waking a thread run on the caller.
#include "forward.h"

#include <string.h>

#include <algorithm>
#include <initializer_list>

#include "attention_tiles.h"
#include "batch.h"
#include "lanes.h"

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

// One row of `width` floats a token, for `count` tokens.
struct Rows {
  const float* data;
  size_t stride;
  uint32_t width, count;
};

constexpr uint32_t PLAIN = 0xffffffff;

// Queries of one row that attend together: `first` among the tokens still computed, at `position`. In a row
// with a record (`lane`, else PLAIN) `position` counts from the row's first new token.
struct QueryChunk {
  uint32_t row, first, count, position, lane;
  uint64_t work;
};

// Rows and queries that a region of attention takes.
enum class Attending { EVERYTHING, MEASURED_ROWS, SAMPLING_OF_OTHERS };

// Queries of one call of the attention kernel.
uint32_t queriesOfCall(const Model& model, uint32_t tokens) {
  const uint32_t group = model.config.heads / model.kv.kvHeads;
  const uint64_t shared = sharedRows(uint64_t{tokens} * model.config.heads, model.threads.threads());
  return attendRows(cacheWords(), model.kv.headDim, group, shared) / group;
}

uint32_t roundUp(uint32_t outputs) {
  return std::max((outputs + OUTPUT_UNIT - 1) / OUTPUT_UNIT, 1u) * OUTPUT_UNIT;
}

class Forward {
 public:
  Forward(Model* model, const qmh_batch& batch, float* logits);
  void transfers(uint32_t mark);
  void embed();
  void layer(uint32_t index);
  void head();
  void checkLanes(uint32_t layer) const;
  void sample(const qmh_sampling* sampling, const uint32_t* history, uint32_t* tokensOut);

 private:
  void keepSamplingTokens(uint32_t layer);
  void planAttention(Attending what, uint32_t layer);
  void planRow(Attending what, uint32_t layer, uint32_t row, uint32_t lane, uint32_t sampling);
  void prepareLanes();
  bool anyMeasured(uint32_t layer) const;
  void norm(Weight weight);
  void writeKeys(uint32_t layer, size_t token, const float* k);
  void attend(uint32_t layer);
  bool splitsGroups(uint32_t layer) const;
  void measureRest(const LayerWeights& w, uint32_t layer);
  void compareOutputs(Weight projection, const LaneRow& row, uint32_t layer);
  void swiglu();
  void project(Rows x, std::initializer_list<Projection> projections, float* y, bool accumulate);
  template <class Task>
  void parallel(size_t count, uint64_t multiplyAdds, const Task& task);

  Model& model_;
  const qmh_batch& batch_;
  const Kernels& kernels_;
  const uint32_t hidden_, queryWidth_, kvWidth_, qkvWidth_, intermediate_;
  uint32_t tokens_;  // tokens still computed
  const uint32_t queriesOfCall_;
  float *x_, *normed_, *qkv_, *attended_, *gateUp_, *logits_;
  std::vector<uint32_t> positions_;
  std::vector<uint32_t> samplingTokens_;  // index of each sampling row's last token
  std::vector<QueryChunk> chunks_;
  std::vector<LaneRow> lanes_;         // rows with a record
  std::vector<uint32_t> laneOfToken_;  // index into lanes_, or PLAIN; empty without lanes
  std::vector<double> entropies_;      // [lanes][heads] of the layer
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
      tokens_(batch.total_tokens),
      queriesOfCall_(queriesOfCall(*model, batch.total_tokens)) {
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
  prepareLanes();
  planAttention(Attending::EVERYTHING, 0);
}

void Forward::prepareLanes() {
  if (batch_.lanes == nullptr) return;
  size_t weights = 0, compared = 0;
  laneOfToken_.assign(tokens_, PLAIN);
  for (uint32_t i = 0; i < batch_.lanes->row_count; i++) {
    const uint32_t row = batch_.lanes->rows[i].row, count = batch_.new_tokens[row];
    lanes_.push_back(laneRowAt(*batch_.lanes, i, batch_.tables + batch_.table_start[row], count,
                               model_.config.heads, model_.kv));
    std::fill_n(laneOfToken_.begin() + batch_.token_start[row], count, i);
    weights = std::max(weights, laneWeights(lanes_[i]));
    if (lanes_[i].record.keep != QMH_NONE)
      compared = std::max(compared, size_t{2} * count * (queryWidth_ + hidden_));
  }
  entropies_.resize(lanes_.size() * model_.config.heads);
  model_.compared.reserve(compared);
  for (const auto& scratch : model_.threadScratch) scratch->weights.reserve(weights);
}

template <class Task>
void Forward::parallel(size_t count, uint64_t multiplyAdds, const Task& task) {
  if (multiplyAdds >= PARALLEL_FROM) return model_.threads.run(count, task);
  for (size_t i = 0; i < count; i++) task(i, uint32_t{0});
}

void Forward::transfers(uint32_t mark) {
  for (uint32_t i = 0; i < batch_.transfer_count; i++) {
    const Transfer t = transferAt(batch_, i);
    if (t.copies() && t.mark == mark) copyBlock(&model_, t.group(), t.source, t.target, t.tokens);
  }
}

void Forward::checkLanes(uint32_t layer) const {
  for (const LaneRow& row : lanes_) checkSlices(row, layer);
}

void Forward::embed() {
  parallel(tokens_, uint64_t{tokens_} * hidden_, [&](size_t t, uint32_t) {
    kernels_.embed(model_.embedding, hidden_, batch_.tokens + t, 1, x_ + t * hidden_);
  });
}

void Forward::head() {
  if (tokens_ == 0) return;
  norm(model_.finalNorm);
  project({normed_, hidden_, hidden_, tokens_},
          {{model_.head, {nullptr, NumberType::F32}, model_.config.vocab}}, logits_, false);
}

void Forward::layer(uint32_t index) {
  if (tokens_ == 0) return;
  const LayerWeights& w = model_.layers[index];
  const Weight none = {nullptr, NumberType::F32};
  norm(w.attentionNorm);
  project({normed_, hidden_, hidden_, tokens_},
          {{w.q, w.qBias, queryWidth_}, {w.k, w.kBias, kvWidth_}, {w.v, w.vBias, kvWidth_}}, qkv_, false);
  parallel(tokens_, uint64_t{tokens_} * qkvWidth_, [&](size_t t, uint32_t) {
    float* q = qkv_ + t * qkvWidth_;
    float* k = q + queryWidth_;
    // q and k lie together, so that one call rotates the heads of both.
    kernels_.rope(q, qkvWidth_, &positions_[t], 1, model_.config.heads + model_.kv.kvHeads, model_.kv.headDim,
                  model_.rope.pairs(), model_.config.rope.layout == QMH_INTERLEAVED);
    writeKeys(index, t, k);
  });
  const bool last = index + 1 == model_.kv.layers;
  if (!last || anyMeasured(index)) {
    if (!lanes_.empty()) planAttention(last ? Attending::MEASURED_ROWS : Attending::EVERYTHING, index);
    attend(index);
    measureRest(w, index);
  }
  if (last) {
    keepSamplingTokens(index);
    attend(index);
  }
  project({attended_, queryWidth_, queryWidth_, tokens_}, {{w.o, none, hidden_}}, x_, true);
  norm(w.mlpNorm);
  project({normed_, hidden_, hidden_, tokens_}, {{w.gate, none, intermediate_}, {w.up, none, intermediate_}},
          gateUp_, false);
  swiglu();
  project({gateUp_, size_t{2} * intermediate_, intermediate_, tokens_}, {{w.down, none, hidden_}}, x_, true);
}

void Forward::writeKeys(uint32_t layer, size_t token, const float* k) {
  uint8_t* pool = model_.pool.data();
  const uint32_t kvHeads = model_.kv.kvHeads, lane = lanes_.empty() ? PLAIN : laneOfToken_[token];
  if (lane == PLAIN) {
    const LayerPlace& place = model_.places[layer];
    const uint32_t* slots = place.group == 0 ? batch_.slots : batch_.groups[place.group - 1].slots;
    return kernels_.kvWrite(pool, place.kv, place.index, 0, kvHeads, slots + token, 1, k, k + kvWidth_,
                            qkvWidth_);
  }
  const LaneRow& row = lanes_[lane];
  const KvShape shape = row.shapeOf();
  for (uint32_t head = 0; head < kvHeads; head++) {
    const uint32_t query = static_cast<uint32_t>(token) - batch_.token_start[row.record.row];
    const uint32_t slot = row.poolSlot(layer, head, query);
    kernels_.kvWrite(pool, shape, row.layerIn(layer), head, head + 1, &slot, 1, k, k + kvWidth_, qkvWidth_);
  }
}

// From here on token i is the last one of sampling row i.
void Forward::keepSamplingTokens(uint32_t layer) {
  const bool measured = anyMeasured(layer);
  tokens_ = static_cast<uint32_t>(samplingTokens_.size());
  for (uint32_t i = 0; i < tokens_; i++) {
    const size_t from =
        samplingTokens_[i];  // never below i, so that moving up in order overwrites nothing needed
    if (from == i) continue;
    memcpy(x_ + size_t{i} * hidden_, x_ + from * hidden_, hidden_ * sizeof(float));
    memcpy(qkv_ + size_t{i} * qkvWidth_, qkv_ + from * qkvWidth_, queryWidth_ * sizeof(float));
    if (measured)
      memcpy(attended_ + size_t{i} * queryWidth_, attended_ + from * queryWidth_,
             queryWidth_ * sizeof(float));
  }
  planAttention(Attending::SAMPLING_OF_OTHERS, layer);
}

bool Forward::anyMeasured(uint32_t layer) const {
  return std::any_of(lanes_.begin(), lanes_.end(), [&](const LaneRow& row) { return row.measures(layer); });
}

void Forward::planAttention(Attending what, uint32_t layer) {
  chunks_.clear();
  attentionWork_ = 0;
  uint32_t sampling = 0, lane = 0;
  for (uint32_t row = 0; row < batch_.rows; row++) {
    const bool special = lane < lanes_.size() && lanes_[lane].record.row == row;
    planRow(what, layer, row, special ? lane++ : PLAIN, sampling);
    sampling += samples(batch_.phases[row]) ? 1 : 0;
  }
  for (const QueryChunk& chunk : chunks_) attentionWork_ += chunk.work;
  attentionWork_ *= 2 * uint64_t{queryWidth_};
  // The longest first, so that no thread is left alone with one at the end.
  std::sort(chunks_.begin(), chunks_.end(),
            [](const QueryChunk& a, const QueryChunk& b) { return a.work > b.work; });
}

void Forward::planRow(Attending what, uint32_t layer, uint32_t row, uint32_t lane, uint32_t sampling) {
  const uint32_t group = model_.config.heads / model_.kv.kvHeads, count = batch_.new_tokens[row];
  const bool special = lane != PLAIN;
  const uint32_t measured = special ? lanes_[lane].measuredQueries(layer) : 0;
  const uint32_t held = special ? lanes_[lane].longest() : batch_.computed_before[row];
  const uint32_t before = special ? 0 : batch_.computed_before[row];
  const auto add = [&](uint32_t first, uint32_t query, uint32_t queries) {
    chunks_.push_back(
        {row, first, queries, before + query, lane, uint64_t{queries} * (uint64_t{held} + query + queries)});
  };
  if (what == Attending::MEASURED_ROWS && measured == 0) return;
  if (what == Attending::SAMPLING_OF_OTHERS) {
    if (measured == 0 && samples(batch_.phases[row])) add(sampling, count - 1, 1);
    return;
  }
  const bool whole = measured != 0 && lanes_[lane].accumulates(layer);
  const uint32_t ofCall = special ? std::max(ATTEND_ROWS / group, 1u) : queriesOfCall_;
  const uint32_t most = whole ? count : ofCall;
  for (uint32_t i = what == Attending::MEASURED_ROWS ? count - measured : 0; i < count; i += most)
    add(batch_.token_start[row] + i, i, std::min(most, count - i));
}

void Forward::norm(Weight weight) {
  parallel(tokens_, uint64_t{tokens_} * hidden_, [&](size_t t, uint32_t) {
    kernels_.rmsnorm(x_ + t * hidden_, weight, 1, hidden_, model_.config.rms_eps, normed_ + t * hidden_);
  });
}

void Forward::attend(uint32_t layer) {
  const uint32_t kvHeads = model_.kv.kvHeads, group = model_.config.heads / kvHeads;
  // Query heads of one task.
  const uint32_t heads = splitsGroups(layer) ? 1 : group, tasks = kvHeads * group / heads;
  const LayerPlace& place = model_.places[layer];
  const bool grouped = place.group != 0;
  const uint32_t* tables = grouped ? batch_.groups[place.group - 1].tables : batch_.tables;
  const uint32_t* starts = grouped ? batch_.groups[place.group - 1].table_start : batch_.table_start;
  parallel(chunks_.size() * tasks, attentionWork_, [&](size_t task, uint32_t thread) {
    const QueryChunk& chunk = chunks_[task / tasks];
    const uint32_t firstHead = static_cast<uint32_t>(task % tasks) * heads;
    const size_t head = size_t{firstHead} * model_.kv.headDim;
    AttendArgs args;
    args.q = qkv_ + chunk.first * size_t{qkvWidth_} + head;
    args.qStride = qkvWidth_;
    args.out = attended_ + chunk.first * size_t{queryWidth_} + head;
    args.outStride = queryWidth_;
    args.queries = chunk.count;
    args.firstPosition = chunk.position;
    args.group = heads;
    args.window = place.window;
    args.kv = model_.pool.data();
    args.shape = place.kv;
    args.layer = place.index;
    args.kvHead = firstHead / group;
    args.table = tables + starts[chunk.row];
    args.scratch = model_.threadScratch[thread]->attend.data();
    if (chunk.lane == PLAIN) return kernels_.attend(args);
    args.layer = layer;
    attendLane(kernels_, lanes_[chunk.lane], args,
               {chunk.position, chunk.count, firstHead, args.q, args.qStride, args.out, args.outStride},
               false, model_.threadScratch[thread]->weights.data(),
               entropies_.data() + size_t{chunk.lane} * model_.config.heads);
  });
}

// Rows that are one task a KV head may leave threads idle; their query heads are alone with their statistics,
// unless PROBE_MAX takes the largest of a group.
bool Forward::splitsGroups(uint32_t layer) const {
  if (lanes_.empty() || chunks_.size() * model_.kv.kvHeads >= size_t{2} * model_.threads.threads())
    return false;
  bool accumulates = false;
  for (const QueryChunk& chunk : chunks_) {
    if (chunk.lane == PLAIN) continue;
    if (lanes_[chunk.lane].output(layer, OUT_PROBE_MAX) != QMH_NONE) return false;
    accumulates |= lanes_[chunk.lane].accumulates(layer);
  }
  return accumulates && model_.threads.threads() > 1;
}

// What is not read off the weights of the layer's attention.
void Forward::measureRest(const LayerWeights& w, uint32_t layer) {
  const uint32_t kvHeads = model_.kv.kvHeads, heads = model_.config.heads;
  for (size_t i = 0; i < lanes_.size(); i++) {
    const LaneRow& row = lanes_[i];
    addEntropy(row, layer, entropies_.data() + i * heads);
    if (row.output(layer, OUT_KEYS) != QMH_NONE) {
      const uint64_t numbers = (uint64_t{row.longest()} + row.newTokens) * kvWidth_;
      parallel(kvHeads, numbers, [&](size_t head, uint32_t) {
        copyKeys(kernels_, row, model_.pool.data(), layer, static_cast<uint32_t>(head));
      });
    }
    if (row.output(layer, OUT_OUTPUT_ERROR) != QMH_NONE) compareOutputs(w.o, row, layer);
  }
  std::fill(entropies_.begin(), entropies_.end(), 0.0);
}

// OUTPUT_ERROR: attends again over the slots that are kept. The projection is linear, so that the difference
// of the outputs is the projected difference.
void Forward::compareOutputs(Weight projection, const LaneRow& row, uint32_t layer) {
  const uint32_t kvHeads = model_.kv.kvHeads, group = model_.config.heads / kvHeads, count = row.newTokens;
  const uint32_t first = batch_.token_start[row.record.row];
  const float* whole = attended_ + size_t{first} * queryWidth_;
  float* attended = model_.compared.data();
  float* difference = attended + size_t{count} * queryWidth_;
  float* projected = difference + size_t{count} * queryWidth_;
  const uint64_t work = 2 * uint64_t{count} * (uint64_t{row.longest()} + count) * queryWidth_;
  parallel(kvHeads, work, [&](size_t kvHead, uint32_t thread) {
    const size_t head = kvHead * group * model_.kv.headDim;
    AttendArgs args = {};
    args.group = group;
    args.window = model_.places[layer].window;
    args.kv = model_.pool.data();
    args.layer = layer;
    args.kvHead = static_cast<uint32_t>(kvHead);
    args.scratch = model_.threadScratch[thread]->attend.data();
    attendLane(kernels_, row, args,
               {0, count, static_cast<uint32_t>(kvHead) * group, qkv_ + size_t{first} * qkvWidth_ + head,
                qkvWidth_, difference + head, queryWidth_},
               true, nullptr, nullptr);
  });
  memcpy(attended, whole, size_t{count} * queryWidth_ * sizeof(float));
  for (size_t i = 0; i < size_t{count} * queryWidth_; i++) difference[i] -= whole[i];
  project({attended, queryWidth_, queryWidth_, 2 * count},
          {{projection, {nullptr, NumberType::F32}, hidden_}}, projected, false);
  double* norms = reinterpret_cast<double*>(row.floats + row.output(layer, OUT_OUTPUT_ERROR));
  for (size_t i = 0; i < size_t{count} * hidden_; i++) {
    const double output = projected[i], changed = projected[size_t{count} * hidden_ + i];
    norms[0] += changed * changed;
    norms[1] += output * output;
  }
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
  if (x.count == 0) return;
  uint32_t outputs = 0;
  for (const Projection& p : projections) outputs += p.outputs;
  const size_t weightRowBytes = size_t{x.width} * bytesOf(projections.begin()->w.type);
  const uint32_t tokenBlocks = (x.count + TASK_TOKENS - 1) / TASK_TOKENS;
  uint32_t taskOutputs =
      roundUp(static_cast<uint32_t>(std::min<size_t>(TASK_WEIGHT_BYTES / weightRowBytes, outputs)));
  // A few tasks for each thread, so that one that is late leaves little to wait for.
  const uint32_t tasksWanted = 4 * model_.threads.threads();
  if (tokenBlocks < tasksWanted) {
    taskOutputs = std::min(taskOutputs, roundUp(uint32_t(uint64_t{outputs} * tokenBlocks / tasksWanted)));
  }
  const uint32_t outputBlocks = (outputs + taskOutputs - 1) / taskOutputs;
  const uint64_t work = uint64_t{x.count} * outputs * x.width;
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
        args.tokens = std::min(TASK_TOKENS, x.count - firstToken);
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

void forward(Model* model, const qmh_batch& batch, const qmh_sampling* sampling, const uint32_t* history,
             uint32_t* tokensOut, float* logitsOut) {
  Forward pass(model, batch, logitsOut);
  pass.transfers(0);
  pass.embed();
  for (uint32_t i = 0; i < model->kv.layers; i++) pass.layer(i);
  pass.head();
  pass.sample(sampling, history, tokensOut);
  pass.transfers(1);
}

struct LayeredPass::State {
  State(Model* model, const qmh_batch& given, float* logitsOut)
      : batch(own(model, given)), pass(model, batch, logitsOut) {}

  // The batch with what lies in the caller's structs, and its tables, as copies.
  qmh_batch own(Model* model, const qmh_batch& given) {
    qmh_batch copy = given;
    layers = model->kv.layers;
    if (given.lanes) copy.lanes = &(lanes = *given.lanes);
    groups.assign(given.groups, given.groups + given.group_count);
    copy.groups = groups.data();
    for (uint32_t row = 0; row < given.rows; row++) {
      const uint32_t* table = given.tables + given.table_start[row];
      starts.push_back(static_cast<uint32_t>(tables.size()));
      tables.insert(tables.end(), table, table + given.table_count[row]);
    }
    copy.table_start = starts.data();
    copy.tables = tables.data();
    copy.table_words = tables.size();
    return copy;
  }

  uint32_t layers = 0, layer = 0;
  qmh_lanes lanes = {};
  std::vector<qmh_group_tables> groups;
  std::vector<uint32_t> starts, tables;
  const qmh_batch batch;
  Forward pass;
  const qmh_sampling* sampling = nullptr;
  const uint32_t* history = nullptr;
  uint32_t* tokensOut = nullptr;
};

LayeredPass::LayeredPass(Model* model, const qmh_batch& batch, const qmh_sampling* sampling,
                         const uint32_t* history, uint32_t* tokensOut, float* logitsOut)
    : state_(new State(model, batch, logitsOut)) {
  state_->sampling = sampling;
  state_->history = history;
  state_->tokensOut = tokensOut;
  state_->pass.transfers(0);
  state_->pass.embed();
}

LayeredPass::~LayeredPass() = default;

bool LayeredPass::done() const { return state_->layer == state_->layers; }

void LayeredPass::next() {
  state_->pass.checkLanes(state_->layer);
  state_->pass.layer(state_->layer);
  state_->layer++;
}

void LayeredPass::end() {
  state_->pass.head();
  state_->pass.sample(state_->sampling, state_->history, state_->tokensOut);
  state_->pass.transfers(1);
}

}  // namespace qm
