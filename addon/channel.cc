#include "addon/channel.h"

#include "addon/instance.h"

namespace berth::addon {

bool Channel::open(napi_env env) {
  env_ = env;
  napi_value name;
  if (napi_create_string_utf8(env, "berth", NAPI_AUTO_LENGTH, &name) != napi_ok) return false;
  const napi_status status =
      napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, &Channel::call, &function_);
  if (status != napi_ok) return false;
  return napi_unref_threadsafe_function(env, function_) == napi_ok;
}

void Channel::close() {
  std::vector<std::unique_ptr<Completion>> dropped;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (function_ == nullptr) return;
  napi_release_threadsafe_function(function_, napi_tsfn_abort);
  function_ = nullptr;
  dropped.swap(queue_);
}

void Channel::post(std::unique_ptr<Completion> completion) {
  std::unique_ptr<Completion> dropped;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (function_ == nullptr) {
    dropped = std::move(completion);
    return;
  }
  queue_.push_back(std::move(completion));
  // With more than one in the queue a wake-up is under way already.
  if (queue_.size() == 1) napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking);
}

void Channel::begin_operation() {
  if (operations_++ != 0) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (function_ != nullptr) napi_ref_threadsafe_function(env_, function_);
}

void Channel::end_operation() {
  if (--operations_ != 0) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  if (function_ != nullptr) napi_unref_threadsafe_function(env_, function_);
}

void Channel::call(napi_env env, napi_value, void* context, void*) {
  // No environment: it ends, and nothing can be called.
  if (env != nullptr) static_cast<Channel*>(context)->deliver_all();
}

void Channel::deliver_all() {
  std::vector<std::unique_ptr<Completion>> batch;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    batch.swap(queue_);
  }
  for (std::unique_ptr<Completion>& completion : batch) {
    const Napi::HandleScope scope(env_);
    completion->deliver(instance_);
    completion.reset();
    // What a callback has thrown is uncaught: it must not keep the others from theirs.
    bool pending = false;
    if (napi_is_exception_pending(env_, &pending) == napi_ok && pending) {
      napi_value thrown;
      if (napi_get_and_clear_last_exception(env_, &thrown) == napi_ok) napi_fatal_exception(env_, thrown);
    }
  }
}

}  // namespace berth::addon
