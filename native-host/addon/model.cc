// NativeModel objects.
//
// Ownership  The object and a run in flight share a ModelHandle, which owns the qmh_model, so that neither
//            garbage collection nor the end of the environment frees it under a running batch. Copiers over its
//            pool own it too: close() frees nothing under them.
// Threads    `run` checks and reads its arguments on the JavaScript thread, computes on a thread of Node's
//            pool, and settles its promise on the JavaScript thread. The arrays it was given are kept alive
//            until then.
#include "model.h"

#include <string.h>

#include <memory>
#include <vector>

#include "copier.h"

namespace addon {
namespace {

// Tells our objects from others, so that a method called on a stranger is refused.
constexpr napi_type_tag MODEL_TAG = {0x71756172746d6d6f, 0x64656c5f68616e64};
constexpr uint32_t WORDS_PER_SAMPLING = sizeof(qmh_sampling) / sizeof(uint32_t);
constexpr uint32_t WORDS_PER_TRANSFER = 8;
constexpr uint32_t RUN_ARGUMENTS = 9;

struct FreeModel {
  void operator()(qmh_model* model) const { qmh_model_free(model); }
};
using ModelPointer = std::shared_ptr<qmh_model>;

struct ModelHandle {
  ModelPointer model;  // null once closed
  Span<uint8_t> memory;
  napi_ref memoryRef = nullptr;
  napi_ref layeredRef = nullptr;  // arguments of a batch between two layers
  uint32_t vocab = 0, blocks = 0;
  size_t blockBytes = 0;
  bool running = false;
};
using SharedHandle = std::shared_ptr<ModelHandle>;

// What becomes of the arguments of a batch that stops between layers, once a call has succeeded.
enum class Layered { NO, BEGINS, ENDS };

// One call of a promising method, from the JavaScript thread to the pool and back.
struct Run {
  SharedHandle handle;
  int (*compute)(Run* run) = nullptr;
  Layered layered = Layered::NO;
  qmh_batch batch;
  qmh_lanes lanes;
  std::vector<qmh_group_tables> groups;
  Span<uint32_t> sampling, history, tokensOut;
  float* logitsOut = nullptr;
  Span<uint32_t> records;  // of move and merge
  int status = QMH_OK;
  std::string message;
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
  napi_ref arguments = nullptr;  // an array of this object and the typed arrays
};

SharedHandle handleOf(napi_env env, napi_value self) {
  bool ours = false;
  if (napi_check_object_type_tag(env, self, &MODEL_TAG, &ours) != napi_ok || !ours) {
    refuse("INVALID_ARGUMENT", "the method was called on something that is not a model");
  }
  void* handle = nullptr;
  check(env, napi_unwrap(env, self, &handle));
  return *static_cast<SharedHandle*>(handle);
}

// Refuses a model that is closed or busy.
SharedHandle idleHandleOf(napi_env env, napi_value self) {
  SharedHandle handle = handleOf(env, self);
  if (!handle->model) refuse("CLOSED", "the model was closed");
  if (handle->running) refuse("BUSY", "the model is running a batch");
  return handle;
}

void release(napi_env env, napi_ref* ref) {
  const napi_ref released = *ref;
  *ref = nullptr;
  if (released != nullptr) check(env, napi_delete_reference(env, released));
}

void releaseMemory(napi_env env, ModelHandle* handle) {
  handle->memory = {};
  release(env, &handle->memoryRef);
}

napi_value attach(napi_env env, const Arguments& arguments) {
  const SharedHandle handle = idleHandleOf(env, arguments.self);
  const Span<uint8_t> memory = toBytes(env, arguments[0], "memory");
  if (reinterpret_cast<uintptr_t>(memory.data) % sizeof(uint32_t) != 0) {
    refuse("INVALID_ARGUMENT", "memory does not start on a multiple of 4 bytes");
  }
  releaseMemory(env, handle.get());
  check(env, napi_create_reference(env, arguments[0], 1, &handle->memoryRef));
  handle->memory = memory;
  return undefined(env);
}

// `words` u32 at byte offset object[name] of the attached memory.
const uint32_t* section(napi_env env, napi_value object, const char* name, const Span<uint8_t>& memory,
                        uint64_t words) {
  const uint64_t offset = toU64(env, property(env, object, name), name);
  if (words == 0) return nullptr;
  if (offset % 4 != 0 || offset > memory.count || words > (memory.count - offset) / 4) {
    refuse("BAD_BATCH", std::string(name) + " at byte " + std::to_string(offset) + " with " +
                            std::to_string(words) + " words is outside the memory of " +
                            std::to_string(memory.count) + " bytes, or not aligned");
  }
  return reinterpret_cast<const uint32_t*>(memory.data + offset);
}

qmh_batch toBatch(napi_env env, napi_value object, const Span<uint8_t>& memory) {
  const auto count = [&](const char* name) { return toU32(env, property(env, object, name), name); };
  const auto words = [&](const char* name, uint64_t n) { return section(env, object, name, memory, n); };
  qmh_batch batch = {};
  batch.rows = count("rows");
  batch.total_tokens = count("totalTokens");
  batch.sampling_rows = count("samplingRows");
  batch.transfer_count = count("transferCount");
  batch.phases = words("phases", batch.rows);
  batch.new_tokens = words("newTokens", batch.rows);
  batch.computed_before = words("computedBefore", batch.rows);
  batch.token_start = words("tokenStart", batch.rows == 0 ? 0 : uint64_t{batch.rows} + 1);
  batch.tokens = words("tokens", batch.total_tokens);
  batch.slots = words("slots", batch.total_tokens);
  batch.table_start = words("tableStart", batch.rows);
  batch.table_count = words("tableCount", batch.rows);
  batch.transfers = words("transfers", uint64_t{batch.transfer_count} * WORDS_PER_TRANSFER);
  if (batch.rows != 0) {
    // Every table must end within the memory; the library checks each row against this.
    batch.tables = words("tables", 1);
    batch.table_words =
        static_cast<size_t>(memory.data + memory.count - reinterpret_cast<const uint8_t*>(batch.tables)) / 4;
  }
  return batch;
}

uint32_t arrayLength(napi_env env, napi_value array, const char* name) {
  bool isArray = false;
  check(env, napi_is_array(env, array, &isArray));
  if (!isArray) refuse("INVALID_ARGUMENT", std::string(name) + " is not an array");
  uint32_t length;
  check(env, napi_get_array_length(env, array, &length));
  return length;
}

napi_value element(napi_env env, napi_value array, uint32_t i) {
  napi_value value;
  check(env, napi_get_element(env, array, i, &value));
  return value;
}

void readGroups(napi_env env, napi_value list, Run* run) {
  const uint32_t count = arrayLength(env, list, "groups");
  for (uint32_t i = 0; i < count; i++) {
    const napi_value group = element(env, list, i);
    const auto words = [&](const char* name, uint32_t least) {
      const Span<uint32_t> span = toWords(env, property(env, group, name), name);
      if (span.count < least)
        refuse("BAD_BATCH", std::string("groups: ") + name + " has " + std::to_string(span.count) +
                                " entries; allowed: at least " + std::to_string(least));
      return span;
    };
    const Span<uint32_t> tables = words("tables", 0);
    run->groups.push_back({words("slots", run->batch.total_tokens).data,
                           words("tableStart", run->batch.rows).data,
                           words("tableCount", run->batch.rows).data, tables.data, tables.count});
  }
  run->batch.groups = run->groups.data();
  run->batch.group_count = count;
}

void readRun(napi_env env, const Arguments& arguments, Run* run) {
  const SharedHandle handle = idleHandleOf(env, arguments.self);
  run->handle = handle;
  run->batch = toBatch(env, arguments[0], handle->memory);
  run->sampling = toWords(env, arguments[1], "sampling");
  run->history = toWords(env, arguments[2], "history");
  run->tokensOut = toWords(env, arguments[3], "tokensOut");
  const uint64_t rows = run->batch.sampling_rows;
  if (run->sampling.count < rows * WORDS_PER_SAMPLING)
    refuse("INVALID_ARGUMENT", "sampling has fewer records than samplingRows");
  if (run->tokensOut.count < rows) refuse("INVALID_ARGUMENT", "tokensOut is shorter than samplingRows");
  if (!isNull(env, arguments[4])) {
    const Span<float> logits = toFloats(env, arguments[4], "logitsOut");
    if (logits.count < rows * handle->vocab)
      refuse("INVALID_ARGUMENT", "logitsOut is shorter than samplingRows * vocab");
    run->logitsOut = logits.data;
  }
  if (!isNull(env, arguments[5])) {
    run->lanes = toLanes(env, arguments[5], arguments[6], arguments[7]);
    run->batch.lanes = &run->lanes;
  }
  if (!isNull(env, arguments[8])) readGroups(env, arguments[8], run);
}

int runForward(Run* run) {
  return qmh_forward(run->handle->model.get(), &run->batch,
                     reinterpret_cast<const qmh_sampling*>(run->sampling.data), run->history.data,
                     run->history.count, run->tokensOut.data, run->logitsOut);
}

int runBegin(Run* run) {
  return qmh_layers_begin(run->handle->model.get(), &run->batch,
                          reinterpret_cast<const qmh_sampling*>(run->sampling.data), run->history.data,
                          run->history.count, run->tokensOut.data, run->logitsOut);
}

int runNext(Run* run) { return qmh_layers_next(run->handle->model.get()); }

int runEnd(Run* run) { return qmh_layers_end(run->handle->model.get()); }

int runMove(Run* run) { return qmh_move(run->handle->model.get(), run->records.data, run->records.count); }

int runMerge(Run* run) { return qmh_merge(run->handle->model.get(), run->records.data, run->records.count); }

void compute(napi_env, void* data) {
  Run* run = static_cast<Run*>(data);
  run->status = run->compute(run);
  // The message belongs to this thread: take it along.
  if (run->status != QMH_OK) run->message = qmh_last_error();
}

void settle(napi_env env, napi_status status, void* data) {
  const std::unique_ptr<Run> run(static_cast<Run*>(data));
  run->handle->running = false;
  // In an environment that is ending calls fail; there is nobody left to tell.
  napi_delete_async_work(env, run->work);
  if (status == napi_ok && run->status == QMH_OK && run->layered == Layered::BEGINS)
    run->handle->layeredRef = run->arguments;
  else
    napi_delete_reference(env, run->arguments);
  try {
    if (run->layered == Layered::ENDS) release(env, &run->handle->layeredRef);
    if (status != napi_ok) {
      check(env,
            napi_reject_deferred(env, run->deferred, makeError(env, {"ABORTED", "the run was cancelled"})));
    } else if (run->status != QMH_OK) {
      const Refused refused = {qmh_status_name(run->status), run->message};
      check(env, napi_reject_deferred(env, run->deferred, makeError(env, refused)));
    } else {
      check(env, napi_resolve_deferred(env, run->deferred, undefined(env)));
    }
  } catch (const Thrown&) {
  } catch (const Refused&) {
  }
}

void readForward(napi_env env, const Arguments& arguments, Run* run) {
  run->compute = runForward;
  readRun(env, arguments, run);
}

void readBegin(napi_env env, const Arguments& arguments, Run* run) {
  run->compute = runBegin;
  run->layered = Layered::BEGINS;
  readRun(env, arguments, run);
}

template <int (*body)(Run*), Layered layered>
void readLayered(napi_env env, const Arguments& arguments, Run* run) {
  run->compute = body;
  run->layered = layered;
  run->handle = idleHandleOf(env, arguments.self);
}

template <int (*body)(Run*)>
void readRecords(napi_env env, const Arguments& arguments, Run* run) {
  run->compute = body;
  run->handle = idleHandleOf(env, arguments.self);
  run->records = toWords(env, arguments[0], "records");
}

using Read = void (*)(napi_env env, const Arguments& arguments, Run* run);

void startRun(napi_env env, const Arguments& arguments, Read read, std::unique_ptr<Run>* run) {
  read(env, arguments, run->get());
  napi_value kept;
  check(env, napi_create_array_with_length(env, RUN_ARGUMENTS + 1, &kept));
  check(env, napi_set_element(env, kept, RUN_ARGUMENTS, arguments.self));
  for (uint32_t i = 0; i < RUN_ARGUMENTS; i++) check(env, napi_set_element(env, kept, i, arguments[i]));
  check(env, napi_create_reference(env, kept, 1, &(*run)->arguments));
  const napi_value name = string(env, "quartermaster.run");
  check(env, napi_create_async_work(env, nullptr, name, compute, settle, run->get(), &(*run)->work));
  check(env, napi_queue_async_work(env, (*run)->work));
  run->release()->handle->running = true;  // settle owns it now
}

template <Read read>
napi_value run(napi_env env, const Arguments& arguments) {
  std::unique_ptr<Run> run(new Run());
  napi_value promise;
  check(env, napi_create_promise(env, &run->deferred, &promise));
  const napi_deferred deferred = run->deferred;
  try {
    startRun(env, arguments, read, &run);
  } catch (const Refused& refused) {
    check(env, napi_reject_deferred(env, deferred, makeError(env, refused)));
  }
  return promise;
}

// Copies whole blocks out of the pool, or into it.
template <bool out>
napi_value copyBlocks(napi_env env, const Arguments& arguments) {
  const SharedHandle handle = idleHandleOf(env, arguments.self);
  const Span<uint32_t> blocks = toWords(env, arguments[0], "blocks");
  const Span<uint8_t> payload = toBytes(env, arguments[1], "payload");
  const size_t bytes = handle->blockBytes;
  if (payload.count != blocks.count * bytes)
    refuse("INVALID_ARGUMENT", "payload has " + std::to_string(payload.count) + " bytes; allowed: " +
                                   std::to_string(bytes) + " for each block");
  for (size_t i = 0; i < blocks.count; i++)
    if (blocks.data[i] >= handle->blocks)
      refuse("INVALID_ARGUMENT", "block " + std::to_string(blocks.data[i]) + " is outside the pool of " +
                                     std::to_string(handle->blocks));
  uint64_t poolBytes;
  uint8_t* pool = static_cast<uint8_t*>(qmh_model_kv(handle->model.get(), &poolBytes));
  for (size_t i = 0; i < blocks.count; i++) {
    uint8_t *block = pool + blocks.data[i] * bytes, *host = payload.data + i * bytes;
    memcpy(out ? host : block, out ? block : host, bytes);
  }
  return undefined(env);
}

napi_value abandonLayers(napi_env env, const Arguments& arguments) {
  const SharedHandle handle = idleHandleOf(env, arguments.self);
  checkHost(qmh_layers_abandon(handle->model.get()));
  release(env, &handle->layeredRef);
  return undefined(env);
}

napi_value createPoolCopier(napi_env env, const Arguments& arguments) {
  const SharedHandle handle = handleOf(env, arguments.self);
  if (!handle->model) refuse("CLOSED", "the model was closed");
  uint64_t bytes;
  uint8_t* pool = static_cast<uint8_t*>(qmh_model_kv(handle->model.get(), &bytes));
  return makeCopier(env, arguments[0], {pool, bytes}, handle->model);
}

napi_value close(napi_env env, const Arguments& arguments) {
  const SharedHandle handle = handleOf(env, arguments.self);
  if (handle->running) refuse("BUSY", "the model is running a batch");
  releaseMemory(env, handle.get());
  if (handle->model) checkHost(qmh_layers_abandon(handle->model.get()));
  release(env, &handle->layeredRef);
  handle->model.reset();
  return undefined(env);
}

void finalize(napi_env env, void* data, void*) {
  const std::unique_ptr<SharedHandle> handle(static_cast<SharedHandle*>(data));
  for (const napi_ref ref : {(*handle)->memoryRef, (*handle)->layeredRef})
    if (ref != nullptr) napi_delete_reference(env, ref);
}

qmh_config toConfig(napi_env env, napi_value object) {
  static const char* const ISAS[] = {"auto", "portable", "avx2", "avx512"};
  const auto count = [&](const char* name) { return toU32(env, property(env, object, name), name); };
  const auto flag = [&](const char* name) { return toBool(env, property(env, object, name), name) ? 1 : 0; };
  qmh_config c = {};
  c.hidden = count("hidden");
  c.heads = count("heads");
  c.intermediate = count("intermediate");
  c.vocab = count("vocab");
  c.kv = {count("blocks"),  count("layers"),    count("kvHeads"),
          count("headDim"), count("blockSize"), toDtype(env, property(env, object, "kvType"), "kvType")};
  toRope(env, property(env, object, "ropeTheta"), property(env, object, "ropeLayout"),
         property(env, object, "ropeScaling"), &c.rope);
  c.rms_eps = static_cast<float>(toDouble(env, property(env, object, "rmsEps"), "rmsEps"));
  c.attention_bias = flag("attentionBias");
  c.tied_embeddings = flag("tiedEmbeddings");
  c.sliding_window = count("slidingWindow");
  c.max_sequence_tokens = count("maxSequenceTokens");
  c.threads = count("threads");
  c.isa = static_cast<qmh_isa>(toChoice(env, property(env, object, "isa"), "isa", ISAS, 4));
  const napi_value places = property(env, object, "places");
  if (isNull(env, places)) return c;
  const Span<uint32_t> words = toWords(env, places, "places");
  if (words.count != size_t{c.kv.layers} * sizeof(qmh_layer_place) / sizeof(uint32_t))
    refuse("INVALID_ARGUMENT", "places is not three words a layer");
  c.places = reinterpret_cast<const qmh_layer_place*>(words.data);
  return c;
}

// `name` keeps the text that the tensor points to.
qmh_tensor toTensor(napi_env env, napi_value object, const std::string& name) {
  qmh_tensor t = {};
  t.name = name.c_str();
  t.file = toU32(env, property(env, object, "file"), "tensor file");
  t.type = toDtype(env, property(env, object, "dtype"), "tensor dtype");
  t.offset = toU64(env, property(env, object, "offset"), "tensor offset");
  t.bytes = toU64(env, property(env, object, "bytes"), "tensor bytes");
  const napi_value shape = property(env, object, "shape");
  t.rank = arrayLength(env, shape, "tensor shape");
  for (uint32_t i = 0; i < t.rank && i < 2; i++)
    t.shape[i] = toU64(env, element(env, shape, i), "tensor shape");
  return t;
}

ModelPointer openModel(napi_env env, const qmh_config& config, napi_value files, napi_value tensors) {
  std::vector<std::string> paths, names;
  for (uint32_t i = 0; i < arrayLength(env, files, "files"); i++)
    paths.push_back(toString(env, element(env, files, i), "file"));
  const uint32_t count = arrayLength(env, tensors, "tensors");
  for (uint32_t i = 0; i < count; i++) {
    names.push_back(toString(env, property(env, element(env, tensors, i), "name"), "tensor name"));
  }
  std::vector<const char*> pathPointers;
  for (const std::string& path : paths) pathPointers.push_back(path.c_str());
  std::vector<qmh_tensor> list;
  for (uint32_t i = 0; i < count; i++) list.push_back(toTensor(env, element(env, tensors, i), names[i]));
  qmh_model* model = nullptr;
  checkHost(qmh_model_create(&config, pathPointers.data(), static_cast<uint32_t>(paths.size()), list.data(),
                             count, &model));
  return ModelPointer(model, FreeModel());
}

}  // namespace

napi_value createModel(napi_env env, const Arguments& arguments) {
  const qmh_config config = toConfig(env, arguments[0]);
  const SharedHandle handle = std::make_shared<ModelHandle>();
  handle->model = openModel(env, config, arguments[1], arguments[2]);
  handle->vocab = config.vocab;
  handle->blocks = config.kv.blocks;
  qmh_model* model = handle->model.get();
  uint64_t kvBytes;
  qmh_model_kv(model, &kvBytes);
  handle->blockBytes = kvBytes / config.kv.blocks;

  napi_value object;
  check(env, napi_create_object(env, &object));
  setFunction(env, object, "attach", entry<attach>);
  setFunction(env, object, "run", entry<run<readForward>>);
  setFunction(env, object, "beginLayers", entry<run<readBegin>>);
  setFunction(env, object, "nextLayer", entry<run<readLayered<runNext, Layered::NO>>>);
  setFunction(env, object, "endLayers", entry<run<readLayered<runEnd, Layered::ENDS>>>);
  setFunction(env, object, "abandonLayers", entry<abandonLayers>);
  setFunction(env, object, "move", entry<run<readRecords<runMove>>>);
  setFunction(env, object, "merge", entry<run<readRecords<runMerge>>>);
  setFunction(env, object, "readBlocks", entry<copyBlocks<true>>);
  setFunction(env, object, "writeBlocks", entry<copyBlocks<false>>);
  setFunction(env, object, "createCopier", entry<createPoolCopier>);
  setFunction(env, object, "close", entry<close>);
  const auto set = [&](const char* name, napi_value value) {
    check(env, napi_set_named_property(env, object, name, value));
  };
  set("isa", string(env, qmh_isa_name(qmh_model_isa(model))));
  set("threads", number(env, qmh_model_threads(model)));
  set("kvBytes", number(env, static_cast<double>(kvBytes)));
  set("weightBytes", number(env, static_cast<double>(qmh_model_weight_bytes(model))));
  std::unique_ptr<SharedHandle> share(new SharedHandle(handle));
  check(env, napi_wrap(env, object, share.get(), finalize, nullptr, nullptr));
  share.release();  // the object owns it now
  check(env, napi_type_tag_object(env, object, &MODEL_TAG));
  return object;
}

}  // namespace addon
