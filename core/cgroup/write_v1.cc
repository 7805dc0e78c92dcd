#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "core/cgroup/writer.h"
#include "core/sys/file_text.h"

namespace berth::cgroup {
namespace {

constexpr std::string_view kStep = "cgroup.limits";

Error not_available(std::string_view field, std::string_view controller) {
  return make_error(ENOTSUP, kStep, "parse", field, "this host has no cgroup controller " + std::string(controller));
}

Result<void> write_devices(const Target& target, const Resources& resources) {
  if (!resources.devices.has_value() || resources.devices->empty()) return {};
  const int hierarchy = target.find("devices");
  if (hierarchy < 0) return not_available("linux.resources.devices", "devices");
  Fd files[2];
  for (const DeviceRule& rule : *resources.devices) {
    const char* name = rule.allow ? "devices.allow" : "devices.deny";
    Fd& file = files[rule.allow ? 1 : 0];
    if (!file.valid()) {
      file.reset(::openat(target.directories[static_cast<size_t>(hierarchy)].get(), name, O_WRONLY | O_CLOEXEC));
      if (!file.valid()) return errno_error(kStep, "openat", target.name(hierarchy, name));
    }
    const std::string line = v1_line(rule);
    if (::write(file.get(), line.data(), line.size()) < 0) {
      Error error = errno_error(kStep, "write", target.name(hierarchy, name));
      error.detail = "writing \"" + line + "\"";
      return error;
    }
  }
  return {};
}

// A limit that is being lowered below what is in use, with the usage in the error.
Result<void> write_memory_limit(const Target& target, int hierarchy, const char* file, int64_t value) {
  Result<void> written = target.write(hierarchy, file, std::to_string(value));
  if (written.ok() || written.error().error_number != EBUSY) return written;
  Error error = std::move(written).error();
  Result<std::string> usage = target.read(hierarchy, "memory.usage_in_bytes");
  if (usage.ok()) error.detail += ", usage is " + std::string(sys::trim(*usage));
  return error;
}

Result<void> write_memory(const Target& target, const MemoryResources& memory) {
  const int64_t limit = memory.limit.value_or(0);
  int64_t swap = memory.swap.value_or(0);
  const int64_t reservation = memory.reservation.value_or(0);
  const bool any = limit != 0 || swap != 0 || reservation != 0 || memory.swappiness.has_value() ||
                   memory.disable_oom_killer.has_value() || memory.kernel_tcp.value_or(0) != 0;
  if (!any) return {};
  const int hierarchy = target.find("memory");
  if (hierarchy < 0) return not_available("linux.resources.memory", "memory");
  if (swap > 0 && limit > 0 && swap < limit) return field_error(kStep, "linux.resources.memory.swap", "below memory.limit");
  // Without swap accounting there is nothing that a limit on swap could hold back.
  const bool accounts_swap = target.has_file(hierarchy, "memory.memsw.limit_in_bytes");
  if (!accounts_swap) swap = 0;
  if (limit == -1 && swap == 0 && accounts_swap) swap = -1;

  if (memory.check_before_update && limit > 0) {
    BERTH_ASSIGN(std::string text, target.read(hierarchy, "memory.usage_in_bytes"));
    uint64_t usage = 0;
    if (sys::parse_u64(text, &usage) && usage > static_cast<uint64_t>(limit)) {
      return make_error(EBUSY, kStep, "read", target.name(hierarchy, "memory.usage_in_bytes"),
                        "usage " + std::to_string(usage) + " is above the new limit " + std::to_string(limit));
    }
  }
  // The kernel keeps limit <= memsw at every moment: whichever of the two moves away goes first.
  if (limit != 0 && swap != 0) {
    BERTH_ASSIGN(std::string text, target.read(hierarchy, "memory.limit_in_bytes"));
    uint64_t present = 0;
    sys::parse_u64(text, &present);
    const bool swap_first = swap == -1 || present < static_cast<uint64_t>(swap);
    if (swap_first) BERTH_TRY(write_memory_limit(target, hierarchy, "memory.memsw.limit_in_bytes", swap));
    BERTH_TRY(write_memory_limit(target, hierarchy, "memory.limit_in_bytes", limit));
    if (!swap_first) BERTH_TRY(write_memory_limit(target, hierarchy, "memory.memsw.limit_in_bytes", swap));
  } else if (limit != 0) {
    BERTH_TRY(write_memory_limit(target, hierarchy, "memory.limit_in_bytes", limit));
  } else if (swap != 0) {
    BERTH_TRY(write_memory_limit(target, hierarchy, "memory.memsw.limit_in_bytes", swap));
  }
  if (reservation != 0) BERTH_TRY(target.write(hierarchy, "memory.soft_limit_in_bytes", std::to_string(reservation)));
  if (memory.kernel_tcp.value_or(0) != 0) {
    BERTH_TRY(target.write(hierarchy, "memory.kmem.tcp.limit_in_bytes", std::to_string(*memory.kernel_tcp)));
  }
  if (memory.swappiness.has_value()) BERTH_TRY(target.write(hierarchy, "memory.swappiness", std::to_string(*memory.swappiness)));
  if (memory.disable_oom_killer.has_value()) {
    BERTH_TRY(target.write(hierarchy, "memory.oom_control", *memory.disable_oom_killer ? "1" : "0"));
  }
  return {};
}

// Two values whose valid range depends on each other: where the first is refused it is tried again after the second.
Result<void> write_pair(const Target& target, int hierarchy, const char* first, std::string_view first_value, const char* second,
                        std::string_view second_value) {
  bool later = false;
  if (!first_value.empty()) {
    Result<void> written = target.write(hierarchy, first, first_value);
    if (!written.ok()) {
      if (written.error().error_number != EINVAL || second_value.empty()) return written;
      later = true;
    }
  }
  if (!second_value.empty()) BERTH_TRY(target.write(hierarchy, second, second_value));
  if (later) BERTH_TRY(target.write(hierarchy, first, first_value));
  return {};
}

Result<void> write_cpu(const Target& target, const CpuResources& cpu) {
  const bool any = cpu.shares.value_or(0) != 0 || cpu.quota.value_or(0) != 0 || cpu.period.value_or(0) != 0 || cpu.burst.has_value() ||
                   cpu.idle.has_value() || cpu.realtime_runtime.value_or(0) != 0 || cpu.realtime_period.value_or(0) != 0;
  if (!any) return {};
  const int hierarchy = target.find("cpu");
  if (hierarchy < 0) return not_available("linux.resources.cpu", "cpu");
  if (cpu.idle.has_value()) BERTH_TRY(target.write(hierarchy, "cpu.idle", std::to_string(*cpu.idle)));
  // An idle group has no shares (EINVAL).
  if (cpu.shares.value_or(0) != 0 && cpu.idle.value_or(0) == 0) {
    BERTH_TRY(target.write(hierarchy, "cpu.shares", std::to_string(*cpu.shares)));
  }
  const std::string period = cpu.period.value_or(0) != 0 ? std::to_string(*cpu.period) : "";
  const std::string quota = cpu.quota.value_or(0) != 0 ? std::to_string(*cpu.quota) : "";
  const std::string burst = cpu.burst.has_value() ? std::to_string(*cpu.burst) : "";
  if (burst.empty()) {
    BERTH_TRY(write_pair(target, hierarchy, "cpu.cfs_period_us", period, "cpu.cfs_quota_us", quota));
  } else {
    // The burst is at most the quota: lowered before it, raised after it.
    Result<void> early = target.write(hierarchy, "cpu.cfs_burst_us", burst);
    if (!early.ok() && (early.error().error_number != EINVAL || quota.empty())) return early;
    BERTH_TRY(write_pair(target, hierarchy, "cpu.cfs_period_us", period, "cpu.cfs_quota_us", quota));
    if (!early.ok()) BERTH_TRY(target.write(hierarchy, "cpu.cfs_burst_us", burst));
  }
  const std::string realtime_period = cpu.realtime_period.value_or(0) != 0 ? std::to_string(*cpu.realtime_period) : "";
  const std::string realtime_runtime = cpu.realtime_runtime.value_or(0) != 0 ? std::to_string(*cpu.realtime_runtime) : "";
  return write_pair(target, hierarchy, "cpu.rt_period_us", realtime_period, "cpu.rt_runtime_us", realtime_runtime);
}

Result<void> write_cpuset(const Target& target, const CpuResources& cpu) {
  if (cpu.cpus.empty() && cpu.mems.empty()) return {};
  const int hierarchy = target.find("cpuset");
  if (hierarchy < 0) return not_available("linux.resources.cpu.cpus", "cpuset");
  if (!cpu.cpus.empty()) BERTH_TRY(target.write(hierarchy, "cpuset.cpus", cpu.cpus));
  if (!cpu.mems.empty()) BERTH_TRY(target.write(hierarchy, "cpuset.mems", cpu.mems));
  return {};
}

std::string device_line(const DeviceValue& entry) {
  return std::to_string(entry.major) + ":" + std::to_string(entry.minor) + " " + std::to_string(entry.value);
}

Result<void> write_block_io(const Target& target, const BlockIoResources& io) {
  const bool any = io.weight.value_or(0) != 0 || io.leaf_weight.value_or(0) != 0 || !io.weight_device.empty() ||
                   !io.leaf_weight_device.empty() || !io.read_bps.empty() || !io.write_bps.empty() || !io.read_iops.empty() ||
                   !io.write_iops.empty();
  if (!any) return {};
  const int hierarchy = target.find("blkio");
  if (hierarchy < 0) return not_available("linux.resources.blockIO", "blkio");
  const bool bfq = target.has_file(hierarchy, "blkio.bfq.weight");
  if (io.weight.value_or(0) != 0) {
    BERTH_TRY(target.write(hierarchy, bfq ? "blkio.bfq.weight" : "blkio.weight", std::to_string(*io.weight)));
  }
  if (io.leaf_weight.value_or(0) != 0) BERTH_TRY(target.write(hierarchy, "blkio.leaf_weight", std::to_string(*io.leaf_weight)));
  const struct {
    const std::vector<DeviceValue>& entries;
    const char* file;
  } lists[] = {
      {io.weight_device, bfq ? "blkio.bfq.weight_device" : "blkio.weight_device"},
      {io.leaf_weight_device, "blkio.leaf_weight_device"},
      {io.read_bps, "blkio.throttle.read_bps_device"},
      {io.write_bps, "blkio.throttle.write_bps_device"},
      {io.read_iops, "blkio.throttle.read_iops_device"},
      {io.write_iops, "blkio.throttle.write_iops_device"},
  };
  for (const auto& list : lists) {
    for (const DeviceValue& entry : list.entries) BERTH_TRY(target.write(hierarchy, list.file, device_line(entry)));
  }
  return {};
}

Result<void> write_hugepages(const Target& target, const std::vector<HugepageLimit>& limits) {
  const int hierarchy = target.find("hugetlb");
  // The kubelet sends a limit for every page size whether the host controls them or not.
  if (hierarchy < 0) return {};
  for (const HugepageLimit& limit : limits) {
    const std::string file = "hugetlb." + limit.page_size + ".limit_in_bytes";
    BERTH_TRY(target.write(hierarchy, file.c_str(), std::to_string(limit.limit)));
    const std::string reserved = "hugetlb." + limit.page_size + ".rsvd.limit_in_bytes";
    if (target.has_file(hierarchy, reserved.c_str())) BERTH_TRY(target.write(hierarchy, reserved.c_str(), std::to_string(limit.limit)));
  }
  return {};
}

Result<void> write_network(const Target& target, const Resources& resources) {
  if (resources.network_class.has_value()) {
    const int hierarchy = target.find("net_cls");
    if (hierarchy < 0) return not_available("linux.resources.network.classID", "net_cls");
    BERTH_TRY(target.write(hierarchy, "net_cls.classid", std::to_string(*resources.network_class)));
  }
  if (resources.network_priorities.empty()) return {};
  const int hierarchy = target.find("net_prio");
  if (hierarchy < 0) return not_available("linux.resources.network.priorities", "net_prio");
  for (const InterfacePriority& entry : resources.network_priorities) {
    BERTH_TRY(target.write(hierarchy, "net_prio.ifpriomap", entry.name + " " + std::to_string(entry.priority)));
  }
  return {};
}

Result<void> write_rdma(const Target& target, const std::vector<RdmaLimit>& limits) {
  if (limits.empty()) return {};
  const int hierarchy = target.find("rdma");
  if (hierarchy < 0) return not_available("linux.resources.rdma", "rdma");
  for (const RdmaLimit& limit : limits) {
    std::string line = limit.device;
    if (limit.handles.has_value()) line += " hca_handle=" + std::to_string(*limit.handles);
    if (limit.objects.has_value()) line += " hca_object=" + std::to_string(*limit.objects);
    BERTH_TRY(target.write(hierarchy, "rdma.max", line));
  }
  return {};
}

}  // namespace

int Target::find(std::string_view controller) const {
  for (size_t i = 0; i < layout.hierarchies.size(); ++i) {
    if (directories[i].valid() && (layout.v2() || layout.hierarchies[i].has(controller))) return static_cast<int>(i);
  }
  return -1;
}

std::string Target::name(int hierarchy, std::string_view file) const {
  return layout.hierarchies[static_cast<size_t>(hierarchy)].mount + path + "/" + std::string(file);
}

bool Target::has_file(int hierarchy, const char* file) const {
  return ::faccessat(directories[static_cast<size_t>(hierarchy)].get(), file, F_OK, 0) == 0;
}

Result<void> Target::write(int hierarchy, const char* file, std::string_view value) const {
  Result<void> written = sys::write_file(directories[static_cast<size_t>(hierarchy)].get(), file, value, kStep);
  if (written.ok()) return written;
  Error error = std::move(written).error();
  error.path = name(hierarchy, file);
  return error;
}

Result<std::string> Target::read(int hierarchy, const char* file) const {
  Result<std::string> text = sys::read_file(directories[static_cast<size_t>(hierarchy)].get(), file, kStep);
  if (text.ok()) return text;
  Error error = std::move(text).error();
  error.path = name(hierarchy, file);
  return error;
}

Result<void> write_v1(const Target& target, const Resources& resources) {
  if (!resources.unified.empty()) {
    return field_error(kStep, "linux.resources.unified." + resources.unified[0].file, "this host has cgroup v1");
  }
  BERTH_TRY(write_cpuset(target, resources.cpu));
  BERTH_TRY(write_devices(target, resources));
  BERTH_TRY(write_memory(target, resources.memory));
  BERTH_TRY(write_cpu(target, resources.cpu));
  if (resources.pids_limit.has_value()) {
    const int hierarchy = target.find("pids");
    if (hierarchy < 0) return not_available("linux.resources.pids", "pids");
    BERTH_TRY(target.write(hierarchy, "pids.max", *resources.pids_limit < 0 ? "max" : std::to_string(*resources.pids_limit)));
  }
  BERTH_TRY(write_block_io(target, resources.block_io));
  BERTH_TRY(write_hugepages(target, resources.hugepages));
  BERTH_TRY(write_network(target, resources));
  return write_rdma(target, resources.rdma);
}

}  // namespace berth::cgroup
