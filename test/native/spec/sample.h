// A config.json that holds every kind of section, for the tests to change.
#pragma once

#include <string>
#include <string_view>

namespace berth::test {

inline constexpr std::string_view kSample = R"json({
  "ociVersion": "1.3.0",
  "process": {
    "terminal": false,
    "user": {"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 23},
    "args": ["/bin/app", "--flag"],
    "env": ["PATH=/bin:/usr/bin", "A=b"],
    "cwd": "/app",
    "capabilities": {
      "bounding": ["CAP_CHOWN", "CAP_KILL"],
      "effective": ["CAP_CHOWN"],
      "permitted": ["CAP_CHOWN", "CAP_KILL"],
      "inheritable": [],
      "ambient": []
    },
    "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
    "noNewPrivileges": false,
    "oomScoreAdj": 100
  },
  "root": {"path": "rootfs", "readonly": true},
  "hostname": "pod",
  "mounts": [
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "gid=5"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "rslave", "ro", "nosuid"]}
  ],
  "linux": {
    "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}],
    "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0"},
    "maskedPaths": ["/proc/kcore", "/sys/firmware"],
    "readonlyPaths": ["/proc/sys"],
    "cgroupsPath": "/berth-test/one",
    "resources": {"memory": {"limit": 67108864}, "devices": [{"allow": false, "access": "rwm"}]},
    "seccomp": {
      "defaultAction": "SCMP_ACT_ERRNO",
      "defaultErrnoRet": 38,
      "architectures": ["SCMP_ARCH_X86_64"],
      "syscalls": [{"names": ["read", "write", "exit_group", "execve", "capset"], "action": "SCMP_ACT_ALLOW"}]
    }
  }
})json";

// The text with its first `from` replaced; stops the test program where there is none, for then the test means nothing.
inline std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out(text);
  const size_t at = out.find(from);
  if (at == std::string::npos) {
    std::fprintf(stderr, "the sample has no %.*s\n", static_cast<int>(from.size()), from.data());
    std::abort();
  }
  return out.replace(at, from.size(), to);
}

}  // namespace berth::test
