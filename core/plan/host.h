// What the compiler must know of the host it runs on. Read once: none of it changes while a process lives.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace berth::plan {

// What a child of this process can be given.
struct CallerPrivileges {
  uint64_t capabilities = 0;       // permitted and in the bounding set
  uint64_t known_capabilities = 0;  // that this kernel has
  int oom_score_adj = 0;            // the lowest value that is certainly allowed without CAP_SYS_RESOURCE
  [[nodiscard]] bool has(int capability) const { return (capabilities >> capability & 1) != 0; }
};

const CallerPrivileges& caller_privileges();

// A cgroup v1 hierarchy.
struct CgroupHierarchy {
  std::string mount_point;           // "/sys/fs/cgroup/cpu,cpuacct"
  std::string name;                  // its last component
  std::vector<std::string> options;  // what mounts it again: {"cpu", "cpuacct"}, {"none", "name=systemd"}
};

struct HostCgroups {
  bool unified = false;  // /sys/fs/cgroup is cgroup2
  std::vector<CgroupHierarchy> hierarchies;  // v1 alone, mounted below /sys/fs/cgroup
};

const HostCgroups& host_cgroups();

// The kernel enforces AppArmor.
bool apparmor_enabled();

}  // namespace berth::plan
