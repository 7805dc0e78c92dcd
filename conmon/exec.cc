// Processes exec'ed into the container. Each goes through these states, in this order but for what the kernel delivers at
// the same moment:
//
//   spawned     the intermediate runs in the monitor's cgroup, joins the container and clones the command
//   commanded   kCommand has brought the command's pid and pidfd; the intermediate ends
//   started     the sync socket has ended without kFailed: `execStarted`
//   ended       the command is reaped: `execExited`; a terminal is drained first
//
// An entry is freed when intermediate and command are reaped and everything is said. Its identity is the connection and the
// request id that asked for it; it is killed when the connection goes, as nobody could be told of its end.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conmon/clock.h"
#include "conmon/monitor.h"
#include "core/stages/stages.h"
#include "core/sys/pidfd.h"

namespace berth::monitor {
namespace {

// How long a terminal is read on after its command's end: its session's hang-up ends it at once, unless others hold it.
constexpr int64_t kTerminalDrainMs = 300;

void update_relay(Monitor& m, RunningExec& exec, uint32_t index) {
  if (exec.master >= 0) {
    const uint32_t events = (exec.to_relay.empty() ? EPOLLIN : 0U) | (exec.to_master.empty() ? 0U : EPOLLOUT);
    rewatch(m, exec.master, events | EPOLLONESHOT, Source::kExecMaster, index);
  }
  if (exec.relay >= 0) {
    const bool read = exec.to_master.empty() && !exec.relay_ended && exec.master >= 0;
    const uint32_t events = (read ? EPOLLIN : 0U) | (exec.to_relay.empty() ? 0U : EPOLLOUT);
    rewatch(m, exec.relay, events | EPOLLONESHOT, Source::kExecRelay, index);
  }
}

void close_terminal(RunningExec& exec) {
  drop_fd(exec.master);
  drop_fd(exec.relay);
  exec.master_until = 0;
}

void release(Monitor& m, RunningExec& exec) {
  drop_fd(exec.command);
  drop_fd(exec.intermediate);
  drop_fd(exec.sync);
  close_terminal(exec);
  exec.used = false;
  --m.exec_count;
  if (m.phase == Phase::kExited) finish_when_done(m);
}

// Says what can be said by now, and frees the entry when there is nothing more to come.
void advance(Monitor& m, RunningExec& exec) {
  if (exec.sync >= 0) return;
  if (!exec.started && !exec.failed) {
    if (exec.command < 0 && !exec.command_ended) {
      if (!exec.intermediate_ended) return;
      exec.failed = true;
      reply_failed(m, exec.reply, ECHILD, "exec.spawn", "waitid", {}, "the child has died before the command was made");
    } else {
      exec.started = true;
      protocol::ExecStarted started;
      started.pid = static_cast<uint32_t>(exec.pid);
      reply(m, exec.reply, started);
    }
  }
  const bool command_over = exec.command_ended || (exec.pid == 0 && exec.failed);
  if (!command_over || !exec.intermediate_ended) return;
  if (exec.command_ended && exec.started) {
    if (exec.master >= 0 && exec.relay >= 0) {
      if (exec.master_until == 0) exec.master_until = monotonic_ms() + kTerminalDrainMs;
      return;
    }
    protocol::ExecExited exited;
    exited.signal = exec.wait_code == CLD_EXITED ? 0 : static_cast<uint32_t>(exec.wait_status);
    exited.exit_code = exec.wait_code == CLD_EXITED ? exec.wait_status : 128 + exec.wait_status;
    reply(m, exec.reply, exited);
  }
  release(m, exec);
}

void set_master(Monitor& m, RunningExec& exec, uint32_t index, int master) {
  if (!exec.terminal || exec.master >= 0) {
    ::close(master);
    return;
  }
  exec.master = master;
  (void)::fcntl(master, F_SETFL, O_NONBLOCK | O_RDWR);
  // What a resize has asked for meanwhile; the first size is the child's to set.
  if (exec.columns != 0 || exec.rows != 0) {
    struct winsize size = {};
    size.ws_col = exec.columns;
    size.ws_row = exec.rows;
    (void)::ioctl(master, TIOCSWINSZ, &size);
  }
  (void)watch(m, exec.master, EPOLLIN | EPOLLONESHOT, Source::kExecMaster, index);
  (void)watch(m, exec.relay, EPOLLIN | EPOLLONESHOT, Source::kExecRelay, index);
}

void on_sync(Monitor& m, RunningExec& exec, uint32_t index) {
  while (exec.sync >= 0) {
    stages::SyncRecord record;
    int fd = -1;
    const int result = receive_sync(exec.sync, &record, &fd);
    if (result == 0) return;
    if (result < 0) {
      drop_fd(exec.sync);
      break;
    }
    switch (static_cast<stages::SyncKind>(record.kind)) {
      case stages::SyncKind::kTerminal:
        if (fd >= 0) set_master(m, exec, index, fd);
        fd = -1;
        break;
      case stages::SyncKind::kCommand:
        if (fd < 0 || exec.command >= 0) break;
        exec.pid = record.pid;
        exec.command = fd;
        fd = -1;
        (void)watch(m, exec.command, EPOLLIN, Source::kExecCommand, index);
        break;
      case stages::SyncKind::kFailed:
        if (exec.failed) break;
        exec.failed = true;
        reply_failed(m, exec.reply, record);
        break;
      default:
        break;
    }
    drop_fd(fd);
  }
  advance(m, exec);
}

void on_intermediate(Monitor& m, RunningExec& exec, uint32_t index) {
  siginfo_t info = {};
  if (exec.intermediate < 0 || sys::waitid_pidfd(exec.intermediate, &info, WEXITED | WNOHANG | __WALL) != 0 || info.si_pid == 0) return;
  exec.intermediate_ended = true;
  drop_fd(exec.intermediate);
  // Its last record may still lie in the socket.
  if (exec.sync >= 0) return on_sync(m, exec, index);
  advance(m, exec);
}

void on_command(Monitor& m, RunningExec& exec, uint32_t index) {
  siginfo_t info = {};
  if (exec.command < 0 || sys::waitid_pidfd(exec.command, &info, WEXITED | WNOHANG | __WALL) != 0 || info.si_pid == 0) return;
  exec.command_ended = true;
  exec.wait_code = info.si_code;
  exec.wait_status = info.si_status;
  drop_fd(exec.command);
  if (exec.sync >= 0) return on_sync(m, exec, index);
  advance(m, exec);
}

void on_master(Monitor& m, RunningExec& exec, uint32_t index, bool deadline) {
  if (exec.master < 0) return;
  bool alive = write_pending(exec.to_master, exec.master);
  while (alive && exec.to_relay.empty()) {
    char data[Pending::kBytes];
    const ssize_t count = ::read(exec.master, data, sizeof(data));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) break;
    if (count <= 0) {
      // EIO: nobody has the slave open. Before the command's end it may be opened again.
      alive = !exec.command_ended && count < 0 && errno == EIO;
      if (alive) exec.master_until = monotonic_ms() + 100;
      if (alive && !deadline) return;
      break;
    }
    if (exec.relay < 0 || !write_or_keep(exec.to_relay, exec.relay, data, static_cast<size_t>(count))) alive = false;
  }
  if (deadline && exec.command_ended) alive = false;
  if (deadline && !exec.command_ended) exec.master_until = 0;
  if (alive) return update_relay(m, exec, index);
  // Whatever the client has not taken by now lies in its socket, or is lost with a client that does not read.
  close_terminal(exec);
  advance(m, exec);
}

void on_relay(Monitor& m, RunningExec& exec, uint32_t index, uint32_t events) {
  if (exec.relay < 0) return;
  bool alive = write_pending(exec.to_relay, exec.relay);
  while (alive && !exec.relay_ended && exec.to_master.empty() && exec.master >= 0) {
    char data[Pending::kBytes];
    const ssize_t count = ::read(exec.relay, data, sizeof(data));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      alive = errno == EAGAIN;
      break;
    }
    if (count == 0) {
      exec.relay_ended = true;
      break;
    }
    if (!write_or_keep(exec.to_master, exec.master, data, static_cast<size_t>(count))) alive = false;
  }
  if ((events & EPOLLHUP) != 0) alive = false;
  if (alive) return update_relay(m, exec, index);
  // A client that is gone hangs the terminal up, as a lost line would.
  close_terminal(exec);
  advance(m, exec);
}

}  // namespace

RunningExec* find_exec(Monitor& m, uint32_t serial, uint32_t request_id) {
  if (m.exec_count == 0) return nullptr;
  for (RunningExec& exec : m.execs) {
    if (exec.used && exec.reply.serial == serial && exec.reply.request_id == request_id) return &exec;
  }
  return nullptr;
}

int kill_exec(RunningExec& exec) {
  if (exec.intermediate >= 0) (void)sys::pidfd_send_signal(exec.intermediate, SIGKILL);
  if (exec.command < 0) return exec.intermediate >= 0 ? 0 : ESRCH;
  // SAFETY: the command is not reaped yet, so its number is still its own, and its group's if it leads one.
  (void)::kill(-exec.pid, SIGKILL);
  return sys::pidfd_send_signal(exec.command, SIGKILL) == 0 ? 0 : errno;
}

void kill_execs_of(Monitor& m, uint32_t serial) {
  if (m.exec_count == 0) return;
  for (RunningExec& exec : m.execs) {
    if (exec.used && exec.reply.serial == serial) (void)kill_exec(exec);
  }
}

void kill_all_execs(Monitor& m) {
  for (RunningExec& exec : m.execs) {
    if (exec.used) (void)kill_exec(exec);
  }
}

void start_exec(Monitor& m, const ReplyTo& to, const protocol::Exec& request, int* fds, uint32_t fd_count) {
  if (to.request_id == 0) return reply_failed(m, to, EINVAL, "exec.spawn", "exec", {}, "an exec needs a request id");
  if (m.phase != Phase::kRunning) return reply_failed(m, to, ESRCH, "exec.spawn", "exec", {}, "the container is not running");
  if (request.plan_fds >= kMaxMessageFds || fd_count != 1 + request.plan_fds + (request.terminal ? 1U : 3U)) {
    return reply_failed(m, to, EINVAL, "exec.spawn", "recvmsg", {}, "number of descriptors");
  }
  if (find_exec(m, to.serial, to.request_id) != nullptr) return reply_failed(m, to, EEXIST, "exec.spawn", "exec", {}, "request id");
  uint32_t index = 0;
  while (index < kMaxExecs && m.execs[index].used) ++index;
  if (index == kMaxExecs) return reply_failed(m, to, EBUSY, "exec.spawn", "exec", {}, "too many processes are being exec'ed at once");

  const uint32_t stdio_at = 1 + request.plan_fds;
  stages::ChildStdio stdio;
  if (request.terminal) {
    stdio.columns = request.terminal_columns;
    stdio.rows = request.terminal_rows;
  }
  if (!request.terminal) stdio = stages::ChildStdio{fds[stdio_at], fds[stdio_at + 1], fds[stdio_at + 2]};
  const stages::ChildSpawn spawn = stages::spawn_child(stages::PlanInput{fds[0], fds + 1, request.plan_fds}, stdio);
  if (spawn.pid < 0) {
    return reply_failed(m, to, spawn.error_number, "exec.spawn", spawn.syscall, {}, spawn.detail == nullptr ? "" : spawn.detail);
  }
  RunningExec& exec = m.execs[index];
  exec.used = true;
  exec.started = exec.failed = exec.command_ended = exec.intermediate_ended = exec.relay_ended = false;
  exec.terminal = request.terminal;
  exec.reply = to;
  exec.columns = request.terminal_columns;
  exec.rows = request.terminal_rows;
  exec.pid = 0;
  exec.command = exec.master = exec.relay = -1;
  exec.intermediate = spawn.pidfd;
  exec.sync = spawn.sync_fd;
  exec.master_until = 0;
  exec.to_relay.begin = exec.to_relay.end = exec.to_master.begin = exec.to_master.end = 0;
  if (request.terminal) {
    exec.relay = fds[stdio_at];
    fds[stdio_at] = -1;
    (void)::fcntl(exec.relay, F_SETFL, O_NONBLOCK | O_RDWR);
  }
  ++m.exec_count;
  if (!watch(m, exec.intermediate, EPOLLIN, Source::kExecIntermediate, index) || !watch(m, exec.sync, EPOLLIN, Source::kExecSync, index)) {
    const int saved = errno;
    exec.failed = true;
    reply_failed(m, to, saved, "exec.spawn", "epoll_ctl");
    (void)sys::pidfd_send_signal(exec.intermediate, SIGKILL);
  }
}

void on_exec_event(Monitor& m, Source source, uint32_t index, uint32_t events) {
  RunningExec& exec = m.execs[index];
  if (!exec.used) return;
  switch (source) {
    case Source::kExecIntermediate:
      return on_intermediate(m, exec, index);
    case Source::kExecCommand:
      return on_command(m, exec, index);
    case Source::kExecSync:
      return on_sync(m, exec, index);
    case Source::kExecMaster:
      return on_master(m, exec, index, exec.master_until != 0 && monotonic_ms() >= exec.master_until);
    case Source::kExecRelay:
      return on_relay(m, exec, index, events);
    default:
      return;
  }
}

}  // namespace berth::monitor
