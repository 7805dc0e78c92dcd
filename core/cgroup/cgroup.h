// One cgroup: the directories of one path in every hierarchy. v2, v1 and hybrid look the same from here.
//
// Paths are absolute below each hierarchy's mount ("/kubepods/pod…/<id>"). Every function may block; a Cgroup may be
// used by several threads at once. Errors name the file and what was written into it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/cgroup/layout.h"
#include "core/cgroup/resources.h"
#include "core/cgroup/stats.h"

namespace berth::cgroup {

// What a process is put into the cgroup with, by the process itself (v1) or by clone3 (v2).
struct AttachFds {
  Fd v2_directory;
  std::vector<Fd> v1_tasks;  // `tasks` of each hierarchy, open for writing, cpuset first
};

// The file that counts OOM kills.
struct OomFile {
  Fd file;
  bool v2 = false;
};

class Cgroup {
 public:
  // Makes the cgroup and what is missing above it; an existing one is EEXIST unless `adopt`. On failure nothing that
  // this call has made is left. `layout` must outlive the cgroup.
  static Result<std::unique_ptr<Cgroup>> create(const Layout& layout, const std::string& path, const Resources* resources, bool adopt);
  // ENOENT where no hierarchy has it.
  static Result<std::unique_ptr<Cgroup>> open(const Layout& layout, const std::string& path);

  [[nodiscard]] const std::string& path() const { return path_; }

  // Writes limits; what is absent stays as it is. Not atomic: a failure leaves what was written before.
  Result<void> apply(const Resources& resources);

  Result<AttachFds> open_attach() const;
  // nullopt where there is no memory controller.
  Result<std::optional<OomFile>> open_oom_file() const;

  // nullopt where the cgroup is gone. Descriptors are kept open between calls.
  std::optional<Stats> stats();

 private:
  Cgroup(const Layout& layout, std::string path) : layout_(layout), path_(std::move(path)) {}

  const Layout& layout_;
  std::string path_;
  // By index of the hierarchy; invalid where that one does not have it.
  std::vector<Fd> directories_;
  std::mutex stats_mutex_;
  StatsFiles stats_files_;
};

// EINVAL unless absolute, below the root, without "." and ".." and empty components.
Result<void> check_path(const std::string& path);

// Pids in the cgroup and its sub-groups, of all hierarchies, ascending. Absent is an empty list.
Result<std::vector<pid_t>> processes(const Layout& layout, const std::string& path);

// SIGKILL to every process in it and below: cgroup.kill, or freeze, kill, thaw. Absent is success. EPERM where the
// caller itself is in it.
Result<void> kill(const Layout& layout, const std::string& path);

// Freezes or thaws and waits until the kernel says so, at most 10 s (ETIMEDOUT; a failed freeze is thawed again).
Result<void> set_frozen(const Layout& layout, const std::string& path, bool frozen);

// Kills what is left and removes the cgroup with its sub-groups from every hierarchy; EBUSY is tried again for
// `timeout_ms`. Absent is success.
Result<void> remove(const Layout& layout, const std::string& path, uint64_t timeout_ms);

// Removes it where nobody and nothing is in it, and kills nobody; false where it is in use. Absent is true.
Result<bool> remove_empty(const Layout& layout, const std::string& path);

// Names of direct children in any hierarchy, sorted. Absent is an empty list; "/" is allowed.
Result<std::vector<std::string>> children(const Layout& layout, const std::string& path);

}  // namespace berth::cgroup
