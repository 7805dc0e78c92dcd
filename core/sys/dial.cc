#include "core/sys/dial.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <optional>

#include "core/sys/clone.h"

namespace berth::sys {
namespace {

constexpr std::string_view kStep = "stream.dial";

struct Address {
  struct sockaddr_storage storage = {};
  socklen_t size = 0;
};

bool parse_address(const std::string& host, uint16_t port, Address* address) {
  auto* v4 = reinterpret_cast<struct sockaddr_in*>(&address->storage);
  auto* v6 = reinterpret_cast<struct sockaddr_in6*>(&address->storage);
  // SAFETY: sockaddr_storage is made to be seen as any of the address types.
  if (::inet_pton(AF_INET, host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    address->size = sizeof(*v4);
    return true;
  }
  if (::inet_pton(AF_INET6, host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    address->size = sizeof(*v6);
    return true;
  }
  return false;
}

// Waits for the end of a connect that is under way: 0 or an errno.
int await_connection(int fd, int timeout_ms) {
  struct pollfd ready = {fd, POLLOUT, 0};
  int count = -1;
  do {
    count = ::poll(&ready, 1, timeout_ms);
  } while (count < 0 && errno == EINTR);
  if (count < 0) return errno;
  if (count == 0) return ETIMEDOUT;
  int failure = 0;
  socklen_t size = sizeof(failure);
  return ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &size) == 0 ? failure : errno;
}

Result<Fd> connect_to(const std::string& host, uint16_t port, int timeout_ms) {
  const std::string where = host.find(':') == std::string::npos ? host + ":" + std::to_string(port) : "[" + host + "]:" + std::to_string(port);
  Address address;
  if (!parse_address(host, port, &address)) return field_error(kStep, "hosts", "not a numeric address: " + host);
  Fd fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return errno_error(kStep, "socket", where);
  int failure = 0;
  if (::connect(fd.get(), reinterpret_cast<const struct sockaddr*>(&address.storage), address.size) != 0) {
    failure = errno == EINPROGRESS ? await_connection(fd.get(), timeout_ms) : errno;
  }
  if (failure != 0) return make_error(failure, kStep, "connect", where);
  return fd;
}

void wish_buffer(int fd, int size) {
  if (::setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) != 0) {
    (void)::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
  }
}

}  // namespace

Result<Fd> dial(const DialOptions& options) {
  if (!options.network_namespace.empty()) {
    const Fd target(::open(options.network_namespace.c_str(), O_RDONLY | O_CLOEXEC));
    if (!target.valid()) return errno_error(kStep, "open", options.network_namespace);
    if (setns(target.get(), CLONE_NEWNET) != 0) return errno_error(kStep, "setns", options.network_namespace);
  }
  std::optional<Error> first;
  for (const std::string& host : options.hosts) {
    Result<Fd> connected = connect_to(host, options.port, options.timeout_ms);
    if (connected.ok()) return connected;
    if (!first.has_value()) first = std::move(connected).error();
  }
  return first.has_value() ? *first : field_error(kStep, "hosts", "is empty");
}

Result<void> make_pipe(int size, Fd* read_end, Fd* write_end) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_error("stream.pipe", "pipe2");
  read_end->reset(ends[0]);
  write_end->reset(ends[1]);
  // Refused where a user's pipes hold too much already; then it stays as it is.
  if (size > 0) (void)::fcntl(read_end->get(), F_SETPIPE_SZ, size);
  return {};
}

Result<void> make_stream_pair(int buffer, Fd* first, Fd* second) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return errno_error("stream.socketpair", "socketpair");
  first->reset(ends[0]);
  second->reset(ends[1]);
  if (buffer > 0) {
    wish_buffer(first->get(), buffer);
    wish_buffer(second->get(), buffer);
  }
  return {};
}

}  // namespace berth::sys
