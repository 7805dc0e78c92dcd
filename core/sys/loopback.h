// Bringing up `lo` of the present network namespace. Async-signal-safe; -1 with errno, `call` names the failed call.
#pragma once

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

namespace berth::sys {

inline int loopback_up(const char** call) {
  // The interface requests are served on a socket of any family, also where the kernel has no IPv4.
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  *call = "socket";
  if (fd < 0) return -1;
  struct ifreq request = {};
  request.ifr_name[0] = 'l';
  request.ifr_name[1] = 'o';
  *call = "ioctl(SIOCGIFFLAGS)";
  int result = ::ioctl(fd, SIOCGIFFLAGS, &request);
  if (result == 0 && (request.ifr_flags & IFF_UP) == 0) {
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    *call = "ioctl(SIOCSIFFLAGS)";
    result = ::ioctl(fd, SIOCSIFFLAGS, &request);
  }
  const int saved = errno;
  ::close(fd);
  errno = saved;
  return result;
}

}  // namespace berth::sys
