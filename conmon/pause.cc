// berth-pause: holds a pod's namespaces, and is pid 1 of the pod where its processes share a pid namespace. What it is told
// and answers is in pause_protocol.h. Once it is ready it has an empty read-only root, no capabilities, no descriptors and
// five system calls left.
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "conmon/pause_protocol.h"
#include "core/sys/loopback.h"
#include "core/sys/mount.h"
#include "core/sys/pidfd.h"
#include "core/sys/procfs.h"

namespace berth::pause {
namespace {

void copy_text(char* out, size_t size, const char* text) {
  size_t at = 0;
  for (; text[at] != 0 && at + 1 < size; ++at) out[at] = text[at];
  out[at] = 0;
}

void answer(int error_number, const char* step, const char* call, const char* path) {
  PauseReply reply = {};
  reply.magic = kMagic;
  reply.error_number = error_number;
  copy_text(reply.step, sizeof(reply.step), step);
  copy_text(reply.syscall, sizeof(reply.syscall), call);
  copy_text(reply.path, sizeof(reply.path), path);
  (void)!::write(kReplyFd, &reply, sizeof(reply));
}

[[noreturn]] void fail(const char* step, const char* call, const char* path = "", int error_number = 0) {
  answer(error_number != 0 ? error_number : errno, step, call, path);
  ::_exit(1);
}

// The configuration, read whole and checked: every string that it counts ends inside it.
struct Input {
  PauseConfig config;
  const char* strings;
};

Input read_config(char* buffer, size_t capacity) {
  constexpr const char* step = "pause.configure";
  size_t size = 0;
  for (;;) {
    const ssize_t count = ::read(kConfigFd, buffer + size, capacity - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail(step, "read");
    if (count == 0) break;
    size += static_cast<size_t>(count);
    if (size == capacity) fail(step, "read", "", EFBIG);
  }
  Input input;
  if (size < sizeof(input.config)) fail(step, "parse", "size", EINVAL);
  std::memcpy(&input.config, buffer, sizeof(input.config));
  if (input.config.magic != kMagic || input.config.version != kVersion) fail(step, "parse", "version", EINVAL);
  if (input.config.total_size != size) fail(step, "parse", "total_size", EINVAL);
  if (std::memchr(input.config.hostname, 0, sizeof(input.config.hostname)) == nullptr) fail(step, "parse", "hostname", EINVAL);
  if (input.config.sysctl_count > kMaxConfigBytes) fail(step, "parse", "sysctl_count", EINVAL);
  input.strings = buffer + sizeof(input.config);
  const char* at = input.strings;
  const char* const end = buffer + size;
  for (uint32_t i = 0; i < 2 * input.config.sysctl_count; ++i) {
    const auto* nul = static_cast<const char*>(std::memchr(at, 0, static_cast<size_t>(end - at)));
    if (nul == nullptr) fail(step, "parse", "sysctls", EINVAL);
    at = nul + 1;
  }
  return input;
}

void set_oom_score(int procfs, int32_t value) {
  constexpr const char* step = "pause.oom_score";
  constexpr const char* path = "self/oom_score_adj";
  if (value < -1000 || value > 1000) fail(step, "write", path, EINVAL);
  char text[8];
  size_t at = sizeof(text);
  auto rest = static_cast<uint32_t>(value < 0 ? -value : value);
  do {
    text[--at] = static_cast<char>('0' + rest % 10);
    rest /= 10;
  } while (rest > 0);
  if (value < 0) text[--at] = '-';
  // "self" is a link, but not a magic one.
  const int fd = sys::openat2(procfs, path, O_WRONLY, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV);
  if (fd < 0) fail(step, "openat2", path);
  if (sys::write_once(fd, text + at, sizeof(text) - at) != 0 && errno != EACCES && errno != EPERM) fail(step, "write", path);
  ::close(fd);
}

void set_sysctls(int procfs, const Input& input) {
  const char* at = input.strings;
  for (uint32_t i = 0; i < input.config.sysctl_count; ++i) {
    const char* path = at;
    const char* value = path + std::strlen(path) + 1;
    const char* call = "";
    if (sys::write_sysctl(procfs, path, value, std::strlen(value), &call) != 0) fail("pause.sysctl", call, path);
    at = value + std::strlen(value) + 1;
  }
}

// Whoever can reach /proc/1/root of the pod finds an empty directory that nobody can write to, and no other mount.
void enter_empty_root() {
  constexpr const char* step = "pause.root";
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) fail(step, "mount", "/");
  const int context = sys::fsopen("tmpfs");
  if (context < 0) fail(step, "fsopen", "tmpfs");
  if (sys::fsconfig_string(context, "mode", "0555") != 0 || sys::fsconfig_string(context, "size", "4k") != 0 ||
      sys::fsconfig_string(context, "nr_inodes", "1") != 0 || sys::fsconfig_flag(context, "ro") != 0 ||
      sys::fsconfig_create(context) != 0) {
    fail(step, "fsconfig", "tmpfs");
  }
  const int root = sys::fsmount(context, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  if (root < 0) fail(step, "fsmount", "tmpfs");
  // Atop the old root, so that no directory of the host is needed; both go together in the pivot.
  const int below = ::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (below < 0) fail(step, "open", "/");
  if (sys::attach_mount(root, below) != 0) fail(step, "move_mount", "/");
  if (::fchdir(root) != 0) fail(step, "fchdir", "/");
  if (sys::pivot_root(".", ".") != 0) fail(step, "pivot_root", "/");
  if (::umount2(".", MNT_DETACH) != 0) fail(step, "umount2", "/");
  if (::chdir("/") != 0) fail(step, "chdir", "/");
}

void drop_privileges() {
  constexpr const char* step = "pause.privileges";
  for (unsigned long capability = 0; capability < 64; ++capability) {
    if (::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) < 0) break;
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) fail(step, "prctl(PR_CAPBSET_DROP)");
  }
  (void)::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct none[2] = {};
  if (::syscall(SYS_capset, &header, none) != 0) fail(step, "capset");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) fail(step, "prctl(PR_SET_NO_NEW_PRIVS)");
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) fail(step, "prctl(PR_SET_DUMPABLE)");
}

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
constexpr uint32_t kArchitecture = 0;
#endif

// Waiting, reaping, ending: all that is left to do. A kernel without seccomp does without.
void allow_little() {
  if (kArchitecture == 0) return;
  constexpr auto allow = [](uint32_t number, uint8_t jump) {
    return sock_filter{BPF_JMP | BPF_JEQ | BPF_K, jump, 0, number};
  };
  struct sock_filter filter[] = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, arch)},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 6, kArchitecture},
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
      allow(SYS_rt_sigtimedwait, 5),
      allow(SYS_wait4, 4),
      allow(SYS_exit_group, 3),
      allow(SYS_restart_syscall, 2),
      allow(SYS_rt_sigreturn, 1),
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  struct sock_fprog program = {static_cast<unsigned short>(sizeof(filter) / sizeof(filter[0])), filter};
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0 && errno != EINVAL) fail("pause.seccomp", "prctl(PR_SET_SECCOMP)");
}

constexpr uint64_t bit(int number) { return 1ULL << (number - 1); }

// Until SIGTERM or SIGINT. As pid 1 only from outside its pid namespace (the sender then has no pid in it): no container of
// the pod can end the pod by signalling this process.
[[noreturn]] void hold(bool is_init) {
  const uint64_t waited = bit(SIGCHLD) | bit(SIGTERM) | bit(SIGINT);
  for (;;) {
    siginfo_t info = {};
    const long number = ::syscall(SYS_rt_sigtimedwait, &waited, &info, nullptr, sizeof(waited));
    if (number == SIGCHLD) {
      while (::syscall(SYS_wait4, -1, nullptr, WNOHANG | __WALL, nullptr) > 0) {
      }
    } else if ((number == SIGTERM || number == SIGINT) && (!is_init || info.si_pid == 0)) {
      ::syscall(SYS_exit_group, 0);
    }
  }
}

[[noreturn]] void run() {
  // Before anything else: a signal that comes meanwhile is taken by `hold`.
  const uint64_t all = ~0ULL;
  (void)::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, nullptr, sizeof(all));
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  for (const int number : {SIGCHLD, SIGTERM, SIGINT}) (void)::sigaction(number, &standard, nullptr);
  (void)::setsid();
  ::umask(0);

  // Not on the stack, whose every page would be touched when the frame is entered.
  static char buffer[kMaxConfigBytes];
  const Input input = read_config(buffer, sizeof(buffer));
  const PauseConfig& config = input.config;
  (void)sys::close_range(static_cast<unsigned>(kReplyFd) + 1, UINT_MAX, 0);
  ::close(kConfigFd);

  if ((config.flags & kSetHostname) != 0 && ::sethostname(config.hostname, std::strlen(config.hostname)) != 0) {
    fail("pause.hostname", "sethostname", config.hostname);
  }
  const char* call = "";
  if ((config.flags & kLoopbackUp) != 0 && sys::loopback_up(&call) != 0) fail("pause.loopback", call, "lo");
  if (config.sysctl_count > 0 || (config.flags & kSetOomScoreAdj) != 0) {
    const int procfs = sys::open_private_procfs();
    if (procfs < 0) fail("pause.procfs", "fsmount", "proc");
    set_sysctls(procfs, input);
    if ((config.flags & kSetOomScoreAdj) != 0) set_oom_score(procfs, config.oom_score_adj);
    ::close(procfs);
  }
  enter_empty_root();
  const bool is_init = ::getpid() == 1;
  drop_privileges();
  // Every descriptor but the one for the answer, /dev/null of the host included.
  (void)sys::close_range(0, static_cast<unsigned>(kReplyFd) - 1, 0);
  (void)sys::close_range(static_cast<unsigned>(kReplyFd) + 1, UINT_MAX, 0);
  answer(0, "", "", "");
  ::close(kReplyFd);
  allow_little();
  hold(is_init);
}

}  // namespace
}  // namespace berth::pause

int main() { berth::pause::run(); }
