// The sockets between the daemon and a monitor: SEQPACKET, bound by directory descriptor so that the length of the store's
// path does not matter (sun_path has 108 bytes).
#pragma once

#include <string>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::sys {

// A listening socket at `directory`/`name`, 0600 from the start; one that a dead monitor has left is replaced.
Result<Fd> listen_monitor(const std::string& directory, const std::string& name);

// A non-blocking connection. ENOENT, ECONNREFUSED where there is no monitor; EAGAIN where it does not accept for 5 s.
Result<Fd> connect_monitor(const std::string& directory, const std::string& name);

// A connected pair: ours non-blocking, both close-on-exec.
Result<void> monitor_pair(Fd* ours, Fd* theirs);

}  // namespace berth::sys
