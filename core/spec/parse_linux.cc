#include <sched.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/stat.h>

#include <array>
#include <charconv>

#include "core/spec/names.h"
#include "core/spec/sections.h"

namespace berth::spec {

namespace {

void read_namespaces(const json::Node& node, std::vector<Namespace>& out) {
  node.elements([&](const json::Node& element) {
    Namespace entry;
    element.members([&](string_view key, const json::Node& field) {
      if (key == "type") {
        entry.kind = field.string();
        const auto flag = namespace_flag(entry.kind);
        if (!flag) return field.refuse("not a kind of namespace");
        if (*flag == CLONE_NEWUSER) return field.refuse("user namespaces are not supported yet");
        entry.flag = *flag;
      } else if (key == "path") {
        entry.path = field.string();
        if (!entry.path.empty() && !entry.path.starts_with('/')) field.refuse("not an absolute path");
      }
    });
    if (element.refused()) return;
    if (entry.flag == 0) return element.refuse("type is missing");
    for (const Namespace& earlier : out) {
      if (earlier.flag == entry.flag) return element.refuse("given twice");
    }
    out.push_back(entry);
  });
}

void read_device(const json::Node& node, Device& out) {
  node.members([&](string_view key, const json::Node& field) {
    if (key == "path") {
      out.path = field.string(false);
      if (!out.path.starts_with('/')) field.refuse("not an absolute path");
    } else if (key == "type") {
      const string_view type = field.string();
      if (type == "c" || type == "u") {
        out.type = S_IFCHR;
      } else if (type == "b") {
        out.type = S_IFBLK;
      } else if (type == "p") {
        out.type = S_IFIFO;
      } else {
        field.refuse("not c, b, u or p");
      }
    } else if (key == "major") {
      // 12 and 20 bits of dev_t.
      out.major = field.integer<uint32_t>(0, 0xfff);
    } else if (key == "minor") {
      out.minor = field.integer<uint32_t>(0, 0xfffff);
    } else if (key == "fileMode") {
      // The type's bits, which Go's os.FileMode users include, are the type field's business.
      out.mode = field.integer<uint32_t>() & 07777;
    } else if (key == "uid") {
      out.uid = field.integer<uint32_t>(0, 0xfffffffeu);
    } else if (key == "gid") {
      out.gid = field.integer<uint32_t>(0, 0xfffffffeu);
    }
  });
  if (node.refused()) return;
  if (out.path.empty()) node.refuse("path is missing");
  if (out.type == 0) node.refuse("type is missing");
}

// Which namespace a parameter below /proc/sys belongs to, or 0 where it is the host's.
uint64_t sysctl_namespace(string_view path) {
  if (path.starts_with("net/")) return CLONE_NEWNET;
  if (path.starts_with("fs/mqueue/")) return CLONE_NEWIPC;
  static constexpr std::array<string_view, 9> kIpc = {"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni",
                                                      "kernel/sem",    "kernel/shmall", "kernel/shmmax",
                                                      "kernel/shmmni", "kernel/shm_rmid_forced", "kernel/auto_msgmni"};
  for (const string_view name : kIpc) {
    if (path == name) return CLONE_NEWIPC;
  }
  if (path == "kernel/domainname" || path == "kernel/hostname") return CLONE_NEWUTS;
  return 0;
}

// "net.ipv4.conf.eth0/1.forwarding" → "net/ipv4/conf/eth0.1/forwarding": the first separator in the name decides which
// of the two separates and which is literal, as sysctl(8) does.
std::string sysctl_path(string_view name) {
  std::string path(name);
  const size_t first = path.find_first_of("./");
  if (first == std::string::npos || path[first] == '/') return path;
  for (char& c : path) c = c == '.' ? '/' : (c == '/' ? '.' : c);
  return path;
}

bool escapes(string_view path) {
  size_t begin = 0;
  while (begin <= path.size()) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return true;
    begin = end + 1;
  }
  return false;
}

void read_sysctl(const json::Node& node, std::vector<Sysctl>& out) {
  out.reserve(node.value().IsObject() ? node.value().MemberCount() : 0);
  node.members([&](string_view key, const json::Node& field) {
    Sysctl entry;
    entry.name = key;
    entry.value = field.string();
    if (key.find('\0') != string_view::npos) return field.refuse("contains a NUL character");
    entry.path = sysctl_path(key);
    if (escapes(entry.path)) return field.refuse("not the name of a kernel parameter");
    if (entry.value.find('\n') != string_view::npos) return field.refuse("the value has more than one line");
    entry.namespace_flag = sysctl_namespace(entry.path);
    if (entry.namespace_flag == 0) return field.refuse("not a parameter of a namespace");
    out.push_back(std::move(entry));
  });
}

uint64_t read_personality(const json::Node& node) {
  uint64_t domain = PER_LINUX;
  node.members([&](string_view key, const json::Node& field) {
    if (key == "domain") {
      const string_view name = field.string();
      if (name == "LINUX") {
        domain = PER_LINUX;
      } else if (name == "LINUX32") {
        domain = PER_LINUX32;
      } else {
        field.refuse("not LINUX or LINUX32");
      }
    } else if (key == "flags") {
      refuse_unsupported(field);
    }
  });
  return domain;
}

void read_time_offset(const json::Node& node, TimeOffset& out) {
  out.present = true;
  node.members([&](string_view key, const json::Node& field) {
    if (key == "secs") {
      out.seconds = field.integer<int64_t>();
    } else if (key == "nanosecs") {
      out.nanoseconds = field.integer<uint32_t>(0, 999'999'999);
    }
  });
}

void read_paths(const json::Node& node, std::vector<string_view>& out) {
  out.clear();
  out.reserve(node.array_size());
  node.elements([&](const json::Node& element) {
    const string_view path = element.string(false);
    if (!path.starts_with('/')) return element.refuse("not an absolute path");
    out.push_back(path);
  });
}

}  // namespace

void read_linux(const json::Node& node, Linux& out) {
  node.members([&](string_view key, const json::Node& field) {
    if (key == "namespaces") {
      read_namespaces(field, out.namespaces);
    } else if (key == "devices") {
      out.devices.reserve(field.array_size());
      field.elements([&](const json::Node& element) { read_device(element, out.devices.emplace_back()); });
    } else if (key == "cgroupsPath") {
      out.cgroups_path = field.string();
    } else if (key == "resources") {
      check_resources(field);
    } else if (key == "sysctl") {
      read_sysctl(field, out.sysctl);
    } else if (key == "maskedPaths") {
      read_paths(field, out.masked_paths);
    } else if (key == "readonlyPaths") {
      read_paths(field, out.readonly_paths);
    } else if (key == "rootfsPropagation") {
      const string_view name = field.string();
      if (name.empty()) return;
      const auto flags = propagation_flags(name);
      if (!flags) return field.refuse("not a kind of propagation");
      out.rootfs_propagation = *flags;
    } else if (key == "mountLabel") {
      out.mount_label = field.string();
    } else if (key == "seccomp") {
      if (!field.value().IsObject()) return field.refuse("not an object");
      if (!field.value().ObjectEmpty()) out.seccomp = json::minified(field.value());
    } else if (key == "personality") {
      out.personality = read_personality(field);
    } else if (key == "timeOffsets") {
      field.members([&](string_view clock, const json::Node& offset) {
        if (clock == "monotonic") {
          read_time_offset(offset, out.monotonic_offset);
        } else if (clock == "boottime") {
          read_time_offset(offset, out.boottime_offset);
        } else {
          offset.refuse("not monotonic or boottime");
        }
      });
    } else if (key == "uidMappings" || key == "gidMappings" || key == "intelRdt" || key == "memoryPolicy" ||
               key == "netDevices") {
      refuse_unsupported(field);
    }
  });
}

}  // namespace berth::spec
