// The JavaScript face of a qmh_model.
#ifndef QUARTERMASTER_ADDON_MODEL_H
#define QUARTERMASTER_ADDON_MODEL_H

#include "values.h"

namespace addon {

// createModel(config, files, tensors); the types are in native-host/executor/addon.ts.
napi_value createModel(napi_env env, const Arguments& arguments);

}  // namespace addon

#endif  // QUARTERMASTER_ADDON_MODEL_H
