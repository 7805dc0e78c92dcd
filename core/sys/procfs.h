// Writing below /proc without trusting what is mounted on /proc: through a procfs of one's own that nobody else sees.
// Async-signal-safe, no allocation; -1 with errno.
#pragma once

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "core/sys/mount.h"
#include "core/sys/openat2.h"

namespace berth::sys {

// A new detached procfs instance of the caller's pid namespace, attached nowhere.
inline int open_private_procfs() {
  const int context = fsopen("proc");
  if (context < 0) return -1;
  int mounted = -1;
  if (fsconfig_create(context) == 0) mounted = fsmount(context, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  const int saved = errno;
  ::close(context);
  errno = saved;
  return mounted;
}

// Whether the file's file system is procfs.
inline bool is_procfs(int fd) {
  struct statfs about = {};
  return ::fstatfs(fd, &about) == 0 && about.f_type == PROC_SUPER_MAGIC;
}

// Writes all of `value` with one write(2), which is what proc files take.
inline int write_once(int fd, const char* value, size_t size) {
  const ssize_t written = ::write(fd, value, size);
  if (written == static_cast<ssize_t>(size)) return 0;
  if (written >= 0) errno = EIO;
  return -1;
}

// Opens a file below `procfs`: no link, no other mount, no leaving of it.
inline int open_proc_file(int procfs, const char* path, int flags) {
  return openat2(procfs, path, static_cast<uint64_t>(flags), 0,
                 RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV);
}

namespace detail {
inline bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n'; }

// Whether the text is a list of decimal numbers; what the kernel prints back of such a list has the same tokens.
inline bool is_number_list(const char* text, size_t size) {
  bool digit = false;
  for (size_t i = 0; i < size; ++i) {
    if (text[i] >= '0' && text[i] <= '9') {
      digit = true;
    } else if (!is_blank(text[i]) && !(text[i] == '-' && (i == 0 || is_blank(text[i - 1])))) {
      return false;
    }
  }
  return digit;
}

// Next token of blank-separated text, without leading zeros; empty at the end.
inline size_t next_token(const char* text, size_t size, size_t* at, const char** token) {
  while (*at < size && is_blank(text[*at])) ++*at;
  size_t begin = *at;
  while (*at < size && !is_blank(text[*at])) ++*at;
  while (begin + 1 < *at && text[begin] == '0') ++begin;
  *token = text + begin;
  return *at - begin;
}
}  // namespace detail

// Whether what a sysctl reads as is what was written to it. The kernel may print other things than numbers its own way
// (port ranges, hexadecimal), which says nothing; numbers are printed as they are.
inline bool reads_back(const char* written, size_t written_size, const char* read, size_t read_size) {
  if (!detail::is_number_list(written, written_size)) return true;
  size_t a = 0;
  size_t b = 0;
  for (;;) {
    const char* left = nullptr;
    const char* right = nullptr;
    const size_t left_size = detail::next_token(written, written_size, &a, &left);
    const size_t right_size = detail::next_token(read, read_size, &b, &right);
    // A sysctl of several numbers may be written in part: the rest keeps its value.
    if (left_size == 0) return true;
    if (left_size != right_size || std::memcmp(left, right, left_size) != 0) return false;
  }
}

// Writes a sysctl of the caller's namespaces and reads it back. `path` is relative to /proc/sys, with slashes. EIO means
// that the file does not hold what was written. `call` names the failed call.
inline int write_sysctl(int procfs, const char* path, const char* value, size_t size, const char** call) {
  const int directory = openat2(procfs, "sys", O_PATH | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
  if (directory < 0) {
    *call = "openat2";
    return -1;
  }
  // Most sysctls may be read too; the few that are write-only have nothing to compare.
  bool readable = true;
  int fd = open_proc_file(directory, path, O_RDWR | O_NOCTTY);
  if (fd < 0 && (errno == EACCES || errno == EPERM)) {
    readable = false;
    fd = open_proc_file(directory, path, O_WRONLY | O_NOCTTY);
  }
  int saved = errno;
  ::close(directory);
  if (fd < 0) {
    errno = saved;
    *call = "openat2";
    return -1;
  }
  int result = write_once(fd, value, size);
  *call = "write";
  if (result == 0 && readable) {
    char text[1024];
    const ssize_t count = ::pread(fd, text, sizeof(text), 0);
    if (count < 0) {
      result = -1;
      *call = "pread";
    } else if (!reads_back(value, size, text, static_cast<size_t>(count))) {
      errno = EIO;
      result = -1;
      *call = "read back";
    }
  }
  saved = errno;
  ::close(fd);
  errno = saved;
  return result;
}

}  // namespace berth::sys
