// Owned and borrowed file descriptors. Every descriptor in Berth is close-on-exec from birth.
#pragma once

#include <unistd.h>

#include <utility>

namespace berth {

// A descriptor that somebody else owns for the duration of the call.
class FdRef {
 public:
  constexpr FdRef() = default;
  explicit constexpr FdRef(int fd) : fd_(fd) {}
  [[nodiscard]] constexpr int get() const { return fd_; }
  [[nodiscard]] constexpr bool valid() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// Sole owner of a descriptor. close(2) is never retried: on Linux the descriptor is gone even after EINTR.
class Fd {
 public:
  constexpr Fd() = default;
  explicit constexpr Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  ~Fd() { reset(); }

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  [[nodiscard]] FdRef ref() const { return FdRef(fd_); }
  // Gives up ownership.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace berth
