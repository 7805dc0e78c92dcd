#include "core/cgroup/stats.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "core/cgroup/walk.h"
#include "core/sys/file_text.h"

namespace berth::cgroup {
namespace {

using sys::for_each_line;
using sys::next_word;
using sys::parse_u64;

// "No limit" of v1 is a page-aligned LONG_MAX.
constexpr uint64_t kV1Unlimited = 0x7ffffffffff00000ULL;

// Descriptors that all StatsFiles keep open together.
std::atomic<int> g_open_files{0};

// At most a quarter of what the process may have open.
int open_files_budget() {
  struct rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 256;
  const rlim_t quarter = limit.rlim_cur / 4;
  return quarter > 1000000 ? 1000000 : static_cast<int>(quarter);
}

std::optional<uint64_t> single(std::string_view text) {
  uint64_t value = 0;
  if (!parse_u64(text, &value)) return std::nullopt;
  return value;
}

// A limit: absent for "max".
std::optional<uint64_t> v1_limit(std::string_view text) {
  const std::optional<uint64_t> value = single(text);
  return value.has_value() && *value < kV1Unlimited ? value : std::nullopt;
}

// Calls visit(key, value) for "key value" lines.
template <typename Visit>
void for_each_pair(std::string_view text, Visit visit) {
  for_each_line(text, [&visit](std::string_view line) {
    const std::string_view key = next_word(&line);
    uint64_t value = 0;
    if (parse_u64(line, &value)) visit(key, value);
  });
}

std::optional<uint64_t> scaled(std::optional<uint64_t> value, uint64_t factor) {
  if (!value.has_value()) return value;
  return *value * factor;
}

// "some avg10=0.00 avg60=0.00 avg300=0.00 total=0"
PsiLine parse_psi_line(std::string_view line) {
  PsiLine out;
  for (;;) {
    const std::string_view word = next_word(&line);
    if (word.empty()) return out;
    const size_t equal = word.find('=');
    if (equal == std::string_view::npos) continue;
    const std::string_view key = word.substr(0, equal);
    const std::string value(word.substr(equal + 1));
    if (key == "avg10") out.avg10 = std::strtod(value.c_str(), nullptr);
    else if (key == "avg60") out.avg60 = std::strtod(value.c_str(), nullptr);
    else if (key == "avg300") out.avg300 = std::strtod(value.c_str(), nullptr);
    else if (key == "total") parse_u64(value, &out.total_us);
  }
}

std::optional<Psi> parse_psi(std::string_view text) {
  std::optional<Psi> psi;
  for_each_line(text, [&psi](std::string_view line) {
    const std::string_view kind = next_word(&line);
    if (kind != "some" && kind != "full") return;
    if (!psi.has_value()) psi.emplace();
    if (kind == "some") psi->some = parse_psi_line(line);
    else psi->full = parse_psi_line(line);
  });
  return psi;
}

IoStats* io_entry(Stats* stats, std::string_view device) {
  for (IoStats& entry : stats->io) {
    if (entry.device == device) return &entry;
  }
  stats->io.push_back(IoStats{std::string(device), 0, 0, 0, 0});
  return &stats->io.back();
}

// v2: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6"
void parse_io_stat(std::string_view text, Stats* stats) {
  for_each_line(text, [stats](std::string_view line) {
    const std::string_view device = next_word(&line);
    if (device.find(':') == std::string_view::npos) return;
    IoStats* entry = nullptr;
    for (;;) {
      const std::string_view word = next_word(&line);
      if (word.empty()) return;
      const size_t equal = word.find('=');
      uint64_t value = 0;
      if (equal == std::string_view::npos || !parse_u64(word.substr(equal + 1), &value)) continue;
      if (entry == nullptr) entry = io_entry(stats, device);
      const std::string_view key = word.substr(0, equal);
      if (key == "rbytes") entry->read_bytes = value;
      else if (key == "wbytes") entry->write_bytes = value;
      else if (key == "rios") entry->reads = value;
      else if (key == "wios") entry->writes = value;
    }
  });
}

// v1: "8:0 Read 123"
void parse_blkio(std::string_view text, bool bytes, Stats* stats) {
  for_each_line(text, [stats, bytes](std::string_view line) {
    const std::string_view device = next_word(&line);
    const std::string_view kind = next_word(&line);
    uint64_t value = 0;
    if (device.find(':') == std::string_view::npos || !parse_u64(line, &value)) return;
    if (kind == "Read") (bytes ? io_entry(stats, device)->read_bytes : io_entry(stats, device)->reads) = value;
    else if (kind == "Write") (bytes ? io_entry(stats, device)->write_bytes : io_entry(stats, device)->writes) = value;
  });
}

void set_working_set(Stats* stats, std::optional<uint64_t> inactive_file) {
  if (!stats->memory_usage.has_value()) return;
  const uint64_t inactive = inactive_file.value_or(0);
  stats->memory_working_set = *stats->memory_usage > inactive ? *stats->memory_usage - inactive : 0;
}

}  // namespace

StatsFiles::~StatsFiles() {
  int open = 0;
  for (const File& file : files_) open += file.fd.valid() ? 1 : 0;
  g_open_files -= open;
}

std::string_view StatsFiles::contents(const std::vector<Fd>& directories, size_t index, const char* name) {
  // Names are literals, or page_sizes_' strings kept for the object's life: the pointer identifies the file.
  File* file = nullptr;
  for (File& known : files_) {
    if (known.name == name) file = &known;
  }
  if (file == nullptr) {
    files_.push_back(File{name, Fd(), false});
    file = &files_.back();
  }
  if (file->absent) return {};
  const bool opened = !file->fd.valid();
  if (opened) {
    file->fd.reset(::openat(directories[index].get(), name, O_RDONLY | O_CLOEXEC));
    if (!file->fd.valid()) {
      // A controller's files are there from the start or never; in a directory that has been removed is not even this one.
      if (errno == ENOENT || errno == ENODEV) {
        const bool gone = ::faccessat(directories[index].get(), "cgroup.procs", F_OK, 0) != 0;
        (gone ? gone_ : file->absent) = true;
      }
      return {};
    }
  }
  if (buffer_.size() < 8192) buffer_.resize(8192);
  size_t used = 0;
  for (;;) {
    const ssize_t count = ::pread(file->fd.get(), buffer_.data() + used, buffer_.size() - used, static_cast<off_t>(used));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      if (errno == ENODEV) gone_ = true;
      // EOPNOTSUPP: pressure files with psi=0.
      if (errno == EOPNOTSUPP) file->absent = true;
      used = 0;
      break;
    }
    if (count == 0) break;
    used += static_cast<size_t>(count);
    if (used == buffer_.size()) {
      if (used >= (4u << 20)) break;
      buffer_.resize(used * 2);
    } else if (used < 4096) {
      // A kernfs file shorter than a page comes in one piece.
      break;
    }
  }
  if (opened) {
    if (++g_open_files > open_files_budget()) {
      --g_open_files;
      file->fd.reset();
    }
  }
  return std::string_view(buffer_).substr(0, used);
}

void StatsFiles::read_hugetlb(const std::vector<Fd>& directories, size_t index, bool v2, Stats* stats) {
  if (!page_sizes_known_) {
    page_sizes_known_ = true;
    for (const std::string& name : list_names(directories[index].ref(), DT_REG)) {
      const std::string_view suffix = v2 ? ".current" : ".usage_in_bytes";
      if (!name.starts_with("hugetlb.") || !name.ends_with(suffix) || name.find(".rsvd.") != std::string::npos) continue;
      page_sizes_.push_back(name);
      if (!v2) page_sizes_.push_back(name.substr(0, name.size() - suffix.size()) + ".max_usage_in_bytes");
    }
  }
  for (size_t i = 0; i < page_sizes_.size(); i += v2 ? 1 : 2) {
    const std::string& name = page_sizes_[i];
    HugetlbStats entry;
    entry.page_size = name.substr(8, name.find('.', 8) - 8);
    entry.usage_bytes = single(contents(directories, index, name.c_str())).value_or(0);
    if (!v2) entry.max_usage_bytes = single(contents(directories, index, page_sizes_[i + 1].c_str())).value_or(0);
    stats->hugetlb.push_back(std::move(entry));
  }
}

void StatsFiles::read_v2(const std::vector<Fd>& directories, Stats* stats) {
  std::optional<uint64_t> usage_us, user_us, system_us, throttled_us;
  for_each_pair(contents(directories, 0, "cpu.stat"), [&](std::string_view key, uint64_t value) {
    if (key == "usage_usec") usage_us = value;
    else if (key == "user_usec") user_us = value;
    else if (key == "system_usec") system_us = value;
    else if (key == "nr_periods") stats->cpu_periods = value;
    else if (key == "nr_throttled") stats->cpu_throttled_periods = value;
    else if (key == "throttled_usec") throttled_us = value;
  });
  stats->cpu_usage_ns = scaled(usage_us, 1000);
  stats->cpu_user_ns = scaled(user_us, 1000);
  stats->cpu_system_ns = scaled(system_us, 1000);
  stats->cpu_throttled_ns = scaled(throttled_us, 1000);

  std::optional<uint64_t> inactive_file;
  stats->memory_usage = single(contents(directories, 0, "memory.current"));
  for_each_pair(contents(directories, 0, "memory.stat"), [&](std::string_view key, uint64_t value) {
    if (key == "anon") stats->memory_rss = value;
    else if (key == "file") stats->memory_cache = value;
    else if (key == "file_mapped") stats->memory_mapped_file = value;
    else if (key == "kernel") stats->memory_kernel = value;
    else if (key == "inactive_file") inactive_file = value;
    else if (key == "pgfault") stats->memory_page_faults = value;
    else if (key == "pgmajfault") stats->memory_major_page_faults = value;
  });
  set_working_set(stats, inactive_file);
  stats->memory_max_usage = single(contents(directories, 0, "memory.peak"));
  stats->memory_limit = single(contents(directories, 0, "memory.max"));
  for_each_pair(contents(directories, 0, "memory.events"), [&](std::string_view key, uint64_t value) {
    if (key == "max") stats->memory_fail_count = value;
    else if (key == "oom_kill") stats->oom_kills = value;
  });
  stats->swap_usage = single(contents(directories, 0, "memory.swap.current"));
  stats->swap_limit = single(contents(directories, 0, "memory.swap.max"));
  stats->thread_count = single(contents(directories, 0, "pids.current"));
  stats->pids_limit = single(contents(directories, 0, "pids.max"));
  stats->cpu_pressure = parse_psi(contents(directories, 0, "cpu.pressure"));
  stats->memory_pressure = parse_psi(contents(directories, 0, "memory.pressure"));
  stats->io_pressure = parse_psi(contents(directories, 0, "io.pressure"));
  parse_io_stat(contents(directories, 0, "io.stat"), stats);
  read_hugetlb(directories, 0, true, stats);
  stats->process_count = count_processes(directories[0].ref());
}

void StatsFiles::read_v1(const Layout& layout, const std::vector<Fd>& directories, Stats* stats) {
  bool counted = false;
  for (size_t i = 0; i < layout.hierarchies.size(); ++i) {
    if (!directories[i].valid()) continue;
    const Hierarchy& hierarchy = layout.hierarchies[i];
    if (hierarchy.has("cpuacct")) {
      stats->cpu_usage_ns = single(contents(directories, i, "cpuacct.usage"));
      stats->cpu_user_ns = single(contents(directories, i, "cpuacct.usage_user"));
      stats->cpu_system_ns = single(contents(directories, i, "cpuacct.usage_sys"));
    }
    if (hierarchy.has("cpu")) {
      for_each_pair(contents(directories, i, "cpu.stat"), [stats](std::string_view key, uint64_t value) {
        if (key == "nr_periods") stats->cpu_periods = value;
        else if (key == "nr_throttled") stats->cpu_throttled_periods = value;
        else if (key == "throttled_time") stats->cpu_throttled_ns = value;
      });
    }
    if (hierarchy.has("memory")) {
      std::optional<uint64_t> inactive_file;
      stats->memory_usage = single(contents(directories, i, "memory.usage_in_bytes"));
      for_each_pair(contents(directories, i, "memory.stat"), [&](std::string_view key, uint64_t value) {
        if (key == "total_rss") stats->memory_rss = value;
        else if (key == "total_cache") stats->memory_cache = value;
        else if (key == "total_mapped_file") stats->memory_mapped_file = value;
        else if (key == "total_inactive_file") inactive_file = value;
        else if (key == "total_pgfault") stats->memory_page_faults = value;
        else if (key == "total_pgmajfault") stats->memory_major_page_faults = value;
        else if (key == "total_swap") stats->swap_usage = value;
      });
      set_working_set(stats, inactive_file);
      stats->memory_kernel = single(contents(directories, i, "memory.kmem.usage_in_bytes"));
      stats->memory_max_usage = single(contents(directories, i, "memory.max_usage_in_bytes"));
      stats->memory_limit = v1_limit(contents(directories, i, "memory.limit_in_bytes"));
      stats->memory_fail_count = single(contents(directories, i, "memory.failcnt"));
      // memsw is memory plus swap.
      const std::optional<uint64_t> both = v1_limit(contents(directories, i, "memory.memsw.limit_in_bytes"));
      if (both.has_value() && stats->memory_limit.has_value() && *both >= *stats->memory_limit) {
        stats->swap_limit = *both - *stats->memory_limit;
      }
      for_each_pair(contents(directories, i, "memory.oom_control"), [stats](std::string_view key, uint64_t value) {
        if (key == "oom_kill") stats->oom_kills = value;
      });
    }
    if (hierarchy.has("pids")) {
      stats->thread_count = single(contents(directories, i, "pids.current"));
      stats->pids_limit = single(contents(directories, i, "pids.max"));
    }
    if (hierarchy.has("blkio")) {
      parse_blkio(contents(directories, i, "blkio.throttle.io_service_bytes_recursive"), true, stats);
      parse_blkio(contents(directories, i, "blkio.throttle.io_serviced_recursive"), false, stats);
    }
    if (hierarchy.has("hugetlb")) read_hugetlb(directories, i, false, stats);
    if (!counted && (hierarchy.has("pids") || hierarchy.has("memory") || hierarchy.has("cpu"))) {
      counted = true;
      stats->process_count = count_processes(directories[i].ref());
    }
  }
}

std::optional<Stats> StatsFiles::read(const Layout& layout, const std::vector<Fd>& directories) {
  gone_ = false;
  Stats stats;
  struct timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  stats.timestamp_ns = static_cast<uint64_t>(now.tv_sec) * 1000000000ULL + static_cast<uint64_t>(now.tv_nsec);
  if (layout.v2()) read_v2(directories, &stats);
  else read_v1(layout, directories, &stats);
  if (gone_) return std::nullopt;
  return stats;
}

}  // namespace berth::cgroup
