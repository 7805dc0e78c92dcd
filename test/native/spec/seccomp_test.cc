#include "core/spec/seccomp.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "test/native/check.h"

namespace {

using berth::spec::compile_seccomp;
using berth::spec::compile_seccomp_uncached;
using berth::spec::kSeccompCacheEntries;
using berth::spec::seccomp_cache_stats;
using berth::spec::SeccompProgram;

// Runs the classic BPF program on made-up system calls: what the kernel would answer.
uint32_t evaluate(const std::vector<sock_filter>& program, const seccomp_data& data) {
  uint32_t accumulator = 0;
  uint32_t index = 0;
  uint32_t memory[16] = {};
  const auto* bytes = reinterpret_cast<const uint8_t*>(&data);
  for (size_t at = 0; at < program.size(); ++at) {
    const sock_filter& op = program[at];
    switch (op.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        std::memcpy(&accumulator, bytes + op.k, 4);
        break;
      case BPF_LD | BPF_MEM:
        accumulator = memory[op.k];
        break;
      case BPF_ST:
        memory[op.k] = accumulator;
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        accumulator &= op.k;
        break;
      case BPF_JMP | BPF_JA:
        at += op.k;
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        at += accumulator == op.k ? op.jt : op.jf;
        break;
      case BPF_JMP | BPF_JGT | BPF_K:
        at += accumulator > op.k ? op.jt : op.jf;
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        at += accumulator >= op.k ? op.jt : op.jf;
        break;
      case BPF_RET | BPF_K:
        return op.k;
      default:
        CHECK_EQ(op.code, 0);
        return 0xdeadbeef;
    }
  }
  (void)index;
  CHECK(!"the program ends");
  return 0xdeadbeef;
}

uint32_t answer(const SeccompProgram& program, long number, std::array<uint64_t, 6> arguments = {}) {
  seccomp_data data = {};
  data.nr = static_cast<int>(number);
  data.arch = AUDIT_ARCH_X86_64;
  for (size_t i = 0; i < 6; ++i) data.args[i] = arguments[i];
  return evaluate(program.instructions, data);
}

constexpr uint32_t kErrno = SECCOMP_RET_ERRNO;

std::string profile(const std::string& rules, const std::string& rest = "\"defaultAction\": \"SCMP_ACT_ERRNO\", \"defaultErrnoRet\": 38") {
  return "{" + rest + ", \"architectures\": [\"SCMP_ARCH_X86_64\"], \"syscalls\": [" + rules + "]}";
}

std::shared_ptr<const SeccompProgram> compiled(const std::string& json) {
  auto result = compile_seccomp_uncached(json);
  if (!CHECK(result.ok())) {
    std::fprintf(stderr, "  %s %s\n", result.error().path.c_str(), result.error().detail.c_str());
    std::exit(1);
  }
  return *result;
}

void check_refused(const std::string& json, std::string_view field, int line) {
  const auto result = compile_seccomp_uncached(json);
  if (!berth::test::report(!result.ok(), __FILE__, line, "accepted " + json)) return;
  berth::test::equal(result.error().path, std::string(field), __FILE__, line, "field", "the field");
}
#define CHECK_REFUSED(json, field) check_refused((json), (field), __LINE__)

}  // namespace

#if defined(__x86_64__)

TEST(allows_by_name_and_denies_the_rest) {
  const auto program = compiled(profile(R"({"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"})"));
  CHECK_EQ(answer(*program, SYS_read), SECCOMP_RET_ALLOW);
  CHECK_EQ(answer(*program, SYS_write), SECCOMP_RET_ALLOW);
  CHECK_EQ(answer(*program, SYS_open), kErrno | 38);
}

TEST(default_errno_is_eperm) {
  const auto program = compiled(profile(R"({"names": ["read"], "action": "SCMP_ACT_ALLOW"})", R"("defaultAction": "SCMP_ACT_ERRNO")"));
  CHECK_EQ(answer(*program, SYS_open), kErrno | EPERM);
}

TEST(every_action) {
  const auto program = compiled(profile(R"({"names": ["read"], "action": "SCMP_ACT_KILL"},
      {"names": ["write"], "action": "SCMP_ACT_KILL_PROCESS"}, {"names": ["open"], "action": "SCMP_ACT_TRAP"},
      {"names": ["close"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13}, {"names": ["stat"], "action": "SCMP_ACT_TRACE", "errnoRet": 7},
      {"names": ["fstat"], "action": "SCMP_ACT_LOG"}, {"names": ["lstat"], "action": "SCMP_ACT_KILL_THREAD"})",
                                        R"("defaultAction": "SCMP_ACT_ALLOW")"));
  CHECK_EQ(answer(*program, SYS_read), static_cast<uint32_t>(SECCOMP_RET_KILL_THREAD));
  CHECK_EQ(answer(*program, SYS_write), static_cast<uint32_t>(SECCOMP_RET_KILL_PROCESS));
  CHECK_EQ(answer(*program, SYS_open), static_cast<uint32_t>(SECCOMP_RET_TRAP));
  CHECK_EQ(answer(*program, SYS_close), kErrno | 13);
  CHECK_EQ(answer(*program, SYS_stat), SECCOMP_RET_TRACE | 7u);
  CHECK_EQ(answer(*program, SYS_fstat), static_cast<uint32_t>(SECCOMP_RET_LOG));
  CHECK_EQ(answer(*program, SYS_lstat), static_cast<uint32_t>(SECCOMP_RET_KILL_THREAD));
  CHECK_EQ(answer(*program, SYS_getpid), SECCOMP_RET_ALLOW);
}

TEST(errno_may_stand_before_the_action) {
  const auto program = compiled(profile(R"({"errnoRet": 5, "names": ["read"], "action": "SCMP_ACT_ERRNO"})", R"("defaultAction": "SCMP_ACT_ALLOW")"));
  CHECK_EQ(answer(*program, SYS_read), kErrno | 5);
}

TEST(every_operator) {
  struct Expectation {
    const char* op;
    uint64_t value, two;
    uint64_t matching, other;
  };
  const Expectation table[] = {
      {"SCMP_CMP_EQ", 40, 0, 40, 41},           {"SCMP_CMP_NE", 40, 0, 41, 40},
      {"SCMP_CMP_LT", 40, 0, 39, 40},           {"SCMP_CMP_LE", 40, 0, 40, 41},
      {"SCMP_CMP_GT", 40, 0, 41, 40},           {"SCMP_CMP_GE", 40, 0, 40, 39},
      {"SCMP_CMP_MASKED_EQ", 0x7e020000, 0, 0x11, 0x10000011ull | 0x20000},
      {"SCMP_CMP_EQ", 0x100000001ull, 0, 0x100000001ull, 1},
  };
  for (const Expectation& entry : table) {
    const auto program = compiled(profile("{\"names\": [\"clone\"], \"action\": \"SCMP_ACT_ALLOW\", \"args\": [{\"index\": 0, \"value\": " +
                                          std::to_string(entry.value) + ", \"valueTwo\": " + std::to_string(entry.two) + ", \"op\": \"" + entry.op + "\"}]}"));
    CHECK_EQ(answer(*program, SYS_clone, {entry.matching}), SECCOMP_RET_ALLOW);
    CHECK_EQ(answer(*program, SYS_clone, {entry.other}), kErrno | 38);
  }
}

TEST(conditions_on_different_arguments_all_hold) {
  const auto program = compiled(profile(R"({"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [
      {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]})"));
  CHECK_EQ(answer(*program, SYS_ioctl, {1, 2}), SECCOMP_RET_ALLOW);
  CHECK_EQ(answer(*program, SYS_ioctl, {1, 3}), kErrno | 38);
}

TEST(conditions_on_one_argument_are_alternatives) {
  const auto program = compiled(profile(R"({"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
      {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]})"));
  CHECK_EQ(answer(*program, SYS_personality, {0}), SECCOMP_RET_ALLOW);
  CHECK_EQ(answer(*program, SYS_personality, {8}), SECCOMP_RET_ALLOW);
  CHECK_EQ(answer(*program, SYS_personality, {9}), kErrno | 38);
}

// Address families 38 (AF_ALG) and 40 (AF_VSOCK) lie between allowed ones: three ranges, because conditions on one argument
// are alternatives.
TEST(socket_families_by_ranges) {
  const auto program = compiled(profile(R"(
      {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_LT"}]},
      {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 39, "op": "SCMP_CMP_EQ"}]},
      {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_GT"}]})"));
  for (const uint64_t family : {1ull, 2ull, 10ull, 37ull, 39ull, 41ull}) CHECK_EQ(answer(*program, SYS_socket, {family}), SECCOMP_RET_ALLOW);
  CHECK_EQ(answer(*program, SYS_socket, {38}), kErrno | 38);
  CHECK_EQ(answer(*program, SYS_socket, {40}), kErrno | 38);
}

TEST(another_architecture_is_killed) {
  const auto program = compiled(profile(R"({"names": ["read"], "action": "SCMP_ACT_ALLOW"})"));
  seccomp_data data = {};
  data.nr = 3;
  data.arch = AUDIT_ARCH_I386;
  CHECK_EQ(evaluate(program->instructions, data), static_cast<uint32_t>(SECCOMP_RET_KILL_THREAD));
}

// The program does in the kernel what the evaluation above says.
TEST(loads_and_works) {
  const auto program = compiled(profile(R"({"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99})", R"("defaultAction": "SCMP_ACT_ALLOW")"));
  const pid_t child = fork();
  if (child == 0) {
    sock_fprog filter = {static_cast<unsigned short>(program->instructions.size()), const_cast<sock_filter*>(program->instructions.data())};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) _exit(1);
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, program->flags, &filter) != 0) _exit(2);
    if (syscall(SYS_getppid) != -1 || errno != 99) _exit(3);
    _exit(syscall(SYS_getpid) > 0 ? 0 : 4);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK_EQ(WEXITSTATUS(status), 0);
}

#endif

TEST(unknown_calls_are_passed_over) {
  CHECK(compile_seccomp_uncached(profile(R"({"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"})")).ok());
  CHECK(compile_seccomp_uncached(profile(R"({"names": ["no_such_call"], "action": "SCMP_ACT_ALLOW"})")).ok());
}

TEST(refuses_with_the_path) {
  CHECK_REFUSED(profile(R"({"names": ["read"], "action": "SCMP_ACT_MAYBE"})"), "linux.seccomp.syscalls[0].action");
  CHECK_REFUSED(profile(R"({"names": ["read"]})"), "linux.seccomp.syscalls[0]");
  CHECK_REFUSED(profile(R"({"action": "SCMP_ACT_ALLOW"})"), "linux.seccomp.syscalls[0]");
  CHECK_REFUSED(profile(R"({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})"), "linux.seccomp.syscalls[0].action");
  CHECK_REFUSED(profile(R"({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]})"),
                "linux.seccomp.syscalls[0].args[0].index");
  CHECK_REFUSED(profile(R"({"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "op": "=="}]})"),
                "linux.seccomp.syscalls[0].args[0].op");
  CHECK_REFUSED(R"({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_Z80"]})", "linux.seccomp.architectures[0]");
  CHECK_REFUSED(R"({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NONE"]})", "linux.seccomp.flags[0]");
  CHECK_REFUSED(R"({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x.sock"})", "linux.seccomp.listenerPath");
  CHECK_REFUSED(R"({"syscalls": []})", "linux.seccomp");
}

TEST(flags_become_the_kernels) {
  const auto result = compile_seccomp_uncached(R"({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]})");
  REQUIRE(result.ok());
  CHECK_EQ(result.value()->flags, static_cast<uint64_t>(SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW));
}

TEST(equal_profiles_share_one_program) {
  const std::string json = profile(R"({"names": ["getuid"], "action": "SCMP_ACT_ALLOW"})");
  const auto first = compile_seccomp(json);
  const auto second = compile_seccomp(json);
  REQUIRE(first.ok() && second.ok());
  CHECK(first.value().get() == second.value().get());
}

TEST(the_cache_is_bounded_and_forgets_the_oldest) {
  const auto numbered = [](size_t i) {
    return profile("{\"names\": [\"getgid\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": " + std::to_string(100 + i) + "}");
  };
  const auto first = compile_seccomp(numbered(0));
  REQUIRE(first.ok());
  for (size_t i = 1; i < 2 * kSeccompCacheEntries; ++i) {
    CHECK(compile_seccomp(numbered(i)).ok());
    CHECK(compile_seccomp(numbered(1)).ok());
  }
  CHECK_EQ(seccomp_cache_stats().entries, kSeccompCacheEntries);
  const auto before = seccomp_cache_stats();
  CHECK(compile_seccomp(numbered(1)).ok());
  CHECK_EQ(seccomp_cache_stats().hits, before.hits + 1);
  CHECK(compile_seccomp(numbered(0)).ok());
  CHECK_EQ(seccomp_cache_stats().misses, before.misses + 1);
}

TEST(refused_profiles_take_no_place) {
  const size_t before = seccomp_cache_stats().entries;
  for (int i = 0; i < 5; ++i) CHECK(!compile_seccomp("{\"defaultAction\": \"SCMP_ACT_X" + std::to_string(i) + "\"}").ok());
  CHECK_EQ(seccomp_cache_stats().entries, before);
  CHECK(!compile_seccomp(std::string(300 * 1024, ' ')).ok());
}

TEST(many_threads_compile_once) {
  const std::string json = profile(R"({"names": ["getegid"], "action": "SCMP_ACT_ALLOW"})");
  const uint64_t before = seccomp_cache_stats().misses;
  std::vector<std::thread> threads;
  std::array<const SeccompProgram*, 8> seen = {};
  for (size_t i = 0; i < seen.size(); ++i) {
    threads.emplace_back([&, i] {
      const auto result = compile_seccomp(json);
      seen[i] = result.ok() ? result.value().get() : nullptr;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const SeccompProgram* program : seen) {
    CHECK(program != nullptr);
    CHECK(program == seen[0]);
  }
  CHECK_EQ(seccomp_cache_stats().misses, before + 1);
}

CHECK_MAIN()
