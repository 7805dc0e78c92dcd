// TCP connections into a pod, and the pipes and sockets that carry its streams.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::sys {

struct DialOptions {
  // Path of a network namespace, or empty for the caller's own.
  std::string network_namespace;
  // Numeric addresses, tried in this order.
  std::vector<std::string> hosts;
  uint16_t port = 0;
  // For each address.
  int timeout_ms = 0;
};

// A connected, non-blocking socket. Moves the calling thread into the namespace for good: to be called on a thread of its
// own. Where no address answers, the error is that of the first: the others are often not there at all.
Result<Fd> dial(const DialOptions& options);

// Both ends block. `size` is a wish; 0 for the kernel's.
Result<void> make_pipe(int size, Fd* read_end, Fd* write_end);

// Connected stream sockets, both blocking. `buffer` is a wish for what each sends; 0 for the kernel's.
Result<void> make_stream_pair(int buffer, Fd* first, Fd* second);

}  // namespace berth::sys
