#include "core/sys/probe.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>

#include "core/base/fd.h"
#include "core/sys/clone.h"
#include "core/sys/file_text.h"
#include "core/sys/mount.h"
#include "core/sys/overlay.h"

namespace berth::sys {
namespace {

// A clone into a descriptor that cannot be one: EBADF says that the flag is known; no child is ever made.
bool knows_clone_into_cgroup() {
  CloneArgs args;
  args.cgroup_fd = 0x7fffffff;
  const pid_t pid = clone_fork(args);
  if (pid == 0) ::_exit(0);
  return pid < 0 && errno == EBADF;
}

// Mapping through the namespace that the process is in is refused with EPERM where idmapped mounts are known, and
// the flag with EINVAL where not.
bool knows_idmapped_mounts() {
  Fd user(::open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC));
  if (!user.valid()) return false;
  MountAttributes attributes;
  attributes.attr_set = MOUNT_ATTR_IDMAP;
  attributes.userns_fd = static_cast<uint64_t>(user.get());
  return mount_setattr(-1, "", AT_EMPTY_PATH, attributes) != 0 && (errno == EPERM || errno == EBADF);
}

bool knows_recursive_attributes() {
  MountAttributes attributes;
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  return mount_setattr(-1, "", AT_EMPTY_PATH | AT_RECURSIVE, attributes) != 0 && errno == EBADF;
}

bool knows_seccomp_errno() {
  const uint32_t action = SECCOMP_RET_ERRNO;
  return ::syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

std::string first_line(const char* path) {
  Result<std::string> text = read_file(AT_FDCWD, path, "probe");
  return text.ok() ? std::string(trim(*text)) : std::string();
}

bool exists(const char* path) { return ::access(path, F_OK) == 0; }

bool is_selinux() {
  constexpr long kSelinuxMagic = 0xf97cff8c;
  struct statfs numbers = {};
  return ::statfs("/sys/fs/selinux", &numbers) == 0 && static_cast<uint32_t>(numbers.f_type) == static_cast<uint32_t>(kSelinuxMagic);
}

constexpr const char* kCapabilityNames[] = {
    "CAP_CHOWN",           "CAP_DAC_OVERRIDE",    "CAP_DAC_READ_SEARCH", "CAP_FOWNER",         "CAP_FSETID",
    "CAP_KILL",            "CAP_SETGID",          "CAP_SETUID",          "CAP_SETPCAP",        "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST",  "CAP_NET_ADMIN",       "CAP_NET_RAW",        "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",       "CAP_SYS_MODULE",      "CAP_SYS_RAWIO",       "CAP_SYS_CHROOT",     "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",       "CAP_SYS_ADMIN",       "CAP_SYS_BOOT",        "CAP_SYS_NICE",       "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",        "CAP_SYS_TTY_CONFIG",  "CAP_MKNOD",           "CAP_LEASE",          "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",   "CAP_SETFCAP",         "CAP_MAC_OVERRIDE",    "CAP_MAC_ADMIN",      "CAP_SYSLOG",
    "CAP_WAKE_ALARM",      "CAP_BLOCK_SUSPEND",   "CAP_AUDIT_READ",      "CAP_PERFMON",        "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
};

std::vector<std::string> effective_capabilities() {
  std::vector<std::string> names;
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return names;
  unsigned number = 0;
  for (const char* name : kCapabilityNames) {
    if ((data[number / 32].effective >> (number % 32) & 1) != 0) names.emplace_back(name);
    ++number;
  }
  return names;
}

const char* architecture_name() {
#if defined(__x86_64__)
  return "amd64";
#elif defined(__aarch64__)
  return "arm64";
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
  return "ppc64le";
#elif defined(__s390x__)
  return "s390x";
#elif defined(__riscv) && __riscv_xlen == 64
  return "riscv64";
#else
#error "an architecture that Berth does not know"
#endif
}

}  // namespace

Probe probe_kernel() {
  Probe probe;
  struct utsname name = {};
  if (::uname(&name) == 0) probe.release = name.release;
  probe.architecture = architecture_name();
  probe.clone_into_cgroup = knows_clone_into_cgroup();
  probe.overlay_lowerdir_plus = probe_lowerdir_plus();
  probe.idmapped_mounts = knows_idmapped_mounts();
  probe.recursive_read_only = knows_recursive_attributes();
  probe.seccomp = knows_seccomp_errno();
  probe.app_armor = first_line("/sys/module/apparmor/parameters/enabled") == "Y" && exists("/sys/kernel/security/apparmor/profiles");
  probe.se_linux = is_selinux();
  probe.time_namespace = exists("/proc/self/ns/time");
  probe.user_namespace = exists("/proc/self/ns/user") && first_line("/proc/sys/user/max_user_namespaces") != "0";
  probe.cgroup_namespace = exists("/proc/self/ns/cgroup");
  // Opening succeeds with psi=0 too; reading does not.
  probe.psi = !first_line("/proc/pressure/cpu").empty();
  probe.capabilities = effective_capabilities();
  return probe;
}

}  // namespace berth::sys
