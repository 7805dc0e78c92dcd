// Walking cgroup directories: names, sub-groups, processes.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::cgroup {

// Names of the entries of one type (DT_DIR, DT_REG) in a directory, which may be O_PATH. Empty where it cannot be read.
std::vector<std::string> list_names(FdRef directory, unsigned char type);

// Whether a cgroup directory has sub-groups, by its link count.
bool has_subgroups(FdRef directory);

// Appends the pids in `file` ("cgroup.procs" or "tasks") of the cgroup and everything below. What vanishes is passed over.
Result<void> collect_pids(FdRef directory, std::vector<pid_t>* pids);

// Number of processes in the cgroup and below; nullopt where it is gone.
std::optional<uint64_t> count_processes(FdRef directory);

// rmdir of everything below and of `name` itself. 0 or an errno (EBUSY, ENOTEMPTY while processes or new groups are in it).
int remove_subtree(FdRef parent, const char* name);

}  // namespace berth::cgroup
