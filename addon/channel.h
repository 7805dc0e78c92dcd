// From the addon's own threads back to the JavaScript thread of one environment. Completions are delivered in batches: one
// wake-up of the event loop for all that have come up meanwhile.
#pragma once

#include <napi.h>

#include <memory>
#include <mutex>
#include <vector>

namespace berth::addon {

class Instance;

// Something to do on the JavaScript thread. It is destroyed on any thread where the environment has ended, so that its
// destructor touches no JavaScript.
class Completion {
 public:
  virtual ~Completion() = default;
  virtual void deliver(Instance& instance) = 0;
};

class Channel {
 public:
  explicit Channel(Instance& instance) : instance_(instance) {}
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // JavaScript thread. False with a pending exception.
  bool open(napi_env env);
  // The environment ends: what is posted from now on is dropped.
  void close();

  // Any thread.
  void post(std::unique_ptr<Completion> completion);

  // JavaScript thread: while operations are pending, the event loop stays alive; watches do not count.
  void begin_operation();
  void end_operation();

 private:
  static void call(napi_env env, napi_value callback, void* context, void* data);
  void deliver_all();

  Instance& instance_;
  napi_env env_ = nullptr;
  size_t operations_ = 0;
  std::mutex mutex_;
  napi_threadsafe_function function_ = nullptr;     // guarded by mutex_; null once closed
  std::vector<std::unique_ptr<Completion>> queue_;  // guarded by mutex_
};

}  // namespace berth::addon
