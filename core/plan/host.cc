#include "core/plan/host.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <string_view>

#include "core/base/fd.h"
#include "core/cgroup/layout.h"

namespace berth::plan {

namespace {

constexpr std::string_view kCgroupRoot = "/sys/fs/cgroup/";

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

}  // namespace

const CallerPrivileges& caller_privileges() {
  static const CallerPrivileges instance = read_privileges();
  return instance;
}

const HostCgroups& host_cgroups() {
  static const HostCgroups instance = [] {
    HostCgroups out;
    const auto layout = cgroup::detect_layout();
    // A host without any gets an empty directory.
    if (!layout.ok()) return out;
    out.unified = layout.value().v2();
    if (out.unified) return out;
    for (const cgroup::Hierarchy& found : layout.value().hierarchies) {
      const std::string_view mount = found.mount;
      if (!mount.starts_with(kCgroupRoot) || found.controllers.empty()) continue;
      CgroupHierarchy hierarchy;
      hierarchy.mount_point = found.mount;
      hierarchy.name = mount.substr(kCgroupRoot.size());
      for (const std::string& controller : found.controllers) {
        if (controller.starts_with("name=")) hierarchy.options.emplace_back("none");
        hierarchy.options.push_back(controller);
      }
      out.hierarchies.push_back(std::move(hierarchy));
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
