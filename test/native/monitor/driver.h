// Drives the real berth-monitor as the daemon does: a spawning connection, a control socket, frames with descriptors.
#pragma once

#include <dirent.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <map>
#include <memory>
#include <optional>

#include "core/sys/pidfd.h"
#include "monitor/protocol.h"
#include "test/native/stages/harness.h"

namespace berth::test {

using Type = protocol::MessageType;

// A frame as it came; decode<M>() gives what it carries.
struct Frame {
  std::string bytes;
  protocol::FrameHeader header;
  [[nodiscard]] Type type() const { return static_cast<Type>(header.type); }
  template <typename M>
  [[nodiscard]] M decode() const {
    M message;
    CHECK(protocol::decode(bytes.data(), bytes.size(), &message));
    return message;
  }
};

class Connection {
 public:
  explicit Connection(int fd) : fd_(fd) {}
  ~Connection() { close(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  [[nodiscard]] int fd() const { return fd_; }

  bool send_raw(const void* data, size_t size, const std::vector<int>& fds = {}) {
    struct iovec part = {const_cast<void*>(data), size};
    std::vector<char> control(CMSG_SPACE(sizeof(int) * fds.size()), 0);
    struct msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      struct cmsghdr* header = CMSG_FIRSTHDR(&message);
      header->cmsg_level = SOL_SOCKET;
      header->cmsg_type = SCM_RIGHTS;
      header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      std::memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
    }
    return ::sendmsg(fd_, &message, MSG_NOSIGNAL) == static_cast<ssize_t>(size);
  }

  template <typename M>
  bool send(uint32_t id, const M& message, const std::vector<int>& fds = {}) {
    char buffer[protocol::kMaxFrameBytes];
    const size_t size = protocol::encode(message, id, buffer, sizeof(buffer));
    CHECK(size > 0);
    return send_raw(buffer, size, fds);
  }

  // The next frame; nothing at the end of the connection or when none comes in time.
  std::optional<Frame> receive(int timeout_ms = 10'000) {
    struct pollfd poll_fd = {fd_, POLLIN, 0};
    if (::poll(&poll_fd, 1, timeout_ms) != 1) return std::nullopt;
    std::string buffer(protocol::kMaxFrameBytes, 0);
    const ssize_t size = ::recv(fd_, buffer.data(), buffer.size(), 0);
    if (size <= 0) return std::nullopt;
    Frame frame;
    frame.bytes = buffer.substr(0, static_cast<size_t>(size));
    CHECK(protocol::decode_header(frame.bytes.data(), frame.bytes.size(), &frame.header));
    return frame;
  }

  // The next frame of this type, passing over others; a `failed` instead is shown.
  std::optional<Frame> expect(Type type, int timeout_ms = 10'000) {
    while (auto frame = receive(timeout_ms)) {
      if (frame->type() == type) return frame;
      if (frame->type() == Type::kFailed) {
        const auto failed = frame->decode<protocol::Failed>();
        std::printf("failed: %s %s %s %s %s\n", std::string(failed.step).c_str(), std::string(failed.syscall).c_str(),
                    std::string(failed.path).c_str(), std::strerror(failed.error_number), std::string(failed.detail).c_str());
        return std::nullopt;
      }
    }
    return std::nullopt;
  }

  template <typename M>
  std::optional<Frame> request(uint32_t id, const M& message, Type answer, const std::vector<int>& fds = {}) {
    CHECK(send(id, message, fds));
    auto frame = expect(answer);
    CHECK(frame.has_value());
    if (frame) CHECK_EQ(frame->header.request_id, id);
    return frame;
  }

 private:
  int fd_;
};

struct ConfigureOptions {
  bool terminal = false;
  bool with_stdin = false;
  bool stdin_once = false;
  bool log = true;
  uint64_t log_max_bytes = 0;
  int oom_fd = -1;
  uint8_t oom_kind = 0;
};

class MonitorDriver {
 public:
  explicit MonitorDriver(const char* program) {
    CHECK(::mkdtemp(directory_) != nullptr);
    ::mkdir(path("log").c_str(), 0755);
    ::mkdir(path("exit").c_str(), 0700);
    log_fd_ = ::open(path("log").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    exit_fd_ = ::open(path("exit").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int sockets[2];
    CHECK_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets), 0);
    const int listener = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK_EQ(::bind(listener, address(), sizeof(struct sockaddr_un)), 0);
    CHECK_EQ(::listen(listener, 16), 0);
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_ = ::fork();
    if (pid_ == 0) {
      // Out of the way first: the four targets may be among the sources.
      const int other = ::fcntl(sockets[1], F_DUPFD_CLOEXEC, 10);
      const int listening = ::fcntl(listener, F_DUPFD_CLOEXEC, 10);
      const int nothing = ::fcntl(null, F_DUPFD_CLOEXEC, 10);
      const int errors = ::fcntl(2, F_DUPFD_CLOEXEC, 10);
      for (int fd = 0; fd < 3; ++fd) ::dup2(nothing, fd);
      if (::getenv("BERTH_TEST_STDERR") != nullptr) ::dup2(errors, 2);
      ::dup2(other, 3);
      ::dup2(listening, 4);
      ::execl(program, "berth-monitor", "test", nullptr);
      ::_exit(126);
    }
    ::close(sockets[1]);
    ::close(listener);
    ::close(null);
    pidfd_ = sys::pidfd_open(pid_);
    connection_ = std::make_unique<Connection>(sockets[0]);
  }

  ~MonitorDriver() {
    connection_.reset();
    if (!reaped_) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    ::close(pidfd_);
    ::close(log_fd_);
    ::close(exit_fd_);
    (void)!std::system((std::string("rm -rf ") + directory_).c_str());
  }
  MonitorDriver(const MonitorDriver&) = delete;
  MonitorDriver& operator=(const MonitorDriver&) = delete;

  Connection& connection() { return *connection_; }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] std::string path(const std::string& name) const { return std::string(directory_) + "/" + name; }
  [[nodiscard]] std::string log(const std::string& name = "0.log") const { return read_file(path("log/" + name)); }

  bool send_configure(PlanBuilder& plan, const ConfigureOptions& options = {}) {
    protocol::Configure configure;
    configure.container_id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    configure.plan_fds = static_cast<uint32_t>(plan.fds().size());
    configure.terminal = options.terminal;
    configure.with_stdin = options.with_stdin;
    configure.stdin_once = options.stdin_once;
    configure.has_log = options.log;
    configure.log_name = options.log ? "0.log" : "";
    configure.log_max_bytes = options.log_max_bytes;
    configure.exit_name = "exit-1";
    configure.oom_kind = options.oom_kind;
    const int plan_fd = plan.memfd();
    std::vector<int> fds = {plan_fd};
    fds.insert(fds.end(), plan.fds().begin(), plan.fds().end());
    if (options.log) fds.push_back(log_fd_);
    fds.push_back(exit_fd_);
    if (options.oom_kind != 0) fds.push_back(options.oom_fd);
    const bool sent = connection_->send(1, configure, fds);
    ::close(plan_fd);
    return sent;
  }

  // Up to `created`; gives the pid.
  pid_t create(PlanBuilder& plan, const ConfigureOptions& options = {}) {
    CHECK(send_configure(plan, options));
    const auto frame = connection_->expect(Type::kCreated);
    CHECK(frame.has_value());
    if (!frame) return -1;
    const auto created = frame->decode<protocol::Created>();
    CHECK(created.start_time > 0);
    return static_cast<pid_t>(created.pid);
  }

  pid_t create_and_start(PlanBuilder& plan, const ConfigureOptions& options = {}) {
    const pid_t pid = create(plan, options);
    connection_->request(2, protocol::Start{}, Type::kStarted);
    return pid;
  }

  std::unique_ptr<Connection> connect() {
    const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (::connect(fd, address(), sizeof(struct sockaddr_un)) != 0) {
      ::close(fd);
      return nullptr;
    }
    return std::make_unique<Connection>(fd);
  }

  std::optional<protocol::Exited> exited(int timeout_ms = 15'000) {
    const auto frame = connection_->expect(Type::kExited, timeout_ms);
    CHECK(frame.has_value());
    if (!frame) return std::nullopt;
    return frame->decode<protocol::Exited>();
  }

  // Waits for the monitor's own end; its exit code, or -1.
  int wait_end(int timeout_ms = 10'000) {
    struct pollfd poll_fd = {pidfd_, POLLIN, 0};
    if (::poll(&poll_fd, 1, timeout_ms) != 1) return -1;
    int status = 0;
    ::waitpid(pid_, &status, 0);
    reaped_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  std::optional<protocol::Exited> exit_file() {
    exit_bytes_ = read_file(path("exit/exit-1"));
    protocol::Exited exited;
    if (!protocol::decode(exit_bytes_.data(), exit_bytes_.size(), &exited)) return std::nullopt;
    return exited;
  }

  [[nodiscard]] int count_fds() const {
    int count = 0;
    DIR* directory = ::opendir(("/proc/" + std::to_string(pid_) + "/fd").c_str());
    if (directory == nullptr) return -1;
    while (const struct dirent* entry = ::readdir(directory)) count += entry->d_name[0] != '.' ? 1 : 0;
    ::closedir(directory);
    return count;
  }

 private:
  struct sockaddr* address() {
    std::memset(&address_, 0, sizeof(address_));
    address_.sun_family = AF_UNIX;
    std::snprintf(address_.sun_path, sizeof(address_.sun_path), "%s/s", directory_);
    return reinterpret_cast<struct sockaddr*>(&address_);
  }

  char directory_[40] = "/tmp/berth-monitor-XXXXXX";
  struct sockaddr_un address_ = {};
  pid_t pid_ = -1;
  int pidfd_ = -1;
  int log_fd_ = -1;
  int exit_fd_ = -1;
  bool reaped_ = false;
  std::string exit_bytes_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace berth::test
