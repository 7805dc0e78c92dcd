// What berth-pause is told and what it answers. It is started by the addon with its namespaces already made (a mount
// namespace always; net, ipc, uts, pid as the pod asks), in its cgroup, with
//   fd 3   the configuration: a sealed memfd or a pipe, read from its present offset to end of file
//   fd 4   write end of a pipe, for one PauseReply; end of file without one means that the process has died
//   0, 1, 2  /dev/null; every other descriptor is closed by the pause process itself
// argv[0] is what `ps` shows ("berth-pause"), further arguments are ignored.
//
// Configuration: PauseConfig, then `sysctl_count` pairs of NUL-terminated strings: a key with slashes relative to
// /proc/sys ("net/ipv4/ip_unprivileged_port_start"), then its value. `total_size` counts everything.
#pragma once

#include <cstdint>

namespace berth::pause {

inline constexpr uint32_t kMagic = 0x53504542;  // "BEPS"
inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kMaxConfigBytes = 65536;
inline constexpr int kConfigFd = 3;
inline constexpr int kReplyFd = 4;

inline constexpr uint32_t kLoopbackUp = 1;     // bring `lo` up: only with a network namespace of its own
inline constexpr uint32_t kSetHostname = 2;    // `hostname` is valid: only with a uts namespace of its own
inline constexpr uint32_t kSetOomScoreAdj = 4;  // lowered as far as permitted: EACCES leaves the inherited value

struct PauseConfig {
  uint32_t magic;
  uint32_t version;
  uint32_t total_size;
  uint32_t flags;
  int32_t oom_score_adj;  // -1000 … 1000
  uint32_t sysctl_count;
  char hostname[72];  // NUL-terminated, at most 64 characters
};
static_assert(sizeof(PauseConfig) == 96);

// One write of exactly this size (below PIPE_BUF, so never torn). `error_number` 0: ready.
struct PauseReply {
  uint32_t magic;
  int32_t error_number;
  char step[32];     // "pause.sysctl", "pause.root", …
  char syscall[32];  // "openat", "write", …
  char path[184];    // the sysctl, the file, …
};
static_assert(sizeof(PauseReply) == 256);

}  // namespace berth::pause
