// The one thread that waits for descriptors: process exits, monitor connections, pipes, timers. Nothing that runs on it
// may block.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/base/fd.h"

namespace berth::addon {

class Watcher {
 public:
  virtual ~Watcher() = default;
  // Reactor thread: `events` as of epoll(7).
  virtual void on_ready(int fd, uint32_t events) = 0;
};

class Reactor {
 public:
  static Reactor& instance();

  // Any thread: runs `body` on the reactor's.
  void post(std::function<void()> body);

  // The rest on the reactor's thread alone. A watcher is held until it is forgotten; forget before the fd is closed.
  bool watch(int fd, uint32_t events, std::shared_ptr<Watcher> watcher);
  void forget(int fd);
  using TimerId = std::pair<uint64_t, uint64_t>;  // due (monotonic ms), sequence
  TimerId start_timer(uint64_t delay_ms, std::function<void()> body);
  void stop_timer(TimerId id);

 private:
  Reactor() = default;
  void start();
  void run();
  int wait_ms() const;
  void run_due_timers();
  void run_posted();

  Fd epoll_;
  Fd wake_;
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // guarded by mutex_
  std::unordered_map<int, std::shared_ptr<Watcher>> watchers_;
  std::map<TimerId, std::function<void()>> timers_;
  uint64_t sequence_ = 0;
};

}  // namespace berth::addon
