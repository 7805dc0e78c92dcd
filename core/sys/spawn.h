// Starting programs from a threaded process: clone(CLONE_VM|CLONE_VFORK) on a private stack, whose cost does not depend
// on how much memory the daemon has. The child calls nothing but async-signal-safe `child_*` code, undoes what Node.js leaves
// behind (ignored and handled signals, the signal mask, the raised RLIMIT_NOFILE) and gets exactly the descriptors it is
// given. No PDEATHSIG: a monitor or a pause process outlives the daemon.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::sys {

// Where a process is put. The descriptors are the caller's.
struct SpawnCgroup {
  int v2_directory = -1;      // CLONE_INTO_CGROUP where the kernel has it, else the child writes "0" to cgroup.procs
  std::vector<int> v1_tasks;  // `tasks` files, open for writing, cpuset first: the single-threaded child writes "0"
};

struct SpawnOptions {
  // The program: an open descriptor (execveat), or, where it is invalid, `path`.
  FdRef program;
  std::string path;
  std::vector<std::string> args;
  std::vector<std::string> env;
  std::string cwd = "/";
  // Descriptor `fds[i]` becomes i; -1 leaves i closed. All others are closed by exec.
  std::vector<int> fds;
  SpawnCgroup cgroup;
  // Lowered as far as permitted, never a failure.
  std::optional<int> oom_score_adj;
  // CLONE_NEW* of the child.
  uint64_t namespaces = 0;
};

struct Spawned {
  pid_t pid = -1;
  Fd pidfd;
};

// The child is a session leader (so its process group is its pid). Returns when it has executed the program, or
// reaps it and returns why not.
Result<Spawned> spawn(const SpawnOptions& options, std::string_view step);

}  // namespace berth::sys
