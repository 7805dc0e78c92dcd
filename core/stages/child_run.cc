#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/stages/check_plan.h"
#include "core/stages/child.h"
#include "core/stages/sync.h"
#include "core/sys/clone.h"
#include "core/sys/pidfd.h"
#include "core/sys/procfs.h"

namespace berth::stages {
namespace {

using plan::OpCode;

void copy_text(char* out, size_t size, const char* text) {
  size_t at = 0;
  if (text != nullptr) {
    for (; text[at] != 0 && at + 1 < size; ++at) out[at] = text[at];
  }
  out[at] = 0;
}

SyncRecord record_of(SyncKind kind) {
  SyncRecord record = {};
  record.kind = static_cast<uint32_t>(kind);
  return record;
}

[[noreturn]] void end(int code) {
  for (;;) ::syscall(SYS_exit_group, code);
}

// Plain write(2): it is what a seccomp profile that is already loaded most surely allows.
void send_record(Child& child, const SyncRecord& record) {
  ssize_t written = -1;
  do {
    written = ::write(child.sync, &record, sizeof(record));
  } while (written < 0 && errno == EINTR);
  if (written != static_cast<ssize_t>(sizeof(record))) end(127);
}

void send_with_fd(Child& child, const SyncRecord& record, int fd) {
  SyncRecord copy = record;
  struct iovec part = {&copy, sizeof(copy)};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  struct msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  struct cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  if (::sendmsg(child.sync, &message, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof(copy))) end(127);
}

// Waits for the parent's word; a parent that is gone ends the child.
void await(Child& child, SyncKind kind) {
  SyncRecord record;
  ssize_t count = -1;
  do {
    count = ::read(child.sync, &record, sizeof(record));
  } while (count < 0 && errno == EINTR);
  if (count != static_cast<ssize_t>(sizeof(record)) || record.kind != static_cast<uint32_t>(kind)) end(127);
}

// Nothing that the parent ignores, handles or blocks reaches the program. Raw: libc keeps two signals to itself.
void reset_signals() {
  struct {
    void (*handler)(int);
    unsigned long rest[6];
  } action = {};
  for (int number = 1; number <= 64; ++number) {
    if (number != SIGKILL && number != SIGSTOP) (void)::syscall(SYS_rt_sigaction, number, &action, nullptr, 8UL);
  }
  const uint64_t none = 0;
  (void)::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, 8UL);
}

// Everything that came over the fork besides stdio, the plan's descriptors and the sync socket is the parent's own
// business: connections, other containers' logs.
void close_foreign(Child& child, uint32_t fd_count) {
  unsigned first = 3;
  for (;;) {
    unsigned next = UINT_MAX;
    for (uint32_t i = 0; i <= fd_count; ++i) {
      const int fd = i == fd_count ? child.sync : child.fds[i];
      if (fd >= 0 && static_cast<unsigned>(fd) >= first && static_cast<unsigned>(fd) < next) next = static_cast<unsigned>(fd);
    }
    if (next > first && sys::close_range(first, next == UINT_MAX ? UINT_MAX : next - 1, 0) != 0) child_fail(child, "close_range", "");
    if (next == UINT_MAX) return;
    first = next + 1;
  }
}

void place_stdio(Child& child, const ChildStdio& stdio) {
  int from[3] = {stdio.in, stdio.out, stdio.err};
  // A source below 3 could be overwritten before its turn.
  for (int& fd : from) {
    if (fd >= 0 && fd < 3) {
      fd = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
      if (fd < 0) child_fail(child, "fcntl", "stdio");
    }
  }
  for (int target = 0; target < 3; ++target) {
    if (from[target] >= 0 && ::dup3(from[target], target, 0) < 0) child_fail(child, "dup3", "stdio");
  }
}

// The vectors of execve point into the mapped plan; they are laid out before anything can fail half-way.
void build_vectors(Child& child) {
  const plan::Op& last = child.op[child.header->op_count - 1];
  size_t count = 2;
  for (int block = 0; block < 2; ++block) {
    const char* text = child_text(child, last.s[block]);
    for (uint32_t i = 0; i < last.s[block].size; ++i) count += text[i] == 0 ? 1 : 0;
  }
  void* memory = ::mmap(nullptr, count * sizeof(char*), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) child_fail(child, "mmap", "arguments");
  auto* vector = static_cast<const char**>(memory);
  for (int block = 0; block < 2; ++block) {
    (block == 0 ? child.argv : child.envp) = vector;
    const char* text = child_text(child, last.s[block]);
    const char* const end_of_block = text + last.s[block].size;
    for (; text < end_of_block; text += std::strlen(text) + 1) *vector++ = text;
    *vector++ = nullptr;
  }
}

// The command is cloned by the intermediate as the parent's own child; the intermediate then has nothing left to do.
void detach(Child& child) {
  const plan::Header& header = *child.header;
  int pidfd = -1;
  sys::CloneArgs args;
  args.flags = CLONE_PARENT;
  args.exit_signal = 0;
  args.pidfd = &pidfd;
  args.cgroup_fd = header.cgroup_fd == plan::kNone ? -1 : child_fd(child, header.cgroup_fd);
  pid_t pid = sys::clone_fork(args);
  if (pid < 0 && errno == EBUSY && header.cgroup_fallback_fd != plan::kNone) {
    args.cgroup_fd = child_fd(child, header.cgroup_fallback_fd);
    pid = sys::clone_fork(args);
  }
  if (pid < 0) child_fail(child, "clone3", "");
  if (pid == 0) return;
  SyncRecord record = record_of(SyncKind::kCommand);
  record.pid = pid;
  send_with_fd(child, record, pidfd);
  end(0);
}

void execute_op(Child& child) {
  switch (static_cast<OpCode>(child.op->code)) {
    case OpCode::kOpenSource:
      return child_open_source(child);
    case OpCode::kRootPropagation:
      return child_root_propagation(child);
    case OpCode::kAttachRoot:
      return child_attach_root(child);
    case OpCode::kMountFilesystem:
      return child_mount_filesystem(child);
    case OpCode::kMountSlot:
      return child_mount_slot(child);
    case OpCode::kSetAttributes:
      return child_set_attributes(child);
    case OpCode::kMakeDirectory:
      return child_make_directory(child);
    case OpCode::kMakeNode:
      return child_make_node(child);
    case OpCode::kMakeSymlink:
      return child_make_symlink(child);
    case OpCode::kMask:
      return child_mask(child);
    case OpCode::kReadonlyPath:
      return child_readonly_path(child);
    case OpCode::kPivot:
      return child_pivot(child);
    case OpCode::kConsole:
      return child_console(child);
    case OpCode::kCopyFile:
      return child_copy_file(child);
    case OpCode::kMakeDetached:
      detach(child);
      return child_reopen_null(child);
    case OpCode::kUserMapWait:
      send_record(child, record_of(SyncKind::kNeedUserMap));
      return await(child, SyncKind::kUserMapDone);
    default:
      if (!child_process_op(child)) child_fail(child, "plan", "", ENOSYS, "unknown op");
  }
}

void map_plan(Child& child, const PlanInput& plan) {
  struct stat about = {};
  if (::fstat(plan.plan_fd, &about) != 0) child_fail(child, "fstat", "plan");
  // The mapping is only as constant as the file: unsealed, it could change under the check or shrink to a SIGBUS.
  constexpr int wanted = F_SEAL_SHRINK | F_SEAL_WRITE;
  const int seals = ::fcntl(plan.plan_fd, F_GET_SEALS);
  if (seals < 0 || (seals & wanted) != wanted) child_fail(child, "fcntl(F_GET_SEALS)", "plan", EINVAL, "the plan is not sealed");
  const auto size = static_cast<size_t>(about.st_size);
  if (about.st_size <= 0 || size > plan::kMaxPlanBytes) child_fail(child, "plan", "", EINVAL, "size of the plan");
  void* memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, plan.plan_fd, 0);
  if (memory == MAP_FAILED) child_fail(child, "mmap", "plan");
  PlanFault fault;
  if (!check_plan(memory, size, plan.fd_count, &fault)) {
    child.op_index = fault.op_index;
    child_fail(child, "plan", "", EINVAL, fault.reason);
  }
  child.plan_data = static_cast<const uint8_t*>(memory);
  child.header = static_cast<const plan::Header*>(memory);
  // SAFETY: the mapping is page-aligned, the header a multiple of 8 long and the ops lie inside.
  child.op = reinterpret_cast<const plan::Op*>(child.plan_data + sizeof(plan::Header));
}

}  // namespace

void child_fail(Child& child, const char* syscall, const char* path, int error_number, const char* detail) {
  const int number = error_number != 0 ? error_number : errno;
  SyncRecord record = record_of(SyncKind::kFailed);
  record.error_number = number;
  record.op_index = child.op_index;
  const bool in_op = child.op != nullptr && child.op_index != plan::kNone;
  copy_text(record.step, sizeof(record.step), in_op ? child_text(child, child.op->step) : "plan.prepare");
  copy_text(record.syscall, sizeof(record.syscall), syscall);
  copy_text(record.path, sizeof(record.path), path);
  copy_text(record.detail, sizeof(record.detail), detail);
  send_record(child, record);
  end(127);
}

const char* child_text(const Child& child, const plan::Ref& ref) {
  if (ref.size == 0) return "";
  return reinterpret_cast<const char*>(child.plan_data) + child.header->blob_offset + ref.offset;
}

int child_fd(Child& child, uint64_t index) {
  const int fd = child.fds[index];
  if (fd < 0) child_fail(child, "plan", "", EBADF, "a descriptor of the plan is missing");
  return fd;
}

int child_slot(Child& child, uint64_t slot) {
  const int fd = child.slots[slot];
  if (fd < 0) child_fail(child, "plan", "", EBADF, "nothing has been opened into the slot");
  return fd;
}

void child_set_slot(Child& child, uint64_t slot, int fd) {
  if (child.slots[slot] >= 0) ::close(child.slots[slot]);
  child.slots[slot] = fd;
}

void child_send_terminal(Child& child, int master) { send_with_fd(child, record_of(SyncKind::kTerminal), master); }

void child_close_all(Child& child) {
  const auto sync = static_cast<unsigned>(child.sync);
  const bool below = sync <= 3 || sys::close_range(3, sync - 1, 0) == 0;
  if (below && sys::close_range(sync + 1, UINT_MAX, 0) == 0) return;
  // A seccomp profile that forbids close_range: since close_foreign there is nothing left that is not known here, and
  // descriptors are given lowest first, so they are few and low.
  for (int fd = 3; fd < 4096; ++fd) {
    if (fd != child.sync && ::close(fd) != 0 && errno != EBADF) child_fail(child, "close", "");
  }
}

void child_main(const PlanInput& plan, const ChildStdio& stdio, int sync) {
  // Big, but the stack is the only memory that a forked child may grow.
  Child child;
  for (int& slot : child.slots) slot = -1;
  child.sync = sync;
  child.fds = plan.fds;
  reset_signals();
  // Nobody in a namespace that is joined later may trace this process or look through its descriptors.
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) child_fail(child, "prctl(PR_SET_DUMPABLE)", "");
  ::umask(0);
  map_plan(child, plan);
  const plan::Op* const ops = child.op;
  build_vectors(child);
  place_stdio(child, stdio);
  child.columns = stdio.columns;
  child.rows = stdio.rows;
  close_foreign(child, plan.fd_count);
  child.proc = ::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (child.proc < 0) child_fail(child, "open", "/proc");
  if (!sys::is_procfs(child.proc)) child_fail(child, "open", "/proc", ENODEV, "not a procfs");
  const bool create = child.header->kind == static_cast<uint32_t>(plan::Kind::kCreate);
  for (uint32_t i = 0; i < child.header->op_count; ++i) {
    if (create && i == child.header->barrier_op) {
      send_record(child, record_of(SyncKind::kReady));
      await(child, SyncKind::kGo);
    }
    child.op_index = i;
    child.op = ops + i;
    execute_op(child);
  }
  // check_plan has made sure that the last op is kExec, which does not return.
  end(127);
}

}  // namespace berth::stages
