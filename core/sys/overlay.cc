#include "core/sys/overlay.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "core/sys/mount.h"
#include "core/sys/own_thread.h"
#include "core/sys/tree.h"

namespace berth::sys {
namespace {

// What fsconfig(2) takes as the value of one option.
constexpr size_t kMaxOptionBytes = 255;

// The kernel explains a failed fsconfig in messages that are read from the context, one each: "e overlay: …".
std::string context_messages(FdRef context) {
  std::string all;
  char buffer[512];
  for (int i = 0; i < 8; ++i) {
    const ssize_t count = ::read(context.get(), buffer, sizeof(buffer));
    if (count <= 2) break;
    std::string_view line(buffer, static_cast<size_t>(count));
    while (!line.empty() && line.back() == '\n') line.remove_suffix(1);
    if (line.size() > 2) line.remove_prefix(2);
    if (!all.empty()) all += "; ";
    all += line;
  }
  return all;
}

Error context_error(FdRef context, std::string_view step, std::string_view syscall, std::string_view path) {
  Error error = errno_error(step, syscall, path);
  error.detail = context_messages(context);
  return error;
}

bool needs_escape(const std::string& path) { return path.find_first_of(":,\\") != std::string::npos; }

// A descriptor of the directory, kept in `held`.
Result<int> hold(const std::string& path, std::vector<Fd>* held) {
  Fd fd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return errno_error("overlay.mount", "open", path);
  held->push_back(std::move(fd));
  return held->back().get();
}

// `path`, or a name for it in which nothing needs escaping and which fits.
Result<std::string> plain_name(const std::string& path, std::vector<Fd>* held) {
  if (!needs_escape(path) && path.size() <= kMaxOptionBytes) return path;
  BERTH_ASSIGN(const int fd, hold(path, held));
  return "/proc/self/fd/" + std::to_string(fd);
}

Result<void> set_option(FdRef context, const char* key, const std::string& value, const std::string& path) {
  if (fsconfig_string(context.get(), key, value.c_str()) == 0) return {};
  Error error = context_error(context, "overlay.mount", "fsconfig", path);
  error.detail = error.detail.empty() ? std::string(key) : std::string(key) + ": " + error.detail;
  return error;
}

struct Names {
  std::vector<std::string> lowers;
  std::string upper;
  std::string work;
};

// Tells the context its directories and makes the file system. Names may be relative: to the caller's working directory.
Result<void> configure(FdRef context, const OverlayOptions& options, const Names& names, bool plus) {
  constexpr std::string_view kStep = "overlay.mount";
  if (plus) {
    for (size_t i = 0; i < names.lowers.size(); ++i) BERTH_TRY(set_option(context, "lowerdir+", names.lowers[i], options.lowers[i]));
  } else {
    BERTH_TRY(set_option(context, "lowerdir", join_lowers(names.lowers), options.lowers[0]));
  }
  if (!options.upper.empty()) {
    BERTH_TRY(set_option(context, "upperdir", names.upper, options.upper));
    BERTH_TRY(set_option(context, "workdir", names.work, options.work));
    if (fsconfig_flag(context.get(), "volatile") != 0) return context_error(context, kStep, "fsconfig", "volatile");
  }
  // Uppers come and go over shared lowers: an index would tie a lower to one of them. Absent before 4.13.
  static_cast<void>(fsconfig_string(context.get(), "index", "off"));
  if (fsconfig_create(context.get()) != 0) {
    return context_error(context, kStep, "fsconfig", options.upper.empty() ? options.lowers[0] : options.upper);
  }
  return {};
}

// All lowers have to fit into one option: on a thread that works in /proc/self/fd, each name is just a number.
Result<void> configure_by_number(FdRef context, const OverlayOptions& options) {
  constexpr std::string_view kStep = "overlay.mount";
  std::vector<Fd> held;
  Names names;
  for (const std::string& lower : options.lowers) {
    BERTH_ASSIGN(const int fd, hold(lower, &held));
    names.lowers.push_back(std::to_string(fd));
  }
  if (!options.upper.empty()) {
    BERTH_ASSIGN(const int upper, hold(options.upper, &held));
    BERTH_ASSIGN(const int work, hold(options.work, &held));
    names.upper = std::to_string(upper);
    names.work = std::to_string(work);
  }
  if (join_lowers(names.lowers).size() > kMaxOptionBytes) {
    return make_error(E2BIG, kStep, "fsconfig", options.lowers[0],
                      std::to_string(options.lowers.size()) + " lower directories are too many for this kernel, which has no lowerdir+");
  }
  Result<void> outcome;
  auto body = [&] {
    // The working directory is the whole process's until then.
    if (::unshare(CLONE_FS) != 0) outcome = errno_error(kStep, "unshare", "CLONE_FS");
    else if (::chdir("/proc/self/fd") != 0) outcome = errno_error(kStep, "chdir", "/proc/self/fd");
    else outcome = configure(context, options, names, false);
  };
  BERTH_TRY(on_own_thread(kStep, body));
  return outcome;
}

Result<Fd> read_only_bind(const std::string& path) { return open_mount_tree(path, true, false, true); }

}  // namespace

std::string join_lowers(const std::vector<std::string>& lowers) {
  std::string joined;
  for (const std::string& lower : lowers) {
    if (!joined.empty()) joined.push_back(':');
    for (const char c : lower) {
      if (c == ':' || c == '\\') joined.push_back('\\');
      joined.push_back(c);
    }
  }
  return joined;
}

Result<Fd> mount_overlay(const OverlayOptions& options) {
  constexpr std::string_view kStep = "overlay.mount";
  if (options.lowers.empty()) return field_error(kStep, "lowers", "an overlay has at least one lower directory");
  if (options.upper.empty() != options.work.empty()) return field_error(kStep, "work", "upper and work come together");
  if (options.upper.empty() && options.lowers.size() == 1) return read_only_bind(options.lowers[0]);

  Fd context(fsopen("overlay"));
  if (!context.valid()) return errno_error(kStep, "fsopen", "overlay");
  // Shown by mount(8) and in /proc/mounts.
  static_cast<void>(fsconfig_string(context.get(), "source", "berth"));
  // A volatile mount marks its work directory; the mark refuses the next mount and is ours to remove.
  if (!options.upper.empty()) BERTH_TRY(remove_tree(options.work + "/work/incompat"));

  static const bool plus = probe_lowerdir_plus();
  std::vector<Fd> held;
  Names names;
  for (const std::string& lower : options.lowers) {
    BERTH_ASSIGN(std::string name, plain_name(lower, &held));
    names.lowers.push_back(std::move(name));
  }
  if (!options.upper.empty()) {
    BERTH_ASSIGN(names.upper, plain_name(options.upper, &held));
    BERTH_ASSIGN(names.work, plain_name(options.work, &held));
  }
  if (plus || join_lowers(names.lowers).size() <= kMaxOptionBytes) {
    BERTH_TRY(configure(context.ref(), options, names, plus));
  } else {
    BERTH_TRY(configure_by_number(context.ref(), options));
  }
  const unsigned attributes = options.upper.empty() ? MOUNT_ATTR_RDONLY : 0;
  Fd mount(fsmount(context.get(), attributes));
  if (!mount.valid()) return context_error(context.ref(), kStep, "fsmount", options.upper.empty() ? options.lowers[0] : options.upper);
  return mount;
}

Result<Fd> open_mount_tree(const std::string& path, bool clone, bool recursive, bool read_only) {
  constexpr std::string_view kStep = "mount.open";
  if (read_only && !clone) return field_error(kStep, "readOnly", "only a clone can be made read-only");
  unsigned flags = AT_SYMLINK_NOFOLLOW;
  if (clone) flags |= OPEN_TREE_CLONE;
  if (clone && recursive) flags |= AT_RECURSIVE;
  Fd tree(open_tree(AT_FDCWD, path.c_str(), flags));
  if (!tree.valid()) return errno_error(kStep, "open_tree", path);
  if (read_only) {
    MountAttributes attributes;
    attributes.attr_set = MOUNT_ATTR_RDONLY;
    if (mount_setattr(tree.get(), "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), attributes) != 0) {
      return errno_error(kStep, "mount_setattr", path);
    }
  }
  return tree;
}

Result<void> attach_detached(FdRef mount, const std::string& path) {
  constexpr std::string_view kStep = "mount.attach";
  Fd target(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!target.valid()) return errno_error(kStep, "open", path);
  // Kernels before 6.15 cannot copy a mount that is in no mount namespace (EINVAL).
  Fd copy(open_tree(mount.get(), "", OPEN_TREE_CLONE | AT_EMPTY_PATH | AT_RECURSIVE));
  if (!copy.valid() && errno != EINVAL) return errno_error(kStep, "open_tree", path);
  const int source = copy.valid() ? copy.get() : mount.get();
  if (attach_mount(source, target.get()) != 0) return errno_error(kStep, "move_mount", path);
  return {};
}

Result<void> unmount_all(const std::string& path) {
  // Bounded: others may go on mounting there.
  for (int count = 0; count < 1024; ++count) {
    if (::umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) == 0) continue;
    if (errno == EINVAL || errno == ENOENT || errno == ENOTDIR) return {};
    return errno_error("mount.detach", "umount2", path);
  }
  return make_error(EBUSY, "mount.detach", "umount2", path, "others keep mounting there");
}

Result<void> mount_tmpfs(const std::string& path, uint64_t size_bytes, mode_t mode) {
  constexpr std::string_view kStep = "tmpfs.mount";
  Fd target(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC));
  if (!target.valid()) return errno_error(kStep, "open", path);
  Fd context(fsopen("tmpfs"));
  if (!context.valid()) return errno_error(kStep, "fsopen", "tmpfs");
  char mode_text[16];
  std::snprintf(mode_text, sizeof(mode_text), "%o", mode & 07777U);
  const std::string size = std::to_string(size_bytes);
  if (fsconfig_string(context.get(), "source", "shm") != 0 || fsconfig_string(context.get(), "mode", mode_text) != 0 ||
      fsconfig_string(context.get(), "size", size.c_str()) != 0 || fsconfig_create(context.get()) != 0) {
    return context_error(context.ref(), kStep, "fsconfig", path);
  }
  Fd mount(fsmount(context.get(), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  if (!mount.valid()) return context_error(context.ref(), kStep, "fsmount", path);
  if (attach_mount(mount.get(), target.get()) != 0) return errno_error(kStep, "move_mount", path);
  return {};
}

bool probe_lowerdir_plus() {
  Fd context(fsopen("overlay"));
  // Before 6.5 overlayfs had not been moved to this interface: it takes every option, and refuses when it is made.
  if (!context.valid() || fsconfig_string(context.get(), "berth.unknown", "/") == 0) return false;
  return fsconfig_string(context.get(), "lowerdir+", "/") == 0;
}

}  // namespace berth::sys
