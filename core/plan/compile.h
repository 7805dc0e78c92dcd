// The plan compiler: from an OCI bundle's config.json to the sealed memfd that a forked child executes (format.h).
//
// Both functions are pure but for what they open: paths of namespaces, and the memfd. They never touch a mount source or
// anything below the container's root (that happens in the child, which can be killed), block on nothing, and may be
// called from any number of threads at once.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::plan {

// Where the container's process is put. The descriptors stay the caller's: the plan gets duplicates.
struct CgroupAttach {
  // v2: directory of the cgroup, for CLONE_INTO_CGROUP; -1 for none.
  int v2_directory = -1;
  // Exec alone: directory of init's present cgroup, used where v2_directory answers EBUSY; -1 for none.
  int v2_fallback_directory = -1;
  // v1: `tasks` of each hierarchy, opened for writing, in the order that they are to be attached (cpuset first).
  std::vector<int> v1_tasks;
  // Path below each hierarchy's mount, for a container that sees its cgroup without a cgroup namespace; empty:
  // linux.cgroupsPath.
  std::string_view path;
};

// A process whose namespaces are joined through its pidfd. A namespace of config.json with the path
// "/proc/<pid>/ns/<kind>" of this very pid is joined by `pidfd`, so that a recycled pid can never be meant; every other
// path is opened (and checked to be a namespace of its kind) while the plan is compiled.
struct JoinProcess {
  pid_t pid = -1;
  int pidfd = -1;
};

// What the caller cannot grant is lowered to what it can, and said in CompiledPlan::clamped, where `enabled`.
struct Clamp {
  bool enabled = false;
};

struct CompileInput {
  // runtime-spec 1.3 config.json. Copied before it is parsed.
  std::string_view config_json;
  // Directory of the bundle; a relative root.path is below it. Absolute.
  std::string_view bundle;
  std::string_view container_id;
  // Detached root (fsmount or open_tree); -1: `root.path` of the bundle is bound recursively.
  int rootfs_fd = -1;
  CgroupAttach cgroup;
  JoinProcess join;
  Clamp clamp;
};

struct ExecInput {
  // The runtime-spec's `process` object.
  std::string_view process_json;
  // config.json of the container: capabilities, noNewPrivileges, rlimits, labels and oomScoreAdj come from its process
  // object where `process_json` has no such field; seccomp, personality and the set of namespaces always do.
  std::string_view config_json;
  std::string_view container_id;
  // pidfd of the container's init.
  int init_pidfd = -1;
  CgroupAttach cgroup;
  Clamp clamp;
};

struct CompiledPlan {
  // Sealed (F_SEAL_SEAL|SHRINK|GROW|WRITE, not executable), read position 0, close-on-exec.
  Fd memfd;
  // The plan's descriptors by index, close-on-exec.
  std::vector<Fd> fds;
  uint32_t bytes = 0;
  // What the process gets of its own instead of its parent's, for messages: "rlimit NOFILE 1048576 → 524288".
  std::vector<std::string> clamped;
  // The process has a terminal.
  bool terminal = false;
};

// The plan of a container's init. A field that is not supported, or that contradicts another, is EINVAL with the field's
// path in Error::path ("linux.intelRdt") and the reason in Error::detail.
Result<CompiledPlan> compile_create(const CompileInput& input);

// The plan of a process in a running container.
Result<CompiledPlan> compile_exec(const ExecInput& input);

}  // namespace berth::plan
