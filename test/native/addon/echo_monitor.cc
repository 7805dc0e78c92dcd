// A program with a monitor's descriptors (3 connected, 4 listening) that does what the frames say:
//
//   echo…      sends the frame back, with the descriptors that came along
//   burst N    sends N frames "0", "1", …
//   long       sends a frame that is longer than frames may be
//   deaf       reads nothing more, for as long as it lives
//   close      closes the connection
//   fds        sends the numbers of its open descriptors
//
// It ends when the first connection does.
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

constexpr size_t kMaxFds = 253;

struct Packet {
  std::string bytes;
  std::vector<int> fds;
};

bool receive(int socket, Packet* packet) {
  static char buffer[70000];
  alignas(cmsghdr) static char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
  iovec piece = {buffer, sizeof(buffer)};
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t count = ::recvmsg(socket, &message, 0);
  if (count <= 0) return false;
  packet->bytes.assign(buffer, static_cast<size_t>(count));
  packet->fds.clear();
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr; header = CMSG_NXTHDR(&message, header)) {
    const size_t number = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    packet->fds.resize(number);
    std::memcpy(packet->fds.data(), CMSG_DATA(header), number * sizeof(int));
  }
  return true;
}

void send_packet(int socket, const std::string& bytes, const std::vector<int>& fds) {
  alignas(cmsghdr) static char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
  iovec piece = {const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message = {};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
  }
  // The sockets do not block; the peer reads them empty.
  while (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0 && errno == EAGAIN) {
    pollfd room = {socket, POLLOUT, 0};
    ::poll(&room, 1, -1);
  }
}

std::string open_descriptors() {
  std::string list;
  DIR* dir = ::opendir("/proc/self/fd");
  while (const dirent* entry = ::readdir(dir)) {
    if (entry->d_name[0] != '.' && std::atoi(entry->d_name) != ::dirfd(dir)) list += std::string(entry->d_name) + " ";
  }
  ::closedir(dir);
  return list;
}

// False where the connection is to be closed.
bool obey(int socket, const Packet& packet) {
  const std::string& said = packet.bytes;
  if (said.rfind("echo", 0) == 0) send_packet(socket, said, packet.fds);
  if (said.rfind("burst ", 0) == 0) {
    for (int i = 0, n = std::atoi(said.c_str() + 6); i < n; ++i) send_packet(socket, std::to_string(i), {});
  }
  if (said == "long") send_packet(socket, std::string(65537, 'x'), {});
  if (said == "fds") send_packet(socket, open_descriptors(), {});
  if (said == "deaf") {
    // Until it is killed.
    for (;;) ::pause();
  }
  for (const int fd : packet.fds) ::close(fd);
  return said != "close";
}

}  // namespace

int main() {
  std::vector<pollfd> sockets = {{3, POLLIN, 0}, {4, POLLIN, 0}};
  for (;;) {
    ::poll(sockets.data(), sockets.size(), -1);
    for (size_t i = 0; i < sockets.size(); ++i) {
      if (sockets[i].revents == 0) continue;
      if (sockets[i].fd == 4) {
        const int accepted = ::accept(4, nullptr, nullptr);
        if (accepted >= 0) sockets.push_back({accepted, POLLIN, 0});
        break;
      }
      Packet packet;
      if (receive(sockets[i].fd, &packet) && obey(sockets[i].fd, packet)) continue;
      ::close(sockets[i].fd);
      if (sockets[i].fd == 3) return 0;
      sockets.erase(sockets.begin() + static_cast<long>(i));
      break;
    }
  }
}
