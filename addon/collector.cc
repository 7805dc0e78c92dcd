#include "addon/collector.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>

namespace berth::addon {

const napi_type_tag PipeCollector::kTag = {0x6265727468000006, 0x9d1f6a0b3c5e7f06};

void BoundedBuffer::append(const char* data, size_t size) {
  const size_t room = limit_ - data_.size();
  if (size > room) exceeded_ = true;
  data_.append(data, std::min(size, room));
}

bool drain_into(int fd, BoundedBuffer* buffer) {
  static thread_local char chunk[65536];
  // Bounded: an endless writer must not keep the thread from its other descriptors.
  for (int i = 0; i < 16; ++i) {
    const ssize_t count = ::read(fd, chunk, sizeof(chunk));
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno != EAGAIN;
    }
    if (count == 0) return true;
    // On to the end, which a short answer is usually followed by.
    buffer->append(chunk, static_cast<size_t>(count));
  }
  return false;
}

namespace {

class CollectorDelivery final : public Completion {
 public:
  CollectorDelivery(Napi::Promise::Deferred deferred, std::string data, bool truncated)
      : deferred_(deferred), data_(std::move(data)), truncated_(truncated) {}
  void deliver(Instance& instance) override {
    instance.channel()->end_operation();
    const Napi::Env env = instance.env();
    Napi::Object result = Napi::Object::New(env);
    result.Set("data", Napi::Buffer<char>::Copy(env, data_.data(), data_.size()));
    result.Set("truncated", truncated_);
    deferred_.Resolve(result);
  }

 private:
  Napi::Promise::Deferred deferred_;
  std::string data_;
  bool truncated_;
};

}  // namespace

void Collector::start() {
  Reactor::instance().post([self = shared_from_this()] {
    if (self->finished_) return;
    if (!Reactor::instance().watch(self->read_end_.get(), EPOLLIN, self)) self->finish();
  });
}

void Collector::stop() {
  Reactor::instance().post([self = shared_from_this()] {
    if (self->finished_) return;
    drain_into(self->read_end_.get(), &self->buffer_);
    self->finish();
  });
}

void Collector::on_ready(int fd, uint32_t) {
  if (!finished_ && drain_into(fd, &buffer_)) finish();
}

void Collector::finish() {
  const std::shared_ptr<Collector> self = shared_from_this();
  finished_ = true;
  Reactor::instance().forget(read_end_.get());
  read_end_.reset();
  const bool truncated = buffer_.exceeded();
  channel_->post(std::make_unique<CollectorDelivery>(deferred_, buffer_.take(), truncated));
}

Napi::Function PipeCollector::define(Napi::Env env) { return DefineClass(env, kName, {InstanceMethod<&PipeCollector::stop>("stop")}); }

Napi::Value PipeCollector::stop(const Napi::CallbackInfo& info) {
  if (payload_ != nullptr) payload_->stop();
  payload_.reset();
  return info.Env().Undefined();
}

Napi::Value collect_pipe(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Dto args(env, "collectPipe.args", info[0], {"maxBytes"});
  const int64_t limit = args.integer("maxBytes", 0, 1 << 30);
  if (!args.ok()) return env.Undefined();
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    throw_error(env, errno_error("pipe.collect", "pipe2"));
    return env.Undefined();
  }
  Fd read_end(ends[0]);
  Fd write_end(ends[1]);
  // Of the read end alone: the writer's program expects a pipe that blocks.
  ::fcntl(read_end.get(), F_SETFL, O_NONBLOCK);
  Instance& instance = Instance::of(env);
  const Napi::Promise::Deferred deferred = Napi::Promise::Deferred::New(env);
  auto collector = std::make_shared<Collector>(std::move(read_end), static_cast<size_t>(limit), instance.channel(), deferred);
  instance.channel()->begin_operation();
  collector->start();
  Napi::Object handle = PipeCollector::make(instance, std::move(collector));
  define_value(handle, "writeEnd", FdHandle::make_fd(instance, std::move(write_end)));
  define_value(handle, "result", deferred.Promise());
  return handle;
}

}  // namespace berth::addon
