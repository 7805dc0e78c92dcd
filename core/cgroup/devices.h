// The runtime-spec's device rules: an ordered list in which v1's device controller defines what each entry does
// (Documentation/admin-guide/cgroup-v1/devices.rst), and its translation to a v2 BPF program.
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"

namespace berth::cgroup {

inline constexpr int64_t kAnyDevice = -1;
inline constexpr uint32_t kAccessMknod = 1;  // as BPF_DEVCG_ACC_*
inline constexpr uint32_t kAccessRead = 2;
inline constexpr uint32_t kAccessWrite = 4;
inline constexpr uint32_t kAccessAll = 7;

struct DeviceRule {
  bool allow = false;
  char type = 'a';  // a: all devices, then everything below is ignored, as in v1; b, c
  int64_t major = kAnyDevice;
  int64_t minor = kAnyDevice;
  uint32_t access = kAccessAll;
};

// What is left of a list of rules: a default, and the exceptions to it.
struct DevicePolicy {
  bool allow_by_default = true;
  std::vector<DeviceRule> exceptions;  // `allow` of each is the opposite of the default
};

DevicePolicy reduce_rules(const std::vector<DeviceRule>& rules);

// "c 1:3 rwm", "a *:* rwm".
std::string v1_line(const DeviceRule& rule);

// BPF_PROG_TYPE_CGROUP_DEVICE: returns 1 to allow.
std::vector<struct bpf_insn> device_program(const DevicePolicy& policy);

// Loads a program; the verifier's log is in the error's detail.
Result<Fd> load_device_program(const std::vector<struct bpf_insn>& program);

// Attaches `program` to the cgroup in place of every device program that is attached to it directly, without an instant
// in which none is.
Result<void> replace_device_program(FdRef cgroup, FdRef program, const std::string& path);

}  // namespace berth::cgroup
