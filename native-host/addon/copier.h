// The JavaScript face of a qmh_copier.
#ifndef QUARTERMASTER_ADDON_COPIER_H
#define QUARTERMASTER_ADDON_COPIER_H

#include <memory>

#include "values.h"

namespace addon {

// createCopier(options, device, host); the types are in native-host/executor/addon.ts.
napi_value createCopier(napi_env env, const Arguments& arguments);

// A copier over `device`, which `owner` keeps alive.
napi_value makeCopier(napi_env env, napi_value options, Span<uint8_t> device, std::shared_ptr<void> owner);

}  // namespace addon

#endif  // QUARTERMASTER_ADDON_COPIER_H
