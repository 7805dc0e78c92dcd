#include "ocirun/driver.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "core/sys/pidfd.h"

namespace berth::ocirun {

namespace {

struct Message {
  bool end = false;  // of file: there is no record
  stages::SyncRecord record = {};
  Fd fd;
};

Result<Message> receive(int socket) {
  Message message;
  for (;;) {
    struct iovec part = {&message.record, sizeof(message.record)};
    alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    struct msghdr header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof(control);
    const ssize_t count = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    if (count == 0 || (count < 0 && errno == ECONNRESET)) {
      message.end = true;
      return message;
    }
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) {
      struct pollfd wait = {socket, POLLIN, 0};
      if (poll(&wait, 1, -1) < 0 && errno != EINTR) return errno_error("sync", "poll");
      continue;
    }
    if (count < 0) return errno_error("sync", "recvmsg");
    if (count != static_cast<ssize_t>(sizeof(message.record))) return make_error(EPROTO, "sync", "recvmsg");
    const struct cmsghdr* found = CMSG_FIRSTHDR(&header);
    if (found != nullptr && found->cmsg_type == SCM_RIGHTS) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(found), sizeof(fd));
      message.fd.reset(fd);
    }
    return message;
  }
}

template <size_t N>
std::string bounded(const char (&text)[N]) {
  return std::string(text, strnlen(text, N));
}

}  // namespace

Error error_of(const stages::SyncRecord& record) {
  return make_error(record.error_number, bounded(record.step), bounded(record.syscall), bounded(record.path), bounded(record.detail));
}

Result<Driven> drive(const plan::CompiledPlan& plan, const stages::ChildStdio& stdio) {
  std::vector<int> fds;
  fds.reserve(plan.fds.size());
  for (const Fd& fd : plan.fds) fds.push_back(fd.get());
  const stages::PlanInput input{plan.memfd.get(), fds.data(), static_cast<uint32_t>(fds.size())};
  const stages::ChildSpawn spawn = stages::spawn_child(input, stdio);
  if (spawn.error_number != 0) {
    return make_error(spawn.error_number, "spawn", spawn.syscall == nullptr ? "clone3" : spawn.syscall, {},
                      spawn.detail == nullptr ? "" : spawn.detail);
  }
  Driven out;
  out.pid = spawn.pid;
  out.pidfd.reset(spawn.pidfd);
  out.sync.reset(spawn.sync_fd);
  return out;
}

Result<void> follow(Driven& child, Until until) {
  for (;;) {
    BERTH_ASSIGN(Message message, receive(child.sync.get()));
    if (message.end) {
      if (until == Until::kExecuted) return {};
      return make_error(ESRCH, "sync", "recvmsg", {}, "the child ended without a word");
    }
    switch (static_cast<stages::SyncKind>(message.record.kind)) {
      case stages::SyncKind::kFailed:
        return error_of(message.record);
      case stages::SyncKind::kTerminal:
        child.terminal = std::move(message.fd);
        break;
      case stages::SyncKind::kCommand:
        child.command = message.record.pid;
        child.command_pidfd = std::move(message.fd);
        break;
      case stages::SyncKind::kReady:
        if (until == Until::kReady) return {};
        break;
      default:
        return make_error(EPROTO, "sync", "recvmsg");
    }
  }
}

Result<void> release(Driven& child) {
  stages::SyncRecord record = {};
  record.kind = static_cast<uint32_t>(stages::SyncKind::kGo);
  if (send(child.sync.get(), &record, sizeof(record), MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof(record))) {
    return errno_error("start", "send");
  }
  return {};
}

int wait_exit(FdRef pidfd) {
  siginfo_t info = {};
  if (sys::waitid_pidfd(pidfd.get(), &info, WEXITED) != 0) return 255;
  return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

std::string describe(const Error& error) {
  std::string out = error.step;
  for (const std::string* part : {&error.syscall, &error.path}) {
    if (part->empty()) continue;
    if (!out.empty()) out += ": ";
    out += *part;
  }
  if (error.error_number != 0) out += std::string(": ") + strerror(error.error_number);
  if (!error.detail.empty()) out += " (" + error.detail + ")";
  return out;
}

}  // namespace berth::ocirun
