// The addon's exports; their types are in native-host/executor/addon.ts.
#include "copier.h"
#include "kernels.h"
#include "model.h"
#include "values.h"
#include "virtual_memory.h"

namespace addon {
namespace {

napi_value abiVersion(napi_env env, const Arguments&) { return number(env, qmh_abi_version()); }

napi_value isa(napi_env env, const Arguments&) {
  napi_value list;
  check(env, napi_create_array(env, &list));
  uint32_t count = 0;
  for (const qmh_isa candidate : {QMH_PORTABLE, QMH_AVX2, QMH_AVX512}) {
    if (!qmh_isa_available(candidate)) continue;
    check(env, napi_set_element(env, list, count++, string(env, qmh_isa_name(candidate))));
  }
  return list;
}

}  // namespace
}  // namespace addon

NAPI_MODULE_INIT() {
  using namespace addon;
  try {
    setFunction(env, exports, "abiVersion", entry<abiVersion>);
    setFunction(env, exports, "isa", entry<isa>);
    setFunction(env, exports, "createModel", entry<createModel>);
    setFunction(env, exports, "createCopier", entry<createCopier>);
    setFunction(env, exports, "createVirtualMemory", entry<createVirtualMemory>);
    check(env, napi_set_named_property(env, exports, "kernels", makeKernels(env)));
    return exports;
  } catch (const Thrown&) {
  } catch (const Refused& refused) {
    napi_throw_error(env, refused.code.c_str(), refused.message.c_str());
  }
  return nullptr;
}
