#include "core/sys/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <unordered_set>

#include "core/sys/file_text.h"
#include "core/sys/openat2.h"

#ifndef STATX_MNT_ID
#define STATX_MNT_ID 0x00001000U
#endif

namespace berth::sys {
namespace {

struct DirCloser {
  void operator()(DIR* dir) const { ::closedir(dir); }
};
using Dir = std::unique_ptr<DIR, DirCloser>;

// Splits into the directory ("." or "/" where there is none) and the last component. Trailing slashes do not count.
bool split_path(std::string_view path, std::string* parent, std::string* name) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  const size_t slash = path.rfind('/');
  const std::string_view last = slash == std::string_view::npos ? path : path.substr(slash + 1);
  if (last.empty() || last == "." || last == "..") return false;
  *name = last;
  *parent = slash == std::string_view::npos ? "." : slash == 0 ? "/" : std::string(path.substr(0, slash));
  return true;
}

Result<Fd> open_parent(const std::string& path, std::string* name, std::string_view step) {
  std::string parent;
  if (!split_path(path, &parent, name)) return make_error(EINVAL, step, "open", path);
  Fd fd(::open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return errno_error(step, "open", parent);
  return fd;
}

std::string random_suffix() {
  uint64_t value = 0;
  if (::getrandom(&value, sizeof(value), 0) != static_cast<ssize_t>(sizeof(value))) value = static_cast<uint64_t>(::getpid());
  char text[24];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(value));
  return text;
}

bool is_dot(const char* name) { return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0')); }

// A directory below `parent` for listing: never through a link, never over a mount.
int open_subdirectory(int parent, const char* name) {
  return openat2(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0,
                 RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_BENEATH);
}

// Takes the immutable and append-only attributes off, which a container with CAP_LINUX_IMMUTABLE may have set.
bool clear_attributes(int directory, const char* name) {
  Fd fd(::openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) return false;
  int flags = 0;
  if (::ioctl(fd.get(), FS_IOC_GETFLAGS, &flags) != 0) return false;
  const int wanted = flags & ~(FS_IMMUTABLE_FL | FS_APPEND_FL);
  return wanted != flags && ::ioctl(fd.get(), FS_IOC_SETFLAGS, &wanted) == 0;
}

// unlinkat with the attributes cleared on EPERM. 0, or -1 with errno; absent is success.
int unlink_entry(int directory, const char* name, int flags) {
  if (::unlinkat(directory, name, flags) == 0 || errno == ENOENT) return 0;
  if (errno != EPERM) return -1;
  // EPERM may be due to the entry or to the directory that holds it.
  const bool entry = clear_attributes(directory, name);
  const bool holder = clear_attributes(directory, ".");
  if (!entry && !holder) {
    errno = EPERM;
    return -1;
  }
  if (::unlinkat(directory, name, flags) == 0 || errno == ENOENT) return 0;
  return -1;
}

// Deeper directories than this are renamed into the top, so that neither descriptors nor the stack limit the depth.
constexpr int kMaxOpenLevels = 24;

class TreeRemover {
 public:
  TreeRemover(int top, const std::string& path) : top_(top), path_(path) {}

  // Empties the directory `fd` (consumed), which is `depth` levels below the top.
  Result<void> empty(Fd fd, int depth) {
    const int directory = fd.get();
    Dir dir(::fdopendir(fd.release()));
    if (!dir) return errno_error("tree.remove", "fdopendir", path_);
    // Entries that others add while the list is read may be missed by one pass.
    for (int pass = 0; pass < 64; ++pass) {
      bool found = false;
      ::rewinddir(dir.get());
      for (;;) {
        errno = 0;
        const dirent* entry = ::readdir(dir.get());
        if (entry == nullptr) {
          if (errno != 0) return errno_error("tree.remove", "getdents64", path_);
          break;
        }
        if (is_dot(entry->d_name)) continue;
        found = true;
        BERTH_TRY(remove(directory, entry->d_name, entry->d_type, depth));
      }
      if (!found) return {};
    }
    return make_error(ENOTEMPTY, "tree.remove", "unlinkat", path_, "others keep adding entries");
  }

 private:
  Result<void> remove(int directory, const char* name, unsigned char type, int depth) {
    // At most a few rounds: the entry may turn from file to directory and back under a racing process.
    for (int attempt = 0; attempt < 16; ++attempt) {
      if (type != DT_DIR) {
        if (unlink_entry(directory, name, 0) == 0) return {};
        if (errno != EISDIR && errno != EPERM) return fail("unlinkat", name);
        // EISDIR, or EPERM as POSIX has it: perhaps a directory; the next try finds out.
        if (errno == EPERM) {
          struct stat status = {};
          if (::fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(status.st_mode)) {
            return make_error(EPERM, "tree.remove", "unlinkat", path_ + "/" + name);
          }
        }
      }
      if (depth >= kMaxOpenLevels) {
        // Lifted to the top, where the pass over the top finds it again.
        const std::string lifted = ".berth-lifted-" + random_suffix();
        if (::renameat(directory, name, top_, lifted.c_str()) == 0 || errno == ENOENT) return {};
        if (errno != EPERM || !(clear_attributes(directory, name) | clear_attributes(directory, "."))) return fail("renameat", name);
        continue;
      }
      Fd child(open_subdirectory(directory, name));
      if (!child.valid()) {
        if (errno == ENOENT) return {};
        if (errno == EXDEV) return make_error(EBUSY, "tree.remove", "openat2", path_ + "/" + name, "a file system is mounted there");
        if (errno != ENOTDIR && errno != ELOOP) return fail("openat2", name);
        type = DT_UNKNOWN;
        continue;
      }
      BERTH_TRY(empty(std::move(child), depth + 1));
      if (unlink_entry(directory, name, AT_REMOVEDIR) == 0) return {};
      if (errno == ENOTDIR) {
        type = DT_UNKNOWN;
        continue;
      }
      if (errno != ENOTEMPTY && errno != EEXIST) return fail("unlinkat", name);
      type = DT_DIR;
    }
    return make_error(ENOTEMPTY, "tree.remove", "unlinkat", path_ + "/" + name, "others keep changing it");
  }

  Error fail(const char* syscall, const char* name) {
    const int saved = errno;
    return make_error(saved, "tree.remove", syscall, path_ + "/" + name);
  }

  int top_;
  const std::string& path_;
};

struct InodeKey {
  uint64_t device;
  uint64_t inode;
  bool operator==(const InodeKey& other) const = default;
};
struct InodeHash {
  size_t operator()(const InodeKey& key) const { return std::hash<uint64_t>()(key.inode * 0x9e3779b97f4a7c15ULL ^ key.device); }
};

Result<void> add_usage(Fd fd, const std::string& path, TreeUsage* usage, std::unordered_set<InodeKey, InodeHash>* seen, int depth) {
  // Deeper trees are not walked further: their weight is missing from the figure rather than the daemon's descriptors.
  if (depth > 200) return {};
  const int directory = fd.get();
  Dir dir(::fdopendir(fd.release()));
  if (!dir) return errno_error("tree.usage", "fdopendir", path);
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(dir.get());
    if (entry == nullptr) {
      if (errno != 0) return errno_error("tree.usage", "getdents64", path);
      return {};
    }
    if (is_dot(entry->d_name)) continue;
    struct stat status = {};
    if (::fstatat(directory, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno == ENOENT) continue;
      return errno_error("tree.usage", "fstatat", path + "/" + entry->d_name);
    }
    if (S_ISDIR(status.st_mode)) {
      Fd child(open_subdirectory(directory, entry->d_name));
      if (!child.valid()) {
        if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == EXDEV) continue;
        return errno_error("tree.usage", "openat2", path + "/" + entry->d_name);
      }
      usage->bytes += static_cast<uint64_t>(status.st_blocks) * 512;
      usage->inodes += 1;
      BERTH_TRY(add_usage(std::move(child), path, usage, seen, depth + 1));
      continue;
    }
    if (status.st_nlink > 1 && !seen->insert({status.st_dev, status.st_ino}).second) continue;
    usage->bytes += static_cast<uint64_t>(status.st_blocks) * 512;
    usage->inodes += 1;
  }
}

std::string unescape_octal(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '3') {
      out.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

}  // namespace

Result<Fd> make_directories(const std::string& path, mode_t mode) {
  constexpr std::string_view kStep = "directory.make";
  if (path.empty()) return make_error(EINVAL, kStep, "mkdirat", path);
  Fd whole(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (whole.valid()) return whole;
  if (errno != ENOENT) return errno_error(kStep, "open", path);
  Fd level(::open(path[0] == '/' ? "/" : ".", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!level.valid()) return errno_error(kStep, "open", path);
  std::string_view rest = path;
  while (!rest.empty()) {
    const size_t slash = rest.find('/');
    const std::string name(rest.substr(0, slash));
    rest.remove_prefix(slash == std::string_view::npos ? rest.size() : slash + 1);
    if (name.empty() || name == ".") continue;
    Fd next(::openat(level.get(), name.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!next.valid() && errno == ENOENT) {
      const bool made = ::mkdirat(level.get(), name.c_str(), mode) == 0;
      if (!made && errno != EEXIST) return errno_error(kStep, "mkdirat", path);
      // The umask is not part of what was asked for. A directory of ours cannot be exchanged for a link meanwhile.
      if (made && ::fchmodat(level.get(), name.c_str(), mode, 0) != 0) return errno_error(kStep, "fchmodat", path);
      next.reset(::openat(level.get(), name.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    }
    if (!next.valid()) return errno_error(kStep, "openat", path);
    level = std::move(next);
  }
  return level;
}

Result<void> write_file_atomic(const std::string& path, const void* data, size_t size, mode_t mode, bool durable) {
  constexpr std::string_view kStep = "file.write";
  std::string name;
  BERTH_ASSIGN(Fd parent, open_parent(path, &name, kStep));
  const std::string temporary = "." + name.substr(0, 200) + "." + random_suffix() + ".tmp";
  Fd file(::openat(parent.get(), temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode & 07777));
  if (!file.valid()) return errno_error(kStep, "openat", path);
  Result<void> written = write_all(file.ref(), data, size, kStep, path);
  if (written.ok() && ::fchmod(file.get(), mode & 07777) != 0) written = errno_error(kStep, "fchmod", path);
  if (written.ok() && durable && ::fsync(file.get()) != 0) written = errno_error(kStep, "fsync", path);
  if (written.ok() && ::renameat(parent.get(), temporary.c_str(), parent.get(), name.c_str()) != 0) {
    written = errno_error(kStep, "renameat", path);
  }
  if (!written.ok()) {
    ::unlinkat(parent.get(), temporary.c_str(), 0);
    return written;
  }
  if (durable) {
    Fd directory(::openat(parent.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!directory.valid()) return errno_error(kStep, "openat", path);
    if (::fsync(directory.get()) != 0) return errno_error(kStep, "fsync", path);
  }
  return {};
}

Result<void> remove_tree(const std::string& path) {
  constexpr std::string_view kStep = "tree.remove";
  std::string name;
  Result<Fd> parent = open_parent(path, &name, kStep);
  if (!parent.ok()) {
    if (parent.error().error_number == ENOENT) return {};
    return std::move(parent).error();
  }
  const int directory = parent->get();
  for (int attempt = 0; attempt < 16; ++attempt) {
    Fd top(open_subdirectory(directory, name.c_str()));
    if (!top.valid()) {
      if (errno == ENOENT) return {};
      if (errno == EXDEV) return make_error(EBUSY, kStep, "openat2", path, "a file system is mounted there");
      if (errno != ENOTDIR && errno != ELOOP) return errno_error(kStep, "openat2", path);
      if (unlink_entry(directory, name.c_str(), 0) == 0) return {};
      if (errno != EISDIR) return errno_error(kStep, "unlinkat", path);
      continue;
    }
    Fd listing(::openat(top.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!listing.valid()) return errno_error(kStep, "openat", path);
    BERTH_TRY(TreeRemover(top.get(), path).empty(std::move(listing), 0));
    if (unlink_entry(directory, name.c_str(), AT_REMOVEDIR) == 0) return {};
    if (errno != ENOTEMPTY && errno != EEXIST && errno != ENOTDIR) return errno_error(kStep, "unlinkat", path);
  }
  return make_error(ENOTEMPTY, kStep, "unlinkat", path, "others keep changing it");
}

Result<TreeUsage> tree_usage(const std::string& path) {
  struct stat status = {};
  if (::lstat(path.c_str(), &status) != 0) return errno_error("tree.usage", "lstat", path);
  TreeUsage usage{static_cast<uint64_t>(status.st_blocks) * 512, 1};
  if (!S_ISDIR(status.st_mode)) return usage;
  Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return errno_error("tree.usage", "open", path);
  std::unordered_set<InodeKey, InodeHash> seen;
  BERTH_TRY(add_usage(std::move(fd), path, &usage, &seen, 0));
  return usage;
}

Result<std::optional<std::string>> read_in_root(FdRef root, const std::string& path, uint64_t limit) {
  constexpr std::string_view kStep = "root.read";
  // First a handle that opens nothing: opening a device or a pipe may have effects.
  Fd handle(open_in_root(root.get(), path.c_str(), O_PATH));
  if (!handle.valid()) {
    if (errno == ENOENT || errno == ENOTDIR) return std::optional<std::string>();
    return errno_error(kStep, "openat2", path);
  }
  struct stat status = {};
  if (::fstat(handle.get(), &status) != 0) return errno_error(kStep, "fstat", path);
  if (!S_ISREG(status.st_mode)) return make_error(ENOTSUP, kStep, "fstat", path, "not a regular file");
  if (static_cast<uint64_t>(status.st_size) > limit) return make_error(EFBIG, kStep, "fstat", path);
  char link[40];
  std::snprintf(link, sizeof(link), "/proc/self/fd/%d", handle.get());
  Fd file(::open(link, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!file.valid()) return errno_error(kStep, "open", path);
  BERTH_ASSIGN(std::string text, read_all(file.ref(), limit, kStep, path));
  return std::optional<std::string>(std::move(text));
}

Result<Fd> open_log(const std::string& path) {
  constexpr std::string_view kStep = "log.open";
  std::string name;
  std::string parent_path;
  if (!split_path(path, &parent_path, &name)) return make_error(EINVAL, kStep, "open", path);
  BERTH_ASSIGN(Fd parent, make_directories(parent_path, 0755));
  Fd file(::openat(parent.get(), name.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0640));
  if (!file.valid()) return errno_error(kStep, "openat", path);
  struct stat status = {};
  if (::fstat(file.get(), &status) != 0) return errno_error(kStep, "fstat", path);
  if (!S_ISREG(status.st_mode)) return make_error(ENOTSUP, kStep, "fstat", path, "not a regular file");
  return file;
}

Result<void> sync_filesystem(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid()) return errno_error("filesystem.sync", "open", path);
  if (::syncfs(fd.get()) != 0) return errno_error("filesystem.sync", "syncfs", path);
  return {};
}

std::vector<MountInfo> parse_mountinfo(std::string_view text) {
  std::vector<MountInfo> mounts;
  for_each_line(text, [&mounts](std::string_view line) {
    MountInfo mount;
    if (!parse_u64(next_word(&line), &mount.id) || !parse_u64(next_word(&line), &mount.parent_id)) return;
    mount.device = next_word(&line);
    mount.root = unescape_octal(next_word(&line));
    mount.mount_point = unescape_octal(next_word(&line));
    next_word(&line);  // options of the mount
    for (;;) {
      const std::string_view tag = next_word(&line);
      if (tag.empty()) return;
      if (tag == "-") break;
      if (tag.starts_with("shared:")) mount.shared = true;
    }
    mount.type = unescape_octal(next_word(&line));
    mount.source = unescape_octal(next_word(&line));
    mount.super_options = next_word(&line);
    mounts.push_back(std::move(mount));
  });
  return mounts;
}

Result<std::vector<MountInfo>> list_mounts() {
  BERTH_ASSIGN(std::string text, read_file(AT_FDCWD, "/proc/self/mountinfo", "mounts.list"));
  return parse_mountinfo(text);
}

Result<FilesystemUsage> filesystem_usage(const std::string& path) {
  constexpr std::string_view kStep = "filesystem.usage";
  Fd fd(::open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!fd.valid()) return errno_error(kStep, "open", path);
  struct statfs numbers = {};
  if (::fstatfs(fd.get(), &numbers) != 0) return errno_error(kStep, "fstatfs", path);
  struct statx status = {};
  if (::statx(fd.get(), "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_MNT_ID, &status) != 0) return errno_error(kStep, "statx", path);
  FilesystemUsage usage;
  const auto block = static_cast<uint64_t>(numbers.f_frsize > 0 ? numbers.f_frsize : numbers.f_bsize);
  usage.total_bytes = numbers.f_blocks * block;
  usage.free_bytes = numbers.f_bavail * block;
  usage.total_inodes = numbers.f_files;
  usage.free_inodes = numbers.f_ffree;
  usage.device = std::to_string(status.stx_dev_major) + ":" + std::to_string(status.stx_dev_minor);
  BERTH_ASSIGN(std::vector<MountInfo> mounts, list_mounts());
  for (const MountInfo& mount : mounts) {
    if ((status.stx_mask & STATX_MNT_ID) != 0 ? mount.id != status.stx_mnt_id : mount.device != usage.device) continue;
    usage.mount_point = mount.mount_point;
    usage.type = mount.type;
  }
  return usage;
}

}  // namespace berth::sys
