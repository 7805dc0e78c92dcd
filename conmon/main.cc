// berth-monitor: started by the daemon with fd 3, a connected SEQPACKET socket to it, fd 4, the bound and listening control
// socket, and /dev/null as 0, 1 and 2. Everything else is told by `configure` (api/monitor/schema.ts).
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <climits>

#include "conmon/monitor.h"
#include "core/sys/pidfd.h"

namespace {

// A slice that is stopped, a terminal that is closed: none of it ends the supervision of a container that lives on.
void ignore_signals() {
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  for (const int number : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM, SIGTSTP, SIGTTIN, SIGTTOU, SIGXFSZ}) {
    (void)::sigaction(number, &ignore, nullptr);
  }
  sigset_t none;
  sigemptyset(&none);
  (void)::sigprocmask(SIG_SETMASK, &none, nullptr);
}

}  // namespace

int main() {
  using berth::monitor::Monitor;
  (void)berth::sys::close_range(berth::monitor::kListenerFd + 1, UINT_MAX, 0);
  ignore_signals();
  (void)::setsid();
  ::umask(0);
  if (::chdir("/") != 0) return 1;

  void* memory = ::mmap(nullptr, sizeof(Monitor), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  // SAFETY: Monitor is made so that zeroed memory is a valid start for all but its descriptors.
  Monitor& m = *static_cast<Monitor*>(memory);
  m.exit_directory = m.log_directory = m.oom_file = m.init = m.init_sync = m.input = -1;
  m.outputs[0].fd = m.outputs[1].fd = -1;
  m.log.reset();
  m.listener = berth::monitor::kListenerFd;
  m.epoll = ::epoll_create1(EPOLL_CLOEXEC);
  if (m.epoll < 0) return 1;
  for (const int fd : {berth::monitor::kSpawnConnectionFd, berth::monitor::kListenerFd}) {
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || ::fcntl(fd, F_SETFL, O_NONBLOCK | O_RDWR) != 0) return 1;
  }
  if (!berth::monitor::watch(m, m.listener, EPOLLIN, berth::monitor::Source::kListener)) return 1;
  m.spawn_serial = 1;
  berth::monitor::add_connection(m, berth::monitor::kSpawnConnectionFd);
  if (m.connections[0].serial == 0) return 1;
  berth::monitor::run_loop(m);
  return 0;
}
