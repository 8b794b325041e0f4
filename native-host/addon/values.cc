#include "values.h"

#include <math.h>
#include <string.h>

namespace addon {
namespace {

constexpr double LARGEST_SAFE_INTEGER = 9007199254740991.0;

const char* typeName(napi_typedarray_type type) {
  switch (type) {
    case napi_uint8_array:
      return "Uint8Array";
    case napi_uint32_array:
      return "Uint32Array";
    default:
      return "Float32Array";
  }
}

template <class T>
Span<T> toSpan(napi_env env, napi_value value, const char* name, napi_typedarray_type wanted) {
  bool isArray = false;
  check(env, napi_is_typedarray(env, value, &isArray));
  napi_typedarray_type type = napi_int8_array;
  Span<T> span;
  if (isArray) {
    void* data = nullptr;
    check(env, napi_get_typedarray_info(env, value, &type, &span.count, &data, nullptr, nullptr));
    span.data = static_cast<T*>(data);
  }
  if (type != wanted) refuse("INVALID_ARGUMENT", std::string(name) + " is not a " + typeName(wanted));
  return span;
}

double toInteger(napi_env env, napi_value value, const char* name, double largest) {
  const double number = toDouble(env, value, name);
  if (!(number >= 0 && number <= largest) || number != floor(number)) {
    refuse("INVALID_ARGUMENT", std::string(name) + " is " + std::to_string(number) +
                                   "; allowed: an integer from 0 to " +
                                   std::to_string(static_cast<uint64_t>(largest)));
  }
  return number;
}

}  // namespace

void check(napi_env env, napi_status status) {
  if (status == napi_ok) return;
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) throw Thrown();
  refuse("INVALID_ARGUMENT", "Node-API refuses a call (status " + std::to_string(status) + ")");
}

void checkHost(int status) {
  if (status != QMH_OK) refuse(qmh_status_name(status), qmh_last_error());
}

void refuse(const char* code, const std::string& message) { throw Refused{code, message}; }

napi_value makeError(napi_env env, const Refused& refused) {
  napi_value error = nullptr;
  if (napi_create_error(env, string(env, refused.code.c_str()), string(env, refused.message.c_str()),
                        &error) != napi_ok) {
    throw Thrown();
  }
  return error;
}

napi_value undefined(napi_env env) {
  napi_value value;
  check(env, napi_get_undefined(env, &value));
  return value;
}

napi_value number(napi_env env, double value) {
  napi_value result;
  check(env, napi_create_double(env, value, &result));
  return result;
}

napi_value string(napi_env env, const char* value) {
  napi_value result;
  check(env, napi_create_string_utf8(env, value, NAPI_AUTO_LENGTH, &result));
  return result;
}

napi_value property(napi_env env, napi_value object, const char* name) {
  napi_value value;
  const napi_status status = napi_get_named_property(env, object, name, &value);
  if (status == napi_object_expected) {
    refuse("INVALID_ARGUMENT", std::string(name) + " is to be read from something that is not an object");
  }
  check(env, status);
  return value;
}

bool isNull(napi_env env, napi_value value) {
  napi_valuetype type;
  check(env, napi_typeof(env, value, &type));
  return type == napi_null || type == napi_undefined;
}

uint32_t toU32(napi_env env, napi_value value, const char* name) {
  return static_cast<uint32_t>(toInteger(env, value, name, UINT32_MAX));
}

uint64_t toU64(napi_env env, napi_value value, const char* name) {
  return static_cast<uint64_t>(toInteger(env, value, name, LARGEST_SAFE_INTEGER));
}

double toDouble(napi_env env, napi_value value, const char* name) {
  double result;
  const napi_status status = napi_get_value_double(env, value, &result);
  if (status == napi_number_expected) refuse("INVALID_ARGUMENT", std::string(name) + " is not a number");
  check(env, status);
  return result;
}

bool toBool(napi_env env, napi_value value, const char* name) {
  bool result;
  const napi_status status = napi_get_value_bool(env, value, &result);
  if (status == napi_boolean_expected) refuse("INVALID_ARGUMENT", std::string(name) + " is not a boolean");
  check(env, status);
  return result;
}

std::string toString(napi_env env, napi_value value, const char* name) {
  size_t length = 0;
  const napi_status status = napi_get_value_string_utf8(env, value, nullptr, 0, &length);
  if (status == napi_string_expected) refuse("INVALID_ARGUMENT", std::string(name) + " is not a string");
  check(env, status);
  std::string result(length + 1, '\0');
  check(env, napi_get_value_string_utf8(env, value, &result[0], length + 1, &length));
  result.resize(length);
  return result;
}

uint32_t toChoice(napi_env env, napi_value value, const char* name, const char* const* choices,
                  uint32_t count) {
  const std::string given = toString(env, value, name);
  std::string allowed;
  for (uint32_t i = 0; i < count; i++) {
    if (given == choices[i]) return i;
    allowed += std::string(i == 0 ? "" : ", ") + choices[i];
  }
  refuse("INVALID_ARGUMENT", std::string(name) + " is \"" + given + "\"; allowed: " + allowed);
}

qmh_dtype toDtype(napi_env env, napi_value value, const char* name) {
  static const char* const TYPES[] = {"f32", "f16", "bf16"};
  return static_cast<qmh_dtype>(toChoice(env, value, name, TYPES, 3));
}

void toRope(napi_env env, napi_value theta, napi_value layout, napi_value scaling, qmh_rope* rope) {
  static const char* const LAYOUTS[] = {"half", "interleaved"};
  static const char* const SCALINGS[] = {"none", "linear", "llama3"};
  const auto factor = [&](const char* name) { return toDouble(env, property(env, scaling, name), name); };
  rope->theta = toDouble(env, theta, "ropeTheta");
  rope->layout = static_cast<qmh_rope_layout>(toChoice(env, layout, "ropeLayout", LAYOUTS, 2));
  rope->scaling = static_cast<qmh_rope_scaling>(
      toChoice(env, property(env, scaling, "type"), "ropeScaling.type", SCALINGS, 3));
  rope->factor = rope->scaling == QMH_SCALING_NONE ? 1 : factor("factor");
  const bool llama3 = rope->scaling == QMH_SCALING_LLAMA3;
  rope->low_freq_factor = llama3 ? factor("lowFreqFactor") : 1;
  rope->high_freq_factor = llama3 ? factor("highFreqFactor") : 1;
  rope->original_max_positions = llama3 ? factor("originalMaxPositions") : 1;
}

Span<uint8_t> toBytes(napi_env env, napi_value value, const char* name) {
  return toSpan<uint8_t>(env, value, name, napi_uint8_array);
}

Span<uint32_t> toWords(napi_env env, napi_value value, const char* name) {
  return toSpan<uint32_t>(env, value, name, napi_uint32_array);
}

Span<float> toFloats(napi_env env, napi_value value, const char* name) {
  return toSpan<float>(env, value, name, napi_float32_array);
}

qmh_lanes toLanes(napi_env env, napi_value rows, napi_value words, napi_value floats) {
  constexpr size_t RECORD_WORDS = sizeof(qmh_lane_row) / sizeof(uint32_t);
  const Span<uint32_t> records = toWords(env, rows, "laneRows"), list = toWords(env, words, "laneWords");
  Span<float> statistics;
  if (!isNull(env, floats)) statistics = toFloats(env, floats, "statistics");
  if (records.count % RECORD_WORDS != 0) refuse("INVALID_ARGUMENT", "laneRows is not whole records");
  return {reinterpret_cast<const qmh_lane_row*>(records.data),
          list.data,
          statistics.data,
          records.count / RECORD_WORDS,
          list.count,
          statistics.count};
}

void setFunction(napi_env env, napi_value object, const char* name, napi_callback callback) {
  napi_value function;
  check(env, napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, nullptr, &function));
  check(env, napi_set_named_property(env, object, name, function));
}

Arguments::Arguments(napi_env env, napi_callback_info info) {
  size_t count = MOST;
  check(env, napi_get_cb_info(env, info, &count, values, &self, nullptr));
}

}  // namespace addon
