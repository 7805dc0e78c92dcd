// Result<T>: a value or the Error that the kernel gave. The core throws nothing.
#pragma once

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace berth {

// What failed: `step` names a step of ours ("overlay.mount"), `syscall` the call, `path` the object, `error_number`
// the kernel's answer. `detail` adds what neither tells, e.g. the field of config.json that is refused.
struct Error {
  int error_number = 0;
  std::string syscall;
  std::string path;
  std::string step;
  std::string detail;
};

inline Error make_error(int error_number, std::string_view step, std::string_view syscall, std::string_view path = {},
                        std::string_view detail = {}) {
  return Error{error_number, std::string(syscall), std::string(path), std::string(step), std::string(detail)};
}

// As make_error, with the calling thread's errno.
inline Error errno_error(std::string_view step, std::string_view syscall, std::string_view path = {}) {
  const int saved = errno;
  return make_error(saved, step, syscall, path);
}

// An input that is refused: EINVAL with the field's path, e.g. "linux.resources.memory.limit".
inline Error field_error(std::string_view step, std::string_view field, std::string_view why) {
  return make_error(EINVAL, step, "parse", field, why);
}

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}   // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& value() & { return require(); }
  T&& value() && { return std::move(require()); }
  const T& value() const& { return const_cast<Result*>(this)->require(); }
  T& operator*() & { return require(); }
  T&& operator*() && { return std::move(require()); }
  T* operator->() { return &require(); }
  [[nodiscard]] const Error& error() const& { return *std::get_if<1>(&state_); }
  Error&& error() && { return std::move(*std::get_if<1>(&state_)); }

 private:
  // Asking a failed result for its value is a bug of the caller, not an input: the process ends.
  T& require() {
    T* value = std::get_if<0>(&state_);
    if (value == nullptr) std::abort();
    return *value;
  }
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)
  [[nodiscard]] bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  [[nodiscard]] const Error& error() const& { return *error_; }
  Error&& error() && { return std::move(*error_); }

 private:
  std::optional<Error> error_;
};

// Returns from the enclosing function with the error of `expr`, else goes on.
#define BERTH_TRY(expr)                                            \
  do {                                                             \
    auto berth_try_result = (expr);                                \
    if (!berth_try_result.ok()) return std::move(berth_try_result).error(); \
  } while (false)

#define BERTH_CONCAT_INNER(a, b) a##b
#define BERTH_CONCAT(a, b) BERTH_CONCAT_INNER(a, b)
// Declares `declaration` with the value of `expr`, or returns its error.
#define BERTH_ASSIGN(declaration, expr) BERTH_ASSIGN_INNER(BERTH_CONCAT(berth_assign_, __LINE__), declaration, expr)
#define BERTH_ASSIGN_INNER(name, declaration, expr)   \
  auto name = (expr);                                 \
  if (!name.ok()) return std::move(name).error();     \
  declaration = std::move(name).value()

}  // namespace berth
