// Putting new processes into cgroups and taking them as children.
#pragma once

#include <memory>

#include "addon/process.h"
#include "core/cgroup/cgroup.h"
#include "core/sys/spawn.h"

namespace berth::addon {

// The open descriptors through which a process enters a cgroup; none for "where the daemon is".
class AttachTarget {
 public:
  static Result<AttachTarget> open(const std::shared_ptr<cgroup::Cgroup>& group);
  // Borrowed: valid for as long as this object.
  [[nodiscard]] sys::SpawnCgroup for_spawn() const;

 private:
  cgroup::AttachFds fds_;
};

// A child that has just been spawned, from now on reaped by the reactor.
Result<std::shared_ptr<Process>> adopt_child(sys::Spawned spawned);

}  // namespace berth::addon
