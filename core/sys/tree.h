// Directories and files of the daemon's own store, and file systems. All of it may block.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::sys {

// mkdir -p: every level that is missing is made with exactly `mode`. Links in what exists already are followed.
// Returns the directory (O_PATH).
Result<Fd> make_directories(const std::string& path, mode_t mode);

// Writes a temporary file beside `path` and renames it; `durable` syncs the file and its directory.
Result<void> write_file_atomic(const std::string& path, const void* data, size_t size, mode_t mode, bool durable);

// Removes a file or a whole tree. No link is followed and no mount crossed (EBUSY); what other processes add or remove
// meanwhile is coped with; depth is not limited by descriptors or stack. Absent is success.
Result<void> remove_tree(const std::string& path);

struct TreeUsage {
  uint64_t bytes = 0;
  uint64_t inodes = 0;
};
// Blocks and inodes of a tree, each inode once; no mount is crossed. What vanishes meanwhile is passed over.
Result<TreeUsage> tree_usage(const std::string& path);

// Reads a regular file below `root` (RESOLVE_IN_ROOT). nullopt where it is absent; ENOTSUP where it is not a regular
// file, EFBIG where it is longer than `limit`.
Result<std::optional<std::string>> read_in_root(FdRef root, const std::string& path, uint64_t limit);

// Opens (makes) a log file for appending, 0640; missing directories are made 0755; the last component is no link.
Result<Fd> open_log(const std::string& path);

// syncfs(2) of the file system that holds `path`.
Result<void> sync_filesystem(const std::string& path);

struct MountInfo {
  uint64_t id = 0;
  uint64_t parent_id = 0;
  std::string device;
  std::string root;
  std::string mount_point;
  std::string type;
  std::string source;
  std::string super_options;
  bool shared = false;
};
// /proc/self/mountinfo, proc(5); octal escapes undone.
Result<std::vector<MountInfo>> list_mounts();
std::vector<MountInfo> parse_mountinfo(std::string_view text);

struct FilesystemUsage {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;  // for everybody, not the reserve of root
  uint64_t total_inodes = 0;
  uint64_t free_inodes = 0;
  std::string device;
  std::string mount_point;
  std::string type;
};
Result<FilesystemUsage> filesystem_usage(const std::string& path);

}  // namespace berth::sys
