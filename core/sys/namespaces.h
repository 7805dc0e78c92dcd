// Namespaces made, pinned to files and looked into by the daemon. What has to enter one runs on a thread of its own that
// ends with it, so that no thread of Node.js ever is in a foreign namespace. All of it may block.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::sys {

// Bind-mounts namespace `kind` ("net", "ipc", "uts", "pid", "user", …) of the process over the file `path`, which is made with its
// directories; EEXIST where it exists.
Result<void> pin_namespace(FdRef pidfd, int pid, const std::string& kind, const std::string& path);

// Unmounts and unlinks a pinned namespace; absent is success.
Result<void> unpin_namespace(const std::string& path);

// A new network namespace with `lo` up, pinned.
Result<void> create_network_namespace(const std::string& path);

struct LinkStats {
  std::string name;
  uint64_t rx_bytes = 0, rx_packets = 0, rx_errors = 0, rx_dropped = 0;
  uint64_t tx_bytes = 0, tx_packets = 0, tx_errors = 0, tx_dropped = 0;
};
// Counters of every interface in the network namespace pinned at `path`, by netlink.
Result<std::vector<LinkStats>> link_stats(const std::string& path);

}  // namespace berth::sys
