// What the addon keeps for one environment (the main thread, or a worker thread that has loaded it).
#pragma once

#include <napi.h>

#include <memory>

#include "addon/channel.h"
#include "core/base/result.h"

namespace berth::addon {

// Classes of handles; each has a constructor that JavaScript cannot call with success.
enum class HandleClass { kFd, kProcess, kCgroup, kPlan, kConnection, kCollector, kProgram, kUnpack, kCount };

class Instance {
 public:
  explicit Instance(Napi::Env env) : env_(env), channel_(std::make_shared<Channel>(*this)) {}

  [[nodiscard]] Napi::Env env() const { return env_; }
  [[nodiscard]] const std::shared_ptr<Channel>& channel() const { return channel_; }

  static Instance& of(Napi::Env env) { return *env.GetInstanceData<Instance>(); }

  Napi::FunctionReference& constructor(HandleClass which) { return constructors_[static_cast<size_t>(which)]; }

  // Makes the error that a failure of the core is reported as: SystemError, by the factory that load.ts sets.
  Napi::Value make_error(const Error& error);
  void set_error_factory(Napi::Function factory) { error_factory_ = Napi::Persistent(factory); }

 private:
  Napi::Env env_;
  std::shared_ptr<Channel> channel_;
  Napi::FunctionReference constructors_[static_cast<size_t>(HandleClass::kCount)];
  Napi::FunctionReference error_factory_;
};

// ENOENT for 2.
const char* errno_name(int error_number);

// Throws what make_error makes.
void throw_error(Napi::Env env, const Error& error);

}  // namespace berth::addon
