// A call on the pool as a promise.
#pragma once

#include <napi.h>

#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "addon/channel.h"
#include "addon/instance.h"
#include "addon/pool.h"
#include "core/base/result.h"

namespace berth::addon {

namespace detail {

template <typename Outcome, typename Convert>
class Settlement final : public Completion {
 public:
  Settlement(Napi::Promise::Deferred deferred, Outcome outcome, Convert convert)
      : deferred_(deferred), outcome_(std::move(outcome)), convert_(std::move(convert)) {}

  void deliver(Instance& instance) override {
    instance.channel()->end_operation();
    if (!outcome_.ok()) {
      deferred_.Reject(instance.make_error(outcome_.error()));
      return;
    }
    Napi::Value value;
    if constexpr (std::is_same_v<Outcome, Result<void>>) {
      value = convert_(instance);
    } else {
      value = convert_(instance, outcome_.value());
    }
    if (instance.env().IsExceptionPending()) {
      deferred_.Reject(instance.env().GetAndClearPendingException().Value());
    } else {
      deferred_.Resolve(value);
    }
  }

 private:
  Napi::Promise::Deferred deferred_;
  Outcome outcome_;
  Convert convert_;
};

template <typename Work, typename Convert>
class PoolCall final : public Task {
 public:
  PoolCall(std::shared_ptr<Channel> channel, Napi::Promise::Deferred deferred, Work work, Convert convert)
      : channel_(std::move(channel)), deferred_(deferred), work_(std::move(work)), convert_(std::move(convert)) {}

  void run() override {
    using Outcome = decltype(work_());
    channel_->post(std::make_unique<Settlement<Outcome, Convert>>(deferred_, work_(), std::move(convert_)));
  }

 private:
  std::shared_ptr<Channel> channel_;
  Napi::Promise::Deferred deferred_;
  Work work_;
  Convert convert_;
};

}  // namespace detail

// Runs `work()`, which gives a Result<T>, on the lane's threads; the promise resolves to `convert(instance, T&)` (or
// `convert(instance)` for Result<void>), made on the JavaScript thread. `work` owns all it uses.
template <typename Work, typename Convert>
Napi::Value run_async(Napi::Env env, Lane lane, Work work, Convert convert) {
  Instance& instance = Instance::of(env);
  const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
  instance.channel()->begin_operation();
  Pool::lane(lane).submit(
      std::make_unique<detail::PoolCall<Work, Convert>>(instance.channel(), deferred, std::move(work), std::move(convert)));
  return deferred.Promise();
}

// As run_async, on a thread that ends with the work: for what changes the thread it runs on, or may wait for long.
template <typename Work, typename Convert>
Napi::Value run_on_own_thread(Napi::Env env, const char* name, Work work, Convert convert) {
  Instance& instance = Instance::of(env);
  const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
  instance.channel()->begin_operation();
  // std::function wants what can be copied; it is run once.
  auto call = std::make_shared<detail::PoolCall<Work, Convert>>(instance.channel(), deferred, std::move(work), std::move(convert));
  if (!start_thread(name, [call] { call->run(); })) {
    instance.channel()->end_operation();
    deferred.Reject(instance.make_error(make_error(EAGAIN, name, "pthread_create")));
  }
  return deferred.Promise();
}

// As above for work whose result nobody needs: resolves to undefined.
template <typename Work>
Napi::Value run_async(Napi::Env env, Lane lane, Work work) {
  return run_async(env, lane, std::move(work), [](Instance& instance) -> Napi::Value { return instance.env().Undefined(); });
}

}  // namespace berth::addon
