// Reading what JavaScript passes: every DTO has exactly its declared keys, and what is wrong is named
// `function.argument.key`.
#pragma once

#include <napi.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace berth::addon {

// Throws a TypeError unless an exception is pending already.
void throw_type_error(Napi::Env env, std::string_view where, std::string_view why);

// One object argument. The first thing that is wrong throws and makes everything after it a no-op: read all, then ask ok().
class Dto {
 public:
  Dto(Napi::Env env, std::string where, Napi::Value value, std::initializer_list<const char*> keys);

  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] Napi::Env env() const { return env_; }
  [[nodiscard]] std::string where(const char* key) const { return where_ + "." + key; }
  void fail(const char* key, std::string_view why);

  [[nodiscard]] Napi::Value get(const char* key);
  [[nodiscard]] bool is_null(const char* key);

  // Strings must not contain NUL: all of them become C strings.
  std::string text(const char* key);
  std::optional<std::string> nullable_text(const char* key);
  std::vector<std::string> texts(const char* key);
  bool boolean(const char* key);
  // A whole number in the range.
  int64_t integer(const char* key, int64_t minimum, int64_t maximum);
  // A copy.
  std::string bytes(const char* key);
  Dto object(const char* key, std::initializer_list<const char*> keys);
  // Key → string of an object with any keys.
  std::vector<std::pair<std::string, std::string>> text_map(const char* key);

 private:
  std::string to_text(const char* key, Napi::Value value);

  Napi::Env env_;
  std::string where_;
  Napi::Object object_;
  bool ok_ = false;
};

inline constexpr int64_t kMaxSafeInteger = 9007199254740991;

}  // namespace berth::addon
