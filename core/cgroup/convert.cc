#include "core/cgroup/convert.h"

#include <algorithm>
#include <cmath>

namespace berth::cgroup {

uint64_t weight_from_shares(uint64_t shares) {
  if (shares == 0) return 0;
  if (shares <= 2) return 1;
  if (shares >= 262144) return 10000;
  const double l = std::log2(static_cast<double>(shares));
  const double exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
  return std::clamp<uint64_t>(static_cast<uint64_t>(std::ceil(std::pow(10.0, exponent))), 1, 10000);
}

uint64_t io_weight_from_blkio(uint64_t weight) {
  if (weight == 0) return 0;
  const uint64_t bounded = std::clamp<uint64_t>(weight, 10, 1000);
  return 1 + (bounded - 10) * 9999 / 990;
}

Result<std::optional<int64_t>> swap_max(std::optional<int64_t> limit, std::optional<int64_t> memory_and_swap) {
  constexpr std::string_view kField = "linux.resources.memory.swap";
  const int64_t sum = memory_and_swap.value_or(0);
  const int64_t memory = limit.value_or(0);
  if (sum == 0) {
    // An unlimited memory without a word on swap means unlimited swap, as it does on v1.
    if (memory == -1) return std::optional<int64_t>(-1);
    return std::optional<int64_t>();
  }
  if (sum == -1) return std::optional<int64_t>(-1);
  if (sum < 0) return field_error("cgroup.resources", kField, "negative");
  if (memory == 0 || memory == -1) return field_error("cgroup.resources", kField, "swap is limited but memory is not");
  if (sum < memory) return field_error("cgroup.resources", kField, "below memory.limit");
  return std::optional<int64_t>(sum - memory);
}

}  // namespace berth::cgroup
