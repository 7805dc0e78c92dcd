// Statistics of a cgroup by pread on descriptors that stay open: 1 µs a file instead of 8.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/cgroup/layout.h"

namespace berth::cgroup {

struct PsiLine {
  uint64_t total_us = 0;
  double avg10 = 0, avg60 = 0, avg300 = 0;
};
struct Psi {
  PsiLine some;
  std::optional<PsiLine> full;
};

struct IoStats {
  std::string device;
  uint64_t read_bytes = 0, write_bytes = 0, reads = 0, writes = 0;
};

struct HugetlbStats {
  std::string page_size;
  uint64_t usage_bytes = 0, max_usage_bytes = 0;
};

// What the kernel has no figure for is absent.
struct Stats {
  uint64_t timestamp_ns = 0;  // CLOCK_REALTIME
  std::optional<uint64_t> cpu_usage_ns, cpu_user_ns, cpu_system_ns;
  std::optional<uint64_t> cpu_periods, cpu_throttled_periods, cpu_throttled_ns;
  std::optional<uint64_t> memory_usage, memory_working_set, memory_rss, memory_cache, memory_mapped_file, memory_kernel;
  std::optional<uint64_t> memory_max_usage, memory_limit, memory_fail_count, memory_page_faults, memory_major_page_faults;
  std::optional<uint64_t> swap_usage, swap_limit, oom_kills;
  std::optional<uint64_t> process_count, thread_count, pids_limit;
  std::optional<Psi> cpu_pressure, memory_pressure, io_pressure;
  std::vector<IoStats> io;
  std::vector<HugetlbStats> hugetlb;
};

// The open files of one cgroup's statistics. Not for several threads at once.
class StatsFiles {
 public:
  StatsFiles() = default;
  StatsFiles(StatsFiles&&) = default;
  StatsFiles& operator=(StatsFiles&&) = default;
  StatsFiles(const StatsFiles&) = delete;
  StatsFiles& operator=(const StatsFiles&) = delete;
  ~StatsFiles();

  // nullopt where the cgroup is gone. `directories` by index of the hierarchy.
  std::optional<Stats> read(const Layout& layout, const std::vector<Fd>& directories);

 private:
  struct File {
    const char* name;
    Fd fd;
    bool absent = false;
  };
  // Contents of a file of hierarchy `index`, valid until the next call; empty where there is no such file.
  std::string_view contents(const std::vector<Fd>& directories, size_t index, const char* name);
  void read_v2(const std::vector<Fd>& directories, Stats* stats);
  void read_v1(const Layout& layout, const std::vector<Fd>& directories, Stats* stats);
  void read_hugetlb(const std::vector<Fd>& directories, size_t index, bool v2, Stats* stats);

  std::vector<File> files_;
  std::vector<std::string> page_sizes_;
  bool page_sizes_known_ = false;
  std::string buffer_;
  bool gone_ = false;
};

}  // namespace berth::cgroup
