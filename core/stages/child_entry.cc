#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "core/stages/child.h"
#include "core/sys/mount.h"
#include "core/sys/openat2.h"
#include "core/sys/procfs.h"

namespace berth::stages {
namespace {

// "self/fd/N": the way to change the mode of a file that is held by an O_PATH descriptor.
void descriptor_path(int fd, char* out) {
  char digits[12];
  size_t count = 0;
  do {
    digits[count++] = static_cast<char>('0' + fd % 10);
    fd /= 10;
  } while (fd > 0);
  std::memcpy(out, "self/fd/", 8);
  size_t at = 8;
  while (count > 0) out[at++] = digits[--count];
  out[at] = 0;
}

void change_mode(Child& child, int fd, mode_t mode, const char* path) {
  char name[32];
  descriptor_path(fd, name);
  if (::fchmodat(child.proc, name, mode & 07777, 0) != 0) child_fail(child, "fchmodat", path);
}

void change_owner(Child& child, int fd, uint64_t uid, uint64_t gid, const char* path) {
  if (::fchownat(fd, "", static_cast<uid_t>(uid), static_cast<gid_t>(gid), AT_EMPTY_PATH) != 0) child_fail(child, "fchownat", path);
}

int open_entry(Child& child, int parent, const char* name, const char* path) {
  const int fd = ::openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) child_fail(child, "openat", path);
  return fd;
}

void write_all(Child& child, int fd, const char* data, size_t size, const char* path) {
  while (size > 0) {
    const ssize_t count = ::write(fd, data, size);
    if (count < 0) {
      if (errno == EINTR) continue;
      child_fail(child, "write", path);
    }
    data += count;
    size -= static_cast<size_t>(count);
  }
}

void copy_bytes(Child& child, int from, int to, const char* path) {
  char buffer[16384];
  for (;;) {
    const ssize_t count = ::read(from, buffer, sizeof(buffer));
    if (count < 0) {
      if (errno == EINTR) continue;
      child_fail(child, "read", path);
    }
    if (count == 0) return;
    write_all(child, to, buffer, static_cast<size_t>(count), path);
  }
}

void copy_tree_at(Child& child, int from, int to, const char* path, int depth);

void copy_entry(Child& child, int from, int to, const char* name, const char* path, int depth) {
  struct stat about = {};
  if (::fstatat(from, name, &about, AT_SYMLINK_NOFOLLOW) != 0) child_fail(child, "fstatat", name);
  if (S_ISDIR(about.st_mode)) {
    if (::mkdirat(to, name, 0700) != 0) child_fail(child, "mkdirat", name);
    const int below = ::openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    const int made = ::openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (below < 0 || made < 0) child_fail(child, "openat", name);
    copy_tree_at(child, below, made, path, depth + 1);
    ::close(below);
    ::close(made);
  } else if (S_ISREG(about.st_mode)) {
    const int source = ::openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    const int made = ::openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (source < 0 || made < 0) child_fail(child, "openat", name);
    copy_bytes(child, source, made, path);
    ::close(source);
    ::close(made);
  } else if (S_ISLNK(about.st_mode)) {
    char contents[kPathBytes];
    const ssize_t size = ::readlinkat(from, name, contents, sizeof(contents) - 1);
    if (size < 0) child_fail(child, "readlinkat", name);
    contents[size] = 0;
    if (::symlinkat(contents, to, name) != 0) child_fail(child, "symlinkat", name);
  } else if (::mknodat(to, name, about.st_mode, about.st_rdev) != 0) {
    child_fail(child, "mknodat", name);
  }
  if (::fchownat(to, name, about.st_uid, about.st_gid, AT_SYMLINK_NOFOLLOW) != 0) child_fail(child, "fchownat", name);
  // `to` is not attached anywhere yet: no link can take the place of what was just made.
  if (!S_ISLNK(about.st_mode) && ::fchmodat(to, name, about.st_mode & 07777, 0) != 0) child_fail(child, "fchmodat", name);
  const struct timespec times[2] = {about.st_atim, about.st_mtim};
  if (::utimensat(to, name, times, AT_SYMLINK_NOFOLLOW) != 0) child_fail(child, "utimensat", name);
}

void copy_tree_at(Child& child, int from, int to, const char* path, int depth) {
  if (depth > 64) child_fail(child, "openat", path, ELOOP, "too deep to be copied");
  struct Entry {
    uint64_t inode;
    int64_t offset;
    uint16_t size;
    uint8_t type;
    char name[1];
  };
  alignas(8) char buffer[4096];
  for (;;) {
    const long count = ::syscall(SYS_getdents64, from, buffer, sizeof(buffer));
    if (count < 0) child_fail(child, "getdents64", path);
    if (count == 0) return;
    for (long at = 0; at < count;) {
      // SAFETY: the kernel writes whole records, 8-byte aligned.
      const auto* entry = reinterpret_cast<const Entry*>(buffer + at);
      at += entry->size;
      const char* name = buffer + (reinterpret_cast<const char*>(entry) - buffer) + offsetof(Entry, name);
      if (std::strcmp(name, ".") != 0 && std::strcmp(name, "..") != 0) copy_entry(child, from, to, name, path, depth);
    }
  }
}

}  // namespace

void child_copy_tree(Child& child, int from, int to, const char* path) { copy_tree_at(child, from, to, path, 0); }

void child_make_directory(Child& child) {
  const plan::Op& op = *child.op;
  const char* path = child_text(child, op.s[1]);
  const int there = child_lookup(child, path, Lookup{});
  if (there >= 0) {
    struct stat about = {};
    if (::fstat(there, &about) != 0) child_fail(child, "fstat", path);
    if (!S_ISDIR(about.st_mode)) child_fail(child, "mkdirat", path, EEXIST);
    ::close(there);
    return;
  }
  if (errno != ENOENT) child_fail(child, "openat2", path);
  const int made = child_lookup(child, path, Lookup{.make = Make::kDirectory, .mode = static_cast<mode_t>(op.a[0] & 07777)});
  if (made < 0) child_fail(child, "mkdirat", path);
  change_owner(child, made, op.a[1], op.a[2], path);
  ::close(made);
}

void child_make_node(Child& child) {
  const plan::Op& op = *child.op;
  const char* path = child_text(child, op.s[1]);
  const char* source = child_text(child, op.s[2]);
  const auto mode = static_cast<mode_t>(op.a[0]);
  const auto device = static_cast<dev_t>(op.a[1]);
  char name[NAME_MAX + 1];
  const int parent = child_parent(child, path, name);
  if (::mknodat(parent, name, mode, device) == 0) {
    if (op.a[2] != 0 || op.a[3] != 0) {
      const int made = open_entry(child, parent, name, path);
      change_owner(child, made, op.a[2], op.a[3], path);
      ::close(made);
    }
  } else if (errno == EEXIST) {
    const int there = open_entry(child, parent, name, path);
    struct stat about = {};
    if (::fstat(there, &about) != 0) child_fail(child, "fstat", path);
    const bool same_type = (about.st_mode & S_IFMT) == (mode & S_IFMT);
    const bool device_type = S_ISCHR(mode) || S_ISBLK(mode);
    if (!same_type || (device_type && about.st_rdev != device)) child_fail(child, "mknodat", path, EEXIST);
    change_owner(child, there, op.a[2], op.a[3], path);
    change_mode(child, there, mode, path);
    ::close(there);
  } else if (errno == EPERM && source[0] != 0) {
    const int node = sys::open_tree(AT_FDCWD, source, OPEN_TREE_CLONE);
    if (node < 0) child_fail(child, "open_tree", source);
    struct stat about = {};
    if (::fstat(node, &about) != 0) child_fail(child, "fstat", source);
    if ((about.st_mode & S_IFMT) != (mode & S_IFMT) || about.st_rdev != device) child_fail(child, "open_tree", source, ENODEV);
    const int file = ::openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0) child_fail(child, "openat", path);
    const int target = open_entry(child, parent, name, path);
    if (sys::attach_mount(node, target) != 0) child_fail(child, "move_mount", path);
    ::close(file);
    ::close(target);
    ::close(node);
  } else {
    child_fail(child, "mknodat", path);
  }
  ::close(parent);
}

void child_make_symlink(Child& child) {
  const plan::Op& op = *child.op;
  const char* path = child_text(child, op.s[1]);
  const char* contents = child_text(child, op.s[0]);
  char name[NAME_MAX + 1];
  const int parent = child_parent(child, path, name);
  if (::symlinkat(contents, parent, name) != 0) {
    if (errno != EEXIST) child_fail(child, "symlinkat", path);
    if (op.a[0] == 0) {
      char present[kPathBytes];
      const ssize_t size = ::readlinkat(parent, name, present, sizeof(present));
      const size_t wanted = std::strlen(contents);
      if (size < 0 || static_cast<size_t>(size) != wanted || std::memcmp(present, contents, wanted) != 0) {
        child_fail(child, "symlinkat", path, EEXIST);
      }
    } else if (op.a[0] == 2) {
      if (::unlinkat(parent, name, 0) != 0) child_fail(child, "unlinkat", path);
      if (::symlinkat(contents, parent, name) != 0) child_fail(child, "symlinkat", path);
    }
  }
  ::close(parent);
}

void child_copy_file(Child& child) {
  const plan::Op& op = *child.op;
  const char* path = child_text(child, op.s[1]);
  const auto mode = static_cast<mode_t>(op.a[0] & 07777);
  char name[NAME_MAX + 1];
  const int parent = child_parent(child, path, name);
  int fd = ::openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
  if (fd < 0 && errno == EEXIST) {
    // O_NONBLOCK: whatever stands there instead of a file must not make the open wait.
    fd = ::openat(parent, name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat about = {};
    if (fd < 0 || ::fstat(fd, &about) != 0) child_fail(child, "openat", path);
    if (!S_ISREG(about.st_mode)) child_fail(child, "openat", path, EEXIST);
    if (::ftruncate(fd, 0) != 0) child_fail(child, "ftruncate", path);
  }
  if (fd < 0) child_fail(child, "openat", path);
  write_all(child, fd, op.s[0].size == 0 ? "" : child_text(child, op.s[0]), op.s[0].size, path);
  ::close(fd);
  ::close(parent);
}

}  // namespace berth::stages
