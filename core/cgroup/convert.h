// Arithmetic between the runtime-spec's cgroup v1 units and those of v2.
#pragma once

#include <cstdint>
#include <optional>

#include "core/base/result.h"

namespace berth::cgroup {

// cpu.shares (2 … 262144) to cpu.weight (1 … 10000), so that the defaults of both, 1024 and 100, meet, and so do both
// ends: weight = 10^(log2(shares)² / 612 + 125·log2(shares) / 612 - 7/34), rounded up. This is what runc has done since
// 1.3 and what the kubelet expects of a runtime; the older linear map put 1024 at 39, so that a container with the
// default shares lost against system services. 0 (unset) stays 0.
uint64_t weight_from_shares(uint64_t shares);

// blkio weight (10 … 1000) to io.weight (1 … 10000), linearly. 0 stays 0.
uint64_t io_weight_from_blkio(uint64_t weight);

// What memory.swap.max gets for the spec's memory.limit and memory.swap, where swap means memory plus swap. nullopt: not
// to be written. -1: max. EINVAL for a sum below the limit, or a sum without a limit to subtract.
Result<std::optional<int64_t>> swap_max(std::optional<int64_t> limit, std::optional<int64_t> memory_and_swap);

}  // namespace berth::cgroup
