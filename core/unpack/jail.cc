#include "core/unpack/jail.h"

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "core/sys/mount.h"

namespace berth::unpack {
namespace {

constexpr const char* kStep = "unpack.jail";

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;  // its shadow memory and its exit handlers need what is taken away here
#else
constexpr bool kSanitized = false;
#endif

Result<void> change_root(FdRef target) {
  // Cloned before the namespace changes: afterwards the descriptor's mount is another namespace's and cannot be copied.
  Fd tree(sys::open_tree(target.get(), "", OPEN_TREE_CLONE | AT_EMPTY_PATH));
  if (!tree.valid()) return errno_error(kStep, "open_tree");
  if (::unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) != 0) return errno_error(kStep, "unshare");
  if (::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return errno_error(kStep, "mount", "/");
  sys::MountAttributes attributes;
  attributes.attr_set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOATIME;
  attributes.attr_clr = MOUNT_ATTR__ATIME;
  if (sys::mount_setattr(tree.get(), "", AT_EMPTY_PATH, attributes) != 0) return errno_error(kStep, "mount_setattr");
  // Any directory that every host has will do: it is only there until the old root is gone.
  if (sys::move_mount(tree.get(), "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH) != 0) return errno_error(kStep, "move_mount");
  if (::fchdir(tree.get()) != 0) return errno_error(kStep, "fchdir");
  if (sys::pivot_root(".", ".") != 0) return errno_error(kStep, "pivot_root");
  if (::umount2(".", MNT_DETACH) != 0) return errno_error(kStep, "umount2");
  if (::chdir("/") != 0) return errno_error(kStep, "chdir", "/");
  return {};
}

Result<void> limit(int resource, const char* name, rlim_t value) {
  struct rlimit current;
  if (::getrlimit(static_cast<__rlimit_resource_t>(resource), &current) != 0) return errno_error(kStep, "getrlimit", name);
  const rlim_t bounded = std::min(value, current.rlim_max);
  const struct rlimit wanted = {bounded, bounded};
  if (::setrlimit(static_cast<__rlimit_resource_t>(resource), &wanted) != 0) return errno_error(kStep, "setrlimit", name);
  return {};
}

Result<void> limit_resources(uint64_t max_file_bytes) {
  BERTH_TRY(limit(RLIMIT_CORE, "core", 0));
  BERTH_TRY(limit(RLIMIT_NOFILE, "nofile", 1024));
  BERTH_TRY(limit(RLIMIT_FSIZE, "fsize", max_file_bytes));
  BERTH_TRY(limit(RLIMIT_MEMLOCK, "memlock", 0));
  if (!kSanitized) BERTH_TRY(limit(RLIMIT_AS, "as", 1ULL << 30));
  // A file that exceeds its limit is then an error of the write and not the end of the process.
  if (::signal(SIGXFSZ, SIG_IGN) == SIG_ERR || ::signal(SIGPIPE, SIG_IGN) == SIG_ERR) return errno_error(kStep, "signal");
  return {};
}

Result<void> drop_capabilities() {
  constexpr uint64_t kept = 1ULL << CAP_CHOWN | 1ULL << CAP_FOWNER | 1ULL << CAP_FSETID | 1ULL << CAP_DAC_OVERRIDE |
                            1ULL << CAP_SETFCAP;
  for (int capability = 0; capability < 64; ++capability) {
    if (::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) < 0) break;
    if ((kept >> capability & 1) != 0) continue;
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) return errno_error(kStep, "prctl", "PR_CAPBSET_DROP");
  }
  (void)::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return errno_error(kStep, "capget");
  for (int word = 0; word < 2; ++word) {
    const uint32_t mask = static_cast<uint32_t>(kept >> (32 * word));
    data[word].permitted &= mask;
    data[word].effective = data[word].permitted;
    data[word].inheritable = 0;
  }
  if (::syscall(SYS_capset, &header, data) != 0) return errno_error(kStep, "capset");
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno_error(kStep, "prctl", "PR_SET_NO_NEW_PRIVS");
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return errno_error(kStep, "prctl", "PR_SET_DUMPABLE");
  return {};
}

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#elif defined(__powerpc64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_PPC64LE;
#elif defined(__s390x__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_S390X;
#elif defined(__riscv)
constexpr uint32_t kArchitecture = AUDIT_ARCH_RISCV64;
#else
#error "no audit architecture is known for this processor"
#endif

// What extraction, decompression in threads, malloc and the end of the process call. Files are only made, never executed;
// no socket, no namespace, no process, no signal to others, no device node but the whiteout.
constexpr int kAllowed[] = {
    __NR_read,         __NR_write,       __NR_pwrite64,   __NR_lseek,     __NR_ftruncate,   __NR_close,
    __NR_openat,       __NR_openat2,     __NR_fstat,
#ifdef __NR_newfstatat
    __NR_newfstatat,
#endif
    __NR_statx,        __NR_getdents64,  __NR_fcntl,      __NR_mkdirat,   __NR_mknodat,     __NR_linkat,
    __NR_symlinkat,    __NR_unlinkat,    __NR_readlinkat, __NR_fchown,    __NR_fchownat,    __NR_fchmod,
    __NR_fchmodat,     __NR_utimensat,   __NR_fsetxattr,  __NR_sendto,    __NR_munmap,      __NR_mremap,
    __NR_madvise,      __NR_brk,         __NR_futex,      __NR_sched_yield, __NR_clock_gettime, __NR_clock_nanosleep,
    __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_rt_sigreturn, __NR_restart_syscall, __NR_gettid, __NR_getpid,
    __NR_tgkill,       __NR_getrandom,   __NR_exit,       __NR_exit_group, __NR_set_robust_list,
#ifdef __NR_rseq
    __NR_rseq,
#endif
};
// Allowed where the third argument (the protection) has no PROT_EXEC.
constexpr int kAllowedNotExecutable[] = {__NR_mmap, __NR_mprotect};

void load_argument_low(std::vector<sock_filter>& out, unsigned index) {
  size_t offset = offsetof(seccomp_data, args) + index * sizeof(uint64_t);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  offset += sizeof(uint32_t);
#endif
  out.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)));
}

std::vector<sock_filter> build_filter() {
  constexpr uint32_t kDeny = SECCOMP_RET_ERRNO | EPERM;
  std::vector<sock_filter> out;
  out.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
  out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0));
  out.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  out.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  for (const int number : kAllowedNotExecutable) {
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 4));
    load_argument_low(out, 2);
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1));
    out.push_back(BPF_STMT(BPF_RET | BPF_K, kDeny));
    out.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  // x32 calls have bit 30 set and so equal none of these.
  for (const int number : kAllowed) {
    out.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1));
    out.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  }
  out.push_back(BPF_STMT(BPF_RET | BPF_K, kDeny));
  return out;
}

}  // namespace

Result<void> enter_jail(FdRef target, uint64_t max_file_bytes) {
  BERTH_TRY(change_root(target));
  BERTH_TRY(limit_resources(max_file_bytes));
  BERTH_TRY(drop_capabilities());
  // Modes are those of the archive.
  (void)::umask(0);
  return {};
}

Result<void> confine_calls() {
  if (kSanitized) return {};
  std::vector<sock_filter> filter = build_filter();
  const sock_fprog program = {static_cast<unsigned short>(filter.size()), filter.data()};
  const long result = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
  if (result < 0) return errno_error(kStep, "seccomp");
  if (result > 0) return make_error(EBUSY, kStep, "seccomp", {}, "a thread could not be confined");
  return {};
}

}  // namespace berth::unpack
