// The confinement of berth-unpack. A layer's bytes come from anybody and pass through large parsers: what they could take
// over sees an empty directory as its whole world, and little of the kernel.
//
//   enter_jail         mount, network, IPC and UTS namespaces of its own (the network one empty); pivot_root into the layer,
//                      nodev, nosuid, noexec; resource limits; no new privileges; capabilities down to
//                        CHOWN, FOWNER, FSETID   owners, modes and times of files that belong to others
//                        DAC_OVERRIDE            entries below directories of any mode and owner
//                        SETFCAP                 security.capability
//                      Device nodes and trusted.* attributes need more; the daemon makes those.
//   confine_calls      seccomp allow-list over all threads of the process; everything else is EPERM
#pragma once

#include <cstdint>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::unpack {

// The directory `target` becomes `/`, and the working directory. Single-threaded still.
Result<void> enter_jail(FdRef target, uint64_t max_file_bytes);

// After every thread exists.
Result<void> confine_calls();

}  // namespace berth::unpack
