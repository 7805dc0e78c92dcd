#include "addon/handles.h"

#include <poll.h>

#include "addon/collector.h"
#include "addon/connection.h"
#include "addon/program.h"
#include "addon/unpack.h"
#include "core/sys/pidfd.h"

namespace berth::addon {

const napi_type_tag FdHandle::kTag = {0x6265727468000001, 0x9d1f6a0b3c5e7f01};
const napi_type_tag ProcessHandle::kTag = {0x6265727468000002, 0x9d1f6a0b3c5e7f02};
const napi_type_tag CgroupHandle::kTag = {0x6265727468000003, 0x9d1f6a0b3c5e7f03};
const napi_type_tag PlanHandle::kTag = {0x6265727468000004, 0x9d1f6a0b3c5e7f04};

void define_value(Napi::Object object, const char* name, Napi::Value value) {
  object.DefineProperty(Napi::PropertyDescriptor::Value(name, value, napi_enumerable));
}

// --- FdHandle

Napi::Function FdHandle::define(Napi::Env env) {
  return DefineClass(env, kName,
                     {InstanceAccessor<&FdHandle::number>("number"), InstanceMethod<&FdHandle::release>("release"),
                      InstanceMethod<&FdHandle::close>("close")});
}

Napi::Value FdHandle::number(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), payload_ == nullptr ? -1 : payload_->get());
}

Napi::Value FdHandle::release(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (require(env) == nullptr) return env.Undefined();
  if (payload_.use_count() > 1) {
    Napi::Error::New(env, "FdHandle is in use by a call").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  const int fd = payload_->release();
  payload_.reset();
  return Napi::Number::New(env, fd);
}

Napi::Value FdHandle::close(const Napi::CallbackInfo& info) {
  payload_.reset();
  return info.Env().Undefined();
}

// --- ProcessHandle

ProcessHandle::ProcessHandle(const Napi::CallbackInfo& info) : Handle(info) {
  if (payload_ == nullptr) return;
  const Napi::Object self = info.This().As<Napi::Object>();
  define_value(self, "pid", Napi::Number::New(info.Env(), payload_->pid()));
  define_value(self, "startTime", Napi::String::New(info.Env(), payload_->start_time()));
}

Napi::Function ProcessHandle::define(Napi::Env env) {
  return DefineClass(env, kName,
                     {InstanceMethod<&ProcessHandle::signal>("signal"), InstanceMethod<&ProcessHandle::exited>("exited"),
                      InstanceMethod<&ProcessHandle::close>("close")});
}

Napi::Value ProcessHandle::signal(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const double number = info[0].IsNumber() ? info[0].As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= 64) || number != static_cast<int>(number)) {
    throw_type_error(env, "ProcessHandle.signal.signalNumber", "must be a whole number from 0 to 64");
    return env.Undefined();
  }
  const Shared process = require(env);
  if (process == nullptr) return env.Undefined();
  // A zombie still takes signals; for the caller it is gone.
  struct pollfd ended = {process->pidfd(), POLLIN, 0};
  if (::poll(&ended, 1, 0) == 1) return Napi::Boolean::New(env, false);
  if (sys::pidfd_send_signal(process->pidfd(), static_cast<int>(number)) == 0) return Napi::Boolean::New(env, true);
  if (errno == ESRCH) return Napi::Boolean::New(env, false);
  throw_error(env, errno_error("process.signal", "pidfd_send_signal", std::to_string(process->pid())));
  return env.Undefined();
}

namespace {

class ExitDelivery final : public Completion {
 public:
  ExitDelivery(Napi::Promise::Deferred deferred, ExitStatus status) : deferred_(deferred), status_(status) {}
  void deliver(Instance& instance) override {
    const Napi::Env env = instance.env();
    Napi::Object result = Napi::Object::New(env);
    result.Set("exitCode", status_.exit_code < 0 ? env.Null() : Napi::Number::New(env, status_.exit_code));
    result.Set("signal", status_.signal < 0 ? env.Null() : Napi::Number::New(env, status_.signal));
    deferred_.Resolve(result);
  }

 private:
  Napi::Promise::Deferred deferred_;
  ExitStatus status_;
};

}  // namespace

Napi::Value ProcessHandle::exited(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Shared process = require(env);
  if (process == nullptr) return env.Undefined();
  const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
  process->when_exited([channel = Instance::of(env).channel(), deferred](ExitStatus status) {
    channel->post(std::make_unique<ExitDelivery>(deferred, status));
  });
  return deferred.Promise();
}

Napi::Value ProcessHandle::close(const Napi::CallbackInfo& info) {
  payload_.reset();
  return info.Env().Undefined();
}

// --- CgroupHandle

CgroupHandle::CgroupHandle(const Napi::CallbackInfo& info) : Handle(info) {
  if (payload_ == nullptr) return;
  define_value(info.This().As<Napi::Object>(), "path", Napi::String::New(info.Env(), payload_->path()));
}

Napi::Function CgroupHandle::define(Napi::Env env) { return DefineClass(env, kName, {InstanceMethod<&CgroupHandle::close>("close")}); }

Napi::Value CgroupHandle::close(const Napi::CallbackInfo& info) {
  payload_.reset();
  return info.Env().Undefined();
}

// --- PlanHandle

PlanHandle::PlanHandle(const Napi::CallbackInfo& info) : Handle(info) {
  if (payload_ == nullptr) return;
  const Napi::Env env = info.Env();
  const Napi::Object self = info.This().As<Napi::Object>();
  Napi::Array clamped = Napi::Array::New(env, payload_->clamped.size());
  for (uint32_t i = 0; i < payload_->clamped.size(); ++i) clamped.Set(i, payload_->clamped[i]);
  define_value(self, "bytes", Napi::Number::New(env, payload_->bytes));
  define_value(self, "fdCount", Napi::Number::New(env, static_cast<double>(payload_->fds.size())));
  define_value(self, "clamped", clamped);
}

Napi::Function PlanHandle::define(Napi::Env env) { return DefineClass(env, kName, {InstanceMethod<&PlanHandle::close>("close")}); }

Napi::Value PlanHandle::close(const Napi::CallbackInfo& info) {
  payload_.reset();
  return info.Env().Undefined();
}

void define_handles(Instance& instance) {
  const Napi::Env env = instance.env();
  const auto keep = [&instance](HandleClass which, Napi::Function constructor) {
    instance.constructor(which) = Napi::Persistent(constructor);
  };
  keep(HandleClass::kFd, FdHandle::define(env));
  keep(HandleClass::kProcess, ProcessHandle::define(env));
  keep(HandleClass::kCgroup, CgroupHandle::define(env));
  keep(HandleClass::kPlan, PlanHandle::define(env));
  keep(HandleClass::kConnection, MonitorConnection::define(env));
  keep(HandleClass::kCollector, PipeCollector::define(env));
  keep(HandleClass::kProgram, ProgramHandle::define(env));
  keep(HandleClass::kUnpack, UnpackHandle::define(env));
}

}  // namespace berth::addon
