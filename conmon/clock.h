// The two clocks of the monitor.
#pragma once

#include <time.h>

#include <cstdint>

namespace berth::monitor {

inline int64_t realtime_ns() {
  struct timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

// For deadlines; 0 is used as "none".
inline int64_t monotonic_ms() {
  struct timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace berth::monitor
