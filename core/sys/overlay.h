// Mounts that the daemon makes itself: detached overlays, visible attachments, a pod's /dev/shm. All of it may block.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::sys {

struct OverlayOptions {
  std::vector<std::string> lowers;  // topmost first, absolute
  std::string upper;                // with `work`; empty: read-only
  std::string work;
};

// A detached overlay. With an upper it is `volatile`: nothing is synced at its end, so its contents do not survive a
// crash of the machine; a marker that an earlier volatile mount left in `work` is removed. Read-only with one lower is a
// read-only bind mount of it.
//
// Each lower goes to the kernel by `lowerdir+` (6.8), else all together by `lowerdir`, as numbers of descriptors where the
// names are too long for one option: then some sixty lowers fit, and more are E2BIG. Names that hold what that syntax
// escapes go through /proc/self/fd.
Result<Fd> mount_overlay(const OverlayOptions& options);

// The string of `lowerdir=`: colons and backslashes of each name escaped with a backslash.
std::string join_lowers(const std::vector<std::string>& lowers);

// open_tree(2) of a path, not through a final link. `read_only` needs `clone`.
Result<Fd> open_mount_tree(const std::string& path, bool clone, bool recursive, bool read_only);

// Makes a detached mount visible at `path`. Where the kernel can copy a detached mount it attaches a copy, else the
// mount itself, once; either way `mount` stays usable.
Result<void> attach_detached(FdRef mount, const std::string& path);

// Detaches everything that is mounted at `path`. Not mounted or absent is success.
Result<void> unmount_all(const std::string& path);

// tmpfs, nosuid, nodev, noexec.
Result<void> mount_tmpfs(const std::string& path, uint64_t size_bytes, mode_t mode);

// Whether this kernel's overlayfs takes `lowerdir+`.
bool probe_lowerdir_plus();

}  // namespace berth::sys
