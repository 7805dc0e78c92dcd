#include "addon/arguments.h"

#include <cmath>

namespace berth::addon {
namespace {

const char* type_name(Napi::Value value) {
  if (value.IsEmpty() || value.IsUndefined()) return "undefined";
  if (value.IsNull()) return "null";
  if (value.IsString()) return "a string";
  if (value.IsNumber()) return "a number";
  if (value.IsBoolean()) return "a boolean";
  if (value.IsFunction()) return "a function";
  if (value.IsArray()) return "an array";
  if (value.IsObject()) return "an object";
  return "of another type";
}

std::string expected(const char* what, Napi::Value value) { return std::string("must be ") + what + ", is " + type_name(value); }

}  // namespace

void throw_type_error(Napi::Env env, std::string_view where, std::string_view why) {
  if (env.IsExceptionPending()) return;
  Napi::TypeError::New(env, std::string(where) + ": " + std::string(why)).ThrowAsJavaScriptException();
}

Dto::Dto(Napi::Env env, std::string where, Napi::Value value, std::initializer_list<const char*> keys)
    : env_(env), where_(std::move(where)) {
  if (env.IsExceptionPending()) return;
  if (!value.IsObject() || value.IsFunction() || value.IsArray()) {
    throw_type_error(env, where_, expected("an object", value));
    return;
  }
  object_ = value.As<Napi::Object>();
  const Napi::Array names = object_.GetPropertyNames();
  if (env.IsExceptionPending()) return;
  size_t found = 0;
  for (uint32_t i = 0; i < names.Length(); ++i) {
    const std::string name = names.Get(i).ToString().Utf8Value();
    bool known = false;
    for (const char* key : keys) known = known || name == key;
    if (!known) {
      throw_type_error(env, where_ + "." + name, "unknown key");
      return;
    }
    ++found;
  }
  if (found < keys.size()) {
    for (const char* key : keys) {
      if (object_.Has(key)) continue;
      throw_type_error(env, where_ + "." + key, "missing (an absent value is null)");
      return;
    }
  }
  ok_ = !env.IsExceptionPending();
}

void Dto::fail(const char* key, std::string_view why) {
  ok_ = false;
  throw_type_error(env_, where(key), why);
}

Napi::Value Dto::get(const char* key) {
  if (!ok_) return env_.Undefined();
  const Napi::Value value = object_.Get(key);
  if (!env_.IsExceptionPending()) return value;
  ok_ = false;
  return env_.Undefined();
}

bool Dto::is_null(const char* key) { return get(key).IsNull(); }

std::string Dto::to_text(const char* key, Napi::Value value) {
  if (!ok_) return {};
  if (!value.IsString()) {
    fail(key, expected("a string", value));
    return {};
  }
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.find('\0') != std::string::npos) {
    fail(key, "contains a NUL");
    return {};
  }
  return text;
}

std::string Dto::text(const char* key) { return to_text(key, get(key)); }

std::optional<std::string> Dto::nullable_text(const char* key) {
  const Napi::Value value = get(key);
  if (!ok_ || value.IsNull()) return std::nullopt;
  if (!value.IsString()) {
    fail(key, expected("a string or null", value));
    return std::nullopt;
  }
  return to_text(key, value);
}

std::vector<std::string> Dto::texts(const char* key) {
  std::vector<std::string> out;
  const Napi::Value value = get(key);
  if (!ok_) return out;
  if (!value.IsArray()) {
    fail(key, expected("an array of strings", value));
    return out;
  }
  const Napi::Array array = value.As<Napi::Array>();
  for (uint32_t i = 0; i < array.Length() && ok_; ++i) {
    const Napi::Value element = array.Get(i);
    if (env_.IsExceptionPending()) {
      ok_ = false;
      break;
    }
    out.push_back(to_text((std::string(key) + "[" + std::to_string(i) + "]").c_str(), element));
  }
  return out;
}

bool Dto::boolean(const char* key) {
  const Napi::Value value = get(key);
  if (!ok_) return false;
  if (!value.IsBoolean()) {
    fail(key, expected("a boolean", value));
    return false;
  }
  return value.As<Napi::Boolean>().Value();
}

int64_t Dto::integer(const char* key, int64_t minimum, int64_t maximum) {
  const Napi::Value value = get(key);
  if (!ok_) return minimum;
  if (!value.IsNumber()) {
    fail(key, expected("a number", value));
    return minimum;
  }
  const double number = value.As<Napi::Number>().DoubleValue();
  if (std::isnan(number) || number != std::floor(number) || number < static_cast<double>(minimum) || number > static_cast<double>(maximum)) {
    fail(key, "must be a whole number from " + std::to_string(minimum) + " to " + std::to_string(maximum));
    return minimum;
  }
  return static_cast<int64_t>(number);
}

std::string Dto::bytes(const char* key) {
  const Napi::Value value = get(key);
  if (!ok_) return {};
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    fail(key, expected("a Uint8Array", value));
    return {};
  }
  const Napi::Uint8Array array = value.As<Napi::Uint8Array>();
  return std::string(reinterpret_cast<const char*>(array.Data()), array.ByteLength());
}

Dto Dto::object(const char* key, std::initializer_list<const char*> keys) {
  const Napi::Value value = get(key);
  Dto inner(env_, where(key), value, keys);
  ok_ = ok_ && inner.ok();
  return inner;
}

std::vector<std::pair<std::string, std::string>> Dto::text_map(const char* key) {
  std::vector<std::pair<std::string, std::string>> out;
  const Napi::Value value = get(key);
  if (!ok_) return out;
  if (!value.IsObject() || value.IsArray() || value.IsFunction()) {
    fail(key, expected("an object of strings", value));
    return out;
  }
  const Napi::Object object = value.As<Napi::Object>();
  const Napi::Array names = object.GetPropertyNames();
  for (uint32_t i = 0; i < names.Length() && ok_; ++i) {
    const std::string name = to_text(key, names.Get(i));
    const Napi::Value member = object.Get(name);
    if (env_.IsExceptionPending()) {
      ok_ = false;
      break;
    }
    out.emplace_back(name, to_text((std::string(key) + "." + name).c_str(), member));
  }
  return out;
}

}  // namespace berth::addon
