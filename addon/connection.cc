#include "addon/connection.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <cstring>

namespace berth::addon {

const napi_type_tag MonitorConnection::kTag = {0x6265727468000005, 0x9d1f6a0b3c5e7f05};

namespace {

// api/monitor/schema.ts, with room to tell a longer one.
constexpr size_t kMaxFrameBytes = 65536;
// SCM_MAX_FD of the kernel.
constexpr size_t kMaxDescriptors = 253;

class FrameDelivery final : public Completion {
 public:
  FrameDelivery(std::shared_ptr<Connection> connection, std::string frame, std::vector<Fd> fds)
      : connection_(std::move(connection)), frame_(std::move(frame)), fds_(std::move(fds)) {}

  void deliver(Instance& instance) override {
    connection_->delivered();
    if (connection_->closed || connection_->on_frame.IsEmpty()) return;
    const Napi::Env env = instance.env();
    Napi::Array handles = Napi::Array::New(env, fds_.size());
    for (uint32_t i = 0; i < fds_.size(); ++i) handles.Set(i, FdHandle::make_fd(instance, std::move(fds_[i])));
    connection_->on_frame.Value().Call({Napi::Buffer<char>::Copy(env, frame_.data(), frame_.size()), handles});
  }

 private:
  std::shared_ptr<Connection> connection_;
  std::string frame_;
  std::vector<Fd> fds_;
};

// Lets go of the callbacks, which hold on to JavaScript objects, and of the handle itself.
void release_callbacks(Connection& connection) {
  connection.on_frame.Reset();
  connection.on_close.Reset();
  connection.owner.Reset();
}

class CloseDelivery final : public Completion {
 public:
  explicit CloseDelivery(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}
  void deliver(Instance&) override {
    if (connection_->closed) return;
    connection_->closed = true;
    Napi::FunctionReference callback = std::move(connection_->on_close);
    release_callbacks(*connection_);
    if (!callback.IsEmpty()) callback.Value().Call({});
  }

 private:
  std::shared_ptr<Connection> connection_;
};

}  // namespace

void Connection::start(std::shared_ptr<Channel> channel) {
  if (started) return;
  started = true;
  channel_ = std::move(channel);
  Reactor::instance().post([self = shared_from_this()] {
    self->resume();
  });
}

void Connection::close() {
  if (!closed) {
    closed = true;
    ::shutdown(socket_.get(), SHUT_RDWR);
  }
  release_callbacks(*this);
  Reactor::instance().post([self = shared_from_this()] {
    self->ended_ = true;
    Reactor::instance().forget(self->socket());
  });
}

void Connection::delivered() {
  if (--backlog_ > kMaxBacklog / 2 || !paused_.exchange(false)) return;
  Reactor::instance().post([self = shared_from_this()] { self->resume(); });
}

void Connection::resume() {
  if (!ended_ && !Reactor::instance().watch(socket_.get(), EPOLLIN, shared_from_this())) end();
}

void Connection::end() {
  if (ended_) return;
  ended_ = true;
  const std::shared_ptr<Connection> self = shared_from_this();
  Reactor::instance().forget(socket_.get());
  channel_->post(std::make_unique<CloseDelivery>(self));
}

bool Connection::receive() {
  // One byte more than a frame may have: MSG_TRUNC tells the rest.
  static thread_local char buffer[kMaxFrameBytes + 1];
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxDescriptors)];
  struct iovec piece = {buffer, sizeof(buffer)};
  struct msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t count = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  if (count < 0) {
    if (errno == EINTR) return true;
    if (errno == EAGAIN) return false;
    end();
    return false;
  }
  std::vector<Fd> fds;
  for (struct cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t number = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < number; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  // An empty packet is not a frame: it is how the end of a SEQPACKET connection reads.
  if (count == 0 || static_cast<size_t>(count) > kMaxFrameBytes || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    end();
    return false;
  }
  ++backlog_;
  channel_->post(std::make_unique<FrameDelivery>(shared_from_this(), std::string(buffer, static_cast<size_t>(count)), std::move(fds)));
  return true;
}

void Connection::on_ready(int, uint32_t) {
  for (int i = 0; i < 32 && !ended_; ++i) {
    if (backlog_ >= kMaxBacklog) {
      // Forgotten altogether: a hang-up would be reported again and again otherwise.
      const std::shared_ptr<Connection> self = shared_from_this();
      Reactor::instance().forget(socket_.get());
      paused_ = true;
      // JavaScript may have caught up between the two.
      if (backlog_ <= kMaxBacklog / 2 && paused_.exchange(false)) resume();
      return;
    }
    if (!receive()) return;
  }
}

Napi::Function MonitorConnection::define(Napi::Env env) {
  return DefineClass(env, kName,
                     {InstanceMethod<&MonitorConnection::send>("send"), InstanceMethod<&MonitorConnection::set_on_frame>("onFrame"),
                      InstanceMethod<&MonitorConnection::set_on_close>("onClose"), InstanceMethod<&MonitorConnection::close>("close")});
}

MonitorConnection::~MonitorConnection() {
  if (payload_ != nullptr) payload_->close();
}

Napi::Value MonitorConnection::send(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array) {
    throw_type_error(env, "MonitorConnection.send.frame", "must be a Uint8Array");
    return env.Undefined();
  }
  if (!info[1].IsArray()) {
    throw_type_error(env, "MonitorConnection.send.handles", "must be an array");
    return env.Undefined();
  }
  const Shared connection = require(env);
  if (connection == nullptr) return env.Undefined();
  const Napi::Uint8Array frame = info[0].As<Napi::Uint8Array>();
  if (frame.ByteLength() == 0 || frame.ByteLength() > kMaxFrameBytes) {
    throw_type_error(env, "MonitorConnection.send.frame", "must have from 1 to 65536 bytes");
    return env.Undefined();
  }
  std::vector<int> fds;
  const Napi::Array handles = info[1].As<Napi::Array>();
  for (uint32_t i = 0; i < handles.Length(); ++i) {
    const Napi::Value value = handles.Get(i);
    const std::string where = "MonitorConnection.send.handles[" + std::to_string(i) + "]";
    if (FdHandle* fd = FdHandle::from(value)) {
      if (fd->payload() == nullptr) {
        throw_type_error(env, where, "FdHandle is closed");
        return env.Undefined();
      }
      fds.push_back(fd->payload()->get());
    } else if (PlanHandle* plan = PlanHandle::from(value)) {
      if (plan->payload() == nullptr) {
        throw_type_error(env, where, "PlanHandle is closed");
        return env.Undefined();
      }
      fds.push_back(plan->payload()->memfd.get());
      for (const Fd& one : plan->payload()->fds) fds.push_back(one.get());
    } else {
      throw_type_error(env, where, "must be an FdHandle or a PlanHandle");
      return env.Undefined();
    }
  }
  if (fds.size() > kMaxDescriptors) {
    throw_error(env, make_error(E2BIG, "monitor.send", "sendmsg", "", std::to_string(fds.size()) + " descriptors, at most 253 travel at once"));
    return env.Undefined();
  }
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxDescriptors)];
  struct iovec piece = {const_cast<uint8_t*>(frame.Data()), frame.ByteLength()};
  struct msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    std::memset(control, 0, CMSG_SPACE(sizeof(int) * fds.size()));
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    struct cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
  }
  for (;;) {
    if (::sendmsg(connection->socket(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return Napi::Boolean::New(env, true);
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return Napi::Boolean::New(env, false);
    throw_error(env, errno_error("monitor.send", "sendmsg"));
    return env.Undefined();
  }
}

Napi::Value MonitorConnection::set_on_frame(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsFunction()) {
    throw_type_error(env, "MonitorConnection.onFrame.callback", "must be a function");
    return env.Undefined();
  }
  const Shared connection = require(env);
  if (connection == nullptr) return env.Undefined();
  if (connection->started) {
    Napi::Error::New(env, "MonitorConnection.onFrame is set already").ThrowAsJavaScriptException();
    return env.Undefined();
  }
  connection->on_frame = Napi::Persistent(info[0].As<Napi::Function>());
  connection->owner = Napi::Persistent(info.This().As<Napi::Object>());
  connection->start(Instance::of(env).channel());
  return env.Undefined();
}

Napi::Value MonitorConnection::set_on_close(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsFunction()) {
    throw_type_error(env, "MonitorConnection.onClose.callback", "must be a function");
    return env.Undefined();
  }
  const Shared connection = require(env);
  if (connection == nullptr) return env.Undefined();
  connection->on_close = Napi::Persistent(info[0].As<Napi::Function>());
  // The end has come before anybody asked.
  if (connection->closed) Instance::of(env).channel()->post(std::make_unique<CloseDelivery>(connection));
  return env.Undefined();
}

Napi::Value MonitorConnection::close(const Napi::CallbackInfo& info) {
  if (payload_ != nullptr) payload_->close();
  payload_.reset();
  return info.Env().Undefined();
}

}  // namespace berth::addon
