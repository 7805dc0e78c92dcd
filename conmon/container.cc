#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "conmon/clock.h"
#include "conmon/monitor.h"
#include "core/stages/stages.h"
#include "core/sys/pidfd.h"

namespace berth::monitor {
namespace {

bool copy_name(char* out, size_t size, std::string_view from) {
  if (from.empty() || from.size() >= size) return false;
  std::memcpy(out, from.data(), from.size());
  out[from.size()] = 0;
  return true;
}

// One file in a directory that is held open: no way out of it.
bool is_file_name(std::string_view name) {
  return !name.empty() && name.size() < 256 && name != "." && name != ".." && name.find('/') == std::string_view::npos;
}

uint64_t parse_number(const char* text, const char* end) {
  uint64_t value = 0;
  for (; text < end && *text >= '0' && *text <= '9'; ++text) value = value * 10 + static_cast<uint64_t>(*text - '0');
  return value;
}

// "oom_kill N" of memory.events (v2) and memory.oom_control (v1, since Linux 4.13).
bool read_oom_kills(const Monitor& m, uint64_t* kills) {
  char text[1024];
  const ssize_t count = m.oom_file < 0 ? -1 : ::pread(m.oom_file, text, sizeof(text), 0);
  if (count <= 0) return false;
  constexpr std::string_view key = "oom_kill ";
  for (const char *at = text, *end = text + count; at < end;) {
    const auto* newline = static_cast<const char*>(std::memchr(at, '\n', static_cast<size_t>(end - at)));
    const char* line_end = newline == nullptr ? end : newline;
    const auto length = static_cast<size_t>(line_end - at);
    if (length > key.size() && std::memcmp(at, key.data(), key.size()) == 0) {
      *kills = parse_number(at + key.size(), line_end);
      return true;
    }
    at = line_end + 1;
  }
  return false;
}

// Field 22 of /proc/PID/stat, counted from behind the command's name, which may hold anything.
uint64_t read_start_time(pid_t pid) {
  char path[32];
  char digits[12];
  size_t count = 0;
  for (int rest = pid; rest > 0; rest /= 10) digits[count++] = static_cast<char>('0' + rest % 10);
  std::memcpy(path, "/proc/", 6);
  size_t at = 6;
  while (count > 0) path[at++] = digits[--count];
  std::memcpy(path + at, "/stat", 6);
  const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[1024];
  const ssize_t size = ::read(fd, text, sizeof(text));
  ::close(fd);
  ssize_t from = size - 1;
  while (from > 0 && text[from] != ')') --from;
  int field = 2;
  for (ssize_t i = from + 1; i < size; ++i) {
    if (text[i] == ' ' && ++field == 22) return parse_number(text + i + 1, text + size);
  }
  return 0;
}

void create_failed(Monitor& m, int error_number, std::string_view step, std::string_view call, std::string_view detail = {}) {
  reply_failed(m, m.configure_reply, error_number, step, call, {}, detail);
  m.finished = true;
}

// Takes the next descriptor of the message.
int take_fd(int* fds, uint32_t* at) {
  const int fd = fds[*at];
  fds[(*at)++] = -1;
  return fd;
}

struct Pipes {
  stages::ChildStdio child;
  int ours[3] = {-1, -1, -1};
};

bool make_pipe(int* read_end, int* write_end) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return false;
  *read_end = ends[0];
  *write_end = ends[1];
  return true;
}

bool make_pipes(const protocol::Configure& request, Pipes* pipes) {
  if (request.terminal) return true;
  if (request.with_stdin && !make_pipe(&pipes->child.in, &pipes->ours[0])) return false;
  if (!make_pipe(&pipes->ours[1], &pipes->child.out) || !make_pipe(&pipes->ours[2], &pipes->child.err)) return false;
  for (const int fd : pipes->ours) {
    if (fd >= 0) (void)::fcntl(fd, F_SETFL, O_NONBLOCK);
  }
  return true;
}

// The `exited` frame in a file of its own: written under another name, then renamed, so that it is whole or absent.
bool write_exit_file(Monitor& m, const void* frame, size_t size) {
  char temporary[sizeof(m.exit_name) + 8];
  const size_t length = std::strlen(m.exit_name);
  std::memcpy(temporary, ".new-", 5);
  std::memcpy(temporary + 5, m.exit_name, length + 1);
  const int fd = ::openat(m.exit_directory, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0) return false;
  const bool written = ::write(fd, frame, size) == static_cast<ssize_t>(size);
  ::close(fd);
  if (written && ::renameat(m.exit_directory, temporary, m.exit_directory, m.exit_name) == 0) return true;
  (void)::unlinkat(m.exit_directory, temporary, 0);
  return false;
}

protocol::Exited exit_of(const Monitor& m) {
  protocol::Exited exited;
  exited.exit_code = m.exit_code;
  exited.signal = m.exit_signal;
  exited.oom_killed = m.oom_killed;
  exited.started_at_ns = m.started_at_ns;
  exited.finished_at_ns = m.finished_at_ns;
  exited.log_dropped_bytes = m.log.dropped_bytes();
  return exited;
}

// A full disk may pass; for a minute the exit is tried again each second, and told to whoever connects meanwhile.
constexpr uint32_t kExitAttempts = 60;

void publish_exit(Monitor& m) {
  const protocol::Exited exited = exit_of(m);
  char frame[128];
  const size_t size = protocol::encode(exited, 0, frame, sizeof(frame));
  if (!write_exit_file(m, frame, size) && ++m.exit_attempts < kExitAttempts) {
    m.retry_exit_at = monotonic_ms() + 1000;
    return;
  }
  // A daemon that is connecting at this moment is told as well.
  for (uint32_t i = 0; i < kMaxConnections; ++i) on_listener(m);
  tell_all(m, exited);
  m.finished = true;
}

void on_started(Monitor& m) {
  m.started_at_ns = realtime_ns();
  m.phase = Phase::kRunning;
  m.start_pending = false;
  protocol::Started started;
  started.started_at_ns = m.started_at_ns;
  reply(m, m.start_reply, started);
}

}  // namespace

int receive_sync(int sync, stages::SyncRecord* record, int* fd) {
  *fd = -1;
  struct iovec part = {record, sizeof(*record)};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t size = -1;
  do {
    size = ::recvmsg(sync, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  } while (size < 0 && errno == EINTR);
  if (size < 0 && errno == EAGAIN) return 0;
  struct cmsghdr* header = size > 0 ? CMSG_FIRSTHDR(&message) : nullptr;
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    std::memcpy(fd, CMSG_DATA(header), sizeof(*fd));
  }
  if (size != static_cast<ssize_t>(sizeof(*record))) {
    drop_fd(*fd);
    return -1;
  }
  // What comes is the child's, and the child is on its way into the container: its texts end where we say.
  record->step[sizeof(record->step) - 1] = 0;
  record->syscall[sizeof(record->syscall) - 1] = 0;
  record->path[sizeof(record->path) - 1] = 0;
  record->detail[sizeof(record->detail) - 1] = 0;
  return 1;
}

void configure(Monitor& m, const ReplyTo& to, const protocol::Configure& request, int* fds, uint32_t fd_count) {
  if (m.phase != Phase::kConfiguring || m.init_pid != 0) return reply_failed(m, to, EALREADY, "monitor.configure", "configure");
  m.configure_reply = to;
  const uint32_t plan_fds = request.plan_fds;
  const uint32_t others = (request.has_log ? 1U : 0U) + 1U + (request.oom_kind != 0 ? 1U : 0U);
  if (plan_fds >= kMaxMessageFds || fd_count != 1 + plan_fds + others) {
    return create_failed(m, EINVAL, "monitor.configure", "recvmsg", "number of descriptors");
  }
  if (!copy_name(m.container_id, sizeof(m.container_id), request.container_id) || !is_file_name(request.exit_name) ||
      !copy_name(m.exit_name, sizeof(m.exit_name) - 8, request.exit_name) || (request.has_log && !is_file_name(request.log_name)) ||
      request.oom_kind > 2) {
    return create_failed(m, EINVAL, "monitor.configure", "recvmsg", "a name or kind");
  }
  uint32_t at = 1 + plan_fds;
  if (request.has_log) m.log_directory = take_fd(fds, &at);
  m.exit_directory = take_fd(fds, &at);
  if (request.oom_kind != 0) m.oom_file = take_fd(fds, &at);
  m.terminal = request.terminal;
  m.stdin_once = request.stdin_once;
  m.columns = request.terminal_columns;
  m.rows = request.terminal_rows;
  m.has_log = request.has_log;
  (void)read_oom_kills(m, &m.oom_before);
  if (m.has_log) {
    char name[256];
    (void)copy_name(name, sizeof(name), request.log_name);
    const int error_number = m.log.open(m.log_directory, name, request.log_max_bytes);
    if (error_number != 0) return create_failed(m, error_number, "monitor.log", "openat");
  }
  Pipes pipes;
  if (!make_pipes(request, &pipes)) return create_failed(m, errno, "monitor.stdio", "pipe2");
  pipes.child.columns = m.columns;
  pipes.child.rows = m.rows;
  // The child is forked from here: whatever it is given, it has by now; the monitor's own ends are closed in it.
  const stages::ChildSpawn spawn = stages::spawn_child(stages::PlanInput{fds[0], fds + 1, plan_fds}, pipes.child);
  drop_fd(pipes.child.in);
  drop_fd(pipes.child.out);
  drop_fd(pipes.child.err);
  if (spawn.pid < 0) {
    return create_failed(m, spawn.error_number, "plan.spawn", spawn.syscall, spawn.detail == nullptr ? "" : spawn.detail);
  }
  m.init_pid = spawn.pid;
  m.init = spawn.pidfd;
  m.init_sync = spawn.sync_fd;
  m.input = pipes.ours[0];
  if (pipes.ours[1] >= 0) {
    open_output(m, 0, pipes.ours[1]);
    open_output(m, 1, pipes.ours[2]);
  }
  if (!watch(m, m.init, EPOLLIN, Source::kInit) || !watch(m, m.init_sync, EPOLLIN, Source::kInitSync)) {
    (void)sys::pidfd_send_signal(m.init, SIGKILL);
    return create_failed(m, errno, "monitor.configure", "epoll_ctl");
  }
}

void start(Monitor& m, const ReplyTo& to) {
  if (m.phase != Phase::kCreated || m.start_pending) {
    const int error_number = m.phase == Phase::kConfiguring ? EINVAL : EALREADY;
    return reply_failed(m, to, error_number, "monitor.start", "start");
  }
  stages::SyncRecord go = {};
  go.kind = static_cast<uint32_t>(stages::SyncKind::kGo);
  if (::send(m.init_sync, &go, sizeof(go), MSG_NOSIGNAL | MSG_DONTWAIT) != static_cast<ssize_t>(sizeof(go))) {
    return reply_failed(m, to, errno == EPIPE ? ESRCH : errno, "monitor.start", "send");
  }
  m.start_reply = to;
  m.start_pending = true;
}

void on_init_sync(Monitor& m) {
  while (m.init_sync >= 0 && !m.finished) {
    stages::SyncRecord record;
    int fd = -1;
    const int result = receive_sync(m.init_sync, &record, &fd);
    if (result == 0) return;
    if (result < 0) {
      // Closed by execve, or by the child's death, of which its pidfd tells.
      drop_fd(m.init_sync);
      if (m.start_pending && !m.init_failed) on_started(m);
      return;
    }
    switch (static_cast<stages::SyncKind>(record.kind)) {
      case stages::SyncKind::kTerminal:
        if (fd >= 0 && m.terminal) set_terminal(m, fd);
        fd = -1;
        break;
      case stages::SyncKind::kReady: {
        m.phase = Phase::kCreated;
        m.init_start_time = read_start_time(m.init_pid);
        protocol::Created created;
        created.pid = static_cast<uint32_t>(m.init_pid);
        created.start_time = m.init_start_time;
        reply(m, m.configure_reply, created);
        break;
      }
      case stages::SyncKind::kFailed:
        m.init_failed = true;
        reply_failed(m, m.start_pending ? m.start_reply : m.configure_reply, record);
        m.start_pending = false;
        break;
      default:
        break;
    }
    drop_fd(fd);
  }
}

void on_init_ended(Monitor& m) {
  if (m.init < 0) return;
  siginfo_t info = {};
  if (sys::waitid_pidfd(m.init, &info, WEXITED | WNOHANG | __WALL) != 0 || info.si_pid == 0) return;
  m.finished_at_ns = realtime_ns();
  uint64_t kills = 0;
  m.oom_killed = read_oom_kills(m, &kills) && kills > m.oom_before;
  // The last words may still lie in the socket, among them that the program did run.
  on_init_sync(m);
  drop_fd(m.init_sync);
  drop_fd(m.init);
  m.exit_signal = info.si_code == CLD_EXITED ? 0 : static_cast<uint32_t>(info.si_status);
  m.exit_code = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
  if (m.phase == Phase::kConfiguring) {
    if (!m.init_failed) {
      reply_failed(m, m.configure_reply, ECHILD, "plan.spawn", "waitid", {}, "the child has died before the start barrier");
    }
    m.finished = true;
    return;
  }
  if (m.start_pending) {
    reply_failed(m, m.start_reply, ECHILD, "monitor.start", "waitid", {}, "the child has died before its program ran");
    m.start_pending = false;
  }
  m.phase = Phase::kExited;
  const int64_t now = monotonic_ms();
  m.drain_until = now + kDrainMs;
  // What shares no pid namespace with init lives on unless it is ended here.
  kill_all_execs(m);
  m.execs_until = now + kExecDrainMs;
  for (uint32_t i = 0; i < 2; ++i) {
    if (m.outputs[i].open) read_output(m, i, true);
  }
  finish_when_done(m);
}

void finish_when_done(Monitor& m) {
  if (m.finished) return;
  const int64_t now = monotonic_ms();
  if ((m.outputs[0].open || m.outputs[1].open) && now < m.drain_until) return;
  m.drain_until = 0;
  close_outputs(m);
  if (m.exec_count > 0 && now < m.execs_until) return;
  m.execs_until = 0;
  if (m.retry_exit_at != 0 && now < m.retry_exit_at) return;
  m.retry_exit_at = 0;
  close_attached(m);
  publish_exit(m);
}

}  // namespace berth::monitor
