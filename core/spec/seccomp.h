// The runtime-spec's seccomp object → a BPF program for seccomp(2).
//
// libseccomp needs 13–19 ms for the default profile on three architectures, so a program is made once for each distinct
// profile and kept: compile() is a lookup from then on.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "core/base/result.h"

namespace berth::spec {

struct SeccompProgram {
  std::vector<sock_filter> instructions;
  // SECCOMP_FILTER_FLAG_* of the profile's `flags`.
  uint64_t flags = 0;
};

// At most this many programs are kept; the least recently used goes first.
inline constexpr size_t kSeccompCacheEntries = 64;

// The program of a profile given as JSON (its `architectures` included). Equal texts share one program. Names of system
// calls that this libseccomp does not know are passed over, since profiles name calls of newer kernels; an unknown
// action, operator, architecture or flag is EINVAL with the field's path below "linux.seccomp". Thread-safe; a thread
// that asks for what another is compiling waits for it.
Result<std::shared_ptr<const SeccompProgram>> compile_seccomp(std::string_view profile_json);

// As compile_seccomp, without the cache: for tests and measurements.
Result<std::shared_ptr<const SeccompProgram>> compile_seccomp_uncached(std::string_view profile_json);

// How many programs are kept, how often one was found and how often one had to be made, since the process began.
struct SeccompCacheStats {
  size_t entries = 0;
  uint64_t hits = 0;
  uint64_t misses = 0;
};
SeccompCacheStats seccomp_cache_stats();

}  // namespace berth::spec
