// Processes other than ours: identity by pid and start time, held by pidfd.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::sys {

struct ProcessIdentity {
  pid_t pid = -1;
  Fd pidfd;
  // Field 22 of /proc/PID/stat: clock ticks since boot, decimal.
  std::string start_time;
};

// Start time of a process; ESRCH where there is none (a zombie has one).
Result<std::string> process_start_time(pid_t pid);

// The process with this pid and (unless empty) this start time; nullopt where there is none any more.
Result<std::optional<ProcessIdentity>> open_process(pid_t pid, const std::string& start_time);

}  // namespace berth::sys
