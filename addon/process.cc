#include "addon/process.h"

#include <sys/epoll.h>

#include "core/sys/pidfd.h"

namespace berth::addon {

ExitStatus to_exit_status(int code, int status) {
  ExitStatus out;
  if (code == CLD_EXITED) out.exit_code = status;
  else out.signal = status;
  return out;
}

std::shared_ptr<Process> Process::create(int pid, Fd pidfd, std::string start_time, bool child) {
  std::shared_ptr<Process> process(new Process(pid, std::move(pidfd), std::move(start_time), child));
  // The reactor keeps a child until it is reaped, whatever becomes of the handle.
  if (child) Reactor::instance().post([process] { process->start_watch(); });
  return process;
}

void Process::when_exited(std::function<void(ExitStatus)> done) {
  Reactor::instance().post([self = shared_from_this(), done = std::move(done)] {
    if (self->ended_) {
      done(self->status_);
      return;
    }
    self->waiters_.push_back(done);
    self->start_watch();
  });
}

void Process::start_watch() {
  if (watched_ || ended_) return;
  watched_ = Reactor::instance().watch(pidfd_.get(), EPOLLIN, shared_from_this());
}

void Process::on_ready(int fd, uint32_t) {
  if (child_) {
    siginfo_t info = {};
    if (sys::waitid_pidfd(fd, &info, WEXITED | WNOHANG) == 0) {
      if (info.si_pid == 0) return;
      status_ = to_exit_status(info.si_code, info.si_status);
    }
    // ECHILD: reaped behind our back, the status is lost.
  }
  ended_ = true;
  const std::shared_ptr<Process> self = shared_from_this();
  Reactor::instance().forget(fd);
  std::vector<std::function<void(ExitStatus)>> waiters;
  waiters.swap(waiters_);
  for (const std::function<void(ExitStatus)>& done : waiters) done(status_);
}

}  // namespace berth::addon
