// Processes by descriptor, so that a recycled pid is never signalled; and close_range(2). -1 with errno.
#pragma once

#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

namespace berth::sys {

// Close-on-exec from birth.
inline int pidfd_open(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0U)); }

// ESRCH: the process has ended (a zombie still takes signals and gives 0).
inline int pidfd_send_signal(int pidfd, int number) {
  return static_cast<int>(::syscall(SYS_pidfd_send_signal, pidfd, number, nullptr, 0U));
}

// A copy of another process's descriptor (ptrace rights needed), close-on-exec.
inline int pidfd_getfd(int pidfd, int target) { return static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd, target, 0U)); }

// waitid(2) on a child's pidfd; EINTR is retried. With WNOHANG, `info->si_pid` stays 0 while it runs.
inline int waitid_pidfd(int pidfd, siginfo_t* info, int options, struct rusage* usage = nullptr) {
  for (;;) {
    info->si_pid = 0;
    const long result = ::syscall(SYS_waitid, P_PIDFD, pidfd, info, options, usage);
    if (result == 0 || errno != EINTR) return static_cast<int>(result);
  }
}

// Closes, or with CLOSE_RANGE_CLOEXEC marks, every descriptor from `first` to `last`.
inline int close_range(unsigned first, unsigned last, unsigned flags) {
  return static_cast<int>(::syscall(SYS_close_range, first, last, flags));
}

}  // namespace berth::sys
