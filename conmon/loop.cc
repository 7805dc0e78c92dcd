#include <errno.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "conmon/clock.h"
#include "conmon/monitor.h"

namespace berth::monitor {
namespace {

struct epoll_event make_event(uint32_t events, Source source, uint32_t index) {
  struct epoll_event event = {};
  event.events = events;
  event.data.u64 = static_cast<uint64_t>(source) << 32 | index;
  return event;
}

void dispatch(Monitor& m, const struct epoll_event& event) {
  const auto source = static_cast<Source>(event.data.u64 >> 32);
  const auto index = static_cast<uint32_t>(event.data.u64);
  switch (source) {
    case Source::kListener:
      return on_listener(m);
    case Source::kConnection:
      return on_connection(m, index);
    case Source::kInit:
      return on_init_ended(m);
    case Source::kInitSync:
      return on_init_sync(m);
    case Source::kOutput:
      m.outputs[index].armed = false;
      return read_output(m, index, m.phase == Phase::kExited);
    case Source::kInput:
      return on_input(m);
    case Source::kAttachInput:
      return on_attach_input(m, index);
    case Source::kAttachOutput:
      return on_attach_output(m, index);
    default:
      return on_exec_event(m, source, index, event.events);
  }
}

void sooner(int64_t& next, int64_t at) {
  if (at != 0 && (next == 0 || at < next)) next = at;
}

// When something is due by itself; 0: nothing.
int64_t next_deadline(const Monitor& m) {
  int64_t next = 0;
  for (const Output& output : m.outputs) {
    if (output.open && !output.armed) sooner(next, output.read_at);
  }
  sooner(next, m.drain_until);
  sooner(next, m.execs_until);
  sooner(next, m.retry_exit_at);
  sooner(next, m.trim_at);
  if (m.exec_count > 0) {
    for (const RunningExec& exec : m.execs) {
      if (exec.used) sooner(next, exec.master_until);
    }
  }
  return next;
}

// Gives back what a burst of output has touched of the buffers; the first page of each is touched by any line.
void trim(Monitor& m) {
  m.trim_at = 0;
  constexpr uintptr_t page = 4096;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(m.scratch) + page + page - 1) & ~(page - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(m.scratch) + sizeof(m.scratch)) & ~(page - 1);
  (void)::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  m.log.trim();
}

void run_due(Monitor& m, int64_t now) {
  for (uint32_t i = 0; i < 2; ++i) {
    Output& output = m.outputs[i];
    if (output.open && !output.armed && output.read_at != 0 && now >= output.read_at) read_output(m, i, m.phase == Phase::kExited);
  }
  if (m.trim_at != 0 && now >= m.trim_at) trim(m);
  if (m.exec_count > 0) {
    for (uint32_t i = 0; i < kMaxExecs; ++i) {
      RunningExec& exec = m.execs[i];
      if (exec.used && exec.master_until != 0 && now >= exec.master_until) on_exec_event(m, Source::kExecMaster, i, EPOLLERR);
    }
  }
  if (m.phase == Phase::kExited) finish_when_done(m);
}

}  // namespace

bool watch(Monitor& m, int fd, uint32_t events, Source source, uint32_t index) {
  struct epoll_event event = make_event(events, source, index);
  return ::epoll_ctl(m.epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

void rewatch(Monitor& m, int fd, uint32_t events, Source source, uint32_t index) {
  struct epoll_event event = make_event(events, source, index);
  (void)::epoll_ctl(m.epoll, EPOLL_CTL_MOD, fd, &event);
}

// The kernel takes a closed descriptor out of the epoll set by itself once no duplicate is left; the monitor keeps none of
// what it watches.
void drop_fd(int& fd) {
  if (fd >= 0) ::close(fd);
  fd = -1;
}

void run_loop(Monitor& m) {
  struct epoll_event events[16];
  while (!m.finished) {
    int timeout = -1;
    const int64_t next = next_deadline(m);
    if (next != 0) {
      const int64_t left = next - monotonic_ms();
      timeout = left <= 0 ? 0 : left > 60'000 ? 60'000 : static_cast<int>(left);
    }
    const int count = ::epoll_wait(m.epoll, events, 16, timeout);
    if (count < 0 && errno != EINTR) return;
    for (int i = 0; i < count && !m.finished; ++i) dispatch(m, events[i]);
    if (next != 0 && !m.finished) run_due(m, monotonic_ms());
  }
}

}  // namespace berth::monitor
