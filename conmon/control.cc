#include <errno.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "conmon/monitor.h"
#include "core/plan/format.h"
#include "core/sys/pidfd.h"

namespace berth::monitor {
namespace {

// The descriptors of one message; those that the request does not take are closed at its end.
struct MessageFds {
  int fds[kMaxMessageFds];
  uint32_t count = 0;
  ~MessageFds() {
    for (uint32_t i = 0; i < count; ++i) {
      if (fds[i] >= 0) ::close(fds[i]);
    }
  }
};

void close_connection(Monitor& m, Connection& connection) {
  const bool spawning = connection.serial == m.spawn_serial;
  ::close(connection.fd);
  kill_execs_of(m, connection.serial);
  connection.serial = 0;
  // Nobody else can configure it: the address of the listener is not known to anyone before that has succeeded.
  if (spawning && m.phase == Phase::kConfiguring && m.init_pid == 0) m.finished = true;
}

Connection* find_connection(Monitor& m, uint32_t serial) {
  for (Connection& connection : m.connections) {
    if (serial != 0 && connection.serial == serial) return &connection;
  }
  return nullptr;
}

ssize_t receive(Monitor& m, int fd, MessageFds& received) {
  struct iovec part = {m.frame, sizeof(m.frame)};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxMessageFds)];
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t size = -1;
  do {
    size = ::recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return size;
  for (struct cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    received.count = static_cast<uint32_t>((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    if (received.count > kMaxMessageFds) received.count = kMaxMessageFds;
    std::memcpy(received.fds, CMSG_DATA(header), received.count * sizeof(int));
  }
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    errno = EMSGSIZE;
    return -1;
  }
  return size;
}

void on_signal(Monitor& m, const ReplyTo& to, const protocol::Signal& request) {
  int target = m.init;
  if (request.exec_id != 0) {
    const RunningExec* exec = find_exec(m, to.serial, request.exec_id);
    target = exec == nullptr || exec->command_ended ? -1 : exec->command;
  }
  if (target < 0) return reply_failed(m, to, ESRCH, "monitor.signal", "pidfd_send_signal");
  if (request.number < 1 || request.number > 64) return reply_failed(m, to, EINVAL, "monitor.signal", "pidfd_send_signal");
  if (sys::pidfd_send_signal(target, static_cast<int>(request.number)) != 0) {
    return reply_failed(m, to, errno, "monitor.signal", "pidfd_send_signal");
  }
  reply(m, to, protocol::Ok{});
}

void on_kill_exec(Monitor& m, const ReplyTo& to, const protocol::KillExec& request) {
  RunningExec* exec = find_exec(m, to.serial, request.exec_id);
  const int error_number = exec == nullptr ? ESRCH : kill_exec(*exec);
  if (error_number != 0) return reply_failed(m, to, error_number, "monitor.killExec", "kill");
  reply(m, to, protocol::Ok{});
}

void on_resize(Monitor& m, const ReplyTo& to, const protocol::Resize& request) {
  struct winsize size = {};
  size.ws_col = request.columns;
  size.ws_row = request.rows;
  int master = -1;
  if (request.exec_id == 0) {
    if (!m.terminal) return reply_failed(m, to, ENOTTY, "monitor.resize", "ioctl(TIOCSWINSZ)");
    m.columns = request.columns;
    m.rows = request.rows;
    if (m.outputs[0].open) master = m.outputs[0].fd;
  } else {
    RunningExec* exec = find_exec(m, to.serial, request.exec_id);
    if (exec == nullptr) return reply_failed(m, to, ESRCH, "monitor.resize", "ioctl(TIOCSWINSZ)");
    if (!exec->terminal) return reply_failed(m, to, ENOTTY, "monitor.resize", "ioctl(TIOCSWINSZ)");
    exec->columns = request.columns;
    exec->rows = request.rows;
    master = exec->master;
  }
  // A size that comes before the terminal is there is set when it comes.
  if (master >= 0 && ::ioctl(master, TIOCSWINSZ, &size) != 0) {
    return reply_failed(m, to, errno, "monitor.resize", "ioctl(TIOCSWINSZ)");
  }
  reply(m, to, protocol::Ok{});
}

void on_reopen(Monitor& m, const ReplyTo& to) {
  if (!m.has_log) return reply_failed(m, to, EINVAL, "monitor.reopenLog", "openat", {}, "the container has no log");
  // What is in the pipes by now belongs into the old file.
  for (uint32_t i = 0; i < 2; ++i) {
    if (m.outputs[i].open) read_output(m, i, m.phase == Phase::kExited);
  }
  const int error_number = m.log.reopen();
  if (error_number != 0) return reply_failed(m, to, error_number, "monitor.reopenLog", "openat");
  reply(m, to, protocol::Ok{});
}

void on_status(Monitor& m, const ReplyTo& to) {
  protocol::State state;
  state.phase = static_cast<uint8_t>(m.phase);
  state.pid = m.phase == Phase::kConfiguring ? 0 : static_cast<uint32_t>(m.init_pid);
  state.start_time = m.init_start_time;
  state.started_at_ns = m.started_at_ns;
  state.running_execs = m.exec_count;
  state.attached_clients = count_attached(m);
  state.log_bytes = m.has_log ? m.log.bytes() : 0;
  state.log_dropped_bytes = m.log.dropped_bytes();
  reply(m, to, state);
}

template <typename M>
bool read_body(Monitor& m, const ReplyTo& to, size_t size, M* message) {
  if (protocol::decode(m.frame, size, message)) return true;
  reply_failed(m, to, EBADMSG, "monitor.decode", "recvmsg");
  return false;
}

void handle(Monitor& m, const ReplyTo& to, uint16_t type, size_t size, MessageFds& fds) {
  switch (static_cast<protocol::MessageType>(type)) {
    case protocol::MessageType::kConfigure: {
      protocol::Configure request;
      if (read_body(m, to, size, &request)) configure(m, to, request, fds.fds, fds.count);
      return;
    }
    case protocol::MessageType::kStart:
      return start(m, to);
    case protocol::MessageType::kSignal: {
      protocol::Signal request;
      if (read_body(m, to, size, &request)) on_signal(m, to, request);
      return;
    }
    case protocol::MessageType::kResize: {
      protocol::Resize request;
      if (read_body(m, to, size, &request)) on_resize(m, to, request);
      return;
    }
    case protocol::MessageType::kReopenLog:
      return on_reopen(m, to);
    case protocol::MessageType::kAttach: {
      protocol::Attach request;
      if (read_body(m, to, size, &request)) attach(m, to, request, fds.fds, fds.count);
      return;
    }
    case protocol::MessageType::kExec: {
      protocol::Exec request;
      if (read_body(m, to, size, &request)) start_exec(m, to, request, fds.fds, fds.count);
      return;
    }
    case protocol::MessageType::kStatus:
      return on_status(m, to);
    case protocol::MessageType::kKillExec: {
      protocol::KillExec request;
      if (read_body(m, to, size, &request)) on_kill_exec(m, to, request);
      return;
    }
    default:
      // A newer daemon's request: said, not fatal.
      return reply_failed(m, to, ENOSYS, "monitor.request", "recvmsg", {}, "the monitor does not know this message");
  }
}

}  // namespace

void add_connection(Monitor& m, int fd) {
  struct ucred peer = {};
  socklen_t size = sizeof(peer);
  const bool known = ::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;
  if (!known || (peer.uid != 0 && peer.uid != ::geteuid())) {
    ::close(fd);
    return;
  }
  for (uint32_t i = 0; i < kMaxConnections; ++i) {
    Connection& connection = m.connections[i];
    if (connection.serial != 0) continue;
    if (!watch(m, fd, EPOLLIN, Source::kConnection, i)) break;
    connection.fd = fd;
    make_room(fd, kConnectionRoom);
    if (++m.last_serial == 0) ++m.last_serial;
    connection.serial = m.last_serial;
    protocol::Hello hello;
    hello.protocol_version = protocol::kProtocolVersion;
    hello.plan_version = plan::kVersion;
    hello.container_id = m.container_id;
    hello.pid = static_cast<uint32_t>(::getpid());
    return reply(m, ReplyTo{connection.serial, 0}, hello);
  }
  ::close(fd);
}

void on_listener(Monitor& m) {
  const int fd = ::accept4(m.listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (fd >= 0) add_connection(m, fd);
}

void on_connection(Monitor& m, uint32_t index) {
  Connection& connection = m.connections[index];
  const uint32_t serial = connection.serial;
  if (serial == 0) return;
  // Several, so that a hundred requests at once do not cost a round of epoll each; bounded, so that the others come too.
  for (int round = 0; round < 16 && connection.serial == serial && !m.finished; ++round) {
    MessageFds fds;
    const ssize_t size = receive(m, connection.fd, fds);
    if (size < 0 && errno == EAGAIN) return;
    protocol::FrameHeader header;
    // End of file (0), a failed connection, or a peer that does not speak the protocol.
    if (size <= 0 || !protocol::decode_header(m.frame, static_cast<size_t>(size), &header)) return close_connection(m, connection);
    handle(m, ReplyTo{serial, header.request_id}, header.type, static_cast<size_t>(size), fds);
  }
}

void make_room(int socket, int bytes) {
  if (::setsockopt(socket, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) != 0) {
    (void)::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
  }
}

void send_frame(Monitor& m, const ReplyTo& to, const void* frame, size_t size) {
  Connection* connection = find_connection(m, to.serial);
  if (connection == nullptr) return;
  ssize_t sent = -1;
  do {
    sent = ::send(connection->fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) close_connection(m, *connection);
}

void reply_failed(Monitor& m, const ReplyTo& to, int error_number, std::string_view step, std::string_view syscall,
                  std::string_view path, std::string_view detail) {
  protocol::Failed failed;
  failed.error_number = error_number;
  failed.step = step;
  failed.syscall = syscall;
  failed.path = path;
  failed.detail = detail;
  reply(m, to, failed);
}

void reply_failed(Monitor& m, const ReplyTo& to, const stages::SyncRecord& record) {
  reply_failed(m, to, record.error_number, record.step, record.syscall, record.path, record.detail);
}

void tell_all(Monitor& m, const protocol::Exited& exited) {
  for (const Connection& connection : m.connections) {
    if (connection.serial != 0) reply(m, ReplyTo{connection.serial, 0}, exited);
  }
}

}  // namespace berth::monitor
