#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/stages/child.h"
#include "core/sys/clone.h"
#include "core/sys/loopback.h"
#include "core/sys/openat2.h"
#include "core/sys/pidfd.h"
#include "core/sys/procfs.h"

namespace berth::stages {
namespace {

using plan::OpCode;

// A file of this process below the host's procfs, which is reached by descriptor whatever /proc is by now.
void write_own_proc(Child& child, const char* directory, const char* file, const char* value, size_t size, bool optional) {
  char path[256];
  const size_t directory_size = std::strlen(directory);
  const size_t file_size = std::strlen(file);
  if (directory_size + file_size >= sizeof(path)) child_fail(child, "openat2", file, ENAMETOOLONG);
  std::memcpy(path, directory, directory_size);
  std::memcpy(path + directory_size, file, file_size + 1);
  // "self" and "thread-self" are links, but not magic ones.
  const int fd = sys::openat2(child.proc, path, O_WRONLY | O_NOCTTY, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV);
  if (fd < 0) {
    if (optional && (errno == EACCES || errno == EPERM)) return;
    child_fail(child, "openat2", path);
  }
  if (!sys::is_procfs(fd)) child_fail(child, "openat2", path, EXDEV);
  if (sys::write_once(fd, value, size) != 0) {
    if (!optional || (errno != EACCES && errno != EPERM)) child_fail(child, "write", path);
  }
  ::close(fd);
}

void oom_score_adj(Child& child) {
  char text[16];
  size_t at = sizeof(text);
  auto value = static_cast<int64_t>(child.op->a[0]);
  const bool negative = value < 0;
  uint64_t rest = negative ? static_cast<uint64_t>(-value) : static_cast<uint64_t>(value);
  if (rest > 1000) child_fail(child, "write", "oom_score_adj", EINVAL);
  do {
    text[--at] = static_cast<char>('0' + rest % 10);
    rest /= 10;
  } while (rest > 0);
  if (negative) text[--at] = '-';
  write_own_proc(child, "self/", "oom_score_adj", text + at, sizeof(text) - at, child.op->a[1] == 1);
}

void sysctl(Child& child) {
  const plan::Op& op = *child.op;
  const char* path = child_text(child, op.s[0]);
  // A procfs of the namespaces that the process has now; where it may not make one (a user namespace), the host's, which
  // shows the opener's namespaces as well.
  if (child.private_proc < 0) child.private_proc = sys::open_private_procfs();
  const int procfs = child.private_proc >= 0 ? child.private_proc : child.proc;
  const char* call = "";
  if (sys::write_sysctl(procfs, path, child_text(child, op.s[1]), op.s[1].size, &call) != 0) child_fail(child, call, path);
}

void scheduler(Child& child) {
  const plan::Op& op = *child.op;
  struct {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime;
    uint64_t deadline;
    uint64_t period;
  } attributes = {};
  attributes.size = sizeof(attributes);
  attributes.policy = static_cast<uint32_t>(op.a[0]);
  attributes.nice = static_cast<int32_t>(static_cast<int64_t>(op.a[1]));
  attributes.priority = static_cast<uint32_t>(op.a[2]);
  attributes.flags = op.a[3];
  attributes.runtime = op.a[4];
  attributes.deadline = op.a[5];
  if (op.s[0].size == 8) std::memcpy(&attributes.period, child_text(child, op.s[0]), 8);
  if (::syscall(SYS_sched_setattr, 0, &attributes, 0U) != 0) child_fail(child, "sched_setattr", "");
}

void bounding_set(Child& child) {
  for (unsigned long capability = 0; capability < 64; ++capability) {
    const int present = ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    if (present < 0) return;  // past the last one that this kernel knows
    if (present == 1 && (child.op->a[0] >> capability & 1) == 0 && ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) {
      child_fail(child, "prctl(PR_CAPBSET_DROP)", "");
    }
  }
}

void capabilities(Child& child) {
  const plan::Op& op = *child.op;
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  for (unsigned i = 0; i < 2; ++i) {
    data[i].effective = static_cast<uint32_t>(op.a[0] >> (32 * i));
    data[i].permitted = static_cast<uint32_t>(op.a[1] >> (32 * i));
    data[i].inheritable = static_cast<uint32_t>(op.a[2] >> (32 * i));
  }
  if (::syscall(SYS_capset, &header, data) != 0) child_fail(child, "capset", "");
}

void ambient(Child& child) {
  if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 && errno != EINVAL) {
    child_fail(child, "prctl(PR_CAP_AMBIENT)", "");
  }
  for (unsigned long capability = 0; capability < 64; ++capability) {
    if ((child.op->a[0] >> capability & 1) != 0 && ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) != 0) {
      child_fail(child, "prctl(PR_CAP_AMBIENT_RAISE)", "");
    }
  }
}

void seccomp(Child& child) {
  const plan::Op& op = *child.op;
  struct sock_fprog program = {};
  program.len = static_cast<unsigned short>(op.s[0].size / sizeof(struct sock_filter));
  // SAFETY: the blob's ranges are 8-byte aligned and the kernel only reads the filter.
  program.filter = reinterpret_cast<struct sock_filter*>(const_cast<char*>(child_text(child, op.s[0])));
  const long result = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, op.a[0], &program);
  if (result < 0) child_fail(child, "seccomp", "");
  if (result > 0 && op.a[1] != plan::kNone) child_set_slot(child, op.a[1], static_cast<int>(result));
}

// Pipes and terminals of stdio belong to the user that the process becomes: /dev/stdout can then be opened again.
void give_stdio(uint64_t uid) {
  for (int fd = 0; fd <= 2; ++fd) {
    struct stat about = {};
    if (::fstat(fd, &about) != 0 || about.st_uid == uid) continue;
    if (!S_ISFIFO(about.st_mode) && !(S_ISCHR(about.st_mode) && ::isatty(fd) == 1)) continue;
    (void)!::fchown(fd, static_cast<uid_t>(uid), static_cast<gid_t>(-1));
  }
}

void require_cwd_inside(Child& child, const char* path) {
  // The raw call tells what libc would hide: "(unreachable)…" for a directory outside the root.
  char cwd[kPathBytes];
  const long size = ::syscall(SYS_getcwd, cwd, sizeof(cwd));
  if (size < 0) child_fail(child, "getcwd", path);
  if (cwd[0] != '/') child_fail(child, "getcwd", path, EPERM, "the working directory is outside the container");
}

void change_directory(Child& child) {
  const plan::Op& op = *child.op;
  const char* path = child_text(child, op.s[0]);
  if ((op.a[0] & plan::kChdirUnlessDone) != 0 && child.chdir_done) return;
  if ((op.a[0] & plan::kChdirMake) != 0) {
    const int there = child_lookup(child, path, Lookup{});
    if (there >= 0) {
      ::close(there);
    } else if (errno == ENOENT) {
      const int made = child_lookup(child, path, Lookup{.make = Make::kDirectory});
      if (made < 0) child_fail(child, "mkdirat", path);
      if (::fchownat(made, "", static_cast<uid_t>(op.a[1]), static_cast<gid_t>(op.a[2]), AT_EMPTY_PATH) != 0) {
        child_fail(child, "fchownat", path);
      }
      ::close(made);
    }
  }
  if (::chdir(path) != 0) {
    if ((op.a[0] & plan::kChdirTry) != 0 && errno == EACCES) return;
    child_fail(child, "chdir", path);
  }
  require_cwd_inside(child, path);
  child.chdir_done = true;
}

// 0, or the errno that execve would give for this file.
int executable_error(const char* path) {
  struct stat about = {};
  if (::stat(path, &about) != 0) return errno;
  if (!S_ISREG(about.st_mode)) return EACCES;
  if (::syscall(SYS_faccessat2, AT_FDCWD, path, X_OK, AT_EACCESS) == 0) return 0;
  if (errno != ENOSYS && errno != EPERM) return errno;
  return ::access(path, X_OK) == 0 ? 0 : errno;
}

void lookup_program(Child& child) {
  const plan::Op& op = *child.op;
  const char* name = child_text(child, op.s[0]);
  const size_t name_size = op.s[0].size;
  if (name_size >= kPathBytes) child_fail(child, "execve", name, ENAMETOOLONG);
  if (std::memchr(name, '/', name_size) != nullptr) {
    const int error_number = executable_error(name);
    if (error_number != 0) child_fail(child, "execve", name, error_number, "the program cannot be run");
    std::memcpy(child.program, name, name_size + 1);
    return;
  }
  int found = ENOENT;
  const char* directory = child_text(child, op.s[1]);
  for (;;) {
    size_t size = 0;
    while (directory[size] != 0 && directory[size] != ':') ++size;
    // An empty element means the working directory, as for execvp.
    if (size + 1 + name_size < kPathBytes) {
      std::memcpy(child.program, directory, size);
      size_t at = size;
      if (size > 0) child.program[at++] = '/';
      std::memcpy(child.program + at, name, name_size + 1);
      const int error_number = executable_error(child.program);
      if (error_number == 0) return;
      if (error_number == EACCES) found = EACCES;
    }
    if (directory[size] == 0) break;
    directory += size + 1;
  }
  child_fail(child, "execve", name, found, "the program is not found in PATH");
}

[[noreturn]] void execute(Child& child) {
  const plan::Op& op = *child.op;
  const char* program = child.program[0] != 0 ? child.program : child_text(child, op.s[0]);
  require_cwd_inside(child, "/");
  child_close_all(child);
  // SAFETY: execve does not write through its vectors.
  ::execve(program, const_cast<char* const*>(child.argv), const_cast<char* const*>(child.envp));
  child_fail(child, "execve", program);
}

void join_namespace(Child& child) {
  const plan::Op& op = *child.op;
  if (sys::setns(child_fd(child, op.a[0]), static_cast<int>(op.a[1])) != 0) child_fail(child, "setns", "");
  // A joined mount namespace sets root and working directory to its own.
  if (child.root >= 0 && (op.a[1] == 0 || (op.a[1] & CLONE_NEWNS) != 0)) {
    ::close(child.root);
    child.root = -1;
  }
}

}  // namespace

void child_reopen_null(Child& child) {
  int null = -1;
  for (int fd = 0; fd <= 2; ++fd) {
    struct stat about = {};
    if (::fstat(fd, &about) != 0 || !S_ISCHR(about.st_mode) || about.st_rdev != kNullDevice) continue;
    if (null < 0) {
      null = sys::open_in_root_nofollow(child_root(child), "/dev/null", O_RDWR | O_NOCTTY | O_NONBLOCK);
      if (null < 0) return;  // the container has none: it keeps the one that it was given
      struct stat other = {};
      if (::fstat(null, &other) != 0 || !S_ISCHR(other.st_mode) || other.st_rdev != kNullDevice) break;
      (void)::fcntl(null, F_SETFL, 0);
    }
    if (::dup3(null, fd, 0) < 0) child_fail(child, "dup3", "/dev/null");
  }
  if (null >= 0) ::close(null);
}

void child_terminal(Child& child) {
  const plan::Op& op = *child.op;
  const char* path = "/dev/pts/ptmx";
  const int master = sys::open_in_root_nofollow(child_root(child), path, O_RDWR | O_NOCTTY);
  if (master < 0) child_fail(child, "openat2", path);
  struct statfs about = {};
  if (::fstatfs(master, &about) != 0) child_fail(child, "fstatfs", path);
  if (about.f_type != DEVPTS_SUPER_MAGIC) child_fail(child, "openat2", path, ENODEV, "not a devpts");
  int unlock = 0;
  if (::ioctl(master, TIOCSPTLCK, &unlock) != 0) child_fail(child, "ioctl(TIOCSPTLCK)", path);
  const int slave = ::ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) child_fail(child, "ioctl(TIOCGPTPEER)", path);
  struct winsize size = {};
  size.ws_row = child.rows != 0 ? child.rows : static_cast<unsigned short>(op.a[2]);
  size.ws_col = child.columns != 0 ? child.columns : static_cast<unsigned short>(op.a[3]);
  if (size.ws_row != 0 || size.ws_col != 0) {
    if (::ioctl(slave, TIOCSWINSZ, &size) != 0) child_fail(child, "ioctl(TIOCSWINSZ)", path);
  }
  const auto id = [](uint64_t value) { return value == plan::kNone ? static_cast<uint32_t>(-1) : static_cast<uint32_t>(value); };
  if (::fchown(slave, id(op.a[0]), id(op.a[1])) != 0) child_fail(child, "fchown", path);
  child_send_terminal(child, master);
  ::close(master);
  for (int fd = 0; fd <= 2; ++fd) {
    if (::dup3(slave, fd, 0) < 0) child_fail(child, "dup3", path);
  }
  ::close(slave);
}

bool child_process_op(Child& child) {
  const plan::Op& op = *child.op;
  const auto text = [&](int index) { return child_text(child, op.s[index]); };
  switch (static_cast<OpCode>(op.code)) {
    case OpCode::kCgroupAttach:
      if (sys::write_once(child_fd(child, op.a[0]), "0", 1) != 0) child_fail(child, "write", "tasks");
      return true;
    case OpCode::kJoinNamespace:
      join_namespace(child);
      return true;
    case OpCode::kUnshare:
      if (::unshare(static_cast<int>(op.a[0])) != 0) child_fail(child, "unshare", "");
      return true;
    case OpCode::kSetHostname:
      if (::sethostname(text(0), op.s[0].size) != 0) child_fail(child, "sethostname", text(0));
      return true;
    case OpCode::kSetDomainname:
      if (::setdomainname(text(0), op.s[0].size) != 0) child_fail(child, "setdomainname", text(0));
      return true;
    case OpCode::kLoopbackUp: {
      const char* call = "";
      if (sys::loopback_up(&call) != 0) child_fail(child, call, "lo");
      return true;
    }
    case OpCode::kSysctl:
      sysctl(child);
      return true;
    case OpCode::kTerminal:
      child_terminal(child);
      return true;
    case OpCode::kSetsid:
      if (::setsid() < 0) child_fail(child, "setsid", "");
      if (op.a[0] == 1 && ::ioctl(0, TIOCSCTTY, 0) != 0) child_fail(child, "ioctl(TIOCSCTTY)", "");
      return true;
    case OpCode::kOomScoreAdj:
      oom_score_adj(child);
      return true;
    case OpCode::kRlimit: {
      struct rlimit64 limit = {op.a[1], op.a[2]};
      if (::syscall(SYS_prlimit64, 0, static_cast<int>(op.a[0]), &limit, nullptr) != 0) child_fail(child, "prlimit64", text(0));
      return true;
    }
    case OpCode::kUmask:
      ::umask(static_cast<mode_t>(op.a[0] & 0777));
      return true;
    case OpCode::kPersonality:
      if (::syscall(SYS_personality, op.a[0]) < 0) child_fail(child, "personality", "");
      return true;
    case OpCode::kScheduler:
      scheduler(child);
      return true;
    case OpCode::kIoPriority:
      if (::syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, static_cast<int>(op.a[0])) != 0) child_fail(child, "ioprio_set", "");
      return true;
    case OpCode::kCpuAffinity:
      if (::syscall(SYS_sched_setaffinity, 0, static_cast<size_t>(op.s[0].size), text(0)) != 0) {
        child_fail(child, "sched_setaffinity", "");
      }
      return true;
    case OpCode::kSessionKeyring:
      if (::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, op.s[0].size == 0 ? nullptr : text(0), 0, 0, 0) < 0 && errno != ENOSYS &&
          errno != EDQUOT) {
        child_fail(child, "keyctl(JOIN_SESSION_KEYRING)", text(0));
      }
      return true;
    case OpCode::kLabelProcess:
      write_own_proc(child, "thread-self/attr/", text(0), text(1), op.s[1].size, false);
      return true;
    case OpCode::kBoundingSet:
      bounding_set(child);
      return true;
    case OpCode::kKeepCaps:
      if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) child_fail(child, "prctl(PR_SET_KEEPCAPS)", "");
      return true;
    case OpCode::kSetGroups:
      // A user namespace may forbid setgroups; having none to set is then no failure.
      if (::syscall(SYS_setgroups, op.s[0].size / 4, text(0)) != 0 && !(op.s[0].size == 0 && errno == EPERM)) {
        child_fail(child, "setgroups", "");
      }
      return true;
    case OpCode::kSetGid:
      if (::syscall(SYS_setresgid, op.a[0], op.a[0], op.a[0]) != 0) child_fail(child, "setresgid", "");
      return true;
    case OpCode::kSetUid:
      give_stdio(op.a[0]);
      if (::syscall(SYS_setresuid, op.a[0], op.a[0], op.a[0]) != 0) child_fail(child, "setresuid", "");
      // A change of ids sets it to whatever fs.suid_dumpable says.
      if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) child_fail(child, "prctl(PR_SET_DUMPABLE)", "");
      return true;
    case OpCode::kCapabilities:
      capabilities(child);
      return true;
    case OpCode::kAmbient:
      ambient(child);
      return true;
    case OpCode::kNoNewPrivileges:
      if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) child_fail(child, "prctl(PR_SET_NO_NEW_PRIVS)", "");
      return true;
    case OpCode::kSeccomp:
      seccomp(child);
      return true;
    case OpCode::kChdir:
      change_directory(child);
      return true;
    case OpCode::kLookupProgram:
      lookup_program(child);
      return true;
    case OpCode::kTimeOffsets:
      write_own_proc(child, "self/", "timens_offsets", text(0), op.s[0].size, false);
      return true;
    case OpCode::kExec:
      execute(child);
    default:
      return false;
  }
}

}  // namespace berth::stages
