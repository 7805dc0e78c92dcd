// Opaque handles: what they own is shared with the calls that are using it, so that closing one (or its collection) never
// takes a descriptor away from a call under way.
#pragma once

#include <napi.h>

#include <memory>
#include <string>

#include "addon/arguments.h"
#include "addon/instance.h"
#include "addon/process.h"
#include "core/base/fd.h"
#include "core/cgroup/cgroup.h"
#include "core/plan/compile.h"

namespace berth::addon {

// A class of handles over a shared Payload. A derived class D has kClass, kName and kTag.
template <typename D, typename Payload>
class Handle : public Napi::ObjectWrap<D> {
 public:
  using Shared = std::shared_ptr<Payload>;

  explicit Handle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<D>(info) {
    // The only caller with an External at hand is make().
    if (info.Length() != 1 || !info[0].IsExternal()) {
      throw_type_error(info.Env(), D::kName, "handles are made by the kernel alone");
      return;
    }
    payload_ = std::move(*info[0].As<Napi::External<Shared>>().Data());
    napi_type_tag_object(info.Env(), info.This(), &D::kTag);
  }

  static Napi::Object make(Instance& instance, Shared payload) {
    const Napi::Value carrier = Napi::External<Shared>::New(instance.env(), &payload);
    return instance.constructor(D::kClass).Value().New({carrier});
  }

  // The handle behind a value, or nullptr where it is none of this class.
  static D* from(Napi::Value value) {
    if (!value.IsObject()) return nullptr;
    bool matches = false;
    if (napi_check_object_type_tag(value.Env(), value, &D::kTag, &matches) != napi_ok || !matches) return nullptr;
    return D::Unwrap(value.As<Napi::Object>());
  }

  [[nodiscard]] const Shared& payload() const { return payload_; }

 protected:
  // The payload, or nullptr with an exception where the handle is closed.
  Shared require(Napi::Env env) const {
    if (payload_ == nullptr) Napi::Error::New(env, std::string(D::kName) + " is closed").ThrowAsJavaScriptException();
    return payload_;
  }

  Shared payload_;
};

class FdHandle final : public Handle<FdHandle, Fd> {
 public:
  static constexpr HandleClass kClass = HandleClass::kFd;
  static constexpr const char* kName = "FdHandle";
  static const napi_type_tag kTag;
  using Handle::Handle;
  static Napi::Function define(Napi::Env env);
  static Napi::Object make_fd(Instance& instance, Fd fd) { return make(instance, std::make_shared<Fd>(std::move(fd))); }

 private:
  Napi::Value number(const Napi::CallbackInfo& info);
  Napi::Value release(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
};

class ProcessHandle final : public Handle<ProcessHandle, Process> {
 public:
  static constexpr HandleClass kClass = HandleClass::kProcess;
  static constexpr const char* kName = "ProcessHandle";
  static const napi_type_tag kTag;
  explicit ProcessHandle(const Napi::CallbackInfo& info);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value signal(const Napi::CallbackInfo& info);
  Napi::Value exited(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
};

class CgroupHandle final : public Handle<CgroupHandle, cgroup::Cgroup> {
 public:
  static constexpr HandleClass kClass = HandleClass::kCgroup;
  static constexpr const char* kName = "CgroupHandle";
  static const napi_type_tag kTag;
  explicit CgroupHandle(const Napi::CallbackInfo& info);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value close(const Napi::CallbackInfo& info);
};

class PlanHandle final : public Handle<PlanHandle, plan::CompiledPlan> {
 public:
  static constexpr HandleClass kClass = HandleClass::kPlan;
  static constexpr const char* kName = "PlanHandle";
  static const napi_type_tag kTag;
  explicit PlanHandle(const Napi::CallbackInfo& info);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value close(const Napi::CallbackInfo& info);
};

// Sets a read-only, enumerable property.
void define_value(Napi::Object object, const char* name, Napi::Value value);

// The payload of the handle at `key` of a DTO; closed or of another class is an exception and nullptr.
template <typename H>
typename H::Shared take_handle(Dto& dto, const char* key) {
  const Napi::Value value = dto.get(key);
  if (!dto.ok()) return nullptr;
  H* handle = H::from(value);
  if (handle == nullptr) {
    dto.fail(key, std::string("must be a ") + H::kName);
    return nullptr;
  }
  if (handle->payload() == nullptr) dto.fail(key, std::string(H::kName) + " is closed");
  return handle->payload();
}

template <typename H>
typename H::Shared take_nullable_handle(Dto& dto, const char* key) {
  return dto.is_null(key) ? nullptr : take_handle<H>(dto, key);
}

// Defines every class of handles in the environment.
void define_handles(Instance& instance);

}  // namespace berth::addon
