#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "conmon/clock.h"
#include "conmon/monitor.h"

namespace berth::monitor {
namespace {

// After this many reads in a row that filled the buffer, the pipe is made as large as an ordinary user may have it: fewer,
// longer batches for a container that writes all the time, and nothing for the others.
constexpr uint8_t kEnlargeAfter = 4;
constexpr int kLargePipe = 1 << 20;

void close_client(Attached& client) {
  drop_fd(client.in);
  drop_fd(client.out);
  drop_fd(client.err);
  client.used = false;
}

// The hang-ups of clients that have gone may still wait behind the requests of those that come.
void let_go_of_the_gone(Monitor& m) {
  for (Attached& client : m.attached) {
    if (!client.used) continue;
    struct pollfd sockets[3] = {{client.in, 0, 0}, {client.out, 0, 0}, {client.err, 0, 0}};
    if (::poll(sockets, 3, 0) > 0) close_client(client);
  }
}

// A client that does not take what it is sent is let go: neither the container nor the log waits for it, and a gap in its
// output would be worse than an end.
void send_to_clients(Monitor& m, uint32_t index, const char* data, size_t size) {
  for (Attached& client : m.attached) {
    int& fd = index == 0 ? client.out : client.err;
    if (!client.used || fd < 0) continue;
    const ssize_t sent = ::send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent != static_cast<ssize_t>(size)) close_client(client);
  }
}

void end_output(Monitor& m, uint32_t index) {
  Output& output = m.outputs[index];
  if (m.has_log) m.log.finish(index == 0 ? StreamName::kStdout : StreamName::kStderr);
  for (Attached& client : m.attached) {
    if (client.used) drop_fd(index == 0 ? client.out : client.err);
  }
  drop_fd(output.fd);
  output.open = false;
}

void look_again(Output& output, int64_t delay) {
  output.armed = false;
  output.read_at = monotonic_ms() + delay;
}

void end_input(Monitor& m) {
  // A terminal has no end of input of its own: a client that leaves takes nothing with it.
  if (!m.terminal) drop_fd(m.input);
}

void watch_input(Monitor& m) {
  if (m.input < 0) return;
  if (m.input_watched) {
    rewatch(m, m.input, EPOLLOUT | EPOLLONESHOT, Source::kInput);
  } else {
    m.input_watched = watch(m, m.input, EPOLLOUT | EPOLLONESHOT, Source::kInput);
  }
}

void client_input_ended(Monitor& m, Attached& client) {
  drop_fd(client.in);
  client.input_ended = true;
  if (m.stdin_once && client.pending.empty()) end_input(m);
  if (client.out < 0 && client.err < 0 && client.pending.empty()) client.used = false;
}

}  // namespace

bool write_pending(Pending& pending, int fd) {
  while (!pending.empty()) {
    const ssize_t written = ::write(fd, pending.data + pending.begin, pending.end - pending.begin);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno == EAGAIN;
    pending.begin += static_cast<size_t>(written);
  }
  pending.begin = pending.end = 0;
  return true;
}

bool write_or_keep(Pending& pending, int fd, const char* data, size_t size) {
  ssize_t written = -1;
  do {
    written = ::write(fd, data, size);
  } while (written < 0 && errno == EINTR);
  if (written < 0 && errno != EAGAIN) return false;
  const size_t done = written < 0 ? 0 : static_cast<size_t>(written);
  pending.begin = 0;
  pending.end = size - done;
  if (pending.end > 0) std::memcpy(pending.data, data + done, pending.end);
  return true;
}

void open_output(Monitor& m, uint32_t index, int fd) {
  Output& output = m.outputs[index];
  output.fd = fd;
  output.open = true;
  output.armed = watch(m, fd, EPOLLIN | EPOLLONESHOT, Source::kOutput, index);
}

void set_terminal(Monitor& m, int master) {
  if (m.outputs[0].open) {
    ::close(master);
    return;
  }
  (void)::fcntl(master, F_SETFL, O_NONBLOCK | O_RDWR);
  if (m.columns != 0 || m.rows != 0) {
    struct winsize size = {};
    size.ws_col = m.columns;
    size.ws_row = m.rows;
    (void)::ioctl(master, TIOCSWINSZ, &size);
  }
  // Watched apart from the output: one descriptor has one set of events.
  m.input = ::fcntl(master, F_DUPFD_CLOEXEC, 3);
  open_output(m, 0, master);
}

void read_output(Monitor& m, uint32_t index, bool drain) {
  Output& output = m.outputs[index];
  // A bounded number of rounds: a container that never stops writing must not keep control from being heard.
  for (int round = 0; round < 16; ++round) {
    const ssize_t count = ::read(output.fd, m.scratch, sizeof(m.scratch));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) {
      output.full_reads = 0;
      rewatch(m, output.fd, EPOLLIN | EPOLLONESHOT, Source::kOutput, index);
      output.armed = true;
      return;
    }
    if (count < 0 && errno == EIO && m.terminal && m.phase != Phase::kExited) {
      // Nobody has the terminal open at this moment; the container may open it again.
      return look_again(output, 100);
    }
    if (count <= 0) return end_output(m, index);
    const auto size = static_cast<size_t>(count);
    send_to_clients(m, index, m.scratch, size);
    if (m.has_log) m.log.feed(index == 0 ? StreamName::kStdout : StreamName::kStderr, m.scratch, size);
    if (size > 4096) m.trim_at = monotonic_ms() + kTrimMs;
    if (size == sizeof(m.scratch)) {
      if (output.full_reads < 255 && ++output.full_reads == kEnlargeAfter && !m.terminal) {
        (void)::fcntl(output.fd, F_SETPIPE_SZ, kLargePipe);
      }
    } else if (!drain && !m.terminal) {
      return look_again(output, kNapMs);
    }
  }
  look_again(output, 0);
}

void close_outputs(Monitor& m) {
  for (uint32_t i = 0; i < 2; ++i) {
    if (m.outputs[i].open) end_output(m, i);
  }
}

void attach(Monitor& m, const ReplyTo& to, const protocol::Attach& request, int* fds, uint32_t fd_count) {
  const uint32_t wanted = (request.with_stdin ? 1U : 0U) + (request.with_stdout ? 1U : 0U) + (request.with_stderr ? 1U : 0U);
  if (wanted == 0 || fd_count != wanted) {
    return reply_failed(m, to, EINVAL, "monitor.attach", "recvmsg", {}, "number of descriptors");
  }
  if (m.phase != Phase::kCreated && m.phase != Phase::kRunning) return reply_failed(m, to, ESRCH, "monitor.attach", "attach");
  if (count_attached(m) == kMaxAttached) let_go_of_the_gone(m);
  for (uint32_t i = 0; i < kMaxAttached; ++i) {
    Attached& client = m.attached[i];
    if (client.used) continue;
    client.used = true;
    client.input_ended = false;
    client.pending.begin = client.pending.end = 0;
    client.in = client.out = client.err = -1;
    uint32_t at = 0;
    const auto take = [&](bool flag) {
      if (!flag) return -1;
      const int fd = fds[at];
      fds[at++] = -1;
      (void)::fcntl(fd, F_SETFL, O_NONBLOCK | O_RDWR);
      return fd;
    };
    client.in = take(request.with_stdin);
    client.out = take(request.with_stdout);
    client.err = take(request.with_stderr);
    if (client.out >= 0) make_room(client.out, kAttachRoom);
    if (client.err >= 0) make_room(client.err, kAttachRoom);
    if (client.in >= 0 && !watch(m, client.in, EPOLLIN | EPOLLONESHOT, Source::kAttachInput, i)) drop_fd(client.in);
    // Nothing is read from an output's socket; its hang-up, which is told unasked, says that the client is gone.
    if (client.out >= 0) (void)watch(m, client.out, EPOLLONESHOT, Source::kAttachOutput, i);
    if (client.err >= 0) (void)watch(m, client.err, EPOLLONESHOT, Source::kAttachOutput, i);
    return reply(m, to, protocol::Ok{});
  }
  reply_failed(m, to, EBUSY, "monitor.attach", "attach", {}, "too many clients are attached");
}

void on_attach_input(Monitor& m, uint32_t index) {
  Attached& client = m.attached[index];
  if (!client.used || client.in < 0) return;
  if (!client.pending.empty()) return;
  char data[Pending::kBytes];
  const ssize_t count = ::read(client.in, data, sizeof(data));
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
    return rewatch(m, client.in, EPOLLIN | EPOLLONESHOT, Source::kAttachInput, index);
  }
  if (count <= 0) return client_input_ended(m, client);
  // A container that does not have its stdin open reads nothing: what is typed is gone, as it would be with /dev/null.
  if (m.input >= 0 && !write_or_keep(client.pending, m.input, data, static_cast<size_t>(count))) end_input(m);
  if (client.pending.empty()) {
    rewatch(m, client.in, EPOLLIN | EPOLLONESHOT, Source::kAttachInput, index);
  } else {
    watch_input(m);
  }
}

void on_attach_output(Monitor& m, uint32_t index) {
  Attached& client = m.attached[index];
  if (!client.used) return;
  const bool had_input = client.in >= 0;
  close_client(client);
  if (had_input && m.stdin_once) end_input(m);
}

// The container takes input again.
void on_input(Monitor& m) {
  for (uint32_t i = 0; i < kMaxAttached; ++i) {
    Attached& client = m.attached[i];
    if (!client.used || client.pending.empty()) continue;
    if (m.input < 0 || !write_pending(client.pending, m.input)) {
      client.pending.begin = client.pending.end = 0;
      end_input(m);
    }
    if (!client.pending.empty()) return watch_input(m);
    if (client.input_ended) {
      if (m.stdin_once) end_input(m);
      if (client.out < 0 && client.err < 0) client.used = false;
    } else if (client.in >= 0) {
      rewatch(m, client.in, EPOLLIN | EPOLLONESHOT, Source::kAttachInput, i);
    }
  }
}

void close_attached(Monitor& m) {
  for (Attached& client : m.attached) {
    if (client.used) close_client(client);
  }
}

uint32_t count_attached(const Monitor& m) {
  uint32_t count = 0;
  for (const Attached& client : m.attached) count += client.used ? 1 : 0;
  return count;
}

}  // namespace berth::monitor
