#include <fcntl.h>
#include <unistd.h>

#include "core/cgroup/convert.h"
#include "core/cgroup/writer.h"
#include "core/sys/file_text.h"

namespace berth::cgroup {
namespace {

constexpr std::string_view kStep = "cgroup.limits";

std::string number_or_max(int64_t value) { return value < 0 ? "max" : std::to_string(value); }

Error v1_only(std::string_view field) { return field_error(kStep, field, "cgroup v2 has no such limit"); }

Result<void> write_devices(const Target& target, const Resources& resources) {
  if (!resources.devices.has_value() || resources.devices->empty()) return {};
  BERTH_ASSIGN(Fd program, load_device_program(device_program(reduce_rules(*resources.devices))));
  // BPF attaches to a real descriptor of the directory, not to an O_PATH one.
  Fd directory(::openat(target.directories[0].get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return errno_error(kStep, "openat", target.name(0, ""));
  return replace_device_program(directory.ref(), program.ref(), target.name(0, "devices"));
}

Result<void> write_memory(const Target& target, const MemoryResources& memory) {
  if (memory.swappiness.has_value()) return v1_only("linux.resources.memory.swappiness");
  if (memory.disable_oom_killer.value_or(false)) return v1_only("linux.resources.memory.disableOOMKiller");
  if (memory.kernel_tcp.value_or(0) > 0) return v1_only("linux.resources.memory.kernelTCP");
  const int64_t limit = memory.limit.value_or(0);
  BERTH_ASSIGN(const std::optional<int64_t> swap, swap_max(memory.limit, memory.swap));
  if (memory.check_before_update && limit > 0) {
    BERTH_ASSIGN(std::string text, target.read(0, "memory.current"));
    uint64_t usage = 0;
    if (sys::parse_u64(text, &usage) && usage > static_cast<uint64_t>(limit)) {
      return make_error(EBUSY, kStep, "read", target.name(0, "memory.current"),
                        "usage " + std::to_string(usage) + " is above the new limit " + std::to_string(limit));
    }
  }
  // The two are independent here. Without swap accounting the file is missing, and nothing can be swapped to begin with.
  if (swap.has_value() && target.has_file(0, "memory.swap.max")) {
    BERTH_TRY(target.write(0, "memory.swap.max", number_or_max(*swap)));
  }
  if (limit != 0) BERTH_TRY(target.write(0, "memory.max", number_or_max(limit)));
  if (memory.reservation.value_or(0) != 0) BERTH_TRY(target.write(0, "memory.low", number_or_max(*memory.reservation)));
  return {};
}

// cpu.max is "quota period"; what is not given stays.
Result<void> write_cpu_max(const Target& target, const CpuResources& cpu) {
  const int64_t quota = cpu.quota.value_or(0);
  const uint64_t period = cpu.period.value_or(0);
  if (quota == 0 && period == 0) return {};
  std::string value;
  if (quota != 0) {
    value = number_or_max(quota);
  } else {
    BERTH_ASSIGN(std::string text, target.read(0, "cpu.max"));
    std::string_view rest = text;
    value = sys::next_word(&rest);
  }
  if (period != 0) value += " " + std::to_string(period);
  return target.write(0, "cpu.max", value);
}

Result<void> write_cpu(const Target& target, const CpuResources& cpu) {
  if (cpu.realtime_runtime.value_or(0) != 0) return v1_only("linux.resources.cpu.realtimeRuntime");
  if (cpu.realtime_period.value_or(0) != 0) return v1_only("linux.resources.cpu.realtimePeriod");
  if (cpu.idle.has_value()) BERTH_TRY(target.write(0, "cpu.idle", std::to_string(*cpu.idle)));
  const uint64_t weight = weight_from_shares(cpu.shares.value_or(0));
  // An idle group has no weight (EINVAL).
  if (weight != 0 && cpu.idle.value_or(0) == 0) BERTH_TRY(target.write(0, "cpu.weight", std::to_string(weight)));
  if (cpu.burst.has_value()) {
    // At most the quota: lowered before it, raised after it.
    const std::string burst = std::to_string(*cpu.burst);
    Result<void> early = target.write(0, "cpu.max.burst", burst);
    if (!early.ok() && (early.error().error_number != EINVAL || cpu.quota.value_or(0) == 0)) return early;
    BERTH_TRY(write_cpu_max(target, cpu));
    if (!early.ok()) BERTH_TRY(target.write(0, "cpu.max.burst", burst));
  } else {
    BERTH_TRY(write_cpu_max(target, cpu));
  }
  if (!cpu.cpus.empty()) BERTH_TRY(target.write(0, "cpuset.cpus", cpu.cpus));
  if (!cpu.mems.empty()) BERTH_TRY(target.write(0, "cpuset.mems", cpu.mems));
  return {};
}

std::string device_name(const DeviceValue& entry) { return std::to_string(entry.major) + ":" + std::to_string(entry.minor); }

Result<void> write_block_io(const Target& target, const BlockIoResources& io) {
  if (io.leaf_weight.value_or(0) != 0 || !io.leaf_weight_device.empty()) return v1_only("linux.resources.blockIO.leafWeight");
  const bool weighted = io.weight.value_or(0) != 0 || !io.weight_device.empty();
  const bool bfq = weighted && target.has_file(0, "io.bfq.weight");
  if (io.weight.value_or(0) != 0) {
    if (bfq) BERTH_TRY(target.write(0, "io.bfq.weight", std::to_string(*io.weight)));
    else BERTH_TRY(target.write(0, "io.weight", std::to_string(io_weight_from_blkio(*io.weight))));
  }
  for (const DeviceValue& entry : io.weight_device) {
    const uint64_t weight = bfq ? entry.value : io_weight_from_blkio(entry.value);
    BERTH_TRY(target.write(0, bfq ? "io.bfq.weight" : "io.weight", device_name(entry) + " " + std::to_string(weight)));
  }
  const struct {
    const std::vector<DeviceValue>& entries;
    const char* key;
  } lists[] = {{io.read_bps, "rbps"}, {io.write_bps, "wbps"}, {io.read_iops, "riops"}, {io.write_iops, "wiops"}};
  for (const auto& list : lists) {
    for (const DeviceValue& entry : list.entries) {
      // 0 lifts the limit, as it does on v1.
      const std::string value = entry.value == 0 ? "max" : std::to_string(entry.value);
      BERTH_TRY(target.write(0, "io.max", device_name(entry) + " " + list.key + "=" + value));
    }
  }
  return {};
}

Result<void> write_hugepages(const Target& target, const std::vector<HugepageLimit>& limits) {
  // The kubelet sends a limit for every page size whether the host controls them or not.
  if (!target.layout.has("hugetlb")) return {};
  for (const HugepageLimit& limit : limits) {
    const std::string file = "hugetlb." + limit.page_size + ".max";
    BERTH_TRY(target.write(0, file.c_str(), std::to_string(limit.limit)));
    const std::string reserved = "hugetlb." + limit.page_size + ".rsvd.max";
    if (target.has_file(0, reserved.c_str())) BERTH_TRY(target.write(0, reserved.c_str(), std::to_string(limit.limit)));
  }
  return {};
}

}  // namespace

Result<void> write_v2(const Target& target, const Resources& resources) {
  if (resources.network_class.has_value()) return v1_only("linux.resources.network.classID");
  if (!resources.network_priorities.empty()) return v1_only("linux.resources.network.priorities");
  BERTH_TRY(write_devices(target, resources));
  BERTH_TRY(write_memory(target, resources.memory));
  BERTH_TRY(write_cpu(target, resources.cpu));
  if (resources.pids_limit.has_value()) BERTH_TRY(target.write(0, "pids.max", number_or_max(*resources.pids_limit)));
  BERTH_TRY(write_block_io(target, resources.block_io));
  BERTH_TRY(write_hugepages(target, resources.hugepages));
  for (const RdmaLimit& limit : resources.rdma) {
    std::string line = limit.device;
    if (limit.handles.has_value()) line += " hca_handle=" + std::to_string(*limit.handles);
    if (limit.objects.has_value()) line += " hca_object=" + std::to_string(*limit.objects);
    BERTH_TRY(target.write(0, "rdma.max", line));
  }
  // Last: they are meant verbatim, over what the other fields say.
  for (const UnifiedValue& entry : resources.unified) {
    Result<void> written = target.write(0, entry.file.c_str(), entry.value);
    if (!written.ok()) {
      Error error = std::move(written).error();
      error.detail += error.detail.empty() ? "" : ", ";
      error.detail += "linux.resources.unified." + entry.file;
      return error;
    }
  }
  return {};
}

}  // namespace berth::cgroup
