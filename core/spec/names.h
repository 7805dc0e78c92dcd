// Names of the kernel's numbers as runtime-spec writes them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace berth::spec {

inline constexpr int kLastKnownCapability = 40;  // CAP_CHECKPOINT_RESTORE, Linux 5.9

// "CAP_NET_RAW" → 13.
std::optional<int> capability_number(std::string_view name);
// 13 → "CAP_NET_RAW"; "CAP_unknown" for what has no name.
std::string_view capability_name(int number);

// "RLIMIT_NOFILE" → RLIMIT_NOFILE.
std::optional<int> rlimit_number(std::string_view name);

// "network" → CLONE_NEWNET.
std::optional<uint64_t> namespace_flag(std::string_view kind);

// The name below /proc/PID/ns: CLONE_NEWNET → "net".
std::string_view namespace_file(uint64_t flag);

// "rslave" → MS_SLAVE|MS_REC.
std::optional<uint64_t> propagation_flags(std::string_view name);

}  // namespace berth::spec
