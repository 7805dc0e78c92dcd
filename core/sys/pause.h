// Starting a pod's pause process (core/stages/pause_protocol.h).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/sys/spawn.h"

namespace berth::sys {

struct PauseOptions {
  FdRef program;
  bool net = false, ipc = false, uts = false, pid = false;  // namespaces of the pod's own; a mount namespace always
  std::string hostname;                                     // empty: untouched
  // Dotted ("net.ipv4.ip_unprivileged_port_start") or slashed keys.
  std::vector<std::pair<std::string, std::string>> sysctls;
  SpawnCgroup cgroup;
  int oom_score_adj = 0;
  bool loopback = false;
  uint64_t timeout_ms = 10000;
};

// Returns once the process has set its namespaces up; kills and reaps it where it cannot. ETIMEDOUT where it does not answer.
Result<Spawned> start_pause(const PauseOptions& options);

// "net.ipv4.conf.eth0/1.forwarding" → "net/ipv4/conf/eth0.1/forwarding": as sysctl(8) does, the first separator of the key
// tells which of the two it uses, and the other one is then part of a name.
std::string sysctl_path(const std::string& key);

}  // namespace berth::sys
