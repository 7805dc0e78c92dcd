// What this kernel offers, found out by asking it; nothing is concluded from a version.
#pragma once

#include <string>
#include <vector>

namespace berth::sys {

struct Probe {
  std::string release;       // uname
  std::string architecture;  // as Go names it: amd64, arm64, …
  bool clone_into_cgroup = false;
  bool overlay_lowerdir_plus = false;
  bool idmapped_mounts = false;
  bool recursive_read_only = false;
  bool seccomp = false;
  bool app_armor = false;
  bool se_linux = false;
  bool time_namespace = false;
  bool user_namespace = false;
  bool cgroup_namespace = false;
  bool psi = false;
  std::vector<std::string> capabilities;  // effective, "CAP_…"
};

Probe probe_kernel();

}  // namespace berth::sys
