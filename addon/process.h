// A process held by pidfd. Children are reaped as soon as they end, whether anybody asked for their exit or not.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "addon/reactor.h"
#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::addon {

// As waitid(2) says; both absent (-1) for a process that is not the daemon's child.
struct ExitStatus {
  int exit_code = -1;
  int signal = -1;
};

class Process final : public Watcher, public std::enable_shared_from_this<Process> {
 public:
  // `child`: the daemon's own, to be reaped.
  static std::shared_ptr<Process> create(int pid, Fd pidfd, std::string start_time, bool child);

  [[nodiscard]] int pid() const { return pid_; }
  [[nodiscard]] const std::string& start_time() const { return start_time_; }
  [[nodiscard]] int pidfd() const { return pidfd_.get(); }

  // Any thread: `done` is called on the reactor's, at once where the process has ended.
  void when_exited(std::function<void(ExitStatus)> done);

  void on_ready(int fd, uint32_t events) override;

 private:
  Process(int pid, Fd pidfd, std::string start_time, bool child)
      : pid_(pid), pidfd_(std::move(pidfd)), start_time_(std::move(start_time)), child_(child) {}
  void start_watch();

  const int pid_;
  const Fd pidfd_;
  const std::string start_time_;
  const bool child_;
  // Reactor thread:
  bool watched_ = false;
  bool ended_ = false;
  ExitStatus status_;
  std::vector<std::function<void(ExitStatus)>> waiters_;
};

// What waitid has told.
ExitStatus to_exit_status(int code, int status);

}  // namespace berth::addon
