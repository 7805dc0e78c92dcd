// The file-descriptor mount calls. Raw system calls: glibc's <sys/mount.h> and <linux/mount.h> cannot both be included,
// and older C libraries have neither. Failures are -1 with errno; none of these calls is interrupted (no EINTR policy).
// Every fd that is returned is close-on-exec.
#pragma once

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
#ifndef FSOPEN_CLOEXEC
#define FSOPEN_CLOEXEC 1
#endif
#ifndef FSMOUNT_CLOEXEC
#define FSMOUNT_CLOEXEC 1
#endif
#ifndef MOVE_MOUNT_F_SYMLINKS
#define MOVE_MOUNT_F_SYMLINKS 0x00000001
#define MOVE_MOUNT_F_AUTOMOUNTS 0x00000002
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_SYMLINKS 0x00000010
#define MOVE_MOUNT_T_AUTOMOUNTS 0x00000020
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif
#ifndef MOUNT_ATTR_RDONLY
#define MOUNT_ATTR_RDONLY 0x00000001
#define MOUNT_ATTR_NOSUID 0x00000002
#define MOUNT_ATTR_NODEV 0x00000004
#define MOUNT_ATTR_NOEXEC 0x00000008
#define MOUNT_ATTR__ATIME 0x00000070
#define MOUNT_ATTR_RELATIME 0x00000000
#define MOUNT_ATTR_NOATIME 0x00000010
#define MOUNT_ATTR_STRICTATIME 0x00000020
#define MOUNT_ATTR_NODIRATIME 0x00000080
#endif
#ifndef MOUNT_ATTR_IDMAP
#define MOUNT_ATTR_IDMAP 0x00100000
#endif
#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif

namespace berth::sys {

// Commands of fsconfig(2), under names of our own: where libc has them they are enumerators, elsewhere macros.
inline constexpr unsigned kFsconfigSetFlag = 0;
inline constexpr unsigned kFsconfigSetString = 1;
inline constexpr unsigned kFsconfigSetBinary = 2;
inline constexpr unsigned kFsconfigSetPath = 3;
inline constexpr unsigned kFsconfigSetPathEmpty = 4;
inline constexpr unsigned kFsconfigSetFd = 5;
inline constexpr unsigned kFsconfigCreate = 6;
inline constexpr unsigned kFsconfigReconfigure = 7;

// struct mount_attr of mount_setattr(2).
struct MountAttributes {
  uint64_t attr_set = 0;
  uint64_t attr_clr = 0;
  uint64_t propagation = 0;  // MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_UNBINDABLE or 0 to leave it
  uint64_t userns_fd = 0;
};

inline int fsopen(const char* type) { return static_cast<int>(::syscall(SYS_fsopen, type, FSOPEN_CLOEXEC)); }

inline int fsconfig(int fd, unsigned command, const char* key, const void* value, int aux) {
  return static_cast<int>(::syscall(SYS_fsconfig, fd, command, key, value, aux));
}
inline int fsconfig_flag(int fd, const char* key) { return fsconfig(fd, kFsconfigSetFlag, key, nullptr, 0); }
inline int fsconfig_string(int fd, const char* key, const char* value) {
  return fsconfig(fd, kFsconfigSetString, key, value, 0);
}
inline int fsconfig_fd(int fd, const char* key, int value) { return fsconfig(fd, kFsconfigSetFd, key, nullptr, value); }
inline int fsconfig_create(int fd) { return fsconfig(fd, kFsconfigCreate, nullptr, nullptr, 0); }

// A detached mount of what fsconfig has made, with MOUNT_ATTR_* attributes.
inline int fsmount(int fd, unsigned attributes) {
  return static_cast<int>(::syscall(SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes));
}

// `flags`: OPEN_TREE_CLONE, AT_RECURSIVE, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW; close-on-exec is added.
inline int open_tree(int directory, const char* path, unsigned flags) {
  return static_cast<int>(::syscall(SYS_open_tree, directory, path, flags | OPEN_TREE_CLOEXEC));
}

inline int move_mount(int from_fd, const char* from, int to_fd, const char* to, unsigned flags) {
  return static_cast<int>(::syscall(SYS_move_mount, from_fd, from, to_fd, to, flags));
}
// Attaches the mount that `mount_fd` stands for on exactly the file that `target_fd` (O_PATH) stands for.
inline int attach_mount(int mount_fd, int target_fd) {
  return move_mount(mount_fd, "", target_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

// `flags`: AT_EMPTY_PATH, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW.
inline int mount_setattr(int directory, const char* path, unsigned flags, const MountAttributes& attributes) {
  return static_cast<int>(::syscall(SYS_mount_setattr, directory, path, flags, &attributes, sizeof(attributes)));
}

inline int pivot_root(const char* new_root, const char* put_old) {
  return static_cast<int>(::syscall(SYS_pivot_root, new_root, put_old));
}

}  // namespace berth::sys
