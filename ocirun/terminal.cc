#include "ocirun/terminal.h"

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <cstring>

#include "core/sys/file_text.h"
#include "core/sys/pidfd.h"
#include "ocirun/driver.h"

namespace berth::ocirun {

namespace {

constexpr int kForwarded[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGCONT, SIGWINCH, SIGALRM};

sigset_t forwarded_set() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : kForwarded) sigaddset(&set, number);
  return set;
}

// Our terminal in raw mode while this lives.
class RawMode {
 public:
  explicit RawMode(bool wanted) {
    active_ = wanted && tcgetattr(STDIN_FILENO, &saved_) == 0;
    if (!active_) return;
    struct termios raw = saved_;
    cfmakeraw(&raw);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
  }
  RawMode(const RawMode&) = delete;
  RawMode& operator=(const RawMode&) = delete;
  ~RawMode() {
    if (active_) tcsetattr(STDIN_FILENO, TCSANOW, &saved_);
  }

 private:
  struct termios saved_ = {};
  bool active_ = false;
};

void copy_size(int master) {
  struct winsize size = {};
  if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0) (void)ioctl(master, TIOCSWINSZ, &size);
}

// One read and its writes; false at the end of `from`.
bool pump(int from, int to) {
  char buffer[16 * 1024];
  const ssize_t count = read(from, buffer, sizeof(buffer));
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (count <= 0) return false;
  return sys::write_all(FdRef(to), buffer, static_cast<size_t>(count), "terminal", "").ok();
}

}  // namespace

Result<void> send_terminal(const std::string& socket_path, FdRef master) {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof(address.sun_path)) return make_error(ENAMETOOLONG, "terminal", "connect", socket_path);
  std::memcpy(address.sun_path, socket_path.data(), socket_path.size());
  const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return errno_error("terminal", "socket");
  if (connect(socket.get(), reinterpret_cast<const struct sockaddr*>(&address), sizeof(address)) != 0) {
    return errno_error("terminal", "connect", socket_path);
  }
  // The receiver takes the bytes for the terminal's name.
  char name[] = "/dev/pts/ptmx";
  struct iovec part = {name, sizeof(name) - 1};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  const int fd = master.get();
  std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  if (sendmsg(socket.get(), &message, MSG_NOSIGNAL) < 0) return errno_error("terminal", "sendmsg", socket_path);
  return {};
}

void block_signals() {
  const sigset_t set = forwarded_set();
  sigprocmask(SIG_BLOCK, &set, nullptr);
}

int attend(FdRef pidfd, FdRef master) {
  const sigset_t set = forwarded_set();
  const Fd signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  const bool terminal = master.valid();
  const RawMode raw(terminal && isatty(STDIN_FILENO) == 1);
  if (terminal) copy_size(master.get());
  struct pollfd watched[] = {{pidfd.get(), POLLIN, 0},
                             {signals.get(), POLLIN, 0},
                             {terminal ? STDIN_FILENO : -1, POLLIN, 0},
                             {terminal ? master.get() : -1, POLLIN, 0}};
  for (;;) {
    if (poll(watched, 4, -1) < 0) {
      if (errno == EINTR) continue;
      return 255;
    }
    if (watched[1].revents != 0) {
      struct signalfd_siginfo info = {};
      while (read(signals.get(), &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
        if (info.ssi_signo == SIGWINCH && terminal) {
          copy_size(master.get());
        } else {
          (void)sys::pidfd_send_signal(pidfd.get(), static_cast<int>(info.ssi_signo));
        }
      }
    }
    // Output first: what the program wrote before it ended is read before its end is noticed.
    if (watched[3].revents != 0) {
      if (!pump(master.get(), STDOUT_FILENO)) watched[3].fd = -1;
      continue;
    }
    if (watched[2].revents != 0 && !pump(STDIN_FILENO, master.get())) {
      watched[2].fd = -1;
      // As a terminal's user would say it.
      const char end_of_file = 4;
      (void)!write(master.get(), &end_of_file, 1);
    }
    if (watched[0].revents != 0) return wait_exit(pidfd);
  }
}

}  // namespace berth::ocirun
