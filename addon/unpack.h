// spawnUnpack: one layer, fed from JavaScript, unpacked by a berth-unpack that a thread of the session's own waits for.
#pragma once

#include <napi.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "addon/handles.h"
#include "core/unpack/session.h"

namespace berth::addon {

// The session and its queue of writes. Its thread ends after finish, abort or the handle's end.
class UnpackRun {
 public:
  explicit UnpackRun(std::unique_ptr<unpack::Session> session) : session_(std::move(session)) {}

  static bool start(const std::shared_ptr<UnpackRun>& run);
  // Any thread: runs `job` after those before it.
  void enqueue(std::function<void(unpack::Session&)> job);
  // No more jobs: the thread ends when it has done those that are there.
  void close();
  void abort();

 private:
  void work();

  std::unique_ptr<unpack::Session> session_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void(unpack::Session&)>> jobs_;
  bool closed_ = false;
};

class UnpackHandle final : public Handle<UnpackHandle, UnpackRun> {
 public:
  static constexpr HandleClass kClass = HandleClass::kUnpack;
  static constexpr const char* kName = "UnpackHandle";
  static const napi_type_tag kTag;
  using Handle::Handle;
  ~UnpackHandle() override;
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value write(const Napi::CallbackInfo& info);
  Napi::Value finish(const Napi::CallbackInfo& info);
  Napi::Value abort(const Napi::CallbackInfo& info);

  bool finished_ = false;
};

// `spawnUnpack` of the contract.
Napi::Value spawn_unpack(const Napi::CallbackInfo& info);

}  // namespace berth::addon
