// Which cgroup hierarchies this host has and where they are mounted.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::cgroup {

enum class Mode { kV2, kV1, kHybrid };

// One v1 hierarchy, or the v2 one.
struct Hierarchy {
  std::string mount;
  // v1: what is mounted here: {"cpu", "cpuacct"} or {"name=systemd"}. Empty for v2.
  std::vector<std::string> controllers;
  Fd root;  // O_PATH directory

  [[nodiscard]] bool has(std::string_view controller) const;
};

// v2: exactly one hierarchy. v1 and hybrid: the v1 ones, cpuset first (a process must not enter the others and then fail
// for want of cpus); the hybrid's v2 hierarchy has no controllers and is not used.
struct Layout {
  Mode mode = Mode::kV2;
  std::vector<Hierarchy> hierarchies;
  // Usable for containers, by their v2 names: cpu, cpuset, memory, pids, devices, freezer, io, hugetlb, rdma, …
  std::vector<std::string> controllers;
  // Controller (or name=systemd) → mount point; for v2 "" → mount point.
  std::vector<std::pair<std::string, std::string>> mounts;

  [[nodiscard]] bool v2() const { return mode == Mode::kV2; }
  [[nodiscard]] bool has(std::string_view controller) const;
};

// From the text of /proc/self/mountinfo; roots are not opened.
Layout parse_layout(std::string_view mountinfo);

// The layout of this host with every root open. ENOENT where no cgroup file system is mounted.
Result<Layout> detect_layout();

// A layout with the single v2 hierarchy that is mounted at `mount`, for hosts and tests that have one elsewhere.
Result<Layout> v2_layout(const std::string& mount);

}  // namespace berth::cgroup
