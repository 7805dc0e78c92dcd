#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/stages/check_plan.h"
#include "core/stages/child.h"
#include "core/stages/stages.h"
#include "core/sys/clone.h"
#include "core/sys/pidfd.h"

namespace berth::stages {
namespace {

ChildSpawn failed(const char* call, int error_number, const char* detail = nullptr) {
  ChildSpawn spawn;
  spawn.error_number = error_number;
  spawn.syscall = call;
  spawn.detail = detail;
  return spawn;
}

// The caller itself, as something that setns(2) can go back to.
int own_pid_namespace() { return sys::pidfd_open(::getpid()); }

}  // namespace

ChildSpawn spawn_child(const PlanInput& plan, const ChildStdio& stdio) {
  plan::Header header;
  struct stat about = {};
  if (::fstat(plan.plan_fd, &about) != 0) return failed("fstat", errno);
  const ssize_t count = ::pread(plan.plan_fd, &header, sizeof(header), 0);
  if (count < 0) return failed("pread", errno);
  PlanFault fault;
  if (count != static_cast<ssize_t>(sizeof(header))) return failed("plan", EINVAL, "too short");
  if (!check_header(header, static_cast<size_t>(about.st_size), plan.fd_count, &fault)) return failed("plan", EINVAL, fault.reason);

  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) return failed("socketpair", errno);
  ChildSpawn spawn;
  sys::CloneArgs args;
  args.pidfd = &spawn.pidfd;
  int own = -1;
  if (header.kind == static_cast<uint32_t>(plan::Kind::kCreate)) {
    args.flags = header.clone_flags;
    if (header.cgroup_fd != plan::kNone) args.cgroup_fd = plan.fds[header.cgroup_fd];
    if (header.pid_namespace_fd != plan::kNone) {
      own = own_pid_namespace();
      if (own < 0 || sys::setns(plan.fds[header.pid_namespace_fd], CLONE_NEWPID) != 0) {
        spawn = failed(own < 0 ? "pidfd_open" : "setns", errno);
        if (own >= 0) ::close(own);
        ::close(sockets[0]);
        ::close(sockets[1]);
        return spawn;
      }
    }
  }
  spawn.pid = sys::clone_fork(args);
  if (spawn.pid == 0) child_main(plan, stdio, sockets[1]);
  const int saved = errno;
  if (own >= 0) {
    // Going back to one's own namespace cannot fail; were it to, later children would be born in the container.
    if (sys::setns(own, CLONE_NEWPID) != 0) ::_exit(125);
    ::close(own);
  }
  ::close(sockets[1]);
  if (spawn.pid < 0) {
    ::close(sockets[0]);
    return failed("clone3", saved);
  }
  (void)::fcntl(sockets[0], F_SETFL, O_NONBLOCK);
  spawn.sync_fd = sockets[0];
  return spawn;
}

}  // namespace berth::stages
