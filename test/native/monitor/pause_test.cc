// berth-pause in real namespaces: what it sets up, what is left of it, how it ends.
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/utsname.h>

#include "conmon/pause_protocol.h"
#include "core/sys/clone.h"
#include "core/sys/mount.h"
#include "core/sys/pidfd.h"
#include "test/native/stages/harness.h"

namespace {

using berth::pause::PauseConfig;
using berth::pause::PauseReply;
using berth::test::read_file;

std::string config_bytes(uint32_t flags, int32_t oom_score_adj, const std::string& hostname, const std::vector<std::pair<std::string, std::string>>& sysctls) {
  PauseConfig config = {};
  config.magic = berth::pause::kMagic;
  config.version = berth::pause::kVersion;
  config.flags = flags;
  config.oom_score_adj = oom_score_adj;
  config.sysctl_count = static_cast<uint32_t>(sysctls.size());
  std::memcpy(config.hostname, hostname.c_str(), std::min(hostname.size() + 1, sizeof(config.hostname)));
  std::string strings;
  for (const auto& [key, value] : sysctls) strings += key + '\0' + value + '\0';
  config.total_size = static_cast<uint32_t>(sizeof(config) + strings.size());
  return std::string(reinterpret_cast<const char*>(&config), sizeof(config)) + strings;
}

struct Pause {
  pid_t pid = -1;
  int pidfd = -1;
  PauseReply reply = {};
  bool answered = false;

  explicit Pause(const std::string& config, uint64_t namespaces = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) {
    const int in = ::memfd_create("config", MFD_CLOEXEC);
    CHECK_EQ(::write(in, config.data(), config.size()), static_cast<ssize_t>(config.size()));
    ::lseek(in, 0, SEEK_SET);
    int out[2];
    CHECK_EQ(::pipe2(out, O_CLOEXEC), 0);
    berth::sys::CloneArgs args;
    args.flags = CLONE_NEWNS | namespaces;
    args.pidfd = &pidfd;
    pid = berth::sys::clone_fork(args);
    if (pid == 0) {
      const int config_fd = ::fcntl(in, F_DUPFD, 20);
      const int reply_fd = ::fcntl(out[1], F_DUPFD, 20);
      ::dup2(config_fd, 3);
      ::dup2(reply_fd, 4);
      ::execl(BERTH_PAUSE, "berth-pause", nullptr);
      ::_exit(126);
    }
    ::close(in);
    ::close(out[1]);
    answered = ::read(out[0], &reply, sizeof(reply)) == static_cast<ssize_t>(sizeof(reply));
    ::close(out[0]);
  }
  ~Pause() {
    if (pidfd >= 0) {
      berth::sys::pidfd_send_signal(pidfd, SIGKILL);
      siginfo_t info = {};
      berth::sys::waitid_pidfd(pidfd, &info, WEXITED);
      ::close(pidfd);
    }
  }
  Pause(const Pause&) = delete;
  Pause& operator=(const Pause&) = delete;

  [[nodiscard]] std::string proc(const std::string& file) const { return "/proc/" + std::to_string(pid) + "/" + file; }
  // Runs `body` in a child inside the pod's namespaces; its exit code.
  int inside(int types, const std::function<int()>& body) const {
    const pid_t child = ::fork();
    if (child == 0) {
      if (berth::sys::setns(pidfd, types) != 0) ::_exit(99);
      const pid_t grandchild = ::fork();
      if (grandchild == 0) ::_exit(body());
      int status = 0;
      ::waitpid(grandchild, &status, 0);
      ::_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 98);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status);
  }
  // Waits for its end; its exit code, or -1.
  int wait_end(int timeout_ms) {
    struct pollfd poll_fd = {pidfd, POLLIN, 0};
    if (::poll(&poll_fd, 1, timeout_ms) != 1) return -1;
    siginfo_t info = {};
    berth::sys::waitid_pidfd(pidfd, &info, WEXITED);
    ::close(pidfd);
    pidfd = -1;
    return info.si_code == CLD_EXITED ? info.si_status : -2;
  }
};

void sets_the_pod_up() {
  using namespace berth::pause;
  Pause pause(config_bytes(kLoopbackUp | kSetHostname | kSetOomScoreAdj, 100, "pod-name", {{"net/ipv4/ip_unprivileged_port_start", "0"}, {"kernel/shmmni", "77"}}));
  CHECK(pause.answered);
  CHECK_EQ(pause.reply.error_number, 0);
  CHECK_EQ(pause.reply.magic, kMagic);
  CHECK_EQ(read_file(pause.proc("oom_score_adj")), std::string("100\n"));
  CHECK_EQ(pause.inside(CLONE_NEWUTS, [] {
             struct utsname name = {};
             ::uname(&name);
             return std::string(name.nodename) == "pod-name" ? 0 : 1;
           }),
           0);
  CHECK_EQ(pause.inside(CLONE_NEWNET | CLONE_NEWIPC, [] {
             if (read_file("/proc/sys/net/ipv4/ip_unprivileged_port_start") != "0\n") return 1;
             if (read_file("/proc/sys/kernel/shmmni") != "77\n") return 2;
             return read_file("/proc/net/fib_trie").find("127.0.0.1") != std::string::npos ? 0 : 3;
           }),
           0);
}

void has_nothing_left() {
  Pause pause(config_bytes(0, 0, "", {}));
  CHECK_EQ(pause.reply.error_number, 0);
  // The seccomp filter comes after the answer.
  std::string status;
  for (int i = 0; i < 100 && status.find("Seccomp:\t2") == std::string::npos; ++i) {
    ::usleep(2000);
    status = read_file(pause.proc("status"));
  }
  CHECK_CONTAINS(status, "Seccomp:\t2");
  CHECK_CONTAINS(status, "CapPrm:\t0000000000000000");
  CHECK_CONTAINS(status, "CapEff:\t0000000000000000");
  CHECK_CONTAINS(status, "CapBnd:\t0000000000000000");
  CHECK_CONTAINS(status, "CapInh:\t0000000000000000");
  CHECK_CONTAINS(status, "NoNewPrivs:\t1");
  const std::string mounts = read_file(pause.proc("mountinfo"));
  CHECK_EQ(std::count(mounts.begin(), mounts.end(), '\n'), 1L);
  CHECK_CONTAINS(mounts, " / / ro,nosuid,nodev,noexec");
  const std::string root = pause.proc("root");
  CHECK_EQ(std::system(("test -z \"$(ls -A " + root + "/)\"").c_str()), 0);
  CHECK_EQ(::mkdir((root + "/x").c_str(), 0700), -1);
  CHECK_EQ(errno, EROFS);
  CHECK_EQ(std::system(("test -z \"$(ls -A " + pause.proc("fd") + "/)\"").c_str()), 0);
}

void reaps_orphans() {
  Pause pause(config_bytes(0, 0, "", {}));
  // A grandchild whose parent is gone becomes pause's own.
  CHECK_EQ(pause.inside(CLONE_NEWPID, [] {
             if (::fork() == 0) {
               if (::fork() == 0) {
                 ::usleep(20'000);
                 ::_exit(0);
               }
               ::_exit(0);
             }
             ::wait(nullptr);
             return 0;
           }),
           0);
  bool gone = false;
  for (int i = 0; i < 200 && !gone; ++i) {
    ::usleep(5000);
    gone = read_file(pause.proc("task/" + std::to_string(pause.pid) + "/children")).empty();
  }
  CHECK(gone);
}

void ends_when_told_from_outside_alone() {
  Pause pause(config_bytes(0, 0, "", {}));
  CHECK_EQ(pause.inside(CLONE_NEWPID, [] { return ::kill(1, SIGTERM); }), 0);
  CHECK_EQ(pause.inside(CLONE_NEWPID, [] { return ::kill(1, SIGKILL); }), 0);
  CHECK_EQ(pause.wait_end(200), -1);
  berth::sys::pidfd_send_signal(pause.pidfd, SIGTERM);
  CHECK_EQ(pause.wait_end(5000), 0);

  Pause shared(config_bytes(0, 0, "", {}), CLONE_NEWUTS);
  berth::sys::pidfd_send_signal(shared.pidfd, SIGINT);
  CHECK_EQ(shared.wait_end(5000), 0);
}

void says_what_failed() {
  Pause sysctl(config_bytes(0, 0, "", {{"net/ipv4/no_such_thing", "1"}}));
  CHECK(sysctl.answered);
  CHECK_EQ(sysctl.reply.error_number, ENOENT);
  CHECK_EQ(std::string(sysctl.reply.step), std::string("pause.sysctl"));
  CHECK_EQ(std::string(sysctl.reply.path), std::string("net/ipv4/no_such_thing"));
  CHECK_EQ(sysctl.wait_end(5000), 1);

  Pause escape(config_bytes(0, 0, "", {{"../self/comm", "x"}}));
  CHECK_EQ(escape.reply.error_number, EXDEV);

  Pause value(config_bytes(0, 0, "", {{"net/ipv4/ip_unprivileged_port_start", "many"}}));
  CHECK_EQ(value.reply.error_number, EINVAL);

  Pause nothing("");
  CHECK_EQ(nothing.reply.error_number, EINVAL);
  std::string cut = config_bytes(0, 0, "", {{"kernel/shmmni", "5"}});
  cut.pop_back();
  Pause torn(cut);
  CHECK_EQ(torn.reply.error_number, EINVAL);
  std::string unterminated = config_bytes(0, 0, "", {{"kernel/shmmni", "5"}});
  unterminated.back() = 'x';
  Pause open_end(unterminated);
  CHECK_EQ(open_end.reply.error_number, EINVAL);
}

}  // namespace

int main(int argc, char** argv) {
  if (::geteuid() != 0 || ::syscall(SYS_fsopen, "tmpfs", 0) < 0) berth::test::skip("making namespaces and mounts needs root");
  return berth::test::run_tests(argc, argv,
                                {{"sets the pod up", sets_the_pod_up},
                                 {"has nothing left", has_nothing_left},
                                 {"reaps orphans", reaps_orphans},
                                 {"ends when told from outside alone", ends_when_told_from_outside_alone},
                                 {"says what failed", says_what_failed}});
}
