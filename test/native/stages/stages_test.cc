// The executor against the real kernel: containers made from plans that are built by hand.
#include "core/stages/stages.h"

#include <dirent.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <termios.h>

#include <algorithm>
#include <cstddef>

#include "core/sys/mount.h"
#include "core/sys/pidfd.h"
#include "test/native/stages/harness.h"

namespace {

using berth::plan::Kind;
using berth::plan::kNone;
using berth::plan::OpCode;
using berth::stages::SyncKind;
using berth::stages::SyncRecord;
using berth::test::add_container;
using berth::test::make_root;
using berth::test::PlanBuilder;
using berth::test::read_file;

constexpr uint64_t kNamespaces = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;

struct Outcome {
  bool ready = false;
  bool failed = false;
  SyncRecord failure = {};
  std::string output;
  int code = -1;    // exit code of the program, or of the child that failed
  int signal = 0;
  pid_t command = 0;  // exec: the command's pid
};

struct Pipe {
  int read_end = -1;
  int write_end = -1;
  Pipe() {
    int ends[2];
    CHECK_EQ(::pipe2(ends, O_CLOEXEC), 0);
    read_end = ends[0];
    write_end = ends[1];
  }
  ~Pipe() {
    close_write();
    ::close(read_end);
  }
  void close_write() {
    if (write_end >= 0) ::close(write_end);
    write_end = -1;
  }
  std::string drain(int timeout_ms = 10'000) {
    std::string text;
    char buffer[65536];
    struct pollfd poll_fd = {read_end, POLLIN, 0};
    while (::poll(&poll_fd, 1, timeout_ms) > 0) {
      const ssize_t count = ::read(read_end, buffer, sizeof(buffer));
      if (count <= 0) break;
      text.append(buffer, static_cast<size_t>(count));
    }
    return text;
  }
};

// Next record; false at the end of file. A descriptor that comes along is put into `fd`.
bool next_record(int sync, SyncRecord* record, int* fd) {
  struct pollfd poll_fd = {sync, POLLIN, 0};
  if (::poll(&poll_fd, 1, 10'000) != 1) {
    std::printf("no record within ten seconds\n");
    CHECK(false);
    return false;
  }
  struct iovec part = {record, sizeof(*record)};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t size = ::recvmsg(sync, &message, MSG_CMSG_CLOEXEC);
  *fd = -1;
  if (size <= 0) return false;
  CHECK_EQ(size, static_cast<ssize_t>(sizeof(*record)));
  if (const struct cmsghdr* header = CMSG_FIRSTHDR(&message)) std::memcpy(fd, CMSG_DATA(header), sizeof(int));
  return true;
}

void reap(int pidfd, int* code, int* signal) {
  siginfo_t info = {};
  CHECK_EQ(berth::sys::waitid_pidfd(pidfd, &info, WEXITED | __WALL), 0);
  *code = info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
  *signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
}

struct Options {
  bool sealed = true;
  bool go = true;
  bool null_stdin = false;
  std::string input;
  // Called at the barrier, or once an exec's command runs.
  std::function<void(pid_t)> at_ready;
  // Called while the program runs.
  std::function<void(pid_t)> running;
};

Outcome run(PlanBuilder& builder, const Options& options = {}) {
  Outcome outcome;
  Pipe out;
  Pipe in;
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  const int plan_fd = builder.memfd(options.sealed);
  const bool terminal = builder.header().terminal != 0;
  berth::stages::ChildStdio stdio;
  if (!terminal) stdio = {options.null_stdin ? null : in.read_end, out.write_end, out.write_end};
  const berth::stages::PlanInput input = {plan_fd, builder.fds().data(), static_cast<uint32_t>(builder.fds().size())};
  const berth::stages::ChildSpawn spawn = berth::stages::spawn_child(input, stdio);
  ::close(plan_fd);
  ::close(null);
  out.close_write();
  if (!options.input.empty()) CHECK(::write(in.write_end, options.input.data(), options.input.size()) > 0);
  in.close_write();
  if (spawn.pid < 0) {
    outcome.failed = true;
    outcome.failure.error_number = spawn.error_number;
    std::snprintf(outcome.failure.syscall, sizeof(outcome.failure.syscall), "%s", spawn.syscall);
    return outcome;
  }
  int master = -1;
  int command = -1;
  SyncRecord record;
  int fd = -1;
  while (next_record(spawn.sync_fd, &record, &fd)) {
    switch (static_cast<SyncKind>(record.kind)) {
      case SyncKind::kTerminal:
        master = fd;
        break;
      case SyncKind::kCommand:
        outcome.command = record.pid;
        command = fd;
        break;
      case SyncKind::kReady:
        outcome.ready = true;
        if (options.at_ready) options.at_ready(spawn.pid);
        if (options.go) {
          record.kind = static_cast<uint32_t>(SyncKind::kGo);
          CHECK_EQ(::send(spawn.sync_fd, &record, sizeof(record), MSG_NOSIGNAL), static_cast<ssize_t>(sizeof(record)));
        } else {
          ::shutdown(spawn.sync_fd, SHUT_RDWR);
        }
        break;
      case SyncKind::kFailed:
        outcome.failed = true;
        outcome.failure = record;
        break;
      default:
        CHECK(false);
    }
  }
  if (options.running) options.running(command >= 0 ? outcome.command : spawn.pid);
  if (master >= 0) {
    char buffer[4096];
    ssize_t count = 0;
    while ((count = ::read(master, buffer, sizeof(buffer))) > 0) outcome.output.append(buffer, static_cast<size_t>(count));
    ::close(master);
  } else {
    outcome.output = out.drain();
  }
  reap(spawn.pidfd, &outcome.code, &outcome.signal);
  if (command >= 0) {
    CHECK_EQ(outcome.code, 0);
    reap(command, &outcome.code, &outcome.signal);
    ::close(command);
  }
  ::close(spawn.pidfd);
  ::close(spawn.sync_fd);
  return outcome;
}

void show_failure(const Outcome& outcome) {
  if (outcome.failed) {
    std::printf("failed: %s %s %s %s %s\n", outcome.failure.step, outcome.failure.syscall, outcome.failure.path,
                std::strerror(outcome.failure.error_number), outcome.failure.detail);
  }
}

Outcome run_well(PlanBuilder& builder, const Options& options = {}) {
  Outcome outcome = run(builder, options);
  show_failure(outcome);
  CHECK(!outcome.failed);
  return outcome;
}

int count_fds() {
  int count = 0;
  DIR* directory = ::opendir("/proc/self/fd");
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count;
}

// A directory of the host that no container may change.
class Canary {
 public:
  Canary() {
    CHECK(::mkdtemp(path_) != nullptr);
    ::close(::open((path() + "/marker").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
  }
  ~Canary() {
    CHECK_EQ(entries(), std::string("marker;"));
    ::unlink((path() + "/marker").c_str());
    ::rmdir(path_);
  }
  Canary(const Canary&) = delete;
  Canary& operator=(const Canary&) = delete;
  [[nodiscard]] std::string path() const { return path_; }
  [[nodiscard]] std::string entries() const {
    std::vector<std::string> names;
    DIR* directory = ::opendir(path_);
    while (const struct dirent* entry = ::readdir(directory)) {
      if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    }
    ::closedir(directory);
    std::sort(names.begin(), names.end());
    std::string all;
    for (const std::string& name : names) all += name + ";";
    return all;
  }

 private:
  char path_[64] = "/tmp/berth-canary-XXXXXX";
};

struct Root {
  int fd = make_root(BERTH_PROBE);
  ~Root() { ::close(fd); }
};

void pivot(PlanBuilder& builder, uint64_t flags = 0) { builder.op(OpCode::kPivot, "pivot", {flags, 0}); }

// ---- the container as a whole

void container_sees_only_itself() {
  const std::string mounts_before = read_file("/proc/self/mountinfo");
  const int fds_before = count_fds();
  {
    Root root;
    PlanBuilder builder(Kind::kCreate);
    add_container(builder, root.fd, kNamespaces);
    builder.op(OpCode::kSetHostname, "hostname", {}, {"pod-7"});
    pivot(builder, berth::plan::kPivotReadonlyRoot);
    builder.op(OpCode::kSetsid, "setsid", {0})
        .op(OpCode::kUmask, "umask", {027})
        .op(OpCode::kChdir, "chdir", {0, 0, 0}, {"/dev"})
        .op(OpCode::kLookupProgram, "lookup", {}, {"probe", "/nowhere:/bin"})
        .barrier()
        .exec({"probe", "ids", "uname", "cwd", "fds", "env", "cat", "/proc/self/mountinfo", "mkdir", "/x", "ls", "/"}, {"A=b", "C="});
    const Outcome outcome = run_well(builder);
    CHECK(outcome.ready);
    CHECK_EQ(outcome.code, 0);
    CHECK_CONTAINS(outcome.output, "pid 1 ppid 0 sid 1 uid 0 gid 0 umask 27");
    CHECK_CONTAINS(outcome.output, "host pod-7");
    CHECK_CONTAINS(outcome.output, "cwd /dev\n");
    CHECK_CONTAINS(outcome.output, "fds 0 1 2\n");
    CHECK_CONTAINS(outcome.output, "env A=b\nenv C=\n");
    CHECK_CONTAINS(outcome.output, "mkdir /x: Read-only file system");
    CHECK_CONTAINS(outcome.output, "ls /: 3 entries");
    // root, proc, dev, devpts and nothing of the host
    size_t mounts = 0;
    for (size_t at = 0; (at = outcome.output.find(" - ", at)) != std::string::npos; ++at) ++mounts;
    CHECK_EQ(mounts, size_t{4});
  }
  CHECK_EQ(read_file("/proc/self/mountinfo"), mounts_before);
  CHECK_EQ(count_fds(), fds_before);
}

void waits_at_the_barrier() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  builder.exec({"/bin/probe", "outln", "ran"});
  Options options;
  options.go = false;
  const Outcome outcome = run(builder, options);
  CHECK(outcome.ready);
  CHECK(!outcome.failed);
  CHECK_EQ(outcome.output, std::string());
  CHECK_EQ(outcome.code, 127);
}

void is_not_dumpable_before_it_runs() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  builder.exec({"/bin/probe"});
  Options options;
  options.at_ready = [](pid_t pid) {
    struct stat about = {};
    // Owned by root either way; what tells is whether a user without ptrace rights over a non-dumpable process may look.
    CHECK_EQ(::stat(("/proc/" + std::to_string(pid) + "/maps").c_str(), &about), 0);
    const pid_t other = ::fork();
    if (other == 0) {
      if (::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
      ::_exit(::open(("/proc/" + std::to_string(pid) + "/environ").c_str(), O_RDONLY) < 0 ? 0 : 1);
    }
    int status = 0;
    ::waitpid(other, &status, 0);
    CHECK_EQ(WEXITSTATUS(status), 0);
  };
  run_well(builder, options);
}

void signals_are_reset() {
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  struct sigaction old = {};
  ::sigaction(SIGPIPE, &ignore, &old);
  sigset_t blocked;
  sigset_t old_mask;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  ::sigprocmask(SIG_BLOCK, &blocked, &old_mask);
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  builder.exec({"/bin/probe", "cat", "/proc/self/status"});
  const Outcome outcome = run_well(builder);
  CHECK_CONTAINS(outcome.output, "SigBlk:\t0000000000000000");
  CHECK_CONTAINS(outcome.output, "SigIgn:\t0000000000000000");
  ::sigaction(SIGPIPE, &old, nullptr);
  ::sigprocmask(SIG_SETMASK, &old_mask, nullptr);
}

// ---- refusals

void unsealed_plan_is_refused() {
  PlanBuilder builder(Kind::kCreate);
  builder.exec({"/bin/true"});
  Options options;
  options.sealed = false;
  const Outcome outcome = run(builder, options);
  CHECK(outcome.failed);
  CHECK_EQ(outcome.failure.error_number, EINVAL);
  CHECK_EQ(outcome.code, 127);
}

void damaged_plan_is_refused() {
  PlanBuilder builder(Kind::kCreate);
  builder.op(OpCode::kSetHostname, "hostname", {}, {"x"}).exec({"/bin/true"});
  builder.ops()[0].code = 999;
  const Outcome outcome = run(builder);
  CHECK(outcome.failed);
  CHECK_EQ(outcome.failure.error_number, EINVAL);
  CHECK_EQ(std::string(outcome.failure.detail), std::string("unknown op"));
}

void missing_program_fails_the_create() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  builder.op(OpCode::kLookupProgram, "lookup", {}, {"nothere", "/bin:/dev"}).barrier().exec({"nothere"});
  const Outcome outcome = run(builder);
  CHECK(outcome.failed);
  CHECK(!outcome.ready);
  CHECK_EQ(outcome.failure.error_number, ENOENT);
  CHECK_EQ(std::string(outcome.failure.step), std::string("lookup"));
  CHECK_EQ(std::string(outcome.failure.path), std::string("nothere"));
}

void program_without_right_to_run_is_eacces() {
  Root root;
  berth::test::write_file(root.fd, "bin/data", "no program", 0644);
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  builder.op(OpCode::kLookupProgram, "lookup", {}, {"data", "/nowhere:/bin"}).barrier().exec({"data"});
  const Outcome outcome = run(builder);
  CHECK(outcome.failed);
  CHECK_EQ(outcome.failure.error_number, EACCES);
}

void failed_execve_is_told_after_the_barrier() {
  Root root;
  berth::test::write_file(root.fd, "bin/text", "not a program\n", 0755);
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  builder.exec({"/bin/text"});
  const Outcome outcome = run(builder);
  CHECK(outcome.ready);
  CHECK(outcome.failed);
  CHECK_EQ(outcome.failure.error_number, ENOEXEC);
  CHECK_EQ(std::string(outcome.failure.syscall), std::string("execve"));
}

void mount_error_names_step_and_option() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  builder.op(OpCode::kMountFilesystem, "mount /data", {0, 0, 0755}, {"tmpfs", "/data", PlanBuilder::block({"size=nonsense"}), "tmpfs"});
  pivot(builder);
  builder.exec({"/bin/probe"});
  const Outcome outcome = run(builder);
  CHECK(outcome.failed);
  CHECK_EQ(outcome.failure.error_number, EINVAL);
  CHECK_EQ(std::string(outcome.failure.step), std::string("mount /data"));
  CHECK_EQ(std::string(outcome.failure.path), std::string("size=nonsense"));
}

// ---- escapes

void link_for_proc_is_refused() {
  Canary canary;
  Root root;
  CHECK_EQ(::symlinkat(("../../../.." + canary.path()).c_str(), root.fd, "proc"), 0);
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  builder.exec({"/bin/probe"});
  const Outcome outcome = run(builder);
  CHECK(outcome.failed);
  CHECK_EQ(outcome.failure.error_number, ELOOP);
  CHECK_EQ(std::string(outcome.failure.step), std::string("mount /proc"));
}

void file_for_proc_is_refused() {
  Root root;
  berth::test::write_file(root.fd, "proc", "");
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  builder.exec({"/bin/probe"});
  const Outcome outcome = run(builder);
  CHECK(outcome.failed);
  CHECK_EQ(outcome.failure.error_number, ENOTDIR);
}

void mount_inside_proc_is_refused() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  builder.op(OpCode::kMountFilesystem, "mount /proc/sys", {0, 0, 0755}, {"tmpfs", "/proc/sys", "", "tmpfs"});
  pivot(builder);
  builder.exec({"/bin/probe"});
  const Outcome refused = run(builder);
  CHECK(refused.failed);
  CHECK_EQ(refused.failure.error_number, EPERM);
}

void file_on_proc_is_mounted_where_allowed() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  builder.op(OpCode::kOpenSource, "source", {0, OPEN_TREE_CLONE, 0}, {"/dev/null"});
  add_container(builder, root.fd, kNamespaces);
  builder.op(OpCode::kMountSlot, "mount /proc/uptime", {0, MOUNT_ATTR_RDONLY, 0, berth::plan::kMountOnProc, 0}, {"", "/proc/uptime"});
  pivot(builder);
  builder.exec({"/bin/probe", "stat", "/proc/uptime"});
  CHECK_CONTAINS(run_well(builder).output, "rdev 1:3");
}

// Directory links of every kind lead into the root, never out of it, also where the way has to be made first.
void links_stay_in_the_root() {
  Canary canary;
  Root root;
  CHECK_EQ(::symlinkat(("../../../../.." + canary.path()).c_str(), root.fd, "up"), 0);
  CHECK_EQ(::symlinkat(canary.path().c_str(), root.fd, "absolute"), 0);
  CHECK_EQ(::symlinkat("absolute/../../../..", root.fd, "twice"), 0);
  PlanBuilder builder(Kind::kCreate);
  builder.op(OpCode::kOpenSource, "source", {0, OPEN_TREE_CLONE, 0}, {"/dev/null"})
      .op(OpCode::kOpenSource, "source", {1, OPEN_TREE_CLONE, 0}, {"/dev/null"});
  add_container(builder, root.fd, kNamespaces);
  builder.op(OpCode::kMountFilesystem, "a", {0, 0, 0755}, {"tmpfs", "/up/a", "", "tmpfs"})
      .op(OpCode::kMountSlot, "b", {0, 0, 0, 0, 0}, {"", "/absolute/b"})
      .op(OpCode::kMakeDirectory, "c", {0700, 5, 6}, {"", "/up/deep/er/c"})
      .op(OpCode::kMakeSymlink, "d", {0}, {"target", "/absolute/d"})
      .op(OpCode::kMakeNode, "e", {S_IFCHR | 0666, makedev(1, 3)}, {"", "/up/e", ""})
      .op(OpCode::kCopyFile, "f", {0600}, {"text", "/absolute/f"})
      .op(OpCode::kMountSlot, "g", {1, 0, 0, 0, 0}, {"", "/twice/g"});
  pivot(builder);
  builder.exec({"/bin/probe", "ls", canary.path(), "stat", canary.path() + "/deep/er/c", "stat", "/g", "cat", canary.path() + "/f"});
  const Outcome outcome = run_well(builder);
  CHECK_CONTAINS(outcome.output, "ls " + canary.path() + ": 6 entries");
  CHECK_CONTAINS(outcome.output, "mode 40700 uid 5 gid 6");
  CHECK_CONTAINS(outcome.output, "stat /g: mode 20666");
  CHECK_CONTAINS(outcome.output, "text");
}

// Images have links whose target is absent: the target of the mount is made where the link leads.
void dangling_link_is_completed() {
  Root root;
  CHECK_EQ(::mkdirat(root.fd, "etc", 0755), 0);
  CHECK_EQ(::symlinkat("../run/resolve/stub.conf", root.fd, "etc/resolv.conf"), 0);
  PlanBuilder builder(Kind::kCreate);
  builder.op(OpCode::kOpenSource, "source", {0, OPEN_TREE_CLONE, 0}, {"/dev/null"});
  add_container(builder, root.fd, kNamespaces);
  builder.op(OpCode::kMountSlot, "mount", {0, 0, 0, 0, 0}, {"", "/etc/resolv.conf"});
  pivot(builder);
  builder.exec({"/bin/probe", "stat", "/run/resolve/stub.conf"});
  CHECK_CONTAINS(run_well(builder).output, "rdev 1:3");
}

void link_loop_ends() {
  Root root;
  CHECK_EQ(::symlinkat("b/x", root.fd, "a"), 0);
  CHECK_EQ(::symlinkat("a/x", root.fd, "b"), 0);
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  builder.op(OpCode::kMakeDirectory, "make", {0755, 0, 0}, {"", "/a/c"});
  pivot(builder);
  builder.exec({"/bin/probe"});
  const Outcome outcome = run(builder);
  CHECK(outcome.failed);
  CHECK_EQ(outcome.failure.error_number, ELOOP);
}

// A link of procfs could lead anywhere, the host's root included.
void magic_links_are_not_followed() {
  Canary canary;
  for (const char* path : {"/proc/self/root/tmp/x", "/proc/self/cwd/x", "/proc/self/fd/3/x"}) {
    Root root;
    PlanBuilder builder(Kind::kCreate);
    add_container(builder, root.fd, kNamespaces);
    builder.op(OpCode::kMakeDirectory, "make", {0755, 0, 0}, {"", path});
    pivot(builder);
    builder.exec({"/bin/probe"});
    const Outcome outcome = run(builder);
    CHECK(outcome.failed);
    CHECK_EQ(outcome.failure.error_number, ELOOP);
  }
}

void working_directory_by_descriptor_is_refused() {
  int refused = 0;
  for (int number = 3; number < 32; ++number) {
    Root root;
    PlanBuilder builder(Kind::kCreate);
    add_container(builder, root.fd, kNamespaces);
    pivot(builder);
    builder.op(OpCode::kChdir, "chdir", {0, 0, 0}, {"/proc/self/fd/" + std::to_string(number)}).barrier().exec({"/bin/probe", "cwd"});
    const Outcome outcome = run(builder);
    if (outcome.failed) {
      ++refused;
      continue;
    }
    // A descriptor of the container's own root is no way out.
    CHECK_EQ(outcome.output, std::string("cwd /\n"));
  }
  CHECK(refused > 20);
}

void program_by_descriptor_is_refused() {
  for (int number = 3; number < 16; ++number) {
    Root root;
    PlanBuilder builder(Kind::kCreate);
    add_container(builder, root.fd, kNamespaces);
    pivot(builder);
    // The host's own programs, reached over whatever directory the descriptor stands for.
    builder.exec({"/proc/self/fd/" + std::to_string(number) + "/../../../../bin/true"});
    const Outcome outcome = run(builder);
    CHECK(outcome.failed);
  }
}

// ---- mounts

void masked_and_readonly_paths() {
  Root root;
  CHECK_EQ(::mkdirat(root.fd, "secret", 0755), 0);
  berth::test::write_file(root.fd, "secret/key", "value");
  berth::test::write_file(root.fd, "file", "value");
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  for (const char* path : {"/proc/timer_list", "/secret", "/file", "/proc/absent", "/file/below"}) {
    builder.op(OpCode::kMask, std::string("mask ") + path, {}, {"", path});
  }
  builder.op(OpCode::kReadonlyPath, "readonly /proc/sys", {}, {"", "/proc/sys"})
      .op(OpCode::kReadonlyPath, "readonly absent", {}, {"", "/proc/nothing"});
  pivot(builder);
  builder.exec({"/bin/probe", "stat", "/proc/timer_list", "stat", "/file", "ls", "/secret", "mkdir", "/secret/x", "write",
                "/proc/sys/kernel/hostname", "x", "write", "/file", "lost", "cat", "/proc/self/mountinfo"});
  const Outcome outcome = run_well(builder);
  CHECK_CONTAINS(outcome.output, "stat /proc/timer_list: mode 20666 uid 0 gid 0 rdev 1:3");
  CHECK_CONTAINS(outcome.output, "stat /file: mode 20666 uid 0 gid 0 rdev 1:3");
  CHECK_CONTAINS(outcome.output, "ls /secret: 0 entries");
  CHECK_CONTAINS(outcome.output, "mkdir /secret/x: Read-only file system");
  CHECK_CONTAINS(outcome.output, "write /proc/sys/kernel/hostname: Read-only file system");
  CHECK_CONTAINS(outcome.output, "write /file: ok");
}

void binds_keep_their_attributes() {
  Canary canary;
  Root root;
  PlanBuilder builder(Kind::kCreate);
  builder.op(OpCode::kOpenSource, "source", {0, OPEN_TREE_CLONE | AT_RECURSIVE, 0}, {canary.path()})
      .op(OpCode::kOpenSource, "absent", {1, OPEN_TREE_CLONE, berth::plan::kMountOptional}, {"/does/not/exist"});
  add_container(builder, root.fd, kNamespaces);
  builder
      .op(OpCode::kMountSlot, "mount /data", {0, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, 0, 0, MS_PRIVATE | MS_REC}, {"", "/data"})
      .op(OpCode::kMountSlot, "mount absent", {1, 0, 0, berth::plan::kMountOptional, 0}, {"", "/absent"});
  pivot(builder);
  builder.exec({"/bin/probe", "mkdir", "/data/x", "ls", "/data", "ls", "/absent"});
  const Outcome outcome = run_well(builder);
  CHECK_CONTAINS(outcome.output, "mkdir /data/x: Read-only file system");
  CHECK_CONTAINS(outcome.output, "ls /data: 1 entries");
  CHECK_CONTAINS(outcome.output, "ls /absent: No such file or directory");
}

void absent_source_fails() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  builder.op(OpCode::kOpenSource, "mount /absent", {1, OPEN_TREE_CLONE, 0}, {"/does/not/exist"});
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  builder.exec({"/bin/probe"});
  const Outcome outcome = run(builder);
  CHECK(outcome.failed);
  CHECK_EQ(outcome.failure.error_number, ENOENT);
  CHECK_EQ(std::string(outcome.failure.path), std::string("/does/not/exist"));
}

void copy_up_brings_the_contents() {
  Root root;
  CHECK_EQ(::mkdirat(root.fd, "var", 0755), 0);
  CHECK_EQ(::mkdirat(root.fd, "var/dir", 0711), 0);
  berth::test::write_file(root.fd, "var/dir/file", "contents", 0640);
  CHECK_EQ(::symlinkat("dir/file", root.fd, "var/link"), 0);
  CHECK_EQ(::fchownat(root.fd, "var/dir/file", 7, 8, 0), 0);
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  builder.op(OpCode::kMountFilesystem, "mount /var", {0, berth::plan::kMountCopyUp, 0755}, {"tmpfs", "/var", "", "tmpfs"});
  pivot(builder);
  builder.exec({"/bin/probe", "stat", "/var/dir", "stat", "/var/dir/file", "cat", "/var/link", "mkdir", "/var/new"});
  const Outcome outcome = run_well(builder);
  CHECK_CONTAINS(outcome.output, "stat /var/dir: mode 40711");
  CHECK_CONTAINS(outcome.output, "stat /var/dir/file: mode 100640 uid 7 gid 8");
  CHECK_CONTAINS(outcome.output, "contents");
  CHECK_CONTAINS(outcome.output, "mkdir /var/new: ok");
  struct stat about = {};
  CHECK(::fstatat(root.fd, "var/new", &about, 0) != 0);
}

void devices_and_links_of_dev() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  builder.op(OpCode::kMakeNode, "zero", {S_IFCHR | 0660, makedev(1, 5), 3, 4}, {"", "/dev/zero", "/dev/zero"})
      .op(OpCode::kMakeNode, "zero again", {S_IFCHR | 0600, makedev(1, 5), 5, 6}, {"", "/dev/zero", "/dev/zero"})
      .op(OpCode::kMakeSymlink, "stdout", {0}, {"/proc/self/fd/1", "/dev/stdout"})
      .op(OpCode::kMakeSymlink, "stdout again", {0}, {"/proc/self/fd/1", "/dev/stdout"})
      .op(OpCode::kMakeSymlink, "replaced", {2}, {"pts/ptmx", "/dev/zero2"});
  pivot(builder);
  builder.exec({"/bin/probe", "stat", "/dev/zero", "reopen", "/dev/stdout"});
  const Outcome outcome = run_well(builder);
  CHECK_CONTAINS(outcome.output, "stat /dev/zero: mode 20600 uid 5 gid 6 rdev 1:5");
  CHECK_CONTAINS(outcome.output, "reopen /dev/stdout: ok");

  Root other;
  PlanBuilder conflict(Kind::kCreate);
  add_container(conflict, other.fd, kNamespaces);
  conflict.op(OpCode::kMakeNode, "conflict", {S_IFCHR | 0666, makedev(1, 5)}, {"", "/dev/null", ""});
  pivot(conflict);
  conflict.exec({"/bin/probe"});
  const Outcome refused = run(conflict);
  CHECK(refused.failed);
  CHECK_EQ(refused.failure.error_number, EEXIST);
}

// The host's /dev/null is an inode of the host: its mode could be changed through /proc/self/fd/0.
void null_stdio_is_the_containers_own() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  builder.exec({"/bin/probe", "same-device", "0", "/dev/null"});
  Options options;
  options.null_stdin = true;
  CHECK_CONTAINS(run_well(builder, options).output, "same-device 1");
}

// ---- process attributes

void sysctls_reach_the_new_namespaces() {
  const std::string before = read_file("/proc/sys/net/ipv4/ip_unprivileged_port_start");
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  builder.op(OpCode::kSysctl, "sysctl", {}, {"net/ipv4/ip_unprivileged_port_start", "77"})
      .op(OpCode::kSysctl, "sysctl", {}, {"net/ipv4/ping_group_range", "0 5"})
      .op(OpCode::kSysctl, "sysctl", {}, {"kernel/msgmax", "8888"})
      .op(OpCode::kLoopbackUp, "loopback");
  pivot(builder);
  builder.exec({"/bin/probe", "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "cat", "/proc/sys/kernel/msgmax", "cat",
                "/proc/net/if_inet6", "cat", "/proc/net/fib_trie"});
  const Outcome outcome = run_well(builder);
  CHECK_CONTAINS(outcome.output, "77\n8888\n");
  CHECK_CONTAINS(outcome.output, "127.0.0.1");
  CHECK_EQ(read_file("/proc/sys/net/ipv4/ip_unprivileged_port_start"), before);

  Root other;
  PlanBuilder bad(Kind::kCreate);
  add_container(bad, other.fd, kNamespaces);
  bad.op(OpCode::kSysctl, "sysctl", {}, {"../self/oom_score_adj", "0"});
  pivot(bad);
  bad.exec({"/bin/probe"});
  CHECK_EQ(run(bad).failure.error_number, EXDEV);
}

void identity_and_capabilities() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  const uint32_t groups[] = {10, 20};
  constexpr uint64_t kNetBindService = 1u << 10;
  builder.op(OpCode::kRlimit, "rlimit", {7 /* NOFILE */, 100, 200})
      .op(OpCode::kOomScoreAdj, "oom", {321, 0})
      .op(OpCode::kBoundingSet, "bounding", {kNetBindService})
      .op(OpCode::kKeepCaps, "keep")
      .op(OpCode::kSetGroups, "groups", {}, {std::string(reinterpret_cast<const char*>(groups), sizeof(groups))})
      .op(OpCode::kSetGid, "gid", {1001})
      .op(OpCode::kSetUid, "uid", {1000})
      .op(OpCode::kCapabilities, "caps", {kNetBindService, kNetBindService, kNetBindService})
      .op(OpCode::kAmbient, "ambient", {kNetBindService})
      .op(OpCode::kNoNewPrivileges, "nnp")
      .barrier()
      .exec({"/bin/probe", "ids", "nofile", "cat", "/proc/self/status", "cat", "/proc/self/oom_score_adj", "reopen", "/proc/self/fd/1"});
  const Outcome outcome = run_well(builder);
  CHECK_CONTAINS(outcome.output, "uid 1000 gid 1001");
  CHECK_CONTAINS(outcome.output, "nofile 100 200");
  CHECK_CONTAINS(outcome.output, "Groups:\t10 20");
  CHECK_CONTAINS(outcome.output, "CapBnd:\t0000000000000400");
  CHECK_CONTAINS(outcome.output, "CapEff:\t0000000000000400");
  CHECK_CONTAINS(outcome.output, "CapAmb:\t0000000000000400");
  CHECK_CONTAINS(outcome.output, "NoNewPrivs:\t1");
  CHECK_CONTAINS(outcome.output, "321\n");
  CHECK_CONTAINS(outcome.output, "reopen /proc/self/fd/1: ok");
}

void seccomp_is_the_last_word() {
#if defined(__x86_64__)
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  // Forbids mkdir, and close_range, which the executor uses itself.
  const struct sock_filter filter[] = {
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(struct seccomp_data, nr)},
      {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SYS_mkdir},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_close_range},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EXDEV},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  builder.op(OpCode::kNoNewPrivileges, "nnp")
      .barrier()
      .op(OpCode::kSeccomp, "seccomp", {0, kNone}, {std::string(reinterpret_cast<const char*>(filter), sizeof(filter))})
      .exec({"/bin/probe", "mkdir", "/x", "fds", "cat", "/proc/self/status"});
  const Outcome outcome = run_well(builder);
  CHECK_CONTAINS(outcome.output, "mkdir /x: Invalid cross-device link");
  CHECK_CONTAINS(outcome.output, "fds 0 1 2\n");
  CHECK_CONTAINS(outcome.output, "Seccomp:\t2");
#endif
}

void working_directory_is_made() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  add_container(builder, root.fd, kNamespaces);
  pivot(builder);
  using namespace berth::plan;
  builder.op(OpCode::kChdir, "chdir", {kChdirMake | kChdirTry, 1000, 1001}, {"/new/work"})
      .op(OpCode::kSetUid, "uid", {1000})
      .op(OpCode::kChdir, "chdir again", {kChdirUnlessDone, 0, 0}, {"/new/work"})
      .barrier()
      .exec({"/bin/probe", "cwd", "stat", "/new/work", "stat", "/new"});
  const Outcome outcome = run_well(builder);
  CHECK_CONTAINS(outcome.output, "cwd /new/work\n");
  CHECK_CONTAINS(outcome.output, "stat /new/work: mode 40755 uid 1000 gid 1001");
  CHECK_CONTAINS(outcome.output, "stat /new: mode 40755 uid 0 gid 0");
}

void terminal_is_the_containers() {
  Root root;
  PlanBuilder builder(Kind::kCreate);
  builder.header().terminal = 1;
  add_container(builder, root.fd, kNamespaces);
  builder.op(OpCode::kTerminal, "terminal", {1000, 5, 33, 99}).op(OpCode::kConsole, "console");
  pivot(builder);
  builder.op(OpCode::kSetsid, "setsid", {1}).barrier().exec({"/bin/probe", "tty", "stat", "/dev/console", "stat", "/dev/pts/0", "fds"});
  const Outcome outcome = run_well(builder);
  CHECK_CONTAINS(outcome.output, "tty 1 33x99 leader 1");
  CHECK_CONTAINS(outcome.output, "stat /dev/console: mode 20620 uid 1000 gid 5 rdev 136:0");
  CHECK_CONTAINS(outcome.output, "fds 0 1 2\r\n");
}

void joined_pid_namespace() {
  Root root;
  PlanBuilder first(Kind::kCreate);
  add_container(first, root.fd, kNamespaces);
  pivot(first);
  first.exec({"/bin/probe", "term", "sleep", "20000"});
  Options options;
  options.running = [](pid_t pid) {
    const int pidfd = berth::sys::pidfd_open(pid);
    Root second_root;
    PlanBuilder second(Kind::kCreate);
    add_container(second, second_root.fd, CLONE_NEWUTS);
    second.header().pid_namespace_fd = static_cast<uint32_t>(second.add_fd(pidfd));
    pivot(second);
    second.exec({"/bin/probe", "ids"});
    const Outcome outcome = run_well(second);
    CHECK_CONTAINS(outcome.output, "pid 2 ppid 0");
    // The parent is back in its own namespace.
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    CHECK(child > 2);
    ::waitpid(child, nullptr, 0);
    berth::sys::pidfd_send_signal(pidfd, SIGTERM);
    ::close(pidfd);
  };
  CHECK_EQ(run_well(first, options).code, 42);
}

// ---- exec

void exec_joins_the_container() {
  Root root;
  PlanBuilder first(Kind::kCreate);
  add_container(first, root.fd, kNamespaces);
  first.op(OpCode::kSetHostname, "hostname", {}, {"joined"});
  pivot(first);
  first.exec({"/bin/probe", "term", "sleep", "20000"});
  Options options;
  options.running = [](pid_t pid) {
    const int fds_before = count_fds();
    const int pidfd = berth::sys::pidfd_open(pid);
    const uint64_t all = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS;
    PlanBuilder builder(Kind::kExec);
    builder.op(OpCode::kJoinNamespace, "join", {builder.add_fd(pidfd), all})
        .op(OpCode::kOomScoreAdj, "oom", {5, 0})
        .op(OpCode::kSetUid, "uid", {12})
        .op(OpCode::kMakeDetached, "detach")
        .barrier()
        .op(OpCode::kChdir, "chdir", {0, 0, 0}, {"/dev"})
        .op(OpCode::kLookupProgram, "lookup", {}, {"probe", "/bin"})
        .exec({"probe", "ids", "uname", "cwd", "fds", "echo", "same-device", "0", "/dev/null", "exit", "7"});
    Options input;
    input.input = "from outside\n";
    const Outcome outcome = run_well(builder, input);
    CHECK(outcome.command > 0);
    CHECK_EQ(outcome.code, 7);
    CHECK_CONTAINS(outcome.output, "pid 2 ppid 0");
    CHECK_CONTAINS(outcome.output, "uid 12 gid 0");
    CHECK_CONTAINS(outcome.output, "host joined");
    CHECK_CONTAINS(outcome.output, "cwd /dev\n");
    CHECK_CONTAINS(outcome.output, "fds 0 1 2\n");
    CHECK_CONTAINS(outcome.output, "from outside\n");

    PlanBuilder terminal(Kind::kExec);
    terminal.header().terminal = 1;
    terminal.op(OpCode::kJoinNamespace, "join", {terminal.add_fd(pidfd), all})
        .op(OpCode::kMakeDetached, "detach")
        .barrier()
        .op(OpCode::kTerminal, "terminal", {kNone, kNone, 24, 80})
        .op(OpCode::kSetsid, "setsid", {1})
        .exec({"/bin/probe", "tty"});
    CHECK_CONTAINS(run_well(terminal).output, "tty 1 24x80 leader 1");

    PlanBuilder missing(Kind::kExec);
    missing.op(OpCode::kJoinNamespace, "join", {missing.add_fd(pidfd), all})
        .op(OpCode::kMakeDetached, "detach")
        .barrier()
        .exec({"/bin/absent"});
    const Outcome refused = run(missing);
    CHECK(refused.failed);
    CHECK_EQ(refused.failure.error_number, ENOENT);
    CHECK_EQ(refused.code, 127);
    berth::sys::pidfd_send_signal(pidfd, SIGTERM);
    ::close(pidfd);
    CHECK_EQ(count_fds(), fds_before);
  };
  CHECK_EQ(run_well(first, options).code, 42);
}

// ---- cgroups

// A cgroup of this test's own, removed at its end.
struct TestCgroup {
  std::string path;
  explicit TestCgroup(const std::string& hierarchy) : path(hierarchy + "/berth-stages-" + std::to_string(::getpid())) {
    CHECK_EQ(::mkdir(path.c_str(), 0755), 0);
  }
  ~TestCgroup() {
    bool removed = false;
    for (int i = 0; i < 100 && !removed; ++i) {
      removed = ::rmdir(path.c_str()) == 0;
      if (!removed) ::usleep(10'000);
    }
    CHECK(removed);
  }
  TestCgroup(const TestCgroup&) = delete;
  TestCgroup& operator=(const TestCgroup&) = delete;
};

void cgroups_are_entered() {
  const char* v2 = nullptr;
  for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
    if (::access((std::string(mount) + "/cgroup.subtree_control").c_str(), F_OK) == 0) v2 = mount;
  }
  const bool v1 = ::access("/sys/fs/cgroup/pids/tasks", W_OK) == 0;
  if (v2 == nullptr && !v1) {
    std::printf("     no cgroup hierarchy here\n");
    return;
  }
  const auto run_in = [&](Kind kind, int v2_fd, int v1_fd) {
    PlanBuilder builder(kind);
    if (v2_fd >= 0) builder.header().cgroup_fd = static_cast<uint32_t>(builder.add_fd(v2_fd));
    if (v1_fd >= 0) builder.op(OpCode::kCgroupAttach, "cgroup", {builder.add_fd(v1_fd)});
    if (kind == Kind::kExec) builder.op(OpCode::kMakeDetached, "detach").barrier();
    builder.exec({BERTH_PROBE, "cat", "/proc/self/cgroup"});
    return run_well(builder).output;
  };
  for (const Kind kind : {Kind::kCreate, Kind::kExec}) {
    if (v2 != nullptr) {
      TestCgroup cgroup(v2);
      const int fd = ::open(cgroup.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
      CHECK_CONTAINS(run_in(kind, fd, -1), "0::/berth-stages-" + std::to_string(::getpid()));
      ::close(fd);
    }
    if (v1) {
      TestCgroup cgroup("/sys/fs/cgroup/pids");
      const int fd = ::open((cgroup.path + "/tasks").c_str(), O_WRONLY | O_CLOEXEC);
      CHECK_CONTAINS(run_in(kind, -1, fd), ":pids:/berth-stages-" + std::to_string(::getpid()));
      ::close(fd);
    }
  }
}

// ---- races

// Another process swaps a directory of a shared volume for a link, again and again: what is mounted or made may fail, but
// never outside the root.
void racing_links_never_escape() {
  Canary canary;
  char shared[] = "/tmp/berth-race-XXXXXX";
  CHECK(::mkdtemp(shared) != nullptr);
  const int directory = ::open(shared, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  CHECK_EQ(::mkdirat(directory, "a", 0755), 0);
  CHECK_EQ(::symlinkat(("../../../../../.." + canary.path()).c_str(), directory, "b"), 0);
  const pid_t racer = ::fork();
  if (racer == 0) {
    for (;;) (void)::syscall(SYS_renameat2, directory, "a", directory, "b", 2 /* RENAME_EXCHANGE */);
  }
  for (int round = 0; round < 150; ++round) {
    Root root;
    PlanBuilder builder(Kind::kCreate);
    builder.op(OpCode::kOpenSource, "source", {0, OPEN_TREE_CLONE, 0}, {shared});
    add_container(builder, root.fd, kNamespaces);
    const std::string name = "/volume/a/n" + std::to_string(round);
    // Private, as compiled plans have it: where the host's mounts are shared, what is mounted in the volume appeared there as well.
    builder.op(OpCode::kMountSlot, "volume", {0, 0, 0, 0, MS_PRIVATE | MS_REC}, {"", "/volume"})
        .op(OpCode::kMountFilesystem, "target", {0, 0, 0755}, {"tmpfs", name + "/x/y", "", "tmpfs"})
        .op(OpCode::kMakeDirectory, "make", {0755, 0, 0}, {"", name + "/z"});
    pivot(builder);
    builder.exec({"/bin/probe"});
    (void)run(builder);
  }
  ::kill(racer, SIGKILL);
  ::waitpid(racer, nullptr, 0);
  ::close(directory);
  CHECK_EQ(std::system((std::string("rm -rf ") + shared).c_str()), 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (::geteuid() != 0) berth::test::skip("making namespaces and mounts needs root");
  if (::unshare(0) != 0 || ::syscall(SYS_fsopen, "tmpfs", 0) < 0) berth::test::skip("the kernel has no fsopen, or mounting is not permitted");
  return berth::test::run_tests(
      argc, argv,
      {
          {"a container sees only itself", container_sees_only_itself},
          {"waits at the barrier", waits_at_the_barrier},
          {"is not dumpable before it runs", is_not_dumpable_before_it_runs},
          {"signals are reset", signals_are_reset},
          {"an unsealed plan is refused", unsealed_plan_is_refused},
          {"a damaged plan is refused", damaged_plan_is_refused},
          {"a missing program fails the create", missing_program_fails_the_create},
          {"a program without the right to run is EACCES", program_without_right_to_run_is_eacces},
          {"a failed execve is told after the barrier", failed_execve_is_told_after_the_barrier},
          {"a mount error names step and option", mount_error_names_step_and_option},
          {"a link for /proc is refused", link_for_proc_is_refused},
          {"a file for /proc is refused", file_for_proc_is_refused},
          {"a mount inside /proc is refused", mount_inside_proc_is_refused},
          {"a file on /proc is mounted where allowed", file_on_proc_is_mounted_where_allowed},
          {"links stay in the root", links_stay_in_the_root},
          {"a dangling link is completed", dangling_link_is_completed},
          {"a loop of links ends", link_loop_ends},
          {"magic links are not followed", magic_links_are_not_followed},
          {"a working directory by descriptor is refused", working_directory_by_descriptor_is_refused},
          {"a program by descriptor is refused", program_by_descriptor_is_refused},
          {"masked and read-only paths", masked_and_readonly_paths},
          {"binds keep their attributes", binds_keep_their_attributes},
          {"an absent source fails", absent_source_fails},
          {"copy-up brings the contents", copy_up_brings_the_contents},
          {"devices and links of /dev", devices_and_links_of_dev},
          {"null stdio is the container's own", null_stdio_is_the_containers_own},
          {"sysctls reach the new namespaces", sysctls_reach_the_new_namespaces},
          {"identity and capabilities", identity_and_capabilities},
          {"seccomp is the last word", seccomp_is_the_last_word},
          {"the working directory is made", working_directory_is_made},
          {"the terminal is the container's", terminal_is_the_containers},
          {"a pid namespace is joined", joined_pid_namespace},
          {"an exec joins the container", exec_joins_the_container},
          {"cgroups are entered", cgroups_are_entered},
          {"racing links never escape", racing_links_never_escape},
      });
}
