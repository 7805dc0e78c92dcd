#include "core/sys/pause.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <cstring>

#include "core/stages/pause_protocol.h"
#include "core/sys/file_text.h"
#include "core/sys/pidfd.h"

namespace berth::sys {
namespace {

constexpr std::string_view kStep = "pause.start";

Result<std::string> encode_config(const PauseOptions& options) {
  pause::PauseConfig config = {};
  config.magic = pause::kMagic;
  config.version = pause::kVersion;
  if (options.loopback) config.flags |= pause::kLoopbackUp;
  if (!options.hostname.empty()) {
    if (options.hostname.size() > 64) return field_error(kStep, "hostname", "longer than 64 bytes");
    config.flags |= pause::kSetHostname;
    std::memcpy(config.hostname, options.hostname.c_str(), options.hostname.size() + 1);
  }
  // The score is set before the program runs: that needs no procfs in the pod's namespaces.
  config.oom_score_adj = options.oom_score_adj;
  config.sysctl_count = static_cast<uint32_t>(options.sysctls.size());
  std::string strings;
  for (const auto& [key, value] : options.sysctls) {
    const std::string path = sysctl_path(key);
    if (path.empty() || path[0] == '/' || ("/" + path + "/").find("/../") != std::string::npos) {
      return field_error(kStep, "sysctls." + key, "not a sysctl");
    }
    strings.append(path).push_back('\0');
    strings.append(value).push_back('\0');
  }
  if (sizeof(config) + strings.size() > pause::kMaxConfigBytes) return field_error(kStep, "sysctls", "too many");
  config.total_size = static_cast<uint32_t>(sizeof(config) + strings.size());
  std::string out(reinterpret_cast<const char*>(&config), sizeof(config));
  return out + strings;
}

Result<void> make_pipe(Fd* read_end, Fd* write_end) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_error(kStep, "pipe2");
  read_end->reset(ends[0]);
  write_end->reset(ends[1]);
  return {};
}

uint64_t monotonic_ms() {
  struct timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1000000;
}

Result<void> await_reply(FdRef reply_end, uint64_t timeout_ms) {
  const uint64_t deadline = monotonic_ms() + timeout_ms;
  for (;;) {
    struct pollfd ready = {reply_end.get(), POLLIN, 0};
    const uint64_t now = monotonic_ms();
    const int count = ::poll(&ready, 1, now >= deadline ? 0 : static_cast<int>(deadline - now));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return errno_error(kStep, "poll");
    if (count == 0) return make_error(ETIMEDOUT, kStep, "poll", "berth-pause", "it does not answer");
    break;
  }
  pause::PauseReply reply = {};
  ssize_t size;
  do {
    size = ::read(reply_end.get(), &reply, sizeof(reply));
  } while (size < 0 && errno == EINTR);
  if (size < 0) return errno_error(kStep, "read");
  if (size != static_cast<ssize_t>(sizeof(reply)) || reply.magic != pause::kMagic) {
    return make_error(ECHILD, kStep, "read", "berth-pause", "it has died before it was ready");
  }
  if (reply.error_number == 0) return {};
  const auto text = [](const char* field, size_t capacity) { return std::string_view(field, ::strnlen(field, capacity)); };
  return make_error(reply.error_number, text(reply.step, sizeof(reply.step)), text(reply.syscall, sizeof(reply.syscall)),
                    text(reply.path, sizeof(reply.path)));
}

}  // namespace

std::string sysctl_path(const std::string& key) {
  const size_t first = key.find_first_of("./");
  if (first == std::string::npos || key[first] == '/') return key;
  std::string path = key;
  for (char& c : path) {
    if (c == '.') c = '/';
    else if (c == '/') c = '.';
  }
  return path;
}

Result<Spawned> start_pause(const PauseOptions& options) {
  BERTH_ASSIGN(const std::string config, encode_config(options));
  Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid()) return errno_error(kStep, "open", "/dev/null");
  Fd config_end;
  Fd config_source;
  Fd reply_end;
  Fd reply_source;
  BERTH_TRY(make_pipe(&config_end, &config_source));
  BERTH_TRY(make_pipe(&reply_end, &reply_source));
  // At most what an empty pipe holds, so it never blocks.
  BERTH_TRY(write_all(config_source.ref(), config.data(), config.size(), kStep, "configuration"));
  config_source.reset();

  SpawnOptions spawn_options;
  spawn_options.program = options.program;
  spawn_options.path = "berth-pause";
  spawn_options.args = {"berth-pause"};
  spawn_options.fds = {null.get(), null.get(), null.get(), config_end.get(), reply_source.get()};
  spawn_options.cgroup = options.cgroup;
  spawn_options.oom_score_adj = options.oom_score_adj;
  spawn_options.namespaces = CLONE_NEWNS;
  if (options.net) spawn_options.namespaces |= CLONE_NEWNET;
  if (options.ipc) spawn_options.namespaces |= CLONE_NEWIPC;
  if (options.uts) spawn_options.namespaces |= CLONE_NEWUTS;
  if (options.pid) spawn_options.namespaces |= CLONE_NEWPID;
  BERTH_ASSIGN(Spawned spawned, spawn(spawn_options, kStep));
  config_end.reset();
  reply_source.reset();
  Result<void> ready = await_reply(reply_end.ref(), options.timeout_ms);
  if (ready.ok()) return spawned;
  pidfd_send_signal(spawned.pidfd.get(), SIGKILL);
  siginfo_t info;
  waitid_pidfd(spawned.pidfd.get(), &info, WEXITED);
  return std::move(ready).error();
}

}  // namespace berth::sys
