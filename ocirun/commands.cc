#include "ocirun/commands.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "core/cgroup/cgroup.h"
#include "core/plan/compile.h"
#include "core/stages/stages.h"
#include "core/sys/pidfd.h"
#include "core/sys/process.h"
#include "ocirun/container.h"
#include "ocirun/driver.h"
#include "ocirun/terminal.h"

namespace berth::ocirun {

namespace {

constexpr stages::ChildStdio kInherited{STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO};

// What a container is made of, before anything of it runs. Unless kept, all of it is removed again.
class Making {
 public:
  Making(const cgroup::Layout& layout, Container container) : layout_(layout), container_(std::move(container)) {}
  Making(const Making&) = delete;
  Making& operator=(const Making&) = delete;
  ~Making() {
    if (kept_) return;
    (void)remove_cgroup(layout_, container_);
    remove_directory(container_);
  }
  void keep() { kept_ = true; }
  [[nodiscard]] Container& container() { return container_; }

 private:
  const cgroup::Layout& layout_;
  Container container_;
  bool kept_ = false;
};

plan::CgroupAttach borrowed(const cgroup::AttachFds& attach) {
  plan::CgroupAttach out;
  out.v2_directory = attach.v2_directory.get();
  for (const Fd& tasks : attach.v1_tasks) out.v1_tasks.push_back(tasks.get());
  return out;
}

void say(const plan::CompiledPlan& plan) {
  for (const std::string& line : plan.clamped) fprintf(stderr, "berth-oci: %s\n", line.c_str());
}

Result<plan::CompiledPlan> compile_container(const BundleConfig& config, const Container& container, cgroup::Cgroup& group) {
  BERTH_ASSIGN(const cgroup::AttachFds attach, group.open_attach());
  plan::CompileInput input;
  input.config_json = config.json;
  input.bundle = config.bundle;
  input.container_id = container.id;
  input.cgroup = borrowed(attach);
  input.cgroup.path = container.cgroup;
  input.clamp.enabled = true;
  BERTH_ASSIGN(plan::CompiledPlan plan, plan::compile_create(input));
  say(plan);
  return plan;
}

Result<void> check_terminal(const BundleConfig& config, const Arguments& arguments, bool foreground) {
  if (config.terminal && !foreground && arguments.console_socket.empty()) {
    return field_error("arguments", "--console-socket", "is needed for a terminal without a foreground");
  }
  if (!config.terminal && !arguments.console_socket.empty()) {
    return field_error("arguments", "--console-socket", "is of no use without process.terminal");
  }
  return {};
}

Result<void> write_pid_file(const Arguments& arguments, pid_t pid) {
  if (arguments.pid_file.empty()) return {};
  return write_text(arguments.pid_file, std::to_string(pid));
}

Result<void> record_process(Container& container, pid_t pid) {
  container.pid = pid;
  BERTH_ASSIGN(container.start_time, sys::process_start_time(pid));
  return save_container(container);
}

// The socket is bound below its directory, so that its path's length does not matter.
Result<Fd> at_start_socket(const Container& container, int (*act)(int, const struct sockaddr*, socklen_t), std::string_view call) {
  const Fd here(open(".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!here.valid() || !socket.valid()) return errno_error("start", "socket");
  if (chdir(container.directory.c_str()) != 0) return errno_error("start", "chdir", container.directory);
  struct sockaddr_un address = {AF_UNIX, "start.sock"};
  const int result = act(socket.get(), reinterpret_cast<const struct sockaddr*>(&address), sizeof(address));
  const int saved = errno;
  if (fchdir(here.get()) != 0) return errno_error("start", "fchdir");
  if (result != 0) return make_error(saved, "start", call, container.directory + "/start.sock");
  return socket;
}

void send_report(FdRef socket, stages::SyncKind kind, pid_t pid, const Error* error) {
  stages::SyncRecord record = {};
  record.kind = static_cast<uint32_t>(kind);
  record.pid = pid;
  if (error != nullptr) {
    record.error_number = error->error_number;
    snprintf(record.step, sizeof(record.step), "%s", error->step.c_str());
    snprintf(record.syscall, sizeof(record.syscall), "%s", error->syscall.c_str());
    snprintf(record.path, sizeof(record.path), "%s", error->path.c_str());
    snprintf(record.detail, sizeof(record.detail), "%s", error->detail.c_str());
  }
  (void)send(socket.get(), &record, sizeof(record), MSG_NOSIGNAL);
}

// The pid that the other side reports, or its error.
Result<pid_t> receive_report(FdRef socket) {
  stages::SyncRecord record = {};
  ssize_t count = -1;
  do {
    count = recv(socket.get(), &record, sizeof(record), 0);
  } while (count < 0 && errno == EINTR);
  if (count != static_cast<ssize_t>(sizeof(record))) return make_error(ESRCH, "report", "recv", {}, "the container's keeper is gone");
  if (record.kind == static_cast<uint32_t>(stages::SyncKind::kFailed)) return error_of(record);
  return record.pid;
}

// -- the keeper: a created container's parent, until the container ends

void leave_stdio() {
  const Fd null(open("/dev/null", O_RDWR | O_CLOEXEC));
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(null.get(), fd);
}

// Waits for `start` or for the end of a container that is never started.
void serve_start(Driven& child, const Container& container, FdRef listening) {
  const std::string path = container.directory + "/start.sock";
  struct pollfd watched[] = {{listening.get(), POLLIN, 0}, {child.pidfd.get(), POLLIN, 0}};
  for (;;) {
    if (poll(watched, 2, -1) < 0) {
      if (errno == EINTR) continue;
      break;
    }
    if (watched[1].revents != 0) break;
    const Fd peer(accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!peer.valid()) continue;
    // From here on it is not `created` any more, whether the program can be executed or not.
    unlink(path.c_str());
    Result<void> started = release(child);
    if (started.ok()) started = follow(child, Until::kExecuted);
    if (started.ok()) {
      send_report(peer.ref(), stages::SyncKind::kReady, child.pid, nullptr);
    } else {
      send_report(peer.ref(), stages::SyncKind::kFailed, child.pid, &started.error());
    }
    return;
  }
  unlink(path.c_str());
}

[[noreturn]] void keep(const plan::CompiledPlan& plan, const Container& container, const Arguments& arguments, Fd report, Fd listening) {
  setsid();
  auto child = drive(plan, kInherited);
  if (!child.ok()) {
    send_report(report.ref(), stages::SyncKind::kFailed, -1, &child.error());
    _exit(1);
  }
  Result<void> ready = follow(*child, Until::kReady);
  if (ready.ok() && child->terminal.valid()) ready = send_terminal(arguments.console_socket, child->terminal.ref());
  if (!ready.ok()) {
    send_report(report.ref(), stages::SyncKind::kFailed, -1, &ready.error());
    child->sync.reset();
    (void)wait_exit(child->pidfd.ref());
    _exit(1);
  }
  child->terminal.reset();
  leave_stdio();
  send_report(report.ref(), stages::SyncKind::kReady, child->pid, nullptr);
  report.reset();
  serve_start(*child, container, listening.ref());
  listening.reset();
  const int code = wait_exit(child->pidfd.ref());
  (void)write_text(container.directory + "/exit", std::to_string(code) + "\n");
  _exit(0);
}

Result<void> create_detached(const Arguments& arguments, const BundleConfig& config, const cgroup::Layout& layout) {
  BERTH_TRY(check_terminal(config, arguments, false));
  BERTH_ASSIGN(Container made, make_container(arguments.root, arguments.id, config));
  Making making(layout, std::move(made));
  Container& container = making.container();
  BERTH_ASSIGN(const std::unique_ptr<cgroup::Cgroup> group, make_cgroup(layout, container, config));
  BERTH_ASSIGN(const plan::CompiledPlan plan, compile_container(config, container, *group));
  BERTH_ASSIGN(Fd listening, at_start_socket(container, bind, "bind"));
  if (listen(listening.get(), 4) != 0) return errno_error("start", "listen");
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return errno_error("create", "socketpair");
  Fd ours(pair[0]);
  Fd theirs(pair[1]);
  const pid_t keeper = fork();
  if (keeper < 0) return errno_error("create", "fork");
  if (keeper == 0) {
    ours.reset();
    keep(plan, container, arguments, std::move(theirs), std::move(listening));
  }
  theirs.reset();
  BERTH_ASSIGN(const pid_t pid, receive_report(ours.ref()));
  BERTH_TRY(record_process(container, pid));
  BERTH_TRY(write_pid_file(arguments, pid));
  making.keep();
  return {};
}

Result<void> start_created(const Container& container) {
  const Live live = look(container);
  if (live.status != Status::kCreated) {
    return make_error(EINVAL, "start", "state", container.id, "the container is " + std::string(status_name(live.status)));
  }
  BERTH_ASSIGN(const Fd socket, at_start_socket(container, connect, "connect"));
  BERTH_TRY(receive_report(socket.ref()));
  return {};
}

Result<void> destroy(const cgroup::Layout& layout, const Container& container, const Live& live) {
  if (live.pidfd.valid()) {
    (void)sys::pidfd_send_signal(live.pidfd.get(), SIGKILL);
    struct pollfd ended = {live.pidfd.get(), POLLIN, 0};
    if (poll(&ended, 1, 10'000) == 0) return make_error(ETIMEDOUT, "delete", "poll", container.id, "SIGKILL did not end it");
  }
  BERTH_TRY(remove_cgroup(layout, container));
  remove_directory(container);
  return {};
}

Result<int> run_foreground(const Arguments& arguments, const BundleConfig& config, const cgroup::Layout& layout) {
  BERTH_TRY(check_terminal(config, arguments, true));
  BERTH_ASSIGN(Container made, make_container(arguments.root, arguments.id, config));
  Making making(layout, std::move(made));
  Container& container = making.container();
  BERTH_ASSIGN(const std::unique_ptr<cgroup::Cgroup> group, make_cgroup(layout, container, config));
  BERTH_ASSIGN(const plan::CompiledPlan plan, compile_container(config, container, *group));
  block_signals();
  BERTH_ASSIGN(Driven child, drive(plan, kInherited));
  const auto start = [&]() -> Result<void> {
    BERTH_TRY(follow(child, Until::kReady));
    BERTH_TRY(record_process(container, child.pid));
    BERTH_TRY(write_pid_file(arguments, child.pid));
    if (child.terminal.valid() && !arguments.console_socket.empty()) {
      BERTH_TRY(send_terminal(arguments.console_socket, child.terminal.ref()));
      child.terminal.reset();
    }
    BERTH_TRY(release(child));
    return follow(child, Until::kExecuted);
  };
  if (Result<void> started = start(); !started.ok()) {
    (void)sys::pidfd_send_signal(child.pidfd.get(), SIGKILL);
    (void)wait_exit(child.pidfd.ref());
    return std::move(started).error();
  }
  const int code = attend(child.pidfd.ref(), child.terminal.ref());
  making.keep();
  if (arguments.keep) return code;
  BERTH_TRY(destroy(layout, container, Live{}));
  return code;
}

}  // namespace

Result<int> run_create(const Arguments& arguments) {
  BERTH_ASSIGN(const BundleConfig config, read_bundle(arguments.bundle));
  BERTH_ASSIGN(const cgroup::Layout layout, cgroup::detect_layout());
  BERTH_TRY(create_detached(arguments, config, layout));
  return 0;
}

Result<int> run_start(const Arguments& arguments) {
  BERTH_ASSIGN(const Container container, load_container(arguments.root, arguments.id));
  BERTH_TRY(start_created(container));
  return 0;
}

Result<int> run_run(const Arguments& arguments) {
  BERTH_ASSIGN(const BundleConfig config, read_bundle(arguments.bundle));
  BERTH_ASSIGN(const cgroup::Layout layout, cgroup::detect_layout());
  if (!arguments.detach) return run_foreground(arguments, config, layout);
  BERTH_TRY(create_detached(arguments, config, layout));
  BERTH_ASSIGN(const Container container, load_container(arguments.root, arguments.id));
  if (Result<void> started = start_created(container); !started.ok()) {
    (void)destroy(layout, container, look(container));
    return std::move(started).error();
  }
  return 0;
}

Result<int> run_exec(const Arguments& arguments) {
  BERTH_ASSIGN(const Container container, load_container(arguments.root, arguments.id));
  const Live live = look(container);
  if (live.status != Status::kRunning) {
    return make_error(EINVAL, "exec", "state", container.id, "the container is " + std::string(status_name(live.status)));
  }
  BERTH_ASSIGN(const BundleConfig config, read_bundle(container.bundle));
  BERTH_ASSIGN(const std::string process, exec_process(config, arguments));
  plan::ExecInput input;
  input.process_json = process;
  input.config_json = config.json;
  input.container_id = container.id;
  input.init_pidfd = live.pidfd.get();
  input.clamp.enabled = true;
  BERTH_ASSIGN(const cgroup::Layout layout, cgroup::detect_layout());
  std::unique_ptr<cgroup::Cgroup> group;
  cgroup::AttachFds attach;
  if (!container.cgroup.empty()) {
    BERTH_ASSIGN(group, cgroup::Cgroup::open(layout, container.cgroup));
    BERTH_ASSIGN(attach, group->open_attach());
    input.cgroup = borrowed(attach);
  }
  BERTH_ASSIGN(const plan::CompiledPlan plan, plan::compile_exec(input));
  say(plan);
  if (plan.terminal && arguments.detach && arguments.console_socket.empty()) {
    return field_error("arguments", "--console-socket", "is needed for a terminal without a foreground");
  }
  block_signals();
  BERTH_ASSIGN(Driven child, drive(plan, kInherited));
  Result<void> executed = follow(child, Until::kExecuted);
  if (executed.ok() && child.command < 0) executed = make_error(ESRCH, "exec", "clone3", {}, "the child ended without a word");
  (void)wait_exit(child.pidfd.ref());
  if (executed.ok() && child.terminal.valid() && !arguments.console_socket.empty()) {
    executed = send_terminal(arguments.console_socket, child.terminal.ref());
    child.terminal.reset();
  }
  if (executed.ok()) executed = write_pid_file(arguments, child.command);
  if (!executed.ok()) {
    if (child.command_pidfd.valid()) (void)sys::pidfd_send_signal(child.command_pidfd.get(), SIGKILL);
    return std::move(executed).error();
  }
  if (arguments.detach) return 0;
  return attend(child.command_pidfd.ref(), child.terminal.ref());
}

Result<int> run_state(const Arguments& arguments) {
  BERTH_ASSIGN(const Container container, load_container(arguments.root, arguments.id));
  const Live live = look(container);
  const pid_t pid = live.status == Status::kStopped ? 0 : container.pid;
  printf("{\n  \"ociVersion\": %s,\n  \"id\": %s,\n  \"pid\": %d,\n  \"status\": \"%s\",\n  \"bundle\": %s,\n  \"rootfs\": %s,\n"
         "  \"created\": %s,\n  \"annotations\": %s\n}\n",
         quoted(container.oci_version).c_str(), quoted(container.id).c_str(), pid, std::string(status_name(live.status)).c_str(),
         quoted(container.bundle).c_str(), quoted(container.rootfs).c_str(), quoted(container.created).c_str(),
         container.annotations_json.c_str());
  return 0;
}

Result<int> run_kill(const Arguments& arguments) {
  const std::string_view name = arguments.rest.empty() ? std::string_view("TERM") : std::string_view(arguments.rest.front());
  const int number = signal_number(name);
  if (number < 0) return field_error("arguments", name, "is not a signal");
  BERTH_ASSIGN(const Container container, load_container(arguments.root, arguments.id));
  const Live live = look(container);
  if (arguments.all && !container.cgroup.empty()) {
    BERTH_ASSIGN(const cgroup::Layout layout, cgroup::detect_layout());
    if (number == SIGKILL) {
      BERTH_TRY(cgroup::kill(layout, container.cgroup));
      return 0;
    }
    BERTH_ASSIGN(const std::vector<pid_t> pids, cgroup::processes(layout, container.cgroup));
    for (const pid_t pid : pids) ::kill(pid, number);
    return 0;
  }
  if (!live.pidfd.valid()) return make_error(ESRCH, "kill", "state", container.id, "the container is stopped");
  if (sys::pidfd_send_signal(live.pidfd.get(), number) != 0) return errno_error("kill", "pidfd_send_signal", container.id);
  return 0;
}

Result<int> run_delete(const Arguments& arguments) {
  auto container = load_container(arguments.root, arguments.id);
  if (!container.ok()) {
    if (arguments.force && container.error().error_number == ENOENT) return 0;
    return std::move(container).error();
  }
  const Live live = look(*container);
  if (live.status == Status::kRunning && !arguments.force) {
    return make_error(EBUSY, "delete", "state", container->id, "the container is running");
  }
  BERTH_ASSIGN(const cgroup::Layout layout, cgroup::detect_layout());
  BERTH_TRY(destroy(layout, *container, live));
  return 0;
}

}  // namespace berth::ocirun
