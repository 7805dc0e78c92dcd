// The runtime-spec's config.json (1.3) as typed data: what the plan compiler reads. Strings are views into Spec::text
// and end in NUL; numbers are checked against the kernel's own types. A field that is absent or null is nullopt or empty.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace berth::spec {

using std::string_view;

// The five sets of process.capabilities as masks (bit n is capability n of capabilities(7)).
struct Capabilities {
  uint64_t bounding = 0;
  uint64_t effective = 0;
  uint64_t permitted = 0;
  uint64_t inheritable = 0;
  uint64_t ambient = 0;
  // Names that no set can hold: neither this library nor the kernel knows them. runtime-spec: a warning, not an error.
  std::vector<string_view> unknown;
};

struct Rlimit {
  int resource = 0;  // RLIMIT_*
  string_view name;  // as written, "RLIMIT_NOFILE"
  uint64_t soft = 0;
  uint64_t hard = 0;
};

struct User {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> additional_gids;
  std::optional<uint32_t> umask;
};

// sched_setattr(2).
struct Scheduler {
  uint32_t policy = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t flags = 0;
  uint64_t runtime = 0;
  uint64_t deadline = 0;
  uint64_t period = 0;
};

struct Process {
  bool terminal = false;
  uint16_t rows = 0;
  uint16_t columns = 0;
  User user;
  std::vector<string_view> args;
  std::vector<string_view> env;
  string_view cwd;
  std::optional<Capabilities> capabilities;
  std::optional<std::vector<Rlimit>> rlimits;
  std::optional<bool> no_new_privileges;
  std::optional<int> oom_score_adj;
  std::optional<string_view> apparmor_profile;
  std::optional<string_view> selinux_label;
  std::optional<Scheduler> scheduler;
  std::optional<uint32_t> io_priority;  // value for ioprio_set(2)
};

struct Root {
  string_view path;
  bool readonly = false;
};

// A mount's options, sorted by which call takes them.
struct MountOptions {
  bool bind = false;
  bool recursive_bind = false;
  bool copy_up = false;
  uint64_t attr_set = 0;  // MOUNT_ATTR_* of the mount itself
  uint64_t attr_clear = 0;
  uint64_t recursive_set = 0;  // MOUNT_ATTR_* of the whole tree (rro, rnosuid, …)
  uint64_t recursive_clear = 0;
  uint64_t propagation = 0;             // MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, each perhaps with MS_REC
  std::vector<string_view> filesystem;  // "key=value" or "flag" for fsconfig(2)
};

struct Mount {
  string_view destination;
  string_view type;
  string_view source;
  MountOptions options;
};

// CLONE_NEW* and where the namespace is: an empty path makes a new one.
struct Namespace {
  uint64_t flag = 0;
  string_view kind;  // as written: "network"
  string_view path;
};

struct Device {
  string_view path;
  mode_t type = 0;  // S_IFCHR, S_IFBLK, S_IFIFO
  uint32_t major = 0;
  uint32_t minor = 0;
  mode_t mode = 0666;
  uint32_t uid = 0;
  uint32_t gid = 0;
};

struct Sysctl {
  string_view name;   // as written: "net.ipv4.ip_forward" or with slashes
  std::string path;   // below /proc/sys
  string_view value;
  // The namespace that it belongs to: CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS.
  uint64_t namespace_flag = 0;
};

struct TimeOffset {
  bool present = false;
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
};

struct Linux {
  std::vector<Namespace> namespaces;
  std::vector<Device> devices;
  string_view cgroups_path;
  std::vector<Sysctl> sysctl;
  std::vector<string_view> masked_paths;
  std::vector<string_view> readonly_paths;
  uint64_t rootfs_propagation = 0;  // MS_*
  string_view mount_label;
  // The seccomp object as it is written; empty where there is none. Checked and compiled by seccomp.h, which caches by this
  // text.
  std::string seccomp;
  std::optional<uint64_t> personality;
  TimeOffset monotonic_offset;
  TimeOffset boottime_offset;
};

struct Spec {
  // What the views point into.
  std::unique_ptr<char[]> text;

  string_view oci_version;
  std::optional<Process> process;
  Root root;
  string_view hostname;
  string_view domainname;
  std::vector<Mount> mounts;
  Linux linux_section;

  // The namespace of this CLONE_NEW* flag, or nullptr: the container has its parent's.
  [[nodiscard]] const Namespace* find_namespace(uint64_t flag) const {
    for (const Namespace& entry : linux_section.namespaces) {
      if (entry.flag == flag) return &entry;
    }
    return nullptr;
  }
};

// A process object on its own, as an exec gives it.
struct ProcessDocument {
  std::unique_ptr<char[]> text;
  Process process;
};

}  // namespace berth::spec
