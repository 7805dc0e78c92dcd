#include "core/plan/mount_ops.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>

#include "core/plan/host.h"
#include "core/spec/mount_options.h"
#include "core/sys/mount.h"

namespace berth::plan {

namespace {

using std::string_view;

// Below /proc only these may be covered, by files that a user-space /proc provider (lxcfs) makes: anything else could
// redirect what a runtime writes there.
constexpr std::array<string_view, 11> kCoverableProc = {
    "/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo",   "/proc/stat",
    "/proc/swaps",   "/proc/uptime",    "/proc/loadavg",   "/proc/slabinfo",  "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled"};

constexpr uint64_t kReadonly = MOUNT_ATTR_RDONLY;
constexpr mode_t kTargetMode = 0755;

struct DefaultDevice {
  string_view path;
  uint32_t major;
  uint32_t minor;
};

// runtime-spec, "Default Devices"; console and ptmx are made otherwise.
constexpr DefaultDevice kDefaultDevices[] = {{"/dev/null", 1, 3},   {"/dev/zero", 1, 5},    {"/dev/full", 1, 7},
                                             {"/dev/random", 1, 8}, {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};

std::string field_of(size_t index) { return "mounts[" + std::to_string(index) + "]"; }

std::string step_name(string_view verb, string_view object) {
  std::string out(verb);
  out += ' ';
  out += object;
  return out;
}

// "cgroup" is whatever the host has; on a unified host that is cgroup2, under either name.
bool is_cgroup(string_view type) { return type == "cgroup" || (type == "cgroup2" && host_cgroups().unified); }

// Types that take a context= option; proc, sysfs, cgroup and mqueue have labels of their own.
bool takes_label(string_view type) {
  return type != "proc" && type != "sysfs" && type != "cgroup" && type != "cgroup2" && type != "mqueue";
}

}  // namespace

std::string lexically_clean(string_view path) {
  std::vector<string_view> parts;
  size_t begin = 0;
  while (begin < path.size()) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const string_view part = path.substr(begin, end - begin);
    if (part == "..") {
      if (!parts.empty()) parts.pop_back();
    } else if (!part.empty() && part != ".") {
      parts.push_back(part);
    }
    begin = end + 1;
  }
  std::string out;
  for (const string_view part : parts) {
    out += '/';
    out += part;
  }
  return out.empty() ? "/" : out;
}

MountPlanner::MountPlanner(Builder& builder, const spec::Spec& spec, string_view bundle, string_view cgroup_path)
    : builder_(builder),
      spec_(spec),
      bundle_(bundle),
      cgroup_path_(cgroup_path.empty() ? spec.linux_section.cgroups_path : cgroup_path) {
  steps_.reserve(spec.mounts.size());
}

Result<uint32_t> MountPlanner::add_open(string_view path, bool recursive, bool optional, string_view field) {
  BERTH_ASSIGN(const uint32_t slot, builder_.slot(field));
  Op& op = builder_.add(OpCode::kOpenSource, step_name("open", path));
  op.a[0] = slot;
  op.a[1] = OPEN_TREE_CLONE | (recursive ? AT_RECURSIVE : 0u);
  op.a[2] = optional ? kMountOptional : 0;
  op.s[0] = builder_.text(path);
  return slot;
}

Result<void> MountPlanner::open_sources(int rootfs_fd) {
  if (rootfs_fd >= 0) {
    BERTH_ASSIGN(root_fd_, builder_.borrow(rootfs_fd, "root.attach"));
    root_path_ = spec_.root.path;
  } else {
    if (spec_.root.path.empty()) return field_error("plan.compile", "root.path", "is missing");
    root_path_ = spec_.root.path.starts_with('/') ? std::string(spec_.root.path)
                                                  : std::string(bundle_) + "/" + std::string(spec_.root.path);
    BERTH_ASSIGN(root_slot_, add_open(root_path_, true, false, "root.path"));
  }
  for (size_t i = 0; i < spec_.mounts.size(); ++i) BERTH_TRY(open_source(i));
  return {};
}

Result<void> MountPlanner::check_target(size_t index, Step& step) const {
  const spec::Mount& mount = *step.mount;
  const std::string target = lexically_clean(mount.destination);
  if (target == "/") return field_error("plan.compile", field_of(index) + ".destination", "is the root itself");
  if (target == "/proc") {
    if (mount.options.bind || mount.type != "proc") {
      return field_error("plan.compile", field_of(index) + ".destination", "/proc takes nothing but a procfs");
    }
    step.flags |= kMountPlainTarget;
  } else if (target.starts_with("/proc/")) {
    if (!mount.options.bind || std::find(kCoverableProc.begin(), kCoverableProc.end(), target) == kCoverableProc.end()) {
      return field_error("plan.compile", field_of(index) + ".destination", "lies inside of /proc");
    }
    step.flags |= kMountOnProc;
  } else if (target == "/sys") {
    step.flags |= kMountPlainTarget;
  }
  return {};
}

Result<void> MountPlanner::open_source(size_t index) {
  Step& step = steps_.emplace_back();
  step.mount = &spec_.mounts[index];
  const spec::Mount& mount = *step.mount;
  BERTH_TRY(check_target(index, step));
  if (mount.options.bind) {
    if (lexically_clean(mount.destination) == "/dev") furnishes_dev_ = false;
    const std::string source = mount.source.starts_with('/') ? std::string(mount.source)
                                                             : std::string(bundle_) + "/" + std::string(mount.source);
    BERTH_ASSIGN(step.slot, add_open(source, mount.options.recursive_bind, false, field_of(index)));
    return {};
  }
  if (is_cgroup(mount.type) || mount.type == "cgroup2") {
    if (spec_.find_namespace(CLONE_NEWCGROUP) != nullptr) return {};
    const HostCgroups& host = host_cgroups();
    if (host.unified) {
      // A new mount from the host's cgroup namespace would overwrite the host's own options (nsdelegate) with ours.
      BERTH_ASSIGN(step.slot, add_open("/sys/fs/cgroup", true, false, field_of(index)));
      return {};
    }
    if (mount.type == "cgroup2") {
      return field_error("plan.compile", field_of(index) + ".type", "needs a cgroup namespace on this host");
    }
    for (const CgroupHierarchy& hierarchy : host.hierarchies) {
      if (!cgroup_path_.starts_with('/')) break;
      const std::string own = hierarchy.mount_point + std::string(cgroup_path_);
      BERTH_ASSIGN(const uint32_t slot, add_open(own, false, true, field_of(index)));
      step.hierarchy_slots.push_back(slot);
    }
  }
  return {};
}

void MountPlanner::mount_bind(const Step& step) {
  const spec::MountOptions& options = step.mount->options;
  if (options.recursive_set != 0 || options.recursive_clear != 0) {
    Op& op = builder_.add(OpCode::kSetAttributes, step_name("attributes of", step.mount->destination));
    op.a[0] = options.recursive_set;
    op.a[1] = options.recursive_clear;
    op.a[2] = AT_RECURSIVE;
    op.a[4] = step.slot;
  }
  Op& op = builder_.add(OpCode::kMountSlot, step_name("mount", step.mount->destination));
  op.a[0] = step.slot;
  op.a[1] = options.attr_set;
  op.a[2] = options.attr_clear;
  op.a[3] = step.flags;
  op.a[4] = options.propagation != 0 ? options.propagation
                                     : MS_PRIVATE | (options.recursive_bind ? static_cast<uint64_t>(MS_REC) : 0);
  op.s[1] = builder_.text(step.mount->destination);
}

void MountPlanner::mount_filesystem(const Step& step) {
  const spec::Mount& mount = *step.mount;
  const spec::MountOptions& options = mount.options;
  std::vector<string_view> data = options.filesystem;
  std::string label;
  if (!spec_.linux_section.mount_label.empty() && takes_label(mount.type)) {
    label = "context=" + std::string(spec_.linux_section.mount_label);
    data.push_back(label);
  }
  uint64_t attributes = options.attr_set | options.recursive_set;
  if ((attributes & kReadonly) != 0) {
    if (mount.type == "tmpfs") {
      // Nodes and mount points below it are still to be made.
      attributes &= ~kReadonly;
      readonly_later_.emplace_back(mount.destination);
    } else if (!spec::is_pseudo_filesystem(mount.type)) {
      data.emplace_back("ro");
    }
  }
  Op& op = builder_.add(OpCode::kMountFilesystem, step_name("mount", mount.destination));
  op.a[0] = attributes;
  op.a[1] = step.flags | (mount.type == "mqueue" ? kMountOptional : 0) | (options.copy_up ? kMountCopyUp : 0);
  op.a[2] = kTargetMode;
  op.a[3] = options.propagation;
  op.s[0] = builder_.text(mount.type);
  op.s[1] = builder_.text(mount.destination);
  op.s[2] = builder_.block(data);
  op.s[3] = builder_.text(mount.source.empty() ? mount.type : mount.source);
}

// v1 under one tmpfs: a directory for each hierarchy, links for the controllers that share one.
void MountPlanner::mount_hierarchies(const Step& step) {
  const spec::Mount& mount = *step.mount;
  const spec::MountOptions& options = mount.options;
  {
    Op& op = builder_.add(OpCode::kMountFilesystem, step_name("mount", mount.destination));
    op.a[0] = options.attr_set & ~kReadonly;
    op.a[2] = kTargetMode;
    op.s[0] = builder_.text("tmpfs");
    op.s[1] = builder_.text(mount.destination);
    op.s[2] = builder_.block({"mode=755", "size=64k"});
    op.s[3] = builder_.text("tmpfs");
  }
  if ((options.attr_set & kReadonly) != 0) readonly_later_.emplace_back(mount.destination);
  const bool own_namespace = spec_.find_namespace(CLONE_NEWCGROUP) != nullptr;
  const std::vector<CgroupHierarchy>& hierarchies = host_cgroups().hierarchies;
  for (size_t i = 0; i < hierarchies.size(); ++i) {
    const CgroupHierarchy& hierarchy = hierarchies[i];
    const std::string target = std::string(mount.destination) + "/" + hierarchy.name;
    if (own_namespace) {
      Op& op = builder_.add(OpCode::kMountFilesystem, step_name("mount", target));
      op.a[0] = options.attr_set;
      op.a[1] = kMountOptional;
      op.a[2] = kTargetMode;
      op.s[0] = builder_.text("cgroup");
      op.s[1] = builder_.text(target);
      op.s[2] = builder_.block({hierarchy.options.begin(), hierarchy.options.end()});
      op.s[3] = builder_.text("cgroup");
    } else if (i < step.hierarchy_slots.size()) {
      Op& op = builder_.add(OpCode::kMountSlot, step_name("mount", target));
      op.a[0] = step.hierarchy_slots[i];
      op.a[1] = options.attr_set;
      op.a[2] = options.attr_clear;
      op.a[3] = kMountOptional;
      op.a[4] = MS_PRIVATE;
      op.s[1] = builder_.text(target);
    }
    if (hierarchy.name.find(',') == std::string::npos) continue;
    size_t begin = 0;
    while (begin < hierarchy.name.size()) {
      const size_t end = std::min(hierarchy.name.find(',', begin), hierarchy.name.size());
      const std::string controller = hierarchy.name.substr(begin, end - begin);
      Op& op = builder_.add(OpCode::kMakeSymlink, step_name("link", controller));
      op.a[0] = 1;
      op.s[0] = builder_.text(hierarchy.name);
      op.s[1] = builder_.text(std::string(mount.destination) + "/" + controller);
      begin = end + 1;
    }
  }
}

void MountPlanner::mount_cgroup(const Step& step) {
  if (step.slot != kNone) return mount_bind(step);
  if (!host_cgroups().unified) return mount_hierarchies(step);
  const spec::Mount& mount = *step.mount;
  Op& op = builder_.add(OpCode::kMountFilesystem, step_name("mount", mount.destination));
  op.a[0] = mount.options.attr_set | mount.options.recursive_set;
  op.a[2] = kTargetMode;
  op.a[3] = mount.options.propagation;
  op.s[0] = builder_.text("cgroup2");
  op.s[1] = builder_.text(mount.destination);
  op.s[3] = builder_.text("cgroup");
}

void MountPlanner::make_devices() {
  const auto add = [&](string_view path, mode_t mode, dev_t device, uint32_t uid, uint32_t gid) {
    Op& op = builder_.add(OpCode::kMakeNode, step_name("device", path));
    op.a[0] = mode;
    op.a[1] = device;
    op.a[2] = uid;
    op.a[3] = gid;
    op.s[1] = builder_.text(path);
    op.s[2] = builder_.text((mode & S_IFMT) == S_IFIFO ? string_view() : path);
  };
  const auto is_given = [&](string_view path) {
    return std::any_of(spec_.linux_section.devices.begin(), spec_.linux_section.devices.end(),
                       [&](const spec::Device& device) { return lexically_clean(device.path) == path; });
  };
  for (const DefaultDevice& device : kDefaultDevices) {
    if (!is_given(device.path)) add(device.path, S_IFCHR | 0666, makedev(device.major, device.minor), 0, 0);
  }
  for (const spec::Device& device : spec_.linux_section.devices) {
    // The pty multiplexer is the container's own and the console its terminal, whatever the host has there.
    const std::string path = lexically_clean(device.path);
    if (path == "/dev/ptmx" || path == "/dev/console") continue;
    add(device.path, device.type | device.mode, makedev(device.major, device.minor), device.uid, device.gid);
  }
}

void MountPlanner::make_dev_links() {
  struct Link {
    string_view contents;
    string_view path;
    uint64_t mode;
  };
  // runtime-spec, "Dev symbolic links". ptmx must lead to the container's own devpts.
  constexpr Link kLinks[] = {{"/proc/self/fd", "/dev/fd", 1},
                             {"/proc/self/fd/0", "/dev/stdin", 1},
                             {"/proc/self/fd/1", "/dev/stdout", 1},
                             {"/proc/self/fd/2", "/dev/stderr", 1},
                             {"pts/ptmx", "/dev/ptmx", 2}};
  for (const Link& link : kLinks) {
    Op& op = builder_.add(OpCode::kMakeSymlink, step_name("link", link.path));
    op.a[0] = link.mode;
    op.s[0] = builder_.text(link.contents);
    op.s[1] = builder_.text(link.path);
  }
}

Result<void> MountPlanner::mount_all() {
  {
    Op& op = builder_.add(OpCode::kAttachRoot, "root file system");
    op.a[0] = root_fd_;
    op.a[1] = root_slot_;
    op.s[0] = builder_.text(root_path_);
  }
  for (const Step& step : steps_) {
    if (step.mount->options.bind) {
      mount_bind(step);
    } else if (is_cgroup(step.mount->type)) {
      mount_cgroup(step);
    } else {
      mount_filesystem(step);
    }
  }
  if (furnishes_dev_) {
    make_devices();
    make_dev_links();
  }
  return {};
}

void MountPlanner::protect() {
  for (const string_view path : spec_.linux_section.readonly_paths) {
    builder_.add(OpCode::kReadonlyPath, step_name("read-only", path)).s[1] = builder_.text(path);
  }
  for (const string_view path : spec_.linux_section.masked_paths) {
    builder_.add(OpCode::kMask, step_name("mask", path)).s[1] = builder_.text(path);
  }
  for (const std::string& target : readonly_later_) {
    Op& op = builder_.add(OpCode::kSetAttributes, step_name("read-only", target));
    op.a[0] = kReadonly;
    op.a[4] = kNone;
    op.s[1] = builder_.text(target);
  }
}

void MountPlanner::pivot() {
  Op& op = builder_.add(OpCode::kPivot, "pivot_root");
  op.a[0] = spec_.root.readonly ? kPivotReadonlyRoot : 0;
  op.a[1] = spec_.linux_section.rootfs_propagation;
}

}  // namespace berth::plan
