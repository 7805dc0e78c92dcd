#include "addon/reactor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "addon/pool.h"

namespace berth::addon {
namespace {

uint64_t now_ms() {
  struct timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1000000;
}

}  // namespace

Reactor& Reactor::instance() {
  // Never destroyed, as its thread never ends.
  static Reactor* const reactor = [] {
    auto* made = new Reactor();
    made->start();
    return made;
  }();
  return *reactor;
}

void Reactor::start() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  struct epoll_event event = {};
  event.events = EPOLLIN;
  event.data.fd = wake_.get();
  const bool ready = epoll_.valid() && wake_.valid() && ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) == 0 &&
                     start_thread("berth-reactor", [this] { run(); });
  if (!ready) {
    std::fputs("berth: the addon cannot start its reactor thread\n", stderr);
    std::abort();
  }
}

void Reactor::post(std::function<void()> body) {
  bool first;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    first = posted_.empty();
    posted_.push_back(std::move(body));
  }
  if (!first) return;
  const uint64_t one = 1;
  const ssize_t ignored = ::write(wake_.get(), &one, sizeof(one));
  static_cast<void>(ignored);
}

bool Reactor::watch(int fd, uint32_t events, std::shared_ptr<Watcher> watcher) {
  struct epoll_event event = {};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return false;
  watchers_[fd] = std::move(watcher);
  return true;
}

void Reactor::forget(int fd) {
  if (watchers_.erase(fd) != 0) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

Reactor::TimerId Reactor::start_timer(uint64_t delay_ms, std::function<void()> body) {
  const TimerId id(now_ms() + delay_ms, ++sequence_);
  timers_.emplace(id, std::move(body));
  return id;
}

void Reactor::stop_timer(TimerId id) { timers_.erase(id); }

int Reactor::wait_ms() const {
  if (timers_.empty()) return -1;
  const uint64_t due = timers_.begin()->first.first;
  const uint64_t now = now_ms();
  if (due <= now) return 0;
  return due - now > 1000000 ? 1000000 : static_cast<int>(due - now);
}

void Reactor::run_due_timers() {
  const uint64_t now = now_ms();
  while (!timers_.empty() && timers_.begin()->first.first <= now) {
    std::function<void()> body = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    body();
  }
}

void Reactor::run_posted() {
  std::vector<std::function<void()>> bodies;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    bodies.swap(posted_);
  }
  for (std::function<void()>& body : bodies) body();
}

void Reactor::run() {
  struct epoll_event events[64];
  for (;;) {
    const int count = ::epoll_wait(epoll_.get(), events, 64, wait_ms());
    if (count < 0 && errno != EINTR) std::abort();
    for (int i = 0; i < count; ++i) {
      const int fd = events[i].data.fd;
      if (fd == wake_.get()) {
        uint64_t drained;
        const ssize_t ignored = ::read(fd, &drained, sizeof(drained));
        static_cast<void>(ignored);
        run_posted();
        continue;
      }
      // An earlier event of this round may have forgotten it. Its number may already be another watcher's: a readiness
      // that is not there is harmless, since everything watched is non-blocking.
      const auto found = watchers_.find(fd);
      if (found == watchers_.end()) continue;
      const std::shared_ptr<Watcher> watcher = found->second;
      watcher->on_ready(fd, events[i].events);
    }
    run_due_timers();
  }
}

}  // namespace berth::addon
