#include "core/cgroup/devices.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace berth::cgroup {
namespace {

constexpr std::string_view kStep = "cgroup.devices";

bool same_device(const DeviceRule& a, const DeviceRule& b) { return a.type == b.type && a.major == b.major && a.minor == b.minor; }

struct bpf_insn instruction(uint8_t code, uint8_t dst, uint8_t src, int16_t offset, int32_t immediate) {
  struct bpf_insn out = {};
  out.code = code;
  out.dst_reg = dst & 0xf;
  out.src_reg = src & 0xf;
  out.off = offset;
  out.imm = immediate;
  return out;
}
// Field of the context at `offset` into a register.
struct bpf_insn load_field(uint8_t dst, int16_t offset) { return instruction(BPF_LDX | BPF_MEM | BPF_W, dst, BPF_REG_1, offset, 0); }
struct bpf_insn alu(uint8_t operation, uint8_t dst, int32_t immediate) {
  return instruction(static_cast<uint8_t>(BPF_ALU | operation | BPF_K), dst, 0, 0, immediate);
}
struct bpf_insn move_register(uint8_t dst, uint8_t src) { return instruction(BPF_ALU | BPF_MOV | BPF_X, dst, src, 0, 0); }
// Jumps whose target is the end of the present exception; the distance is filled in afterwards.
struct bpf_insn skip_unless_equal(uint8_t dst, int32_t immediate) {
  return instruction(BPF_JMP | BPF_JNE | BPF_K, dst, 0, 0, immediate);
}

void append_return(std::vector<struct bpf_insn>* program, bool allow) {
  program->push_back(instruction(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, allow ? 1 : 0));
  program->push_back(instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
}

int bpf(int command, union bpf_attr* attributes) {
  return static_cast<int>(::syscall(SYS_bpf, command, attributes, sizeof(*attributes)));
}

}  // namespace

DevicePolicy reduce_rules(const std::vector<DeviceRule>& rules) {
  DevicePolicy policy;
  for (const DeviceRule& rule : rules) {
    if (rule.type == 'a') {
      policy.allow_by_default = rule.allow;
      policy.exceptions.clear();
      continue;
    }
    auto found = std::find_if(policy.exceptions.begin(), policy.exceptions.end(),
                              [&rule](const DeviceRule& other) { return same_device(rule, other); });
    if (rule.allow == policy.allow_by_default) {
      if (found == policy.exceptions.end()) continue;
      found->access &= ~rule.access;
      if (found->access == 0) policy.exceptions.erase(found);
    } else if (found == policy.exceptions.end()) {
      policy.exceptions.push_back(rule);
    } else {
      found->access |= rule.access;
    }
  }
  return policy;
}

std::string v1_line(const DeviceRule& rule) {
  const auto number = [](int64_t value) { return value == kAnyDevice ? std::string("*") : std::to_string(value); };
  std::string line(1, rule.type);
  if (rule.type == 'a') return line + " *:* rwm";
  line += " " + number(rule.major) + ":" + number(rule.minor) + " ";
  if ((rule.access & kAccessRead) != 0) line.push_back('r');
  if ((rule.access & kAccessWrite) != 0) line.push_back('w');
  if ((rule.access & kAccessMknod) != 0) line.push_back('m');
  return line;
}

std::vector<struct bpf_insn> device_program(const DevicePolicy& policy) {
  std::vector<struct bpf_insn> program;
  // r2 type, r3 access, r4 major, r5 minor, from struct bpf_cgroup_dev_ctx.
  program.push_back(load_field(BPF_REG_2, 0));
  program.push_back(alu(BPF_AND, BPF_REG_2, 0xffff));
  program.push_back(load_field(BPF_REG_3, 0));
  program.push_back(alu(BPF_RSH, BPF_REG_3, 16));
  program.push_back(load_field(BPF_REG_4, 4));
  program.push_back(load_field(BPF_REG_5, 8));
  for (const DeviceRule& rule : policy.exceptions) {
    const size_t first = program.size();
    program.push_back(skip_unless_equal(BPF_REG_2, rule.type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR));
    if (rule.access != kAccessAll) {
      program.push_back(move_register(BPF_REG_1, BPF_REG_3));
      program.push_back(alu(BPF_AND, BPF_REG_1, static_cast<int32_t>(rule.access)));
      if (rule.allow) {
        // All that is asked for must be allowed …
        program.push_back(instruction(BPF_JMP | BPF_JNE | BPF_X, BPF_REG_1, BPF_REG_3, 0, 0));
      } else {
        // … while one denied bit denies it.
        program.push_back(instruction(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_1, 0, 0, 0));
      }
    }
    if (rule.major != kAnyDevice) program.push_back(skip_unless_equal(BPF_REG_4, static_cast<int32_t>(rule.major)));
    if (rule.minor != kAnyDevice) program.push_back(skip_unless_equal(BPF_REG_5, static_cast<int32_t>(rule.minor)));
    const size_t verdict = program.size();
    append_return(&program, rule.allow);
    for (size_t i = first; i < verdict; ++i) {
      if (BPF_CLASS(program[i].code) == BPF_JMP) program[i].off = static_cast<int16_t>(program.size() - i - 1);
    }
  }
  append_return(&program, policy.allow_by_default);
  return program;
}

Result<Fd> load_device_program(const std::vector<struct bpf_insn>& program) {
  constexpr char kLicense[] = "Apache-2.0";
  union bpf_attr attributes = {};
  attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attributes.insns = reinterpret_cast<uintptr_t>(program.data());
  attributes.insn_cnt = static_cast<uint32_t>(program.size());
  attributes.license = reinterpret_cast<uintptr_t>(kLicense);
  std::memcpy(attributes.prog_name, "berth_devices", sizeof("berth_devices"));
  Fd fd(bpf(BPF_PROG_LOAD, &attributes));
  if (fd.valid()) return fd;
  const int saved = errno;
  // Once more for the verifier's reasons.
  std::string log(16384, '\0');
  attributes.log_buf = reinterpret_cast<uintptr_t>(log.data());
  attributes.log_size = static_cast<uint32_t>(log.size());
  attributes.log_level = 1;
  fd.reset(bpf(BPF_PROG_LOAD, &attributes));
  if (fd.valid()) return fd;
  return make_error(saved, kStep, "bpf", "BPF_PROG_LOAD", std::string_view(log.c_str()).substr(0, 1024));
}

Result<void> replace_device_program(FdRef cgroup, FdRef program, const std::string& path) {
  uint32_t ids[64] = {};
  union bpf_attr query = {};
  query.query.target_fd = static_cast<uint32_t>(cgroup.get());
  query.query.attach_type = BPF_CGROUP_DEVICE;
  query.query.prog_ids = reinterpret_cast<uintptr_t>(ids);
  query.query.prog_cnt = 64;
  if (bpf(BPF_PROG_QUERY, &query) != 0) return errno_error(kStep, "bpf", path);
  const uint32_t count = query.query.prog_cnt;
  std::vector<Fd> old;
  for (uint32_t i = 0; i < count; ++i) {
    union bpf_attr by_id = {};
    by_id.prog_id = ids[i];
    Fd fd(bpf(BPF_PROG_GET_FD_BY_ID, &by_id));
    if (fd.valid()) old.push_back(std::move(fd));
  }
  union bpf_attr attach = {};
  attach.target_fd = static_cast<uint32_t>(cgroup.get());
  attach.attach_bpf_fd = static_cast<uint32_t>(program.get());
  attach.attach_type = BPF_CGROUP_DEVICE;
  attach.attach_flags = BPF_F_ALLOW_MULTI;
  if (old.size() == 1) {
    attach.attach_flags |= BPF_F_REPLACE;
    attach.replace_bpf_fd = static_cast<uint32_t>(old[0].get());
    if (bpf(BPF_PROG_ATTACH, &attach) == 0) return {};
    // The old one was attached without BPF_F_ALLOW_MULTI: it is overridden by an attachment of the same kind.
    attach.attach_flags = 0;
    attach.replace_bpf_fd = 0;
    if (bpf(BPF_PROG_ATTACH, &attach) == 0) return {};
    return errno_error(kStep, "bpf", path);
  }
  if (bpf(BPF_PROG_ATTACH, &attach) != 0) return errno_error(kStep, "bpf", path);
  for (const Fd& fd : old) {
    union bpf_attr detach = {};
    detach.target_fd = static_cast<uint32_t>(cgroup.get());
    detach.attach_bpf_fd = static_cast<uint32_t>(fd.get());
    detach.attach_type = BPF_CGROUP_DEVICE;
    if (bpf(BPF_PROG_DETACH, &detach) != 0) return errno_error(kStep, "bpf", path);
  }
  return {};
}

}  // namespace berth::cgroup
