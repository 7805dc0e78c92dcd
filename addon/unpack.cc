#include "addon/unpack.h"

#include "addon/async.h"
#include "addon/host.h"

namespace berth::addon {

const napi_type_tag UnpackHandle::kTag = {0x6265727468000008, 0x9d1f6a0b3c5e7f08};

bool UnpackRun::start(const std::shared_ptr<UnpackRun>& run) {
  return start_thread("berth-unpack", [run] { run->work(); });
}

void UnpackRun::enqueue(std::function<void(unpack::Session&)> job) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_one();
}

void UnpackRun::close() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
  }
  changed_.notify_one();
}

void UnpackRun::abort() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (session_ != nullptr) session_->abort();
}

void UnpackRun::work() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return closed_ || !jobs_.empty(); });
    if (jobs_.empty()) {
      // Its descriptors go now, not when the handle is collected.
      session_.reset();
      return;
    }
    std::function<void(unpack::Session&)> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job(*session_);
    lock.lock();
  }
}

namespace {

// Enqueues `work(session)`, which gives a Result, and returns its promise.
template <typename Work, typename Convert>
Napi::Value enqueue_async(Napi::Env env, UnpackRun& run, Work work, Convert convert) {
  using Outcome = decltype(work(std::declval<unpack::Session&>()));
  Instance& instance = Instance::of(env);
  const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
  instance.channel()->begin_operation();
  auto shared = std::make_shared<Work>(std::move(work));
  run.enqueue([channel = instance.channel(), deferred, shared, convert](unpack::Session& session) {
    channel->post(std::make_unique<detail::Settlement<Outcome, Convert>>(deferred, (*shared)(session), convert));
  });
  return deferred.Promise();
}

Napi::Value rejected(Napi::Env env, std::string_view why) {
  const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
  deferred.Reject(Instance::of(env).make_error(make_error(ECANCELED, "unpack.feed", "write", "", why)));
  return deferred.Promise();
}

}  // namespace

UnpackHandle::~UnpackHandle() {
  if (payload_ == nullptr) return;
  // Collected without a finish: nobody can feed it any more. After one, it is let run to its end.
  if (!finished_) payload_->abort();
  payload_->close();
}

Napi::Function UnpackHandle::define(Napi::Env env) {
  return DefineClass(env, kName,
                     {InstanceMethod<&UnpackHandle::write>("write"), InstanceMethod<&UnpackHandle::finish>("finish"),
                      InstanceMethod<&UnpackHandle::abort>("abort")});
}

Napi::Value UnpackHandle::write(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw_type_error(env, "UnpackHandle.write.data", "must be a Uint8Array");
    return env.Undefined();
  }
  if (payload_ == nullptr || finished_) return rejected(env, "the input has ended");
  const Napi::Uint8Array array = info[0].As<Napi::Uint8Array>();
  // A copy: JavaScript may use its buffer again at once.
  std::string data(reinterpret_cast<const char*>(array.Data()), array.ByteLength());
  return enqueue_async(
      env, *payload_, [data = std::move(data)](unpack::Session& session) { return session.write(data.data(), data.size()); },
      [](Instance& instance) -> Napi::Value { return instance.env().Undefined(); });
}

Napi::Value UnpackHandle::finish(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (payload_ == nullptr || finished_) return rejected(env, "finished or aborted already");
  finished_ = true;
  const Napi::Value promise = enqueue_async(
      env, *payload_, [](unpack::Session& session) { return session.finish(); },
      [](Instance& instance, unpack::SessionResult& result) -> Napi::Value {
        Napi::Object out = Napi::Object::New(instance.env());
        out.Set("diffId", result.diff_id);
        out.Set("bytes", static_cast<double>(result.bytes));
        out.Set("entries", static_cast<double>(result.entries));
        out.Set("inodes", static_cast<double>(result.inodes));
        return out;
      });
  payload_->close();
  return promise;
}

Napi::Value UnpackHandle::abort(const Napi::CallbackInfo& info) {
  if (payload_ != nullptr) {
    payload_->abort();
    payload_->close();
  }
  // A finish that is under way still rejects; whatever comes later does too.
  payload_.reset();
  return info.Env().Undefined();
}

Napi::Value spawn_unpack(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Dto args(env, "spawnUnpack.args", info[0], {"target", "mediaType", "limits"});
  unpack::SessionOptions options;
  options.target = args.text("target");
  options.media_type = args.text("mediaType");
  Dto limits = args.object("limits", {"maxBytes", "maxEntries"});
  options.max_bytes = static_cast<uint64_t>(limits.integer("maxBytes", 0, kMaxSafeInteger));
  options.max_entries = static_cast<uint64_t>(limits.integer("maxEntries", 0, kMaxSafeInteger));
  if (!args.ok() || !limits.ok()) return env.Undefined();
  return run_async(
      env, Lane::kQuick,
      [options]() mutable -> Result<std::shared_ptr<UnpackRun>> {
        BERTH_ASSIGN(options.program, host().program("berth-unpack"));
        BERTH_ASSIGN(std::unique_ptr<unpack::Session> session, unpack::Session::start(options));
        auto run = std::make_shared<UnpackRun>(std::move(session));
        if (!UnpackRun::start(run)) return make_error(EAGAIN, "unpack.start", "pthread_create", options.target);
        return run;
      },
      [](Instance& instance, std::shared_ptr<UnpackRun>& run) -> Napi::Value { return UnpackHandle::make(instance, std::move(run)); });
}

}  // namespace berth::addon
