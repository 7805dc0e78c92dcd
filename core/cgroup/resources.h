// linux.resources of the runtime-spec, checked and typed. A number that the spec calls optional is absent where it is
// not given; unknown properties are passed over, as the spec demands.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/cgroup/devices.h"

namespace berth::cgroup {

struct MemoryResources {
  std::optional<int64_t> limit;        // bytes; -1 for none, 0 as absent
  std::optional<int64_t> reservation;  // bytes
  std::optional<int64_t> swap;         // memory plus swap, bytes; -1 for none, 0 as absent
  std::optional<int64_t> kernel_tcp;   // v1 alone
  std::optional<uint64_t> swappiness;  // v1 alone
  std::optional<bool> disable_oom_killer;  // v1 alone
  bool check_before_update = false;
};

struct CpuResources {
  std::optional<uint64_t> shares;
  std::optional<int64_t> quota;  // µs in each period; -1 for none
  std::optional<uint64_t> period;
  std::optional<uint64_t> burst;
  std::optional<int64_t> realtime_runtime;  // v1 alone
  std::optional<uint64_t> realtime_period;  // v1 alone
  std::optional<int64_t> idle;
  std::string cpus;
  std::string mems;
};

struct DeviceValue {
  int64_t major = 0;
  int64_t minor = 0;
  uint64_t value = 0;
};

struct BlockIoResources {
  std::optional<uint64_t> weight;
  std::optional<uint64_t> leaf_weight;  // v1 alone
  std::vector<DeviceValue> weight_device;
  std::vector<DeviceValue> leaf_weight_device;
  std::vector<DeviceValue> read_bps, write_bps, read_iops, write_iops;
};

struct HugepageLimit {
  std::string page_size;  // "2MB"
  uint64_t limit = 0;
};

struct RdmaLimit {
  std::string device;
  std::optional<uint64_t> handles;
  std::optional<uint64_t> objects;
};

struct InterfacePriority {
  std::string name;
  uint64_t priority = 0;
};

struct UnifiedValue {
  std::string file;
  std::string value;
};

struct Resources {
  std::optional<std::vector<DeviceRule>> devices;
  MemoryResources memory;
  CpuResources cpu;
  std::optional<int64_t> pids_limit;  // negative for none; 0 is a limit
  BlockIoResources block_io;
  std::vector<HugepageLimit> hugepages;
  std::optional<uint64_t> network_class;
  std::vector<InterfacePriority> network_priorities;
  std::vector<RdmaLimit> rdma;
  std::vector<UnifiedValue> unified;
};

// EINVAL with the field in Error::path ("linux.resources.memory.limit") for what has the wrong type or range.
Result<Resources> parse_resources(std::string_view json);

}  // namespace berth::cgroup
