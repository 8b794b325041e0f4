// NativeVirtualMemory objects.
//
// Ownership  The object, every view and a plan in flight share the qmh_virtual: it goes with the last of them. close()
//            detaches the views first, so that none is left over addresses that are gone.
// Threads    `execute` maps on the calling thread; `executeAsync` on a thread of Node's pool.
#include "virtual_memory.h"

#include <quartermaster_virtual.h>

#include <memory>
#include <vector>

namespace addon {
namespace {

constexpr napi_type_tag VIRTUAL_TAG = {0x71756172746d7669, 0x727475616c6d656d};
constexpr uint32_t CHANGE_WORDS = 4;

struct FreeVirtual {
  void operator()(qmh_virtual* memory) const { qmh_virtual_free(memory); }
};
using SharedMemory = std::shared_ptr<qmh_virtual>;

struct VirtualHandle {
  SharedMemory memory;  // null once closed
  uint64_t slotBytes = 0;
  std::vector<napi_ref> views;  // array buffers by slot; null where none was asked for
  bool running = false;
};
using SharedHandle = std::shared_ptr<VirtualHandle>;

// A plan on its way to the pool and back.
struct Execution {
  SharedHandle handle;
  SharedMemory memory;
  Span<uint32_t> changes;
  qmh_map_cost cost = {0, 0};
  int status = QMH_OK;
  std::string message;
  napi_deferred deferred = nullptr;
  napi_async_work work = nullptr;
  napi_ref kept = nullptr;  // the plan
};

SharedHandle handleOf(napi_env env, napi_value self) {
  bool ours = false;
  if (napi_check_object_type_tag(env, self, &VIRTUAL_TAG, &ours) != napi_ok || !ours) {
    refuse("INVALID_ARGUMENT", "the method was called on something that is not a virtual memory");
  }
  void* handle = nullptr;
  check(env, napi_unwrap(env, self, &handle));
  return *static_cast<SharedHandle*>(handle);
}

SharedHandle openHandleOf(napi_env env, napi_value self) {
  SharedHandle handle = handleOf(env, self);
  if (!handle->memory) refuse("CLOSED", "the virtual memory was closed");
  return handle;
}

Span<uint32_t> toChanges(napi_env env, napi_value value) {
  const Span<uint32_t> changes = toWords(env, value, "plan");
  if (changes.count % CHANGE_WORDS != 0) refuse("INVALID_ARGUMENT", "plan is not records of 4 words");
  return changes;
}

napi_value toValue(napi_env env, const qmh_map_cost& cost) {
  napi_value object;
  check(env, napi_create_object(env, &object));
  check(env, napi_set_named_property(env, object, "calls", number(env, static_cast<double>(cost.calls))));
  check(env, napi_set_named_property(env, object, "us", number(env, cost.us)));
  return object;
}

napi_value execute(napi_env env, const Arguments& arguments) {
  const SharedHandle handle = openHandleOf(env, arguments.self);
  const Span<uint32_t> changes = toChanges(env, arguments[0]);
  qmh_map_cost cost;
  checkHost(
      qmh_virtual_execute(handle->memory.get(), changes.data, changes.count / CHANGE_WORDS, &cost));
  return toValue(env, cost);
}

void compute(napi_env, void* data) {
  Execution* e = static_cast<Execution*>(data);
  e->status = qmh_virtual_execute(e->memory.get(), e->changes.data, e->changes.count / CHANGE_WORDS, &e->cost);
  // The message belongs to this thread: take it along.
  if (e->status != QMH_OK) e->message = qmh_last_error();
}

void settle(napi_env env, napi_status status, void* data) {
  const std::unique_ptr<Execution> e(static_cast<Execution*>(data));
  e->handle->running = false;
  // In an environment that is ending calls fail; there is nobody left to tell.
  napi_delete_async_work(env, e->work);
  napi_delete_reference(env, e->kept);
  try {
    if (status != napi_ok) {
      const Refused refused = {"ABORTED", "the plan was cancelled"};
      check(env, napi_reject_deferred(env, e->deferred, makeError(env, refused)));
    } else if (e->status != QMH_OK) {
      const Refused refused = {qmh_status_name(e->status), e->message};
      check(env, napi_reject_deferred(env, e->deferred, makeError(env, refused)));
    } else {
      check(env, napi_resolve_deferred(env, e->deferred, toValue(env, e->cost)));
    }
  } catch (const Thrown&) {
  } catch (const Refused&) {
  }
}

void start(napi_env env, const Arguments& arguments, std::unique_ptr<Execution>* e) {
  const SharedHandle handle = openHandleOf(env, arguments.self);
  if (handle->running) refuse("BUSY", "a plan is being executed");
  (*e)->handle = handle;
  (*e)->memory = handle->memory;
  (*e)->changes = toChanges(env, arguments[0]);
  check(env, napi_create_reference(env, arguments[0], 1, &(*e)->kept));
  const napi_value name = string(env, "quartermaster.map");
  check(env, napi_create_async_work(env, nullptr, name, compute, settle, e->get(), &(*e)->work));
  check(env, napi_queue_async_work(env, (*e)->work));
  e->release()->handle->running = true;  // settle owns it now
}

napi_value executeAsync(napi_env env, const Arguments& arguments) {
  std::unique_ptr<Execution> execution(new Execution());
  napi_value promise;
  check(env, napi_create_promise(env, &execution->deferred, &promise));
  const napi_deferred deferred = execution->deferred;
  try {
    start(env, arguments, &execution);
  } catch (const Refused& refused) {
    check(env, napi_reject_deferred(env, deferred, makeError(env, refused)));
  }
  return promise;
}

napi_value trim(napi_env env, const Arguments& arguments) {
  const SharedHandle handle = openHandleOf(env, arguments.self);
  const Span<uint32_t> blocks = toWords(env, arguments[0], "blocks");
  checkHost(qmh_virtual_trim(handle->memory.get(), blocks.data, blocks.count));
  return undefined(env);
}

napi_value residentBytes(napi_env env, const Arguments& arguments) {
  uint64_t bytes;
  checkHost(qmh_virtual_resident(openHandleOf(env, arguments.self)->memory.get(), &bytes));
  return number(env, static_cast<double>(bytes));
}

void releaseView(napi_env, void*, void* hint) { delete static_cast<SharedMemory*>(hint); }

// The array buffer over a slot's ranges, made once.
napi_value slotBuffer(napi_env env, VirtualHandle* handle, uint32_t slot) {
  napi_value buffer = nullptr;
  if (handle->views[slot] != nullptr) {
    check(env, napi_get_reference_value(env, handle->views[slot], &buffer));
    return buffer;
  }
  uint8_t* data = static_cast<uint8_t*>(qmh_virtual_base(handle->memory.get())) + slot * handle->slotBytes;
  std::unique_ptr<SharedMemory> share(new SharedMemory(handle->memory));
  if (napi_create_external_arraybuffer(env, data, handle->slotBytes, releaseView, share.get(), &buffer) !=
      napi_ok) {
    refuse("UNSUPPORTED", "this JavaScript engine makes no array buffers over outside memory");
  }
  share.release();  // the buffer owns it now
  check(env, napi_create_reference(env, buffer, 1, &handle->views[slot]));
  return buffer;
}

napi_value view(napi_env env, const Arguments& arguments) {
  const SharedHandle handle = openHandleOf(env, arguments.self);
  const uint32_t slot = toU32(env, arguments[0], "slot");
  if (slot >= handle->views.size()) refuse("INVALID_ARGUMENT", "slot " + std::to_string(slot) + " is not there");
  napi_value array;
  check(env, napi_create_typedarray(env, napi_uint8_array, handle->slotBytes,
                                    slotBuffer(env, handle.get(), slot), 0, &array));
  return array;
}

napi_value close(napi_env env, const Arguments& arguments) {
  const SharedHandle handle = handleOf(env, arguments.self);
  if (handle->running) refuse("BUSY", "a plan is being executed");
  for (napi_ref& ref : handle->views) {
    if (ref == nullptr) continue;
    napi_value buffer = nullptr;
    check(env, napi_get_reference_value(env, ref, &buffer));
    check(env, napi_detach_arraybuffer(env, buffer));
    check(env, napi_delete_reference(env, ref));
    ref = nullptr;
  }
  handle->memory.reset();
  return undefined(env);
}

void finalize(napi_env env, void* data, void*) {
  const std::unique_ptr<SharedHandle> handle(static_cast<SharedHandle*>(data));
  for (const napi_ref ref : (*handle)->views)
    if (ref != nullptr) napi_delete_reference(env, ref);
}

}  // namespace

napi_value createVirtualMemory(napi_env env, const Arguments& arguments) {
  const auto count = [&](const char* name) { return toU32(env, property(env, arguments[0], name), name); };
  const qmh_virtual_shape shape = {count("slots"), count("slotPages"), count("tensors"), count("blocks"),
                                   toU64(env, property(env, arguments[0], "pageBytes"), "pageBytes")};
  const SharedHandle handle = std::make_shared<VirtualHandle>();
  qmh_virtual* memory = nullptr;
  checkHost(qmh_virtual_create(&shape, &memory));
  handle->memory = SharedMemory(memory, FreeVirtual());
  handle->slotBytes = uint64_t{shape.slot_pages} * shape.tensors * shape.page_bytes;
  handle->views.resize(shape.slots, nullptr);

  napi_value object;
  check(env, napi_create_object(env, &object));
  setFunction(env, object, "execute", entry<execute>);
  setFunction(env, object, "executeAsync", entry<executeAsync>);
  setFunction(env, object, "trim", entry<trim>);
  setFunction(env, object, "residentBytes", entry<residentBytes>);
  setFunction(env, object, "view", entry<view>);
  setFunction(env, object, "close", entry<close>);
  std::unique_ptr<SharedHandle> share(new SharedHandle(handle));
  check(env, napi_wrap(env, object, share.get(), finalize, nullptr, nullptr));
  share.release();  // the object owns it now
  check(env, napi_type_tag_object(env, object, &VIRTUAL_TAG));
  return object;
}

}  // namespace addon
