// Between JavaScript values and C++ ones.
//
// Every function checks every status: a failed call throws Thrown (an exception is pending in JavaScript) or
// Refused (one is to be made), and `entry` turns both into what Node-API wants. Nothing escapes to the
// caller.
#ifndef QUARTERMASTER_ADDON_VALUES_H
#define QUARTERMASTER_ADDON_VALUES_H

#include <node_api.h>
#include <quartermaster_host.h>

#include <exception>
#include <string>

namespace addon {

// A JavaScript exception is pending.
struct Thrown {};

// To become an Error with this code.
struct Refused {
  std::string code, message;
};

// Elements of a typed array where they lie, in plain or shared memory.
template <class T>
struct Span {
  T* data = nullptr;
  size_t count = 0;
};

void check(napi_env env, napi_status status);
// Throws Refused unless the status of the C library is QMH_OK.
void checkHost(int status);
[[noreturn]] void refuse(const char* code, const std::string& message);

napi_value makeError(napi_env env, const Refused& refused);
napi_value undefined(napi_env env);
napi_value number(napi_env env, double value);
napi_value string(napi_env env, const char* value);
napi_value property(napi_env env, napi_value object, const char* name);
bool isNull(napi_env env, napi_value value);

// `name` is what the message calls the value.
uint32_t toU32(napi_env env, napi_value value, const char* name);
uint64_t toU64(napi_env env, napi_value value, const char* name);
double toDouble(napi_env env, napi_value value, const char* name);
bool toBool(napi_env env, napi_value value, const char* name);
std::string toString(napi_env env, napi_value value, const char* name);
// Index of the string among `count` choices.
uint32_t toChoice(napi_env env, napi_value value, const char* name, const char* const* choices,
                  uint32_t count);
qmh_dtype toDtype(napi_env env, napi_value value, const char* name);
void toRope(napi_env env, napi_value theta, napi_value layout, napi_value scaling, qmh_rope* rope);

Span<uint8_t> toBytes(napi_env env, napi_value value, const char* name);
Span<uint32_t> toWords(napi_env env, napi_value value, const char* name);
Span<float> toFloats(napi_env env, napi_value value, const char* name);

// Records of lanes with their words and the floats of statistics, as NativeModel.run takes them; floats may
// be null.
qmh_lanes toLanes(napi_env env, napi_value rows, napi_value words, napi_value floats);

void setFunction(napi_env env, napi_value object, const char* name, napi_callback callback);

// The arguments of a call; absent ones are undefined.
struct Arguments {
  static constexpr size_t MOST = 11;

  Arguments(napi_env env, napi_callback_info info);
  napi_value operator[](size_t i) const { return values[i]; }

  napi_value self;
  napi_value values[MOST];
};

// A napi_callback that runs `body` and lets nothing escape.
template <napi_value (*body)(napi_env, const Arguments&)>
napi_value entry(napi_env env, napi_callback_info info) {
  try {
    return body(env, Arguments(env, info));
  } catch (const Thrown&) {
  } catch (const Refused& refused) {
    try {
      napi_throw(env, makeError(env, refused));
    } catch (const Thrown&) {
    }
  } catch (const std::exception&) {
    napi_throw_error(env, "OUT_OF_MEMORY", "the system refuses more memory");
  }
  return nullptr;
}

}  // namespace addon

#endif  // QUARTERMASTER_ADDON_VALUES_H
