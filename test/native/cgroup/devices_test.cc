// Device rules: their reduction, the BPF program run by an interpreter of the few instructions that it uses, and the
// kernel's verifier and attachment where the host has a v2 hierarchy.
#include "core/cgroup/devices.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/native/check.h"

using namespace berth;
using namespace berth::cgroup;

namespace {

bool run(const std::vector<struct bpf_insn>& program, char type, uint32_t major, uint32_t minor, uint32_t access) {
  const uint32_t context[3] = {(access << 16) | (type == 'b' ? 1u : 2u), major, minor};
  uint64_t r[11] = {};
  for (size_t at = 0; at < program.size();) {
    const struct bpf_insn& i = program[at++];
    const uint64_t operand = BPF_SRC(i.code) == BPF_X ? r[i.src_reg] : static_cast<uint64_t>(static_cast<int64_t>(i.imm));
    switch (BPF_CLASS(i.code)) {
      case BPF_LDX:
        r[i.dst_reg] = context[i.off / 4];
        break;
      case BPF_ALU:
      case BPF_ALU64: {
        uint64_t value = r[i.dst_reg];
        if (BPF_OP(i.code) == BPF_MOV) value = operand;
        else if (BPF_OP(i.code) == BPF_AND) value &= operand;
        else if (BPF_OP(i.code) == BPF_RSH) value >>= operand;
        else std::abort();
        r[i.dst_reg] = BPF_CLASS(i.code) == BPF_ALU ? static_cast<uint32_t>(value) : value;
        break;
      }
      case BPF_JMP:
        if (BPF_OP(i.code) == BPF_EXIT) return r[0] != 0;
        if ((BPF_OP(i.code) == BPF_JNE && r[i.dst_reg] != operand) || (BPF_OP(i.code) == BPF_JEQ && r[i.dst_reg] == operand)) {
          at += static_cast<size_t>(i.off);
        }
        break;
      default:
        std::abort();
    }
  }
  std::abort();
}

const DeviceRule kDenyAll{false, 'a', kAnyDevice, kAnyDevice, kAccessAll};

}  // namespace

TEST(an_allow_list) {
  const auto program = device_program(reduce_rules({kDenyAll,
                                                    {true, 'c', kAnyDevice, kAnyDevice, kAccessMknod},
                                                    {true, 'c', 1, 3, kAccessAll},
                                                    {true, 'c', 136, kAnyDevice, kAccessRead | kAccessWrite}}));
  CHECK(run(program, 'c', 1, 3, kAccessRead | kAccessWrite));
  CHECK(run(program, 'c', 1, 3, kAccessAll));
  CHECK(run(program, 'c', 9, 9, kAccessMknod));
  CHECK(!run(program, 'c', 9, 9, kAccessRead));
  CHECK(!run(program, 'c', 9, 9, kAccessMknod | kAccessRead));
  CHECK(!run(program, 'b', 1, 3, kAccessRead));
  CHECK(run(program, 'c', 136, 77, kAccessWrite));
  CHECK(!run(program, 'c', 136, 77, kAccessMknod | kAccessWrite));
}

TEST(access_of_two_rules_for_one_device_adds_up) {
  const auto program = device_program(reduce_rules({kDenyAll, {true, 'c', 1, 5, kAccessRead}, {true, 'c', 1, 5, kAccessWrite}}));
  CHECK(run(program, 'c', 1, 5, kAccessRead | kAccessWrite));
  CHECK(!run(program, 'c', 1, 5, kAccessMknod));
}

TEST(a_deny_list) {
  const auto program = device_program(reduce_rules({{false, 'b', 8, 0, kAccessWrite}}));
  CHECK(run(program, 'b', 8, 0, kAccessRead));
  CHECK(!run(program, 'b', 8, 0, kAccessRead | kAccessWrite));
  CHECK(run(program, 'b', 8, 1, kAccessWrite));
  CHECK(run(program, 'c', 8, 0, kAccessWrite));
}

TEST(order_counts) {
  CHECK(reduce_rules({}).allow_by_default);
  CHECK(reduce_rules({kDenyAll, {true, 'c', 1, 3, kAccessAll}, {false, 'c', 1, 3, kAccessAll}}).exceptions.empty());
  const DevicePolicy reset = reduce_rules({{true, 'c', 1, 3, kAccessAll}, kDenyAll});
  CHECK(!reset.allow_by_default && reset.exceptions.empty());
  const DevicePolicy opened = reduce_rules({kDenyAll, {true, 'a', kAnyDevice, kAnyDevice, kAccessAll}});
  CHECK(opened.allow_by_default && opened.exceptions.empty());
  const DevicePolicy narrowed = reduce_rules({kDenyAll, {true, 'c', 1, 3, kAccessAll}, {false, 'c', 1, 3, kAccessMknod}});
  REQUIRE(narrowed.exceptions.size() == 1);
  CHECK_EQ(narrowed.exceptions[0].access, kAccessRead | kAccessWrite);
}

TEST(the_kernel_takes_and_obeys_it) {
  const std::string path = "/sys/fs/cgroup/unified/berth-devices-test-" + std::to_string(::getpid());
  if (::mkdir(path.c_str(), 0755) != 0) SKIP("no v2 hierarchy at /sys/fs/cgroup/unified that groups can be made in");
  struct Remove {
    const std::string& path;
    ~Remove() { ::rmdir(path.c_str()); }
  } const remove{path};
  Fd directory(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  REQUIRE(directory.valid());
  // Opening /dev/null and /dev/zero in the cgroup: two bits of what was allowed.
  const auto try_devices = [&path]() -> int {
    const pid_t child = ::fork();
    if (child == 0) {
      const int procs = ::open((path + "/cgroup.procs").c_str(), O_WRONLY);
      if (::write(procs, "0", 1) != 1) ::_exit(100);
      const bool null = ::open("/dev/null", O_RDWR) >= 0;
      const bool zero = ::open("/dev/zero", O_RDONLY) >= 0;
      ::_exit((null ? 1 : 0) | (zero ? 2 : 0));
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return WEXITSTATUS(status);
  };
  CHECK_EQ(try_devices(), 3);
  Result<Fd> first = load_device_program(device_program(reduce_rules({kDenyAll, {true, 'c', 1, 3, kAccessAll}})));
  if (!first.ok() && first.error().error_number == EPERM) SKIP("no CAP_BPF");
  REQUIRE(first.ok());
  REQUIRE(replace_device_program(directory.ref(), first->ref(), path).ok());
  CHECK_EQ(try_devices(), 1);
  Result<Fd> second = load_device_program(device_program(reduce_rules({kDenyAll, {true, 'c', 1, 5, kAccessRead}})));
  REQUIRE(second.ok());
  REQUIRE(replace_device_program(directory.ref(), second->ref(), path).ok());
  CHECK_EQ(try_devices(), 2);
}

TEST(a_program_that_the_verifier_refuses_says_why) {
  std::vector<struct bpf_insn> broken = device_program(reduce_rules({kDenyAll}));
  broken.pop_back();
  const Result<Fd> loaded = load_device_program(broken);
  CHECK(!loaded.ok());
  if (loaded.error().error_number == EPERM) SKIP("no CAP_BPF");
  CHECK(!loaded.error().detail.empty());
}

CHECK_MAIN()
