// openat2(2): opening below a directory that a hostile process may be changing meanwhile.
#pragma once

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

namespace berth::sys {

// Close-on-exec is added to `flags`. -1 with errno. EAGAIN (a rename or mount raced with a `..` of the walk) and EINTR
// are tried again a bounded number of times, so a racer can make it fail but never make it escape or hang.
inline int openat2(int directory, const char* path, uint64_t flags, uint64_t mode, uint64_t resolve) {
  struct open_how how = {};
  how.flags = flags | O_CLOEXEC;
  how.mode = mode;
  how.resolve = resolve;
  long fd = -1;
  for (int attempt = 0; attempt < 256; ++attempt) {
    fd = ::syscall(SYS_openat2, directory, path, &how, sizeof(how));
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) break;
  }
  return static_cast<int>(fd);
}

// `path` (absolute or not) is looked up as a process whose root is `root` would, and never through a magic link.
inline int open_in_root(int root, const char* path, uint64_t flags, uint64_t mode = 0) {
  return openat2(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

// As open_in_root, for one component or a path in which no symbolic link may occur at all.
inline int open_in_root_nofollow(int root, const char* path, uint64_t flags, uint64_t mode = 0) {
  return openat2(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS);
}

// `path` is relative and must stay below `directory`: neither `..` out of it nor an absolute link.
inline int open_beneath(int directory, const char* path, uint64_t flags, uint64_t mode = 0) {
  return openat2(directory, path, flags, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS);
}

}  // namespace berth::sys
