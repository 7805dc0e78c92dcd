#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/stages/child.h"
#include "core/sys/clone.h"
#include "core/sys/mount.h"
#include "core/sys/openat2.h"
#include "core/sys/procfs.h"

namespace berth::stages {
namespace {

constexpr uint64_t kPropagationTypes = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE;

// mount_setattr on the mount itself (and with MS_REC in `propagation` on all below it).
void set_attributes(Child& child, int fd, uint64_t set, uint64_t clear, uint64_t propagation, bool recursive, const char* path) {
  if (set == 0 && clear == 0 && propagation == 0) return;
  sys::MountAttributes attributes;
  attributes.attr_set = set;
  attributes.attr_clr = clear;
  attributes.propagation = propagation & kPropagationTypes;
  // One time mode cannot be set unless the whole field is cleared with it.
  if ((set & MOUNT_ATTR__ATIME) != 0) attributes.attr_clr |= MOUNT_ATTR__ATIME;
  const unsigned flags = AT_EMPTY_PATH | (recursive ? static_cast<unsigned>(AT_RECURSIVE) : 0U);
  if (sys::mount_setattr(fd, "", flags, attributes) != 0) child_fail(child, "mount_setattr", path);
}

void set_propagation(Child& child, int fd, uint64_t propagation, const char* path) {
  set_attributes(child, fd, 0, 0, propagation, (propagation & MS_REC) != 0, path);
}

bool is_directory(Child& child, int fd, const char* path) {
  struct stat about = {};
  if (::fstat(fd, &about) != 0) child_fail(child, "fstat", path);
  return S_ISDIR(about.st_mode);
}

// The file that something is mounted on. Mounting inside procfs could give what is written there a false /proc, so it is
// allowed by name alone (`flags`).
int open_target(Child& child, const char* path, Make make, mode_t mode, uint64_t flags) {
  const bool plain = (flags & plan::kMountPlainTarget) != 0;
  const int target = child_lookup(child, path, Lookup{.make = make, .mode = mode, .plain = plain});
  if (target < 0) child_fail(child, "openat2", path);
  if (plain && !is_directory(child, target, path)) child_fail(child, "openat2", path, ENOTDIR);
  if ((flags & plan::kMountOnProc) == 0 && sys::is_procfs(target)) {
    child_fail(child, "move_mount", path, EPERM, "a mount inside /proc is refused");
  }
  return target;
}

void attach(Child& child, int mount, int target, const char* path) {
  if (sys::attach_mount(mount, target) != 0) child_fail(child, "move_mount", path);
}

// What the file system driver said about its options, as text in `detail`.
void read_context_log(int context, char* detail, size_t size) {
  const ssize_t count = ::read(context, detail, size - 1);
  size_t length = count > 0 ? static_cast<size_t>(count) : 0;
  while (length > 0 && detail[length - 1] == '\n') --length;
  detail[length] = 0;
}

bool passed_over(int error_number) { return error_number == ENODEV || error_number == EPERM || error_number == ENOENT; }

// -1: passed over (kMountOptional).
int make_filesystem(Child& child, const char* type, const char* target) {
  const plan::Op& op = *child.op;
  const bool optional = (op.a[1] & plan::kMountOptional) != 0;
  const int context = sys::fsopen(type);
  if (context < 0) {
    if (optional && passed_over(errno)) return -1;
    child_fail(child, "fsopen", type);
  }
  char detail[128];
  const char* source = child_text(child, op.s[3]);
  if (source[0] != 0 && sys::fsconfig_string(context, "source", source) != 0) child_fail(child, "fsconfig", source);
  const char* option = child_text(child, op.s[2]);
  const char* const end = option + op.s[2].size;
  for (; option < end; option += std::strlen(option) + 1) {
    const char* equals = std::strchr(option, '=');
    int result = 0;
    if (equals == nullptr) {
      result = sys::fsconfig_flag(context, option);
    } else {
      char key[64];
      const size_t size = static_cast<size_t>(equals - option);
      if (size >= sizeof(key)) child_fail(child, "fsconfig", option, EINVAL);
      std::memcpy(key, option, size);
      key[size] = 0;
      result = sys::fsconfig_string(context, key, equals + 1);
    }
    if (result != 0) {
      const int saved = errno;
      read_context_log(context, detail, sizeof(detail));
      child_fail(child, "fsconfig", option, saved, detail);
    }
  }
  int mounted = -1;
  const char* call = "fsconfig";
  if (sys::fsconfig_create(context) == 0) {
    call = "fsmount";
    mounted = sys::fsmount(context, static_cast<unsigned>(op.a[0]));
  }
  if (mounted < 0) {
    const int saved = errno;
    if (!optional || !passed_over(saved)) {
      read_context_log(context, detail, sizeof(detail));
      child_fail(child, call, target, saved, detail);
    }
  }
  ::close(context);
  return mounted;
}

// The tmpfs that everything masked is bound from: read-only, with a null device and an empty directory. It is attached
// over the host's /proc in this mount namespace, which the pivot detaches: older kernels clone attached mounts alone.
int mask_source(Child& child) {
  if (child.mask >= 0) return child.mask;
  const int context = sys::fsopen("tmpfs");
  if (context < 0) child_fail(child, "fsopen", "tmpfs");
  if (sys::fsconfig_string(context, "mode", "0555") != 0 || sys::fsconfig_string(context, "size", "4k") != 0 ||
      sys::fsconfig_string(context, "nr_inodes", "4") != 0 || sys::fsconfig_create(context) != 0) {
    child_fail(child, "fsconfig", "tmpfs");
  }
  const int mounted = sys::fsmount(context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
  if (mounted < 0) child_fail(child, "fsmount", "tmpfs");
  ::close(context);
  if (::mkdirat(mounted, "empty", 0555) != 0) child_fail(child, "mkdirat", "empty");
  const bool made = ::mknodat(mounted, "null", S_IFCHR | 0666, kNullDevice) == 0;
  if (!made && errno != EPERM) child_fail(child, "mknodat", "null");
  set_attributes(child, mounted, MOUNT_ATTR_RDONLY, 0, MS_PRIVATE, false, "tmpfs");
  const int over = ::open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (over < 0) child_fail(child, "open", "/proc");
  attach(child, mounted, over, "/proc");
  ::close(over);
  if (!made) {
    // Without the right to make nodes: the host's own null device, which must be one. Not writable as an inode, so that
    // its mode and owner stay out of reach.
    const int null = sys::open_tree(AT_FDCWD, "/dev/null", OPEN_TREE_CLONE | AT_SYMLINK_NOFOLLOW);
    struct stat about = {};
    if (null < 0 || ::fstat(null, &about) != 0) child_fail(child, "open_tree", "/dev/null");
    if (!S_ISCHR(about.st_mode) || about.st_rdev != kNullDevice) child_fail(child, "open_tree", "/dev/null", ENODEV);
    set_attributes(child, null, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0, MS_PRIVATE, false, "/dev/null");
    child.host_null = null;
  }
  child.mask = mounted;
  return mounted;
}

// A detached copy of the null device or the empty directory, ready to be attached once.
int open_mask(Child& child, bool directory) {
  const int source = mask_source(child);
  const int null = child.host_null;
  const int mask = !directory && null >= 0 ? sys::open_tree(AT_FDCWD, "/dev/null", OPEN_TREE_CLONE | AT_SYMLINK_NOFOLLOW)
                                           : sys::open_tree(source, directory ? "empty" : "null", OPEN_TREE_CLONE);
  if (mask < 0) child_fail(child, "open_tree", directory ? "empty" : "null");
  if (!directory) {
    struct stat about = {};
    if (::fstat(mask, &about) != 0) child_fail(child, "fstat", "null");
    if (!S_ISCHR(about.st_mode) || about.st_rdev != kNullDevice) child_fail(child, "open_tree", "null", ENODEV);
    if (null >= 0) set_attributes(child, mask, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0, MS_PRIVATE, false, "null");
  }
  return mask;
}

// Whether a later op mounts this slot and may do without it.
bool slot_is_optional(const Child& child, uint64_t slot) {
  for (uint32_t i = child.op_index + 1; i < child.header->op_count; ++i) {
    const plan::Op& later = child.op[i - child.op_index];
    if (later.code == static_cast<uint16_t>(plan::OpCode::kMountSlot) && later.a[0] == slot) {
      return (later.a[3] & plan::kMountOptional) != 0;
    }
  }
  return false;
}

}  // namespace

void child_open_source(Child& child) {
  const plan::Op& op = *child.op;
  const char* path = child_text(child, op.s[0]);
  const int fd = sys::open_tree(AT_FDCWD, path, static_cast<unsigned>(op.a[1]));
  if (fd < 0) {
    if (op.a[2] == plan::kMountOptional && (errno == ENOENT || errno == ENOTDIR)) return;
    child_fail(child, "open_tree", path);
  }
  child_set_slot(child, op.a[0], fd);
}

void child_root_propagation(Child& child) {
  const uint64_t propagation = child.op->a[0];
  if (::mount(nullptr, "/", nullptr, static_cast<unsigned long>(propagation), nullptr) != 0) child_fail(child, "mount", "/");
  child.root_propagation = propagation;
}

void child_attach_root(Child& child) {
  const plan::Op& op = *child.op;
  const char* name = child_text(child, op.s[0]);
  const int root = op.a[0] != plan::kNone ? child_fd(child, op.a[0]) : child_slot(child, op.a[1]);
  // Atop the host's "/" in this mount namespace: needs no directory of the host, and this process goes on seeing the
  // old root by its paths until the pivot. The mount below must not be shared, or the host would get it too.
  const int below = ::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (below < 0) child_fail(child, "open", "/");
  if ((child.root_propagation & (MS_PRIVATE | MS_SLAVE)) == 0) set_attributes(child, below, 0, 0, MS_PRIVATE, false, "/");
  if (!is_directory(child, root, name)) child_fail(child, "fstat", name, ENOTDIR);
  attach(child, root, below, name);
  ::close(below);
  child.root = root;
}

void child_mount_filesystem(Child& child) {
  const plan::Op& op = *child.op;
  const char* path = child_text(child, op.s[1]);
  const int mounted = make_filesystem(child, child_text(child, op.s[0]), path);
  if (mounted < 0) return;
  const int target = open_target(child, path, Make::kDirectory, static_cast<mode_t>(op.a[2] == 0 ? 0755 : op.a[2]), op.a[1]);
  if ((op.a[1] & plan::kMountCopyUp) != 0) {
    const int from = sys::open_in_root(child_root(child), path, O_RDONLY | O_DIRECTORY);
    if (from < 0) child_fail(child, "openat2", path);
    const bool read_only = (op.a[0] & MOUNT_ATTR_RDONLY) != 0;
    if (read_only) set_attributes(child, mounted, 0, MOUNT_ATTR_RDONLY, 0, false, path);
    child_copy_tree(child, from, mounted, path);
    if (read_only) set_attributes(child, mounted, MOUNT_ATTR_RDONLY, 0, 0, false, path);
    ::close(from);
  }
  set_propagation(child, mounted, op.a[3], path);
  attach(child, mounted, target, path);
  ::close(target);
  ::close(mounted);
}

void child_mount_slot(Child& child) {
  const plan::Op& op = *child.op;
  const char* path = child_text(child, op.s[1]);
  if (child.slots[op.a[0]] < 0 && (op.a[3] & plan::kMountOptional) != 0) return;
  const int mounted = child_slot(child, op.a[0]);
  const Make make = is_directory(child, mounted, path) ? Make::kDirectory : Make::kFile;
  const int target = open_target(child, path, make, make == Make::kFile ? 0644 : 0755, op.a[3]);
  set_attributes(child, mounted, op.a[1], op.a[2], 0, false, path);
  set_propagation(child, mounted, op.a[4], path);
  attach(child, mounted, target, path);
  ::close(target);
  ::close(mounted);
  child.slots[op.a[0]] = -1;
}

void child_set_attributes(Child& child) {
  const plan::Op& op = *child.op;
  const char* path = child_text(child, op.s[1]);
  const bool recursive = (op.a[2] & AT_RECURSIVE) != 0;
  if (op.a[4] != plan::kNone) {
    if (child.slots[op.a[4]] < 0 && slot_is_optional(child, op.a[4])) return;
    set_attributes(child, child_slot(child, op.a[4]), op.a[0], op.a[1], op.a[3], recursive, path);
    return;
  }
  const int fd = child_lookup(child, path, Lookup{});
  if (fd < 0) child_fail(child, "openat2", path);
  set_attributes(child, fd, op.a[0], op.a[1], op.a[3], recursive, path);
  ::close(fd);
}

void child_mask(Child& child) {
  const char* path = child_text(child, child.op->s[1]);
  const int target = child_lookup(child, path, Lookup{});
  if (target < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return;
    child_fail(child, "openat2", path);
  }
  const int mask = open_mask(child, is_directory(child, target, path));
  attach(child, mask, target, path);
  ::close(mask);
  ::close(target);
}

void child_readonly_path(Child& child) {
  const char* path = child_text(child, child.op->s[1]);
  const int target = child_lookup(child, path, Lookup{});
  if (target < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return;
    child_fail(child, "openat2", path);
  }
  const int copy = sys::open_tree(target, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | AT_RECURSIVE);
  if (copy < 0) child_fail(child, "open_tree", path);
  set_attributes(child, copy, MOUNT_ATTR_RDONLY, 0, 0, true, path);
  attach(child, copy, target, path);
  ::close(copy);
  ::close(target);
}

void child_pivot(Child& child) {
  const plan::Op& op = *child.op;
  if (child.root < 0) child_fail(child, "pivot_root", "/", EINVAL, "no root was attached");
  const int old_root = ::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (old_root < 0) child_fail(child, "open", "/");
  if (::fchdir(child.root) != 0) child_fail(child, "fchdir", "/");
  // With both names the same, the old root ends up stacked on the new one and no directory is needed for it.
  if (sys::pivot_root(".", ".") != 0) child_fail(child, "pivot_root", "/");
  if (::fchdir(old_root) != 0) child_fail(child, "fchdir", "/");
  // Unmounting must not reach the host; a slave or private tree is cut off from it already.
  if ((child.root_propagation & (MS_PRIVATE | MS_SLAVE)) == 0 || (child.root_propagation & MS_REC) == 0) {
    if (::mount(nullptr, ".", nullptr, MS_SLAVE | MS_REC, nullptr) != 0) child_fail(child, "mount", "old root");
  }
  if (::umount2(".", MNT_DETACH) != 0) child_fail(child, "umount2", "old root");
  ::close(old_root);
  if (child.mask >= 0) ::close(child.mask);
  child.mask = -1;
  if (::chdir("/") != 0) child_fail(child, "chdir", "/");
  const uint64_t set = (op.a[0] & plan::kPivotReadonlyRoot) != 0 ? static_cast<uint64_t>(MOUNT_ATTR_RDONLY) : 0;
  set_attributes(child, child.root, set, 0, 0, false, "/");
  set_propagation(child, child.root, op.a[1], "/");
  child_reopen_null(child);
}

void child_console(Child& child) {
  const char* path = "/dev/console";
  const int terminal = sys::open_tree(0, "", AT_EMPTY_PATH | OPEN_TREE_CLONE);
  if (terminal < 0) child_fail(child, "open_tree", "terminal");
  const int target = child_lookup(child, path, Lookup{.make = Make::kFile, .mode = 0600, .plain = true});
  if (target < 0) child_fail(child, "openat2", path);
  attach(child, terminal, target, path);
  ::close(target);
  ::close(terminal);
}

}  // namespace berth::stages
