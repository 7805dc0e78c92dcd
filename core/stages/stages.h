// Starting the child that executes a plan. The parent is single-threaded and small (the monitor, berth-oci): it is
// forked with a plain clone3, never with CLONE_VM, because a container that may ptrace could otherwise write into it.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "core/base/fd.h"
#include "core/stages/sync.h"

namespace berth::stages {

// A plan mapped and checked: every offset, count, index and string lies inside. Not owned by the survivor: it is mapped
// in the child alone, after the fork.
struct PlanInput {
  int plan_fd = -1;
  // Descriptors that came with the plan, in the order of their indexes.
  const int* fds = nullptr;
  uint32_t fd_count = 0;
};

// Descriptors that become 0, 1, 2 of the program; -1 for none (with a terminal, the child makes its own).
struct ChildStdio {
  int in = -1;
  int out = -1;
  int err = -1;
  // First size of a terminal, where not 0: it stands before the program can ask. Else the plan's.
  uint16_t columns = 0;
  uint16_t rows = 0;
};

// What the parent knows of the child at once. Errors of the plan come later, over `sync_fd`.
struct ChildSpawn {
  pid_t pid = -1;       // create: the container's init. exec: the intermediate, which ends soon
  int pidfd = -1;       // owned by the caller
  int sync_fd = -1;     // the parent's end, non-blocking, owned by the caller
  int error_number = 0;  // of clone3 itself or of reading the header; pid, pidfd and sync_fd are then -1
  const char* syscall = nullptr;
  const char* detail = nullptr;  // why the header is refused, or null
};

// Reads the header (pread), clones with its flags and returns; the child maps the plan and executes it.
// For Kind::kCreate the child is the container's init and stops at the barrier until a kGo arrives.
// For Kind::kExec the child is the intermediate; the command that it clones with CLONE_PARENT is a child of the caller too,
// and its pid comes with kCommand.
ChildSpawn spawn_child(const PlanInput& plan, const ChildStdio& stdio);

}  // namespace berth::stages
