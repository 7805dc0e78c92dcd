// clone3(2) and setns(2), which glibc does not wrap. Failures are -1 with errno, as libc's. All of it may be called
// between fork and exec: no allocation, no locks.
#pragma once

#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace berth::sys {

// What a clone is asked for. `cgroup_fd` >= 0 adds CLONE_INTO_CGROUP (cgroup v2 directory), `pidfd` adds CLONE_PIDFD.
struct CloneArgs {
  uint64_t flags = 0;
  int exit_signal = SIGCHLD;  // must be 0 with CLONE_PARENT
  int* pidfd = nullptr;       // receives a close-on-exec pidfd in the parent
  int cgroup_fd = -1;
};

inline struct clone_args to_kernel(const CloneArgs& args) {
  struct clone_args out = {};
  out.flags = args.flags;
  out.exit_signal = static_cast<uint64_t>(args.exit_signal);
  if (args.pidfd != nullptr) {
    out.flags |= CLONE_PIDFD;
    out.pidfd = reinterpret_cast<uintptr_t>(args.pidfd);
  }
  if (args.cgroup_fd >= 0) {
    out.flags |= CLONE_INTO_CGROUP;
    out.cgroup = static_cast<uint64_t>(args.cgroup_fd);
  }
  return out;
}

// A fork: returns 0 in the child, which has a copy of everything. Not for CLONE_VM (the stack would be shared).
// libc does not know that it forked: atfork handlers do not run, so in a threaded parent the child is limited to
// async-signal-safe calls.
inline pid_t clone_fork(const CloneArgs& args) {
  struct clone_args kernel = to_kernel(args);
  return static_cast<pid_t>(::syscall(SYS_clone3, &kernel, sizeof(kernel)));
}

// Runs `run(argument)` in a child on a stack of its own: what CLONE_VM (with CLONE_VFORK) needs, and the only way to get
// CLONE_INTO_CGROUP or CLONE_PIDFD together with it. The child ends with the function's value as its exit code. With
// CLONE_VM the child shares this thread's TLS, errno included; the caller blocks all signals around the call, because a
// handler would run in the child on the parent's memory.
inline pid_t clone_call(const CloneArgs& args, void* stack, size_t stack_size, int (*run)(void*), void* argument) {
  struct clone_args kernel = to_kernel(args);
  kernel.stack = reinterpret_cast<uintptr_t>(stack);
  kernel.stack_size = stack_size & ~static_cast<size_t>(15);
  long result;
#if defined(__x86_64__)
  register int (*run_register)(void*) __asm__("r12") = run;
  register void* argument_register __asm__("r13") = argument;
  __asm__ volatile(
      "syscall\n\t"
      "testq %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xorl %%ebp, %%ebp\n\t"
      "movq %%r13, %%rdi\n\t"
      "callq *%%r12\n\t"
      "movl %%eax, %%edi\n\t"
      "movl $60, %%eax\n\t"
      "syscall\n\t"
      "hlt\n"
      "1:"
      : "=a"(result)
      : "a"(static_cast<long>(SYS_clone3)), "D"(&kernel), "S"(sizeof(kernel)), "r"(run_register), "r"(argument_register)
      : "rcx", "r11", "memory", "cc");
#elif defined(__aarch64__)
  register long number __asm__("x8") = SYS_clone3;
  register long first __asm__("x0") = reinterpret_cast<long>(&kernel);
  register long second __asm__("x1") = sizeof(kernel);
  register int (*run_register)(void*) __asm__("x20") = run;
  register void* argument_register __asm__("x21") = argument;
  __asm__ volatile(
      "svc #0\n\t"
      "cbnz x0, 1f\n\t"
      "mov x29, #0\n\t"
      "mov x0, x21\n\t"
      "blr x20\n\t"
      "mov x8, #93\n\t"
      "svc #0\n"
      "1:"
      : "+r"(first)
      : "r"(number), "r"(second), "r"(run_register), "r"(argument_register)
      : "memory", "cc");
  result = first;
#else
  (void)run;
  (void)argument;
  result = -ENOSYS;
#endif
  if (result < 0) {
    errno = static_cast<int>(-result);
    return -1;
  }
  return static_cast<pid_t>(result);
}

// setns(2): `types` 0 for an nsfs fd, one or more CLONE_NEW* flags for a pidfd.
inline int setns(int fd, int types) { return static_cast<int>(::syscall(SYS_setns, fd, types)); }

}  // namespace berth::sys
