#include "core/cgroup/layout.h"

#include <fcntl.h>

#include <algorithm>

#include "core/sys/file_text.h"
#include "core/sys/tree.h"

namespace berth::cgroup {
namespace {

constexpr std::string_view kStep = "cgroup.layout";
constexpr std::string_view kTop = "/sys/fs/cgroup";

constexpr std::string_view kV1Controllers[] = {"cpuset",  "cpu",      "cpuacct",    "memory",  "pids", "devices", "freezer",
                                               "blkio",   "hugetlb",  "net_cls",    "net_prio", "perf_event", "rdma", "misc"};

bool contains(const std::vector<std::string>& list, std::string_view value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// "rw,cpu,cpuacct" or "rw,xattr,name=systemd": the controllers among the options of a v1 super block.
std::vector<std::string> controllers_of(std::string_view options) {
  std::vector<std::string> found;
  while (!options.empty()) {
    const size_t comma = options.find(',');
    const std::string_view option = options.substr(0, comma);
    options.remove_prefix(comma == std::string_view::npos ? options.size() : comma + 1);
    const bool known = std::find(std::begin(kV1Controllers), std::end(kV1Controllers), option) != std::end(kV1Controllers);
    if (known || option.starts_with("name=")) found.emplace_back(option);
  }
  return found;
}

Result<void> open_root(Hierarchy* hierarchy) {
  hierarchy->root.reset(::open(hierarchy->mount.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!hierarchy->root.valid()) return errno_error(kStep, "open", hierarchy->mount);
  return {};
}

Result<void> read_v2_controllers(Layout* layout) {
  Hierarchy& only = layout->hierarchies[0];
  BERTH_ASSIGN(std::string text, sys::read_file(only.root.get(), "cgroup.controllers", kStep));
  std::string_view rest = sys::trim(text);
  for (;;) {
    const std::string_view name = sys::next_word(&rest);
    if (name.empty()) break;
    layout->controllers.emplace_back(name);
  }
  // Part of every v2 cgroup: BPF programs and cgroup.freeze.
  layout->controllers.emplace_back("devices");
  layout->controllers.emplace_back("freezer");
  return {};
}

}  // namespace

bool Hierarchy::has(std::string_view controller) const { return contains(controllers, controller); }
bool Layout::has(std::string_view controller) const { return contains(controllers, controller); }

Layout parse_layout(std::string_view mountinfo) {
  Layout layout;
  bool any_v2 = false;
  for (const sys::MountInfo& mount : sys::parse_mountinfo(mountinfo)) {
    // Containers and tests mount cgroups elsewhere too; the host's place is the one that counts.
    if (mount.mount_point != kTop && !mount.mount_point.starts_with("/sys/fs/cgroup/")) continue;
    if (mount.type == "cgroup2") {
      any_v2 = true;
      if (mount.mount_point != kTop) continue;
      layout.mode = Mode::kV2;
      layout.hierarchies.clear();
      layout.hierarchies.push_back(Hierarchy{mount.mount_point, {}, Fd()});
      layout.mounts = {{"", mount.mount_point}};
      layout.controllers.clear();
      return layout;
    }
    if (mount.type != "cgroup") continue;
    std::vector<std::string> controllers = controllers_of(mount.super_options);
    if (controllers.empty()) continue;
    const bool known = std::any_of(layout.hierarchies.begin(), layout.hierarchies.end(),
                                   [&controllers](const Hierarchy& other) { return other.has(controllers[0]); });
    if (known) continue;
    for (const std::string& name : controllers) {
      layout.mounts.emplace_back(name, mount.mount_point);
      if (!name.starts_with("name=") && name != "cpuacct") layout.controllers.push_back(name == "blkio" ? "io" : name);
    }
    layout.hierarchies.push_back(Hierarchy{mount.mount_point, std::move(controllers), Fd()});
  }
  layout.mode = any_v2 ? Mode::kHybrid : Mode::kV1;
  std::stable_sort(layout.hierarchies.begin(), layout.hierarchies.end(),
                   [](const Hierarchy& a, const Hierarchy& b) { return a.has("cpuset") && !b.has("cpuset"); });
  return layout;
}

Result<Layout> detect_layout() {
  BERTH_ASSIGN(std::string text, sys::read_file(AT_FDCWD, "/proc/self/mountinfo", kStep));
  Layout layout = parse_layout(text);
  if (layout.hierarchies.empty()) return make_error(ENOENT, kStep, "open", kTop, "no cgroup file system is mounted");
  for (Hierarchy& hierarchy : layout.hierarchies) BERTH_TRY(open_root(&hierarchy));
  if (layout.v2()) BERTH_TRY(read_v2_controllers(&layout));
  return layout;
}

Result<Layout> v2_layout(const std::string& mount) {
  Layout layout;
  layout.hierarchies.push_back(Hierarchy{mount, {}, Fd()});
  layout.mounts = {{"", mount}};
  BERTH_TRY(open_root(&layout.hierarchies[0]));
  BERTH_TRY(read_v2_controllers(&layout));
  return layout;
}

}  // namespace berth::cgroup
