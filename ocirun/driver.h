// The parent's side of a child that executes a plan (core/stages/sync.h).
#pragma once

#include <sys/types.h>


#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/plan/compile.h"
#include "core/stages/stages.h"

namespace berth::ocirun {

struct Driven {
  pid_t pid = -1;
  Fd pidfd;
  Fd sync;
  // What the child has sent of itself.
  Fd terminal;
  pid_t command = -1;  // exec: the program's pid, as seen from here
  Fd command_pidfd;
};

// Forks the child of a plan.
Result<Driven> drive(const plan::CompiledPlan& plan, const stages::ChildStdio& stdio);

// Reads records until the child is ready (create) or its program runs (end of file). What failed in the child is the error.
enum class Until { kReady, kExecuted };
Result<void> follow(Driven& child, Until until);

// Lets a ready child execute its program.
Result<void> release(Driven& child);

// Waits for a child and gives its exit code, or 128 and the signal.
int wait_exit(FdRef pidfd);

// Error → "step: syscall: path: strerror (detail)".
std::string describe(const Error& error);

Error error_of(const stages::SyncRecord& record);

}  // namespace berth::ocirun
