// Single kernels, for tests and benches.
#ifndef QUARTERMASTER_ADDON_KERNELS_H
#define QUARTERMASTER_ADDON_KERNELS_H

#include "values.h"

namespace addon {

// The NativeKernels object of native-host/executor/addon.ts.
napi_value makeKernels(napi_env env);

}  // namespace addon

#endif  // QUARTERMASTER_ADDON_KERNELS_H
