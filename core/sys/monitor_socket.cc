#include "core/sys/monitor_socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>

namespace berth::sys {
namespace {

// "/proc/self/fd/N/name" for a name in an open directory.
Result<struct sockaddr_un> address_of(FdRef directory, const std::string& name, std::string_view step) {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const int size = std::snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", directory.get(), name.c_str());
  if (name.empty() || name.find('/') != std::string::npos || name == "." || name == ".." ||
      static_cast<size_t>(size) >= sizeof(address.sun_path)) {
    return make_error(EINVAL, step, "bind", name, "not a short file name");
  }
  return address;
}

Result<Fd> open_directory(const std::string& path, std::string_view step) {
  Fd fd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return errno_error(step, "open", path);
  return fd;
}

}  // namespace

Result<Fd> listen_monitor(const std::string& directory, const std::string& name) {
  constexpr std::string_view kStep = "monitor.listen";
  BERTH_ASSIGN(Fd parent, open_directory(directory, kStep));
  BERTH_ASSIGN(const struct sockaddr_un address, address_of(parent.ref(), name, kStep));
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return errno_error(kStep, "socket", name);
  // The file takes the mode of the socket's inode: there is no moment in which others may connect.
  if (::fchmod(socket.get(), 0600) != 0) return errno_error(kStep, "fchmod", name);
  if (::unlinkat(parent.get(), name.c_str(), 0) != 0 && errno != ENOENT) return errno_error(kStep, "unlinkat", directory + "/" + name);
  if (::bind(socket.get(), reinterpret_cast<const struct sockaddr*>(&address), sizeof(address)) != 0) {
    return errno_error(kStep, "bind", directory + "/" + name);
  }
  if (::listen(socket.get(), 16) != 0) return errno_error(kStep, "listen", directory + "/" + name);
  return socket;
}

Result<Fd> connect_monitor(const std::string& directory, const std::string& name) {
  constexpr std::string_view kStep = "monitor.connect";
  BERTH_ASSIGN(Fd parent, open_directory(directory, kStep));
  BERTH_ASSIGN(const struct sockaddr_un address, address_of(parent.ref(), name, kStep));
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return errno_error(kStep, "socket", name);
  // Bounds connect as well, which waits while the backlog is full.
  const struct timeval patience = {5, 0};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
  int result;
  do {
    result = ::connect(socket.get(), reinterpret_cast<const struct sockaddr*>(&address), sizeof(address));
  } while (result != 0 && errno == EINTR);
  if (result != 0) return errno_error(kStep, "connect", directory + "/" + name);
  if (::fcntl(socket.get(), F_SETFL, O_NONBLOCK | O_RDWR) != 0) return errno_error(kStep, "fcntl", name);
  return socket;
}

Result<void> monitor_pair(Fd* ours, Fd* theirs) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    return errno_error("monitor.start", "socketpair");
  }
  ours->reset(ends[0]);
  theirs->reset(ends[1]);
  return {};
}

}  // namespace berth::sys
