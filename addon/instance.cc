#include "addon/instance.h"

#include <cstring>

namespace berth::addon {

const char* errno_name(int error_number) {
  const char* name = ::strerrorname_np(error_number);
  if (name == nullptr) return "EIO";
  // The kernel has one number for both.
  return error_number == EOPNOTSUPP ? "ENOTSUP" : name;
}

Napi::Value Instance::make_error(const Error& error) {
  const Napi::String fields[] = {
      Napi::String::New(env_, errno_name(error.error_number)), Napi::String::New(env_, error.syscall), Napi::String::New(env_, error.path),
      Napi::String::New(env_, error.step), Napi::String::New(env_, error.detail)};
  if (!error_factory_.IsEmpty()) {
    const Napi::Value made = error_factory_.Value().Call({fields[0], fields[1], fields[2], fields[3], fields[4]});
    if (!env_.IsExceptionPending()) return made;
    env_.GetAndClearPendingException();
  }
  const std::string message = error.step + ": " + error.syscall + " " + error.path + ": " + errno_name(error.error_number);
  Napi::Object plain = Napi::Error::New(env_, message).Value();
  plain.Set("errno", fields[0]);
  plain.Set("syscall", fields[1]);
  plain.Set("path", fields[2]);
  plain.Set("step", fields[3]);
  return plain;
}

void throw_error(Napi::Env env, const Error& error) { napi_throw(env, Instance::of(env).make_error(error)); }

}  // namespace berth::addon
