#include "core/cgroup/cgroup.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>

#include "core/cgroup/walk.h"
#include "core/cgroup/writer.h"
#include "core/sys/file_text.h"
#include "core/sys/pidfd.h"

namespace berth::cgroup {
namespace {

uint64_t monotonic_ms() {
  struct timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1000000;
}

void sleep_us(uint64_t microseconds) {
  struct timespec duration = {static_cast<time_t>(microseconds / 1000000), static_cast<long>(microseconds % 1000000 * 1000)};
  ::nanosleep(&duration, nullptr);
}

// Waits that grow from a quarter of a millisecond to 16.
class Backoff {
 public:
  void wait() {
    sleep_us(next_us_);
    if (next_us_ < 16000) next_us_ *= 2;
  }

 private:
  uint64_t next_us_ = 250;
};

// The path below a hierarchy's root.
const char* relative(const std::string& path) { return path.c_str() + 1; }

std::string full_name(const Hierarchy& hierarchy, const std::string& path) { return hierarchy.mount + path; }

Fd open_directory(int parent, const char* name) { return Fd(::openat(parent, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)); }

// A v1 cpuset starts without cpus and memory nodes, and nothing can run in it: it gets its parent's.
Result<void> inherit_cpuset(FdRef parent, FdRef child, const std::string& name) {
  constexpr std::string_view kStep = "cgroup.create";
  for (const char* file : {"cpuset.cpus", "cpuset.mems"}) {
    BERTH_ASSIGN(std::string present, sys::read_file(child.get(), file, kStep));
    if (!sys::trim(present).empty()) continue;
    BERTH_ASSIGN(std::string above, sys::read_file(parent.get(), file, kStep));
    Result<void> written = sys::write_file(child.get(), file, sys::trim(above), kStep);
    if (!written.ok()) {
      Error error = std::move(written).error();
      error.path = name + "/" + file;
      return error;
    }
  }
  return {};
}

// Lets a v2 cgroup's children have every controller that it has itself.
Result<void> enable_controllers(FdRef directory, const std::string& name) {
  constexpr std::string_view kStep = "cgroup.create";
  BERTH_ASSIGN(std::string available, sys::read_file(directory.get(), "cgroup.controllers", kStep));
  BERTH_ASSIGN(std::string enabled, sys::read_file(directory.get(), "cgroup.subtree_control", kStep));
  const auto is_enabled = [&enabled](std::string_view controller) {
    std::string_view rest = sys::trim(enabled);
    for (;;) {
      const std::string_view word = sys::next_word(&rest);
      if (word.empty()) return false;
      if (word == controller) return true;
    }
  };
  std::vector<std::string> missing;
  std::string line;
  std::string_view rest = sys::trim(available);
  for (;;) {
    const std::string_view controller = sys::next_word(&rest);
    if (controller.empty()) break;
    if (is_enabled(controller)) continue;
    missing.push_back("+" + std::string(controller));
    line += (line.empty() ? "" : " ") + missing.back();
  }
  if (missing.empty() || sys::write_file(directory.get(), "cgroup.subtree_control", line, kStep).ok()) return {};
  // One of them is refused (cpu while realtime threads run, say): the others are enabled without it, and what needs it
  // fails by the name of its file. Only when every one is refused, the cgroup as a whole is the reason.
  size_t refused = 0;
  Result<void> last;
  for (const std::string& one : missing) {
    Result<void> written = sys::write_file(directory.get(), "cgroup.subtree_control", one, kStep);
    if (written.ok()) continue;
    ++refused;
    last = std::move(written);
  }
  if (refused < missing.size()) return {};
  Error error = std::move(last).error();
  error.path = name + "/cgroup.subtree_control";
  if (error.error_number == EBUSY) error.detail += ", the cgroup has processes of its own";
  return error;
}

// What one create has made, to be taken back unless it succeeds: directories by hierarchy and path, outermost first.
class MadeDirectories {
 public:
  ~MadeDirectories() {
    for (auto entry = made_.rbegin(); entry != made_.rend(); ++entry) ::unlinkat(entry->root, entry->path.c_str(), AT_REMOVEDIR);
  }
  void add(int root, std::string path) { made_.push_back({root, std::move(path)}); }
  void keep() { made_.clear(); }

 private:
  struct Entry {
    int root;
    std::string path;
  };
  std::vector<Entry> made_;
};

// Makes `path` and its parents in one hierarchy; `*existed` tells about the leaf. ENOENT where a parent is removed meanwhile.
Result<Fd> make_once(const Layout& layout, const Hierarchy& hierarchy, const std::string& path, MadeDirectories* made, bool* existed) {
  constexpr std::string_view kStep = "cgroup.create";
  const bool cpuset = !layout.v2() && hierarchy.has("cpuset");
  // The common case: the parents are there. On v2 they must hand their controllers down, which is looked at on the way.
  if (!layout.v2() && !cpuset) {
    if (::mkdirat(hierarchy.root.get(), relative(path), 0755) == 0) {
      made->add(hierarchy.root.get(), relative(path));
      *existed = false;
    } else if (errno == EEXIST) {
      *existed = true;
    } else if (errno != ENOENT) {
      return errno_error(kStep, "mkdirat", full_name(hierarchy, path));
    }
    Fd leaf = open_directory(hierarchy.root.get(), relative(path));
    if (leaf.valid()) return leaf;
  }
  Fd level = open_directory(hierarchy.root.get(), ".");
  if (!level.valid()) return errno_error(kStep, "openat", hierarchy.mount);
  size_t end = 0;
  while (end < path.size()) {
    const size_t begin = end + 1;
    end = std::min(path.find('/', begin), path.size());
    const std::string name = path.substr(begin, end - begin);
    const std::string so_far = path.substr(0, end);
    if (layout.v2()) BERTH_TRY(enable_controllers(level.ref(), full_name(hierarchy, path.substr(0, begin - 1))));
    const bool fresh = ::mkdirat(level.get(), name.c_str(), 0755) == 0;
    if (!fresh && errno != EEXIST) return errno_error(kStep, "mkdirat", full_name(hierarchy, so_far));
    if (fresh) made->add(hierarchy.root.get(), relative(so_far));
    if (end == path.size()) *existed = !fresh;
    Fd next = open_directory(level.get(), name.c_str());
    if (!next.valid()) return errno_error(kStep, "openat", full_name(hierarchy, so_far));
    if (cpuset) BERTH_TRY(inherit_cpuset(level.ref(), next.ref(), full_name(hierarchy, so_far)));
    level = std::move(next);
  }
  return level;
}

// Somebody else may be removing the very parents that this call found empty: they are made again.
Result<Fd> make_in(const Layout& layout, const Hierarchy& hierarchy, const std::string& path, MadeDirectories* made, bool* existed) {
  for (int attempt = 0;; ++attempt) {
    Result<Fd> directory = make_once(layout, hierarchy, path, made, existed);
    if (directory.ok() || attempt == 8) return directory;
    const int error_number = directory.error().error_number;
    if (error_number != ENOENT && error_number != ENODEV) return directory;
  }
}

// Whether the calling process is in the cgroup or below it, in any hierarchy.
bool contains_caller(const Layout& layout, const std::string& path) {
  Result<std::string> text = sys::read_file(AT_FDCWD, "/proc/self/cgroup", "cgroup.kill");
  if (!text.ok()) return false;
  bool inside = false;
  sys::for_each_line(*text, [&](std::string_view line) {
    // "4:memory:/path"; the v2 line is "0::/path".
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string_view::npos || second == std::string_view::npos) return;
    const bool unified = second == first + 1;
    if (unified != layout.v2()) return;
    const std::string_view own = line.substr(second + 1);
    if (own == path || (own.starts_with(path) && own.size() > path.size() && own[path.size()] == '/')) inside = true;
  });
  return inside;
}

Result<void> write_named(FdRef directory, const char* file, std::string_view value, std::string_view step, const std::string& name) {
  Result<void> written = sys::write_file(directory.get(), file, value, step);
  if (written.ok()) return written;
  Error error = std::move(written).error();
  error.path = name + "/" + file;
  return error;
}

bool is_gone(const Error& error) { return error.error_number == ENOENT || error.error_number == ENODEV; }

// SIGKILL to each; true when one of them was there.
bool kill_pids(const std::vector<pid_t>& pids) {
  bool any = false;
  for (const pid_t pid : pids) {
    if (pid == ::getpid()) continue;
    // The list is fresh and the cgroup frozen, or the caller loops: the pid is not looked up a second time.
    if (::kill(pid, SIGKILL) == 0) any = true;
  }
  return any;
}

// Waits for v1's freezer.state, or for "frozen" in v2's cgroup.events.
Result<bool> is_frozen(const Layout& layout, FdRef directory, bool frozen) {
  constexpr std::string_view kStep = "cgroup.freeze";
  if (layout.v2()) {
    BERTH_ASSIGN(std::string text, sys::read_file(directory.get(), "cgroup.events", kStep));
    return text.find(frozen ? "frozen 1" : "frozen 0") != std::string::npos;
  }
  BERTH_ASSIGN(std::string text, sys::read_file(directory.get(), "freezer.state", kStep));
  return sys::trim(text) == (frozen ? "FROZEN" : "THAWED");
}

Result<void> freeze_until(const Layout& layout, FdRef directory, const std::string& name, bool frozen, uint64_t timeout_ms) {
  constexpr std::string_view kStep = "cgroup.freeze";
  const char* file = layout.v2() ? "cgroup.freeze" : "freezer.state";
  const char* value = layout.v2() ? (frozen ? "1" : "0") : (frozen ? "FROZEN" : "THAWED");
  const uint64_t deadline = monotonic_ms() + timeout_ms;
  Backoff backoff;
  for (;;) {
    // v1 has to be told again: a process that is forked or wakes meanwhile leaves it at FREEZING.
    BERTH_TRY(write_named(directory, file, value, kStep, name));
    BERTH_ASSIGN(const bool done, is_frozen(layout, directory, frozen));
    if (done) return {};
    if (monotonic_ms() >= deadline) return make_error(ETIMEDOUT, kStep, "write", name + "/" + file);
    backoff.wait();
  }
}

// Kills by signal alone until nobody is left or `rounds` are over: what forks meanwhile is met in the next round.
Result<void> kill_in_rounds(const Layout& layout, const std::string& path, int rounds) {
  Backoff backoff;
  for (int round = 0; round < rounds; ++round) {
    BERTH_ASSIGN(const std::vector<pid_t> pids, processes(layout, path));
    if (pids.empty() || !kill_pids(pids)) return {};
    backoff.wait();
  }
  return {};
}

Result<void> kill_v2(const Layout& layout, const std::string& path) {
  constexpr std::string_view kStep = "cgroup.kill";
  const Hierarchy& hierarchy = layout.hierarchies[0];
  Fd directory = open_directory(hierarchy.root.get(), relative(path));
  if (!directory.valid()) {
    if (errno == ENOENT) return {};
    return errno_error(kStep, "openat", full_name(hierarchy, path));
  }
  Result<void> killed = write_named(directory.ref(), "cgroup.kill", "1", kStep, full_name(hierarchy, path));
  if (killed.ok() || !is_gone(killed.error())) return killed;
  // Before 5.14 there is no cgroup.kill: frozen, nobody forks away.
  const std::string name = full_name(hierarchy, path);
  const bool frozen = freeze_until(layout, directory.ref(), name, true, 500).ok();
  Result<void> result = kill_in_rounds(layout, path, frozen ? 1 : 20);
  static_cast<void>(write_named(directory.ref(), "cgroup.freeze", "0", kStep, name));
  return result;
}

// Thaws a v1 cgroup and every sub-group that is frozen by itself: a frozen process does not die of SIGKILL.
Result<void> thaw_below(FdRef directory, const std::string& name, int depth) {
  Result<void> thawed = write_named(directory, "freezer.state", "THAWED", "cgroup.kill", name);
  if (!thawed.ok() && !is_gone(thawed.error())) return thawed;
  if (depth >= 64 || !has_subgroups(directory)) return {};
  for (const std::string& child : list_names(directory, DT_DIR)) {
    Fd inner = open_directory(directory.get(), child.c_str());
    if (inner.valid()) BERTH_TRY(thaw_below(inner.ref(), name + "/" + child, depth + 1));
  }
  return {};
}

Result<void> kill_v1(const Layout& layout, const std::string& path) {
  for (const Hierarchy& hierarchy : layout.hierarchies) {
    if (!hierarchy.has("freezer")) continue;
    Fd directory = open_directory(hierarchy.root.get(), relative(path));
    if (!directory.valid()) break;
    std::vector<pid_t> pids;
    BERTH_TRY(collect_pids(directory.ref(), &pids));
    if (pids.empty()) break;
    const std::string name = full_name(hierarchy, path);
    // A process in uninterruptible sleep cannot be frozen; it cannot fork either.
    static_cast<void>(freeze_until(layout, directory.ref(), name, true, 100));
    pids.clear();
    Result<void> listed = collect_pids(directory.ref(), &pids);
    if (listed.ok()) kill_pids(pids);
    BERTH_TRY(thaw_below(directory.ref(), name, 0));
    BERTH_TRY(std::move(listed));
    break;
  }
  // Whatever is in another hierarchy but not in the freezer's: a process that was stopped between two attachments.
  return kill_in_rounds(layout, path, 3);
}

}  // namespace

Result<void> check_path(const std::string& path) {
  static constexpr std::string_view kStep = "cgroup.path";
  const auto refuse = [&path](std::string_view why) { return make_error(EINVAL, kStep, "parse", path, why); };
  if (path.empty() || path[0] != '/') return refuse("not absolute");
  if (path.size() == 1) return refuse("the root of the hierarchy");
  if (path.size() > 3500 || path.find('\0') != std::string::npos || path.find('\n') != std::string::npos) return refuse("not a cgroup path");
  size_t end = 0;
  while (end < path.size()) {
    const size_t begin = end + 1;
    end = std::min(path.find('/', begin), path.size());
    const std::string_view name = std::string_view(path).substr(begin, end - begin);
    if (name.empty() || name == "." || name == ".." || name.size() > 255) return refuse("has an empty, relative or over-long component");
  }
  return {};
}

Result<std::unique_ptr<Cgroup>> Cgroup::create(const Layout& layout, const std::string& path, const Resources* resources, bool adopt) {
  BERTH_TRY(check_path(path));
  std::unique_ptr<Cgroup> cgroup(new Cgroup(layout, path));
  MadeDirectories made;
  for (const Hierarchy& hierarchy : layout.hierarchies) {
    bool existed = false;
    Result<Fd> directory = make_in(layout, hierarchy, path, &made, &existed);
    if (!directory.ok()) return std::move(directory).error();
    if (existed && !adopt) return make_error(EEXIST, "cgroup.create", "mkdirat", full_name(hierarchy, path));
    cgroup->directories_.push_back(std::move(directory).value());
  }
  if (resources != nullptr) BERTH_TRY(cgroup->apply(*resources));
  made.keep();
  return cgroup;
}

Result<std::unique_ptr<Cgroup>> Cgroup::open(const Layout& layout, const std::string& path) {
  BERTH_TRY(check_path(path));
  std::unique_ptr<Cgroup> cgroup(new Cgroup(layout, path));
  bool any = false;
  for (const Hierarchy& hierarchy : layout.hierarchies) {
    Fd directory = open_directory(hierarchy.root.get(), relative(path));
    if (!directory.valid() && errno != ENOENT) return errno_error("cgroup.open", "openat", full_name(hierarchy, path));
    any = any || directory.valid();
    cgroup->directories_.push_back(std::move(directory));
  }
  if (!any) return make_error(ENOENT, "cgroup.open", "openat", path);
  return cgroup;
}

Result<void> Cgroup::apply(const Resources& resources) {
  const Target target{layout_, path_, directories_};
  return layout_.v2() ? write_v2(target, resources) : write_v1(target, resources);
}

Result<AttachFds> Cgroup::open_attach() const {
  constexpr std::string_view kStep = "cgroup.attach";
  AttachFds out;
  if (layout_.v2()) {
    out.v2_directory.reset(::openat(directories_[0].get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!out.v2_directory.valid()) return errno_error(kStep, "openat", full_name(layout_.hierarchies[0], path_));
    return out;
  }
  for (size_t i = 0; i < directories_.size(); ++i) {
    if (!directories_[i].valid()) continue;
    Fd tasks(::openat(directories_[i].get(), "tasks", O_WRONLY | O_CLOEXEC));
    if (!tasks.valid()) return errno_error(kStep, "openat", full_name(layout_.hierarchies[i], path_) + "/tasks");
    out.v1_tasks.push_back(std::move(tasks));
  }
  return out;
}

Result<std::optional<OomFile>> Cgroup::open_oom_file() const {
  const Target target{layout_, path_, directories_};
  const int hierarchy = target.find("memory");
  const char* name = layout_.v2() ? "memory.events" : "memory.oom_control";
  if (hierarchy < 0) return std::optional<OomFile>();
  Fd file(::openat(directories_[static_cast<size_t>(hierarchy)].get(), name, O_RDONLY | O_CLOEXEC));
  if (!file.valid()) {
    if (errno == ENOENT && layout_.v2()) return std::optional<OomFile>();
    return errno_error("cgroup.events", "openat", target.name(hierarchy, name));
  }
  return std::optional<OomFile>(OomFile{std::move(file), layout_.v2()});
}

std::optional<Stats> Cgroup::stats() {
  const std::lock_guard<std::mutex> lock(stats_mutex_);
  return stats_files_.read(layout_, directories_);
}

Result<std::vector<pid_t>> processes(const Layout& layout, const std::string& path) {
  BERTH_TRY(check_path(path));
  std::vector<pid_t> pids;
  for (const Hierarchy& hierarchy : layout.hierarchies) {
    Fd directory = open_directory(hierarchy.root.get(), relative(path));
    if (!directory.valid()) {
      if (errno == ENOENT) continue;
      return errno_error("cgroup.processes", "openat", full_name(hierarchy, path));
    }
    BERTH_TRY(collect_pids(directory.ref(), &pids));
  }
  std::sort(pids.begin(), pids.end());
  pids.erase(std::unique(pids.begin(), pids.end()), pids.end());
  return pids;
}

Result<void> kill(const Layout& layout, const std::string& path) {
  BERTH_TRY(check_path(path));
  if (contains_caller(layout, path)) return make_error(EPERM, "cgroup.kill", "kill", path, "the daemon itself is in it");
  return layout.v2() ? kill_v2(layout, path) : kill_v1(layout, path);
}

Result<void> set_frozen(const Layout& layout, const std::string& path, bool frozen) {
  constexpr std::string_view kStep = "cgroup.freeze";
  BERTH_TRY(check_path(path));
  if (frozen && contains_caller(layout, path)) return make_error(EPERM, kStep, "write", path, "the daemon itself is in it");
  for (const Hierarchy& hierarchy : layout.hierarchies) {
    if (!layout.v2() && !hierarchy.has("freezer")) continue;
    const std::string name = full_name(hierarchy, path);
    Fd directory = open_directory(hierarchy.root.get(), relative(path));
    if (!directory.valid()) return errno_error(kStep, "openat", name);
    Result<void> done = freeze_until(layout, directory.ref(), name, frozen, 10000);
    if (!done.ok() && frozen) {
      static_cast<void>(write_named(directory.ref(), layout.v2() ? "cgroup.freeze" : "freezer.state", layout.v2() ? "0" : "THAWED", kStep, name));
    }
    return done;
  }
  return make_error(ENOTSUP, kStep, "write", path, "this host has no freezer");
}

Result<void> remove(const Layout& layout, const std::string& path, uint64_t timeout_ms) {
  constexpr std::string_view kStep = "cgroup.remove";
  BERTH_TRY(check_path(path));
  const uint64_t deadline = monotonic_ms() + timeout_ms;
  Backoff backoff;
  for (unsigned round = 0;; ++round) {
    int last = 0;
    std::string blamed;
    for (const Hierarchy& hierarchy : layout.hierarchies) {
      const int result = remove_subtree(hierarchy.root.ref(), relative(path));
      if (result == 0) continue;
      if (result != EBUSY && result != ENOTEMPTY) return make_error(result, kStep, "rmdir", full_name(hierarchy, path));
      last = result;
      blamed = full_name(hierarchy, path);
    }
    if (last == 0) return {};
    // Only a cgroup that somebody is in has to be killed; again, ever more seldom, for what was put in meanwhile.
    if ((round & (round - 1)) == 0) BERTH_TRY(kill(layout, path));
    if (monotonic_ms() >= deadline) {
      Error error = make_error(EBUSY, kStep, "rmdir", blamed);
      Result<std::vector<pid_t>> left = processes(layout, path);
      if (left.ok() && !left->empty()) error.detail = "still in it: process " + std::to_string(left->front());
      return error;
    }
    backoff.wait();
  }
}

Result<bool> remove_empty(const Layout& layout, const std::string& path) {
  BERTH_TRY(check_path(path));
  bool gone = true;
  for (const Hierarchy& hierarchy : layout.hierarchies) {
    if (::unlinkat(hierarchy.root.get(), relative(path), AT_REMOVEDIR) == 0 || errno == ENOENT) continue;
    // A process or a sub-group is in it: the kernel says EBUSY for either.
    if (errno != EBUSY && errno != ENOTEMPTY) return errno_error("cgroup.remove", "rmdir", full_name(hierarchy, path));
    gone = false;
  }
  return gone;
}

Result<std::vector<std::string>> children(const Layout& layout, const std::string& path) {
  if (path != "/") BERTH_TRY(check_path(path));
  std::vector<std::string> names;
  for (const Hierarchy& hierarchy : layout.hierarchies) {
    Fd directory = open_directory(hierarchy.root.get(), path == "/" ? "." : relative(path));
    if (!directory.valid()) {
      if (errno == ENOENT) continue;
      return errno_error("cgroup.list", "openat", full_name(hierarchy, path));
    }
    for (std::string& name : list_names(directory.ref(), DT_DIR)) names.push_back(std::move(name));
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

}  // namespace berth::cgroup
