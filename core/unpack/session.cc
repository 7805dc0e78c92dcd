#include "core/unpack/session.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <cinttypes>

#include "core/sys/clone.h"
#include "core/sys/openat2.h"
#include "core/sys/pidfd.h"

namespace berth::unpack {
namespace {

constexpr const char* kStart = "unpack.start";
constexpr const char* kFeed = "unpack.feed";
constexpr const char* kApply = "unpack.apply";
constexpr size_t kStackBytes = 64 * 1024;
constexpr int kPipeBytes = 1 << 20;
// From the end of the result socket to the end of the process.
constexpr int kExitMs = 2000;
// What the list may take of the daemon's memory.
constexpr uint64_t kMaxItemBytes = 64ULL << 20;

struct ChildArguments {
  int program;
  int input;
  int target;
  int results;
  int null;
  const sigset_t* mask;
  char* const* argv;
  char* const* envp;
  int error_number;
};

// In the child, on the parent's memory: no allocation, no locks. 0..4 are put in place from copies above them, so that
// no source is overwritten before it was copied.
int child_exec(void* opaque) {
  auto* arguments = static_cast<ChildArguments*>(opaque);
  constexpr int kBase = 16;
  const int sources[5] = {arguments->input, arguments->null, arguments->null, arguments->target, arguments->results};
  int copies[5];
  const int program = ::fcntl(arguments->program, F_DUPFD_CLOEXEC, kBase);
  bool good = program >= 0;
  for (int i = 0; i < 5 && good; ++i) {
    copies[i] = ::fcntl(sources[i], F_DUPFD_CLOEXEC, kBase);
    good = copies[i] >= 0;
  }
  for (int i = 0; i < 5 && good; ++i) good = ::dup2(copies[i], i) == i;
  if (good) {
    sys::close_range(5, ~0U, CLOSE_RANGE_CLOEXEC);
    // Node ignores SIGPIPE and perhaps SIGXFSZ; caught signals are reset by the exec itself.
    struct sigaction action = {};
    action.sa_handler = SIG_DFL;
    for (int number = 1; number < NSIG; ++number) ::sigaction(number, &action, nullptr);
    ::sigprocmask(SIG_SETMASK, arguments->mask, nullptr);
    ::syscall(SYS_execveat, program, "", arguments->argv, arguments->envp, AT_EMPTY_PATH);
  }
  arguments->error_number = errno;
  return 127;
}

Result<Fd> open_empty_directory(const std::string& path) {
  Fd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory.valid()) return errno_error(kStart, "open", path);
  Fd listing(::openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!listing.valid()) return errno_error(kStart, "openat", path);
  DIR* stream = ::fdopendir(listing.get());
  if (stream == nullptr) return errno_error(kStart, "fdopendir", path);
  (void)listing.release();
  bool empty = true;
  while (const dirent* entry = ::readdir(stream)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") empty = false;
  }
  ::closedir(stream);
  if (!empty) return make_error(ENOTEMPTY, kStart, "readdir", path, "a layer is unpacked into an empty directory");
  return directory;
}

Error cancelled() { return make_error(ECANCELED, kFeed, "poll", {}, "the unpacking was aborted"); }

std::string hex(const uint8_t* bytes, size_t size) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(size * 2);
  for (size_t i = 0; i < size; ++i) {
    out.push_back(kDigits[bytes[i] >> 4]);
    out.push_back(kDigits[bytes[i] & 15]);
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<Session>> Session::start(const SessionOptions& options) {
  std::unique_ptr<Session> session(new Session());
  BERTH_ASSIGN(session->target_, open_empty_directory(options.target));
  int pipe_ends[2];
  if (::pipe2(pipe_ends, O_CLOEXEC) != 0) return errno_error(kStart, "pipe2");
  Fd pipe_read(pipe_ends[0]);
  session->input_ = Fd(pipe_ends[1]);
  // Larger pipes save wake-ups; the limit for unprivileged users does not bind the daemon, and a refusal does no harm.
  (void)::fcntl(session->input_.get(), F_SETPIPE_SZ, kPipeBytes);
  if (::fcntl(session->input_.get(), F_SETFL, O_NONBLOCK) != 0) return errno_error(kStart, "fcntl");
  int sockets[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) return errno_error(kStart, "socketpair");
  session->results_ = Fd(sockets[0]);
  Fd program_socket(sockets[1]);
  session->cancel_ = Fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!session->cancel_.valid()) return errno_error(kStart, "eventfd");
  Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid()) return errno_error(kStart, "open", "/dev/null");

  char max_bytes[24];
  char max_entries[24];
  std::snprintf(max_bytes, sizeof(max_bytes), "%" PRIu64, options.max_bytes);
  std::snprintf(max_entries, sizeof(max_entries), "%" PRIu64, options.max_entries);
  std::string name = "berth-unpack";
  std::string media_type = options.media_type;
  char* argv[] = {name.data(), media_type.data(), max_bytes, max_entries, nullptr};
  char* envp[] = {nullptr};

  void* stack = ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return errno_error(kStart, "mmap");
  sigset_t all;
  sigset_t empty;
  sigset_t previous;
  ::sigfillset(&all);
  ::sigemptyset(&empty);
  ChildArguments arguments = {options.program.get(), pipe_read.get(), session->target_.get(), program_socket.get(),
                              null.get(),            &empty,          argv,                   envp,
                              0};
  int pidfd = -1;
  sys::CloneArgs clone;
  clone.flags = CLONE_VM | CLONE_VFORK;
  clone.pidfd = &pidfd;
  ::pthread_sigmask(SIG_SETMASK, &all, &previous);
  const pid_t pid = sys::clone_call(clone, stack, kStackBytes, child_exec, &arguments);
  const int clone_errno = errno;
  ::pthread_sigmask(SIG_SETMASK, &previous, nullptr);
  ::munmap(stack, kStackBytes);
  if (pid < 0) return make_error(clone_errno, kStart, "clone3");
  session->pid_ = pid;
  session->pidfd_ = Fd(pidfd);
  if (arguments.error_number != 0) {
    session->reap();
    return make_error(arguments.error_number, kStart, "execveat", "berth-unpack");
  }
  return session;
}

Session::~Session() {
  abort();
  reap();
}

void Session::abort() {
  const uint64_t one = 1;
  (void)!::write(cancel_.get(), &one, sizeof(one));
  // The pidfd is never reused, so this cannot hit another process; after the end it is ESRCH.
  if (pidfd_.valid()) (void)sys::pidfd_send_signal(pidfd_.get(), SIGKILL);
}

void Session::reap() {
  if (reaped_ || !pidfd_.valid()) return;
  siginfo_t info = {};
  if (sys::waitid_pidfd(pidfd_.get(), &info, WEXITED | __WALL) == 0) {
    exit_code_ = info.si_code;
    exit_status_ = info.si_status;
  }
  reaped_ = true;
}

Error Session::death_error() {
  if (failure_ != nullptr) return *failure_;
  char text[96];
  if (exit_code_ == CLD_EXITED) {
    std::snprintf(text, sizeof(text), "berth-unpack exited with %d before it had a result", exit_status_);
  } else {
    std::snprintf(text, sizeof(text), "berth-unpack was killed by signal %d", exit_status_);
  }
  return make_error(EPIPE, kFeed, "recv", {}, text);
}

Result<bool> Session::drain() {
  char buffer[kMaxFrameBytes];
  for (;;) {
    const ssize_t size = ::recv(results_.get(), buffer, sizeof(buffer), MSG_DONTWAIT | MSG_TRUNC);
    if (size < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return false;
      if (errno == ECONNRESET) return true;
      return errno_error(kFeed, "recv");
    }
    if (size == 0) return true;
    if (static_cast<size_t>(size) > sizeof(buffer)) return make_error(EPROTO, kFeed, "recv", {}, "a frame is too long");
    if (outcome_ != nullptr || failure_ != nullptr) return make_error(EPROTO, kFeed, "recv", {}, "a frame after the result");
    BERTH_ASSIGN(Frame frame, decode_frame(std::string_view(buffer, static_cast<size_t>(size))));
    if (Item* item = std::get_if<Item>(&frame)) {
      item_bytes_ += sizeof(Item) + item->path.size() + item->target.size();
      if (items_.size() >= kMaxItems || item_bytes_ > kMaxItemBytes) {
        return make_error(EFBIG, kFeed, "recv", item->path, "too many device nodes and opaque directories");
      }
      items_.push_back(std::move(*item));
    } else if (const Outcome* outcome = std::get_if<Outcome>(&frame)) {
      outcome_ = std::make_unique<Outcome>(*outcome);
    } else {
      failure_ = std::make_unique<Error>(std::move(*std::get_if<Failure>(&frame)));
    }
  }
}

Result<void> Session::write(const void* data, size_t size) {
  if (!input_.valid()) return make_error(EBADF, kFeed, "write", {}, "the input has been ended");
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(input_.get(), at, size);
    if (written > 0) {
      at += written;
      size -= static_cast<size_t>(written);
      continue;
    }
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EPIPE) break;
    if (written < 0 && errno != EAGAIN) return errno_error(kFeed, "write");
    // The results are read meanwhile: a program that waits for room in its socket would not read its input.
    pollfd fds[3] = {{input_.get(), POLLOUT, 0}, {results_.get(), POLLIN, 0}, {cancel_.get(), POLLIN, 0}};
    if (::poll(fds, 3, -1) < 0 && errno != EINTR) return errno_error(kFeed, "poll");
    if (fds[2].revents != 0) return cancelled();
    if (fds[1].revents != 0) {
      BERTH_ASSIGN(const bool ended, drain());
      if (ended || failure_ != nullptr) break;
    }
  }
  if (size == 0) return {};
  // It does not read on: its reason is in the socket, or it has crashed.
  input_.reset();
  Result<SessionResult> reason = finish();
  if (reason.ok()) return make_error(EBADMSG, kFeed, "write", {}, "bytes after the end of the layer");
  return std::move(reason).error();
}

Result<SessionResult> Session::finish() {
  Result<SessionResult> result = collect();
  if (!result.ok() && !reaped_) {
    (void)sys::pidfd_send_signal(pidfd_.get(), SIGKILL);
    reap();
  }
  return result;
}

Result<SessionResult> Session::collect() {
  input_.reset();
  for (bool ended = false; !ended;) {
    pollfd fds[2] = {{results_.get(), POLLIN, 0}, {cancel_.get(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return errno_error(kFeed, "poll");
    if (fds[1].revents != 0) return cancelled();
    if (fds[0].revents == 0) continue;
    BERTH_ASSIGN(ended, drain());
  }
  // The socket has ended, so the program has ended or wishes us to believe it: no item is applied beside it.
  pollfd exited = {pidfd_.get(), POLLIN, 0};
  if (::poll(&exited, 1, kExitMs) == 0) (void)sys::pidfd_send_signal(pidfd_.get(), SIGKILL);
  reap();
  pollfd cancel = {cancel_.get(), POLLIN, 0};
  if (::poll(&cancel, 1, 0) == 1) return cancelled();
  if (outcome_ == nullptr) return death_error();
  if (exit_code_ != CLD_EXITED || exit_status_ != 0) return death_error();
  if (outcome_->items != items_.size()) return make_error(EPROTO, kFeed, "recv", {}, "items are missing");
  BERTH_TRY(apply_items());
  return SessionResult{"sha256:" + hex(outcome_->sha256, sizeof(outcome_->sha256)), outcome_->bytes, outcome_->entries,
                       outcome_->inodes};
}

Result<void> Session::apply_items() {
  for (const Item& item : items_) {
    pollfd cancel = {cancel_.get(), POLLIN, 0};
    if (::poll(&cancel, 1, 0) == 1) return cancelled();
    BERTH_TRY(apply_item(target_.ref(), item));
  }
  return {};
}

namespace {

// The directory and the last component of a path that `decode_frame` has checked.
struct Place {
  Fd parent;
  std::string name;
};

Result<Place> find_place(FdRef target, const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash);
  Place place;
  place.name = slash == std::string::npos ? path : path.substr(slash + 1);
  place.parent = Fd(sys::openat2(target.get(), directory.c_str(), O_RDONLY | O_DIRECTORY, 0,
                                 RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV));
  if (!place.parent.valid()) return errno_error(kApply, "openat2", path);
  return place;
}

// The placeholder that the program left there: an empty regular file. Anything else is not ours to replace.
Result<void> remove_placeholder(const Place& place, const std::string& path) {
  struct stat status;
  if (::fstatat(place.parent.get(), place.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno_error(kApply, "fstatat", path);
  }
  if (!S_ISREG(status.st_mode) || status.st_size != 0) {
    return make_error(EPROTO, kApply, "fstatat", path, "not the placeholder of a device node");
  }
  if (::unlinkat(place.parent.get(), place.name.c_str(), 0) != 0) return errno_error(kApply, "unlinkat", path);
  return {};
}

Result<void> apply_directory(FdRef target, const Item& item, const char* name, std::string_view value) {
  const char* path = item.path.empty() ? "." : item.path.c_str();
  Fd directory(sys::openat2(target.get(), path, O_RDONLY | O_DIRECTORY, 0,
                            RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV));
  if (!directory.valid()) return errno_error(kApply, "openat2", item.path);
  if (::fsetxattr(directory.get(), name, value.data(), value.size(), 0) != 0) {
    return errno_error(kApply, std::string("fsetxattr ") + name, item.path);
  }
  return {};
}

Result<void> apply_device(const Place& place, const Item& item) {
  const int parent = place.parent.get();
  const char* name = place.name.c_str();
  const dev_t device = ::makedev(item.device_major, item.device_minor);
  if (::mknodat(parent, name, (item.mode & S_IFMT) | 0600, device) != 0) return errno_error(kApply, "mknodat", item.path);
  if (::fchownat(parent, name, item.uid, item.gid, AT_SYMLINK_NOFOLLOW) != 0) return errno_error(kApply, "fchownat", item.path);
  // fchmodat follows links, but nobody else is in this directory and the node has just been made.
  if (::fchmodat(parent, name, item.mode & 07777, 0) != 0) return errno_error(kApply, "fchmodat", item.path);
  const timespec times[2] = {{item.time_seconds, static_cast<long>(item.time_nanoseconds)},
                             {item.time_seconds, static_cast<long>(item.time_nanoseconds)}};
  if (::utimensat(parent, name, times, AT_SYMLINK_NOFOLLOW) != 0) return errno_error(kApply, "utimensat", item.path);
  return {};
}

Result<void> apply_link(FdRef target, const Place& place, const Item& item) {
  BERTH_ASSIGN(const Place original, find_place(target, item.target));
  if (::linkat(original.parent.get(), original.name.c_str(), place.parent.get(), place.name.c_str(), 0) != 0) {
    return errno_error(kApply, "linkat", item.path);
  }
  return {};
}

}  // namespace

Result<void> apply_item(FdRef target, const Item& item) {
  if (item.kind == ItemKind::kOpaque) return apply_directory(target, item, "trusted.overlay.opaque", "y");
  if (item.kind == ItemKind::kWhiteouts) return apply_directory(target, item, "trusted.overlay.origin", "");
  BERTH_ASSIGN(const Place place, find_place(target, item.path));
  struct stat before;
  if (::fstat(place.parent.get(), &before) != 0) return errno_error(kApply, "fstat", item.path);
  BERTH_TRY(remove_placeholder(place, item.path));
  BERTH_TRY(item.kind == ItemKind::kDevice ? apply_device(place, item) : apply_link(target, place, item));
  const timespec times[2] = {before.st_atim, before.st_mtim};
  if (::futimens(place.parent.get(), times) != 0) return errno_error(kApply, "futimens", item.path);
  return {};
}

}  // namespace berth::unpack
