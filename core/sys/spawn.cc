#include "core/sys/spawn.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>

#include "core/sys/clone.h"
#include "core/sys/pidfd.h"

namespace berth::sys {
namespace {

constexpr size_t kStackBytes = 64 * 1024;
// The soft limit that programs expect (select(2) breaks past it); Node.js raises its own to the hard limit.
constexpr rlim_t kSoftNofile = 1024;

// A private stack with a guard page below it.
class Stack {
 public:
  Stack() {
    base_ = ::mmap(nullptr, kStackBytes + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
    if (base_ != MAP_FAILED) ::mprotect(base_, kGuard, PROT_NONE);
  }
  ~Stack() {
    if (base_ != MAP_FAILED) ::munmap(base_, kStackBytes + kGuard);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  [[nodiscard]] bool valid() const { return base_ != MAP_FAILED; }
  [[nodiscard]] void* bottom() const { return static_cast<char*>(base_) + kGuard; }

 private:
  static constexpr size_t kGuard = 4096;
  void* base_;
};

// What runs in the child: its stack is thrown away by exec, with nobody to take a sanitizer's marks off it.
#define BERTH_CHILD __attribute__((no_sanitize_address))

// Everything that the child needs, prepared before the clone; and what it reports. The memory is shared: the parent
// sleeps until the child has executed or ended.
struct Child {
  int program;
  const char* path;
  char* const* argv;
  char* const* envp;
  const char* cwd;
  const int* fds;
  int fd_count;
  const int* tasks;
  int task_count;
  int procs_fd;  // cgroup.procs of a v2 cgroup, or -1
  bool set_oom_score;
  char oom_score[12];
  int oom_score_size;

  int error_number = 0;
  const char* failed_syscall = "";
  const char* failed_what = "";
};

BERTH_CHILD int child_fail(Child* child, const char* syscall, const char* what) {
  child->error_number = errno == 0 ? EIO : errno;
  child->failed_syscall = syscall;
  child->failed_what = what;
  return 127;
}

BERTH_CHILD void child_reset_signals() {
  // The kernel's own struct: glibc's sigaction refuses the signals that it keeps for itself.
  struct KernelSigaction {
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    unsigned long mask;
  } fresh = {};
  for (int number = 1; number <= 64; ++number) {
    if (number == SIGKILL || number == SIGSTOP) continue;
    ::syscall(SYS_rt_sigaction, number, &fresh, nullptr, 8);
  }
  const unsigned long empty = 0;
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &empty, nullptr, 8);
}

// dup2 of every descriptor to its number, after those that stand in the way of others have been moved up.
BERTH_CHILD int child_place_descriptors(Child* child) {
  int moved[16];
  for (int i = 0; i < child->fd_count; ++i) {
    moved[i] = child->fds[i];
    if (moved[i] >= 0 && moved[i] < child->fd_count && moved[i] != i) {
      moved[i] = ::fcntl(moved[i], F_DUPFD_CLOEXEC, child->fd_count);
      if (moved[i] < 0) return child_fail(child, "fcntl", "descriptors");
    }
  }
  if (child->program >= 0 && child->program < child->fd_count) {
    child->program = ::fcntl(child->program, F_DUPFD_CLOEXEC, child->fd_count);
    if (child->program < 0) return child_fail(child, "fcntl", "descriptors");
  }
  for (int i = 0; i < child->fd_count; ++i) {
    if (moved[i] < 0) {
      ::close(i);
    } else if (moved[i] == i) {
      if (::fcntl(i, F_SETFD, 0) != 0) return child_fail(child, "fcntl", "descriptors");
    } else if (::dup2(moved[i], i) < 0) {
      return child_fail(child, "dup2", "descriptors");
    }
  }
  // Nothing of the daemon is left to chance: what is not close-on-exec already becomes it.
  if (close_range(static_cast<unsigned>(child->fd_count), ~0U, CLOSE_RANGE_CLOEXEC) != 0) {
    return child_fail(child, "close_range", "descriptors");
  }
  return 0;
}

BERTH_CHILD int child_main(void* argument) {
  auto* child = static_cast<Child*>(argument);
  for (int i = 0; i < child->task_count; ++i) {
    if (::write(child->tasks[i], "0", 1) != 1) return child_fail(child, "write", "tasks");
  }
  if (child->procs_fd >= 0 && ::write(child->procs_fd, "0", 1) != 1) return child_fail(child, "write", "cgroup.procs");
  if (child->set_oom_score) {
    const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0) {
      // Lowering it needs CAP_SYS_RESOURCE; without it the inherited value is the lowest there is.
      const ssize_t ignored = ::write(fd, child->oom_score, static_cast<size_t>(child->oom_score_size));
      static_cast<void>(ignored);
      ::close(fd);
    }
  }
  struct rlimit files = {};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > kSoftNofile) {
    files.rlim_cur = kSoftNofile;
    ::setrlimit(RLIMIT_NOFILE, &files);
  }
  if (::setsid() < 0) return child_fail(child, "setsid", "");
  ::umask(022);
  if (::chdir(child->cwd) != 0) return child_fail(child, "chdir", child->cwd);
  const int placed = child_place_descriptors(child);
  if (placed != 0) return placed;
  child_reset_signals();
  if (child->program >= 0) {
    ::syscall(SYS_execveat, child->program, "", child->argv, child->envp, AT_EMPTY_PATH);
    return child_fail(child, "execveat", child->path);
  }
  ::execve(child->path, child->argv, child->envp);
  return child_fail(child, "execve", child->path);
}

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const std::string& text : strings) out.push_back(const_cast<char*>(text.c_str()));
  out.push_back(nullptr);
  return out;
}

// Blocks every signal, those that glibc keeps for itself included, for as long as it lives.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    const unsigned long all = ~0UL;
    ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before_, 8);
  }
  ~AllSignalsBlocked() { ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before_, nullptr, 8); }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;

 private:
  unsigned long before_ = 0;
};

pid_t clone_child(const SpawnOptions& options, const Stack& stack, bool into_cgroup, int* pidfd, Child* child) {
  CloneArgs args;
  args.flags = CLONE_VM | CLONE_VFORK | options.namespaces;
  args.pidfd = pidfd;
  if (into_cgroup) args.cgroup_fd = options.cgroup.v2_directory;
  const AllSignalsBlocked blocked;
  const pid_t pid = clone_call(args, stack.bottom(), kStackBytes, child_main, child);
  if (pid >= 0 || errno != ENOSYS) return pid;
  // No clone3 (an old kernel, a seccomp filter, an architecture without a wrapper): the same by clone(2).
  auto* top = static_cast<char*>(stack.bottom()) + kStackBytes;
  const int flags = static_cast<int>(static_cast<uint32_t>(args.flags)) | CLONE_PIDFD | SIGCHLD;
  return ::clone(child_main, top, flags, child, pidfd);
}

}  // namespace

Result<Spawned> spawn(const SpawnOptions& options, std::string_view step) {
  if (options.fds.size() > 16) return make_error(E2BIG, step, "clone3", options.path);
  std::vector<char*> argv = pointers(options.args);
  std::vector<char*> envp = pointers(options.env);
  Child child = {};
  child.program = options.program.get();
  child.path = options.path.c_str();
  child.argv = argv.data();
  child.envp = envp.data();
  child.cwd = options.cwd.c_str();
  child.fds = options.fds.data();
  child.fd_count = static_cast<int>(options.fds.size());
  child.tasks = options.cgroup.v1_tasks.data();
  child.task_count = static_cast<int>(options.cgroup.v1_tasks.size());
  child.procs_fd = -1;
  child.set_oom_score = options.oom_score_adj.has_value();
  if (child.set_oom_score) {
    child.oom_score_size = std::snprintf(child.oom_score, sizeof(child.oom_score), "%d", *options.oom_score_adj);
  }

  const Stack stack;
  if (!stack.valid()) return errno_error(step, "mmap", options.path);
  int pidfd = -1;
  const bool has_v2 = options.cgroup.v2_directory >= 0;
  pid_t pid = clone_child(options, stack, has_v2, &pidfd, &child);
  // Kernels before 5.7 do not know CLONE_INTO_CGROUP (EINVAL); a threaded cgroup refuses it (EOPNOTSUPP).
  if (pid < 0 && has_v2 && (errno == EINVAL || errno == E2BIG || errno == ENOSYS || errno == EOPNOTSUPP)) {
    Fd procs(::openat(options.cgroup.v2_directory, "cgroup.procs", O_WRONLY | O_CLOEXEC));
    if (!procs.valid()) return errno_error(step, "openat", "cgroup.procs");
    child.procs_fd = procs.get();
    pid = clone_child(options, stack, false, &pidfd, &child);
  }
  if (pid < 0) return errno_error(step, "clone3", options.path);
  Fd owned(pidfd);
  if (child.error_number != 0) {
    siginfo_t info;
    waitid_pidfd(owned.get(), &info, WEXITED);
    return make_error(child.error_number, step, child.failed_syscall, child.failed_what[0] == '\0' ? options.path : child.failed_what);
  }
  Spawned spawned;
  spawned.pid = pid;
  spawned.pidfd = std::move(owned);
  return spawned;
}

}  // namespace berth::sys
