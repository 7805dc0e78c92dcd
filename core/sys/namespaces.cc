#include "core/sys/namespaces.h"

#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "core/sys/clone.h"
#include "core/sys/own_thread.h"
#include "core/sys/pidfd.h"
#include "core/sys/tree.h"

namespace berth::sys {
namespace {

// Binds the namespace that `source` is open on over a new file at `path`.
Result<void> pin(FdRef source, const std::string& path) {
  constexpr std::string_view kStep = "namespace.pin";
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos || slash + 1 == path.size()) return make_error(EINVAL, kStep, "open", path);
  BERTH_ASSIGN(Fd directory, make_directories(slash == 0 ? "/" : path.substr(0, slash), 0755));
  const std::string name = path.substr(slash + 1);
  Fd made(::openat(directory.get(), name.c_str(), O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444));
  if (!made.valid()) return errno_error(kStep, "openat", path);
  char from[40];
  char to[40];
  std::snprintf(from, sizeof(from), "/proc/self/fd/%d", source.get());
  std::snprintf(to, sizeof(to), "/proc/self/fd/%d", made.get());
  if (::mount(from, to, nullptr, MS_BIND, nullptr) != 0) {
    Error error = errno_error(kStep, "mount", path);
    ::unlinkat(directory.get(), name.c_str(), 0);
    return error;
  }
  return {};
}

Result<void> loopback_up() {
  constexpr std::string_view kStep = "namespace.loopback";
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return errno_error(kStep, "socket", "lo");
  struct ifreq request = {};
  std::memcpy(request.ifr_name, "lo", 3);
  if (::ioctl(socket.get(), SIOCGIFFLAGS, &request) != 0) return errno_error(kStep, "ioctl", "lo");
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return errno_error(kStep, "ioctl", "lo");
  return {};
}

void parse_link(const struct nlmsghdr* message, std::vector<LinkStats>* links) {
  const auto* info = static_cast<const struct ifinfomsg*>(NLMSG_DATA(message));
  auto left = static_cast<long>(message->nlmsg_len) - static_cast<long>(NLMSG_LENGTH(sizeof(*info)));
  const auto* attribute = reinterpret_cast<const struct rtattr*>(reinterpret_cast<const char*>(info) + NLMSG_ALIGN(sizeof(*info)));
  LinkStats link;
  while (left >= static_cast<long>(sizeof(*attribute)) && attribute->rta_len >= sizeof(*attribute) && attribute->rta_len <= left) {
    const char* data = reinterpret_cast<const char*>(attribute) + RTA_LENGTH(0);
    const size_t size = attribute->rta_len - RTA_LENGTH(0);
    if (attribute->rta_type == IFLA_IFNAME) {
      link.name.assign(data, ::strnlen(data, size));
    } else if (attribute->rta_type == IFLA_STATS64) {
      struct rtnl_link_stats64 stats = {};
      std::memcpy(&stats, data, size < sizeof(stats) ? size : sizeof(stats));
      link.rx_bytes = stats.rx_bytes;
      link.rx_packets = stats.rx_packets;
      link.rx_errors = stats.rx_errors;
      link.rx_dropped = stats.rx_dropped;
      link.tx_bytes = stats.tx_bytes;
      link.tx_packets = stats.tx_packets;
      link.tx_errors = stats.tx_errors;
      link.tx_dropped = stats.tx_dropped;
    }
    const auto step = static_cast<long>(RTA_ALIGN(attribute->rta_len));
    attribute = reinterpret_cast<const struct rtattr*>(reinterpret_cast<const char*>(attribute) + step);
    left -= step;
  }
  if (!link.name.empty()) links->push_back(std::move(link));
}

Result<std::vector<LinkStats>> dump_links(FdRef socket, const std::string& path) {
  constexpr std::string_view kStep = "namespace.links";
  struct {
    struct nlmsghdr header;
    struct ifinfomsg body;
  } request = {};
  request.header.nlmsg_len = sizeof(request);
  request.header.nlmsg_type = RTM_GETLINK;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body.ifi_family = AF_UNSPEC;
  if (::send(socket.get(), &request, sizeof(request), 0) < 0) return errno_error(kStep, "send", path);
  std::vector<LinkStats> links;
  alignas(struct nlmsghdr) char buffer[32768];
  for (;;) {
    const ssize_t count = ::recv(socket.get(), buffer, sizeof(buffer), 0);
    if (count < 0) {
      if (errno == EINTR) continue;
      return errno_error(kStep, "recv", path);
    }
    auto left = static_cast<unsigned>(count);
    for (const auto* message = reinterpret_cast<const struct nlmsghdr*>(buffer); NLMSG_OK(message, left);
         message = NLMSG_NEXT(message, left)) {
      if (message->nlmsg_type == NLMSG_DONE) return links;
      if (message->nlmsg_type == NLMSG_ERROR) {
        const auto* answer = static_cast<const struct nlmsgerr*>(NLMSG_DATA(message));
        return make_error(-answer->error, kStep, "netlink", path);
      }
      if (message->nlmsg_type == RTM_NEWLINK) parse_link(message, &links);
    }
  }
}

}  // namespace

Result<void> pin_namespace(FdRef pidfd, int pid, const std::string& kind, const std::string& path) {
  constexpr std::string_view kStep = "namespace.pin";
  const std::string source_path = "/proc/" + std::to_string(pid) + "/ns/" + kind;
  Fd source(::open(source_path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!source.valid()) return errno_error(kStep, "open", source_path);
  // The pid still was that process's when its namespace was opened, if it is there now.
  if (pidfd_send_signal(pidfd.get(), 0) != 0) return errno_error(kStep, "pidfd_send_signal", source_path);
  return pin(source.ref(), path);
}

Result<void> unpin_namespace(const std::string& path) {
  constexpr std::string_view kStep = "namespace.unpin";
  for (int count = 0; count < 64; ++count) {
    if (::umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) continue;
    if (errno == ENOENT) return {};
    if (errno == EINVAL) break;
    return errno_error(kStep, "umount2", path);
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return errno_error(kStep, "unlink", path);
  return {};
}

Result<void> create_network_namespace(const std::string& path) {
  static constexpr std::string_view kStep = "namespace.create";
  Result<void> outcome;
  auto body = [&outcome, &path] {
    if (::unshare(CLONE_NEWNET) != 0) {
      outcome = errno_error(kStep, "unshare", path);
      return;
    }
    outcome = loopback_up();
    if (!outcome.ok()) return;
    Fd source(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    if (source.valid()) {
      outcome = pin(source.ref(), path);
    } else {
      outcome = errno_error(kStep, "open", "/proc/thread-self/ns/net");
    }
  };
  BERTH_TRY(on_own_thread(kStep, body));
  return outcome;
}

Result<std::vector<LinkStats>> link_stats(const std::string& path) {
  static constexpr std::string_view kStep = "namespace.links";
  Fd target(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!target.valid()) return errno_error(kStep, "open", path);
  if (::ioctl(target.get(), NS_GET_NSTYPE) != CLONE_NEWNET) {
    return make_error(EINVAL, kStep, "ioctl", path, "not a pinned network namespace");
  }
  // A socket belongs to the namespace that it was made in, whoever reads it later.
  Fd socket;
  Result<void> outcome;
  auto body = [&outcome, &path, &target, &socket] {
    if (setns(target.get(), CLONE_NEWNET) != 0) {
      outcome = errno_error(kStep, "setns", path);
      return;
    }
    socket.reset(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    if (!socket.valid()) outcome = errno_error(kStep, "socket", path);
  };
  BERTH_TRY(on_own_thread(kStep, body));
  BERTH_TRY(std::move(outcome));
  return dump_links(socket.ref(), path);
}

}  // namespace berth::sys
