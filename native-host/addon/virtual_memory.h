// The JavaScript face of a qmh_virtual.
#ifndef QUARTERMASTER_ADDON_VIRTUAL_MEMORY_H
#define QUARTERMASTER_ADDON_VIRTUAL_MEMORY_H

#include "values.h"

namespace addon {

// createVirtualMemory(shape); the types are in native-host/executor/addon.ts.
napi_value createVirtualMemory(napi_env env, const Arguments& arguments);

}  // namespace addon

#endif  // QUARTERMASTER_ADDON_VIRTUAL_MEMORY_H
