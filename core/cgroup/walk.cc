#include "core/cgroup/walk.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "core/sys/file_text.h"

namespace berth::cgroup {
namespace {

// Far past what the kernel's cgroup.max.depth users have; it bounds the stack.
constexpr int kMaxDepth = 128;

Result<void> collect_below(FdRef directory, std::vector<pid_t>* pids, int depth) {
  Result<std::string> text = sys::read_file(directory.get(), "cgroup.procs", "cgroup.processes");
  if (!text.ok()) {
    const int error_number = text.error().error_number;
    if (error_number == ENOENT || error_number == ENODEV) return {};
    // A threaded v2 cgroup has no list of processes of its own: they are listed by its domain.
    if (error_number == EOPNOTSUPP) return {};
    return std::move(text).error();
  }
  sys::for_each_line(*text, [pids](std::string_view line) {
    uint64_t pid = 0;
    // 0: a process of a pid namespace that is not visible from here.
    if (sys::parse_u64(line, &pid) && pid != 0) pids->push_back(static_cast<pid_t>(pid));
  });
  if (depth >= kMaxDepth || !has_subgroups(directory)) return {};
  for (const std::string& name : list_names(directory, DT_DIR)) {
    Fd child(::openat(directory.get(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (child.valid()) BERTH_TRY(collect_below(child.ref(), pids, depth + 1));
  }
  return {};
}

int remove_below(FdRef parent, const char* name, int depth) {
  if (::unlinkat(parent.get(), name, AT_REMOVEDIR) == 0 || errno == ENOENT) return 0;
  if (errno != EBUSY && errno != ENOTEMPTY) return errno;
  const int first = errno;
  Fd directory(::openat(parent.get(), name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!directory.valid()) return errno == ENOENT ? 0 : errno;
  if (depth >= kMaxDepth || !has_subgroups(directory.ref())) return first;
  for (const std::string& child : list_names(directory.ref(), DT_DIR)) {
    const int result = remove_below(directory.ref(), child.c_str(), depth + 1);
    if (result != 0) return result;
  }
  if (::unlinkat(parent.get(), name, AT_REMOVEDIR) == 0 || errno == ENOENT) return 0;
  return errno;
}

}  // namespace

std::vector<std::string> list_names(FdRef directory, unsigned char type) {
  std::vector<std::string> names;
  const int fd = ::openat(directory.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return names;
  DIR* dir = ::fdopendir(fd);
  if (dir == nullptr) {
    ::close(fd);
    return names;
  }
  while (const dirent* entry = ::readdir(dir)) {
    const std::string_view name = entry->d_name;
    if (entry->d_type == type && name != "." && name != "..") names.emplace_back(name);
  }
  ::closedir(dir);
  return names;
}

bool has_subgroups(FdRef directory) {
  struct stat status = {};
  return ::fstat(directory.get(), &status) == 0 && status.st_nlink > 2;
}

Result<void> collect_pids(FdRef directory, std::vector<pid_t>* pids) { return collect_below(directory, pids, 0); }

std::optional<uint64_t> count_processes(FdRef directory) {
  std::vector<pid_t> pids;
  if (!collect_pids(directory, &pids).ok()) return std::nullopt;
  return pids.size();
}

int remove_subtree(FdRef parent, const char* name) { return remove_below(parent, name, 0); }

}  // namespace berth::cgroup
