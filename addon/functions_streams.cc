#include "addon/async.h"
#include "addon/functions.h"
#include "addon/handles.h"
#include "core/sys/dial.h"

namespace berth::addon {
namespace {

Napi::Value create_pipe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Dto args(env, "createPipe.args", info[0], {"sizeBytes"});
  const int64_t size = args.integer("sizeBytes", 0, 1 << 30);
  if (!args.ok()) return env.Undefined();
  Fd read_end;
  Fd write_end;
  const Result<void> made = sys::make_pipe(static_cast<int>(size), &read_end, &write_end);
  if (!made.ok()) {
    throw_error(env, made.error());
    return env.Undefined();
  }
  Instance& instance = Instance::of(env);
  Napi::Object out = Napi::Object::New(env);
  out.Set("readEnd", FdHandle::make_fd(instance, std::move(read_end)));
  out.Set("writeEnd", FdHandle::make_fd(instance, std::move(write_end)));
  return out;
}

Napi::Value create_socket_pair(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Dto args(env, "createSocketPair.args", info[0], {"bufferBytes"});
  const int64_t buffer = args.integer("bufferBytes", 0, 1 << 30);
  if (!args.ok()) return env.Undefined();
  Fd first;
  Fd second;
  const Result<void> made = sys::make_stream_pair(static_cast<int>(buffer), &first, &second);
  if (!made.ok()) {
    throw_error(env, made.error());
    return env.Undefined();
  }
  Instance& instance = Instance::of(env);
  Napi::Array out = Napi::Array::New(env, 2);
  out.Set(uint32_t{0}, FdHandle::make_fd(instance, std::move(first)));
  out.Set(uint32_t{1}, FdHandle::make_fd(instance, std::move(second)));
  return out;
}

Napi::Value dial_in_namespace(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Dto args(env, "dialInNamespace.args", info[0], {"networkNamespace", "hosts", "port", "timeoutMs"});
  sys::DialOptions options;
  options.network_namespace = args.nullable_text("networkNamespace").value_or("");
  options.hosts = args.texts("hosts");
  options.port = static_cast<uint16_t>(args.integer("port", 1, 65535));
  options.timeout_ms = static_cast<int>(args.integer("timeoutMs", 0, 1 << 30));
  if (!args.ok()) return env.Undefined();
  // A thread of the pool must neither be left in a foreign namespace nor wait for a peer that does not answer.
  return run_on_own_thread(
      env, "berth-dial", [options = std::move(options)] { return sys::dial(options); },
      [](Instance& instance, Fd& fd) -> Napi::Value { return FdHandle::make_fd(instance, std::move(fd)); });
}

}  // namespace

void export_streams(Napi::Env env, Napi::Object exports) {
  export_function<create_pipe>(env, exports, "createPipe");
  export_function<create_socket_pair>(env, exports, "createSocketPair");
  export_function<dial_in_namespace>(env, exports, "dialInNamespace");
}

}  // namespace berth::addon
