// A SEQPACKET connection to a monitor: frames and the descriptors that come with them.
#pragma once

#include <napi.h>

#include <atomic>
#include <memory>

#include "addon/handles.h"
#include "addon/reactor.h"
#include "core/base/fd.h"

namespace berth::addon {

// The socket, shared by the handle (JavaScript thread: sends) and the reactor (receives).
class Connection final : public Watcher, public std::enable_shared_from_this<Connection> {
 public:
  explicit Connection(Fd socket) : socket_(std::move(socket)) {}

  [[nodiscard]] int socket() const { return socket_.get(); }

  // JavaScript thread. Frames are read from here on and delivered to `owner`'s callbacks through its channel.
  void start(std::shared_ptr<Channel> channel);
  // Ends the connection for the peer at once; nothing is delivered any more.
  void close();
  // A frame has been delivered: with the backlog worked off, reading goes on.
  void delivered();

  void on_ready(int fd, uint32_t events) override;

  // JavaScript thread alone.
  Napi::FunctionReference on_frame;
  Napi::FunctionReference on_close;
  // The handle: a connection with a callback is not collected before it is closed.
  Napi::ObjectReference owner;
  bool started = false;
  bool closed = false;

 private:
  // Reads one frame and posts it. False where there is none, or no more (then the end has been posted).
  bool receive();
  void resume();
  void end();

  // Past this many undelivered frames the socket is left alone until JavaScript has caught up.
  static constexpr int kMaxBacklog = 256;

  Fd socket_;
  std::shared_ptr<Channel> channel_;
  std::atomic<int> backlog_{0};
  std::atomic<bool> paused_{false};
  bool ended_ = false;  // reactor thread
};

class MonitorConnection final : public Handle<MonitorConnection, Connection> {
 public:
  static constexpr HandleClass kClass = HandleClass::kConnection;
  static constexpr const char* kName = "MonitorConnection";
  static const napi_type_tag kTag;
  using Handle::Handle;
  ~MonitorConnection() override;
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value send(const Napi::CallbackInfo& info);
  Napi::Value set_on_frame(const Napi::CallbackInfo& info);
  Napi::Value set_on_close(const Napi::CallbackInfo& info);
  Napi::Value close(const Napi::CallbackInfo& info);
};

}  // namespace berth::addon
