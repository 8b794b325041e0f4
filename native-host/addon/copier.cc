// NativeCopier objects.
//
// Ownership  The object and its thread-safe function share the handle, which owns the qmh_copier and keeps what the
//            copier copies from and to. While batches are in flight the object keeps itself.
// Threads    A batch is handed over on the JavaScript thread, copied on the copier's threads, and its promise
//            settled on the JavaScript thread, where the thread-safe function brings the news. It keeps the
//            process running only while batches are in flight.
// The end    of an environment finalizes the object and the function in any order: whichever comes first stops the
//            copier's threads, so that none calls a function that is gone.
#include "copier.h"

#include <quartermaster_copy.h>

#include <vector>

namespace addon {
namespace {

constexpr napi_type_tag COPIER_TAG = {0x71756172746d636f, 0x70696572636f7079};
constexpr size_t COPY_WORDS = sizeof(qmh_copy) / sizeof(uint32_t);

struct FreeCopier {
  void operator()(qmh_copier* copier) const { qmh_copier_free(copier); }
};

struct CopierHandle {
  std::shared_ptr<void> owner;  // of the device's memory
  std::unique_ptr<qmh_copier, FreeCopier> copier;  // null once closed
  napi_threadsafe_function ended = nullptr;        // null once it is gone
  napi_ref self = nullptr;                         // weak while nothing is in flight
  std::vector<napi_ref> arrays;                    // memory that JavaScript gave
  size_t inFlight = 0;
};
using SharedHandle = std::shared_ptr<CopierHandle>;

// A batch from its call to its promise's end.
struct Batch {
  CopierHandle* handle;
  napi_deferred deferred = nullptr;
  uint64_t blocks = 0;
};

SharedHandle handleOf(napi_env env, napi_value self) {
  bool ours = false;
  if (napi_check_object_type_tag(env, self, &COPIER_TAG, &ours) != napi_ok || !ours) {
    refuse("INVALID_ARGUMENT", "the method was called on something that is not a copier");
  }
  void* handle = nullptr;
  check(env, napi_unwrap(env, self, &handle));
  return *static_cast<SharedHandle*>(handle);
}

// On a thread of the copier.
void batchEnded(void* context, uint64_t blocks) {
  Batch* batch = static_cast<Batch*>(context);
  batch->blocks = blocks;
  // Refused when the environment is ending: there is nobody left to tell.
  if (napi_call_threadsafe_function(batch->handle->ended, batch, napi_tsfn_nonblocking) != napi_ok) delete batch;
}

void countFlights(napi_env env, CopierHandle* handle, bool begins) {
  uint32_t count;
  if (begins && handle->inFlight++ == 0) {
    check(env, napi_ref_threadsafe_function(env, handle->ended));
    check(env, napi_reference_ref(env, handle->self, &count));
  } else if (!begins && --handle->inFlight == 0) {
    check(env, napi_unref_threadsafe_function(env, handle->ended));
    check(env, napi_reference_unref(env, handle->self, &count));
  }
}

// On the JavaScript thread; without an environment when it is ending.
void settle(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<Batch> batch(static_cast<Batch*>(data));
  if (env == nullptr) return;
  try {
    const napi_deferred deferred = batch->deferred;
    countFlights(env, batch->handle, false);
    check(env, napi_resolve_deferred(env, deferred, number(env, static_cast<double>(batch->blocks))));
  } catch (const Thrown&) {
  } catch (const Refused&) {
  }
}

void handOver(napi_env env, const Arguments& arguments, napi_deferred deferred) {
  const SharedHandle handle = handleOf(env, arguments.self);
  if (!handle->copier) refuse("CLOSED", "the copier was closed");
  const Span<uint32_t> words = toWords(env, arguments[0], "copies");
  if (words.count % COPY_WORDS != 0) refuse("INVALID_ARGUMENT", "copies is not records of 5 words");
  std::unique_ptr<Batch> batch(new Batch{handle.get(), deferred});
  countFlights(env, handle.get(), true);
  const int status =
      qmh_copy_batch(handle->copier.get(), reinterpret_cast<const qmh_copy*>(words.data),
                     words.count / COPY_WORDS, batchEnded, batch.get());
  if (status == QMH_OK) {
    batch.release();  // settle owns it now
    return;
  }
  countFlights(env, handle.get(), false);
  checkHost(status);
}

napi_value copyBatch(napi_env env, const Arguments& arguments) {
  napi_deferred deferred;
  napi_value promise;
  check(env, napi_create_promise(env, &deferred, &promise));
  try {
    handOver(env, arguments, deferred);
  } catch (const Refused& refused) {
    check(env, napi_reject_deferred(env, deferred, makeError(env, refused)));
  }
  return promise;
}

// Stops the threads and lets go of everything; may be repeated. Statuses are not looked at: an environment that is
// ending refuses calls.
void release(napi_env env, CopierHandle* handle) {
  handle->copier.reset();
  handle->owner.reset();
  for (const napi_ref ref : handle->arrays) napi_delete_reference(env, ref);
  handle->arrays.clear();
  if (handle->ended != nullptr) napi_release_threadsafe_function(handle->ended, napi_tsfn_abort);
  handle->ended = nullptr;
}

napi_value close(napi_env env, const Arguments& arguments) {
  const SharedHandle handle = handleOf(env, arguments.self);
  if (handle->inFlight != 0) refuse("BUSY", "the copier has batches in flight");
  release(env, handle.get());
  return undefined(env);
}

void finalizeObject(napi_env env, void* data, void*) {
  const std::unique_ptr<SharedHandle> handle(static_cast<SharedHandle*>(data));
  if ((*handle)->self != nullptr) napi_delete_reference(env, (*handle)->self);
  release(env, handle->get());
}

void finalizeFunction(napi_env, void* data, void*) {
  const std::unique_ptr<SharedHandle> handle(static_cast<SharedHandle*>(data));
  (*handle)->copier.reset();
  (*handle)->ended = nullptr;
}

qmh_copier_config toConfig(napi_env env, napi_value object, Span<uint8_t> device) {
  const auto count = [&](const char* name) { return toU32(env, property(env, object, name), name); };
  qmh_copier_config config = {};
  config.backend = QMH_COPY_MEMCPY;
  config.block_bytes = toU64(env, property(env, object, "blockBytes"), "blockBytes");
  if (config.block_bytes == 0) refuse("INVALID_ARGUMENT", "blockBytes is 0");
  config.device = device.data;
  config.device_blocks = device.count / config.block_bytes;
  config.host_blocks = count("hostBlocks");
  config.out_threads = count("outThreads");
  config.in_threads = count("inThreads");
  const napi_value testing = property(env, object, "testing");
  if (isNull(env, testing)) return config;
  config.delay_us = toU32(env, property(env, testing, "delayUs"), "testing.delayUs");
  config.seed = toU32(env, property(env, testing, "seed"), "testing.seed");
  config.unordered = toBool(env, property(env, testing, "unordered"), "testing.unordered") ? 1 : 0;
  return config;
}

void keep(napi_env env, CopierHandle* handle, napi_value array) {
  napi_ref ref;
  check(env, napi_create_reference(env, array, 1, &ref));
  handle->arrays.push_back(ref);
}

// The object of a handle whose copier is there.
napi_value wrap(napi_env env, const SharedHandle& handle) {
  std::unique_ptr<SharedHandle> share(new SharedHandle(handle));
  check(env, napi_create_threadsafe_function(env, nullptr, nullptr, string(env, "quartermaster.copy"), 0, 1,
                                             share.get(), finalizeFunction, nullptr, settle, &handle->ended));
  share.release();  // the function owns it now
  check(env, napi_unref_threadsafe_function(env, handle->ended));
  napi_value object;
  check(env, napi_create_object(env, &object));
  setFunction(env, object, "copyBatch", entry<copyBatch>);
  setFunction(env, object, "close", entry<close>);
  share.reset(new SharedHandle(handle));
  check(env, napi_wrap(env, object, share.get(), finalizeObject, nullptr, nullptr));
  share.release();  // the object owns it now
  check(env, napi_create_reference(env, object, 0, &handle->self));
  check(env, napi_type_tag_object(env, object, &COPIER_TAG));
  return object;
}

napi_value make(napi_env env, const qmh_copier_config& config, const SharedHandle& handle) {
  qmh_copier* copier = nullptr;
  checkHost(qmh_copier_create(&config, &copier));
  handle->copier.reset(copier);
  return wrap(env, handle);
}

}  // namespace

napi_value makeCopier(napi_env env, napi_value options, Span<uint8_t> device, std::shared_ptr<void> owner) {
  const qmh_copier_config config = toConfig(env, options, device);
  const SharedHandle handle = std::make_shared<CopierHandle>();
  handle->owner = std::move(owner);
  return make(env, config, handle);
}

napi_value createCopier(napi_env env, const Arguments& arguments) {
  qmh_copier_config config = toConfig(env, arguments[0], toBytes(env, arguments[1], "device"));
  const SharedHandle handle = std::make_shared<CopierHandle>();
  const bool hostGiven = !isNull(env, arguments[2]);
  if (hostGiven) {
    const Span<uint8_t> host = toBytes(env, arguments[2], "host");
    if (host.count / config.block_bytes < config.host_blocks)
      refuse("INVALID_ARGUMENT", "host has " + std::to_string(host.count) + " bytes, too few for its blocks");
    config.host = host.data;
  }
  try {
    keep(env, handle.get(), arguments[1]);
    if (hostGiven) keep(env, handle.get(), arguments[2]);
    return make(env, config, handle);
  } catch (...) {
    release(env, handle.get());
    throw;
  }
}

}  // namespace addon
