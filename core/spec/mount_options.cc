#include "core/spec/mount_options.h"

#include <linux/mount.h>
#include <sched.h>

#include <algorithm>
#include <array>

#include "core/spec/names.h"

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif

namespace berth::spec {

namespace {

// What an option sets and clears among the mount's attributes. Setting an access-time mode clears the others first: they
// are values of one field (MOUNT_ATTR__ATIME), not bits.
struct Attribute {
  std::string_view name;
  uint64_t set;
  uint64_t clear;
};

constexpr Attribute kAttributes[] = {
    {"ro", MOUNT_ATTR_RDONLY, 0},
    {"rw", 0, MOUNT_ATTR_RDONLY},
    {"nosuid", MOUNT_ATTR_NOSUID, 0},
    {"suid", 0, MOUNT_ATTR_NOSUID},
    {"nodev", MOUNT_ATTR_NODEV, 0},
    {"dev", 0, MOUNT_ATTR_NODEV},
    {"noexec", MOUNT_ATTR_NOEXEC, 0},
    {"exec", 0, MOUNT_ATTR_NOEXEC},
    {"nodiratime", MOUNT_ATTR_NODIRATIME, 0},
    {"diratime", 0, MOUNT_ATTR_NODIRATIME},
    {"relatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME},
    {"norelatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME},
    {"noatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME},
    {"atime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME},
    {"strictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME},
    {"nostrictatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME},
    {"nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0},
    {"symfollow", 0, MOUNT_ATTR_NOSYMFOLLOW},
};

const Attribute* find_attribute(std::string_view name) {
  for (const Attribute& entry : kAttributes) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

void apply(const Attribute& attribute, uint64_t& set, uint64_t& clear) {
  const uint64_t mentioned = attribute.set | attribute.clear;
  set = (set & ~mentioned) | attribute.set;
  // mount_setattr wants the whole field in attr_clr where a mode of it is set, and EINVAL otherwise.
  clear = (clear & ~(attribute.set & ~static_cast<uint64_t>(MOUNT_ATTR__ATIME))) | attribute.clear;
}

template <size_t N>
bool contains(const std::array<std::string_view, N>& list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

// Without meaning: defaults, what only the mount(8) program reads, and obsolete locks.
constexpr std::array<std::string_view, 8> kNothing = {"defaults", "silent", "loud", "nomand", "iversion", "noiversion", "acl", "async"};

constexpr std::array<std::string_view, 20> kPseudo = {
    "proc",     "sysfs",     "tmpfs",    "devpts",     "mqueue",    "cgroup",      "cgroup2", "ramfs",    "devtmpfs", "hugetlbfs",
    "debugfs",  "tracefs",   "bpf",      "securityfs", "configfs",  "fusectl",     "pstore",  "efivarfs", "autofs",   "binfmt_misc"};

}  // namespace

bool is_pseudo_filesystem(std::string_view type) { return contains(kPseudo, type); }

const char* add_mount_option(std::string_view option, MountOptions& out) {
  if (option.empty()) return "is empty";
  if (option == "bind") {
    out.bind = true;
    return nullptr;
  }
  if (option == "rbind") {
    out.bind = out.recursive_bind = true;
    return nullptr;
  }
  if (option == "tmpcopyup") {
    out.copy_up = true;
    return nullptr;
  }
  if (option == "remount") return "a remount is not supported";
  if (option == "idmap" || option == "ridmap") return "idmapped mounts are not supported yet";
  if (const auto propagation = propagation_flags(option)) {
    out.propagation = *propagation;
    return nullptr;
  }
  if (const Attribute* attribute = find_attribute(option)) {
    apply(*attribute, out.attr_set, out.attr_clear);
    return nullptr;
  }
  if (option.front() == 'r') {
    if (const Attribute* attribute = find_attribute(option.substr(1))) {
      apply(*attribute, out.recursive_set, out.recursive_clear);
      return nullptr;
    }
  }
  if (contains(kNothing, option)) return nullptr;
  // The rest is the file system's or a flag of the superblock (sync, dirsync, lazytime): fsconfig takes both by name.
  out.filesystem.push_back(option);
  return nullptr;
}

}  // namespace berth::spec
