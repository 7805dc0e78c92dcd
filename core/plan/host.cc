#include "core/plan/host.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <sys/prctl.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <set>
#include <string_view>

#include "core/base/fd.h"

namespace berth::plan {

namespace {

constexpr std::string_view kCgroupRoot = "/sys/fs/cgroup";

std::string read_file(const char* path) {
  const Fd file(open(path, O_RDONLY | O_CLOEXEC));
  std::string out;
  if (!file.valid()) return out;
  char buffer[16 * 1024];
  for (;;) {
    const ssize_t count = read(file.get(), buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return out;
    out.append(buffer, static_cast<size_t>(count));
  }
}

uint64_t permitted_capabilities() {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return 0;
  return static_cast<uint64_t>(data[1].permitted) << 32 | data[0].permitted;
}

CallerPrivileges read_privileges() {
  CallerPrivileges out;
  uint64_t bounding = 0;
  for (int capability = 0; capability < 64; ++capability) {
    const int value = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
    if (value < 0) break;
    out.known_capabilities |= 1ULL << capability;
    if (value == 1) bounding |= 1ULL << capability;
  }
  out.capabilities = bounding & permitted_capabilities();
  const std::string text = read_file("/proc/self/oom_score_adj");
  std::from_chars(text.data(), text.data() + text.size(), out.oom_score_adj);
  return out;
}

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> out;
  while (true) {
    const size_t end = text.find(separator);
    out.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return out;
    text.remove_prefix(end + 1);
  }
}

// Options of the superblock that are not part of what names the hierarchy.
bool is_incidental(std::string_view option) {
  return option == "rw" || option == "ro" || option == "xattr" || option == "noprefix" || option == "clone_children" ||
         option == "cpuset_v2_mode" || option == "favordynmods" || option.starts_with("release_agent=");
}

}  // namespace

const CallerPrivileges& caller_privileges() {
  static const CallerPrivileges instance = read_privileges();
  return instance;
}

std::vector<CgroupHierarchy> parse_cgroup_hierarchies(const std::string& mountinfo) {
  std::vector<CgroupHierarchy> out;
  std::set<std::string_view> seen;
  for (const std::string_view line : split(mountinfo, '\n')) {
    // proc(5): id parent device root mount-point options [tags…] - type source super-options
    const size_t dash = line.find(" - ");
    if (dash == std::string_view::npos) continue;
    const std::vector<std::string_view> before = split(line.substr(0, dash), ' ');
    const std::vector<std::string_view> after = split(line.substr(dash + 3), ' ');
    if (before.size() < 6 || after.size() < 3 || after[0] != "cgroup") continue;
    const std::string_view mount_point = before[4];
    if (!mount_point.starts_with(kCgroupRoot) || mount_point.size() <= kCgroupRoot.size() + 1) continue;
    const std::string_view name = mount_point.substr(kCgroupRoot.size() + 1);
    if (name.find('/') != std::string_view::npos || !seen.insert(mount_point).second) continue;
    CgroupHierarchy hierarchy;
    hierarchy.mount_point = mount_point;
    hierarchy.name = name;
    for (const std::string_view option : split(after[2], ',')) {
      if (option.empty() || is_incidental(option)) continue;
      if (option.starts_with("name=")) hierarchy.options.emplace_back("none");
      hierarchy.options.emplace_back(option);
    }
    if (!hierarchy.options.empty()) out.push_back(std::move(hierarchy));
  }
  return out;
}

const HostCgroups& host_cgroups() {
  static const HostCgroups instance = [] {
    HostCgroups out;
    struct statfs status = {};
    if (statfs(kCgroupRoot.data(), &status) == 0 && status.f_type == CGROUP2_SUPER_MAGIC) {
      out.unified = true;
    } else {
      out.hierarchies = parse_cgroup_hierarchies(read_file("/proc/self/mountinfo"));
    }
    return out;
  }();
  return instance;
}

bool apparmor_enabled() {
  static const bool enabled = read_file("/sys/module/apparmor/parameters/enabled").starts_with("Y");
  return enabled;
}

}  // namespace berth::plan
