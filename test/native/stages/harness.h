// What the native tests of stages, monitor and protocol share: checks, skipping, and plans built by hand.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/plan/format.h"

namespace berth::test {

inline int failures = 0;

#define CHECK(condition)                                                              \
  do {                                                                                \
    if (!(condition)) {                                                               \
      std::printf("%s:%d: %s is false\n", __FILE__, __LINE__, #condition);            \
      ++berth::test::failures;                                                        \
    }                                                                                 \
  } while (false)

#define CHECK_EQ(left, right)                                                                                      \
  do {                                                                                                             \
    const auto left_value = (left);                                                                                \
    const auto right_value = (right);                                                                              \
    if (!(left_value == right_value)) {                                                                            \
      std::printf("%s:%d: %s is %s, not %s\n", __FILE__, __LINE__, #left, berth::test::show(left_value).c_str(),   \
                  berth::test::show(right_value).c_str());                                                         \
      ++berth::test::failures;                                                                                     \
    }                                                                                                              \
  } while (false)

#define CHECK_CONTAINS(text, part)                                                                        \
  do {                                                                                                    \
    const std::string text_value = (text);                                                                \
    if (text_value.find(part) == std::string::npos) {                                                     \
      std::printf("%s:%d: %s lacks \"%s\": %s\n", __FILE__, __LINE__, #text, std::string(part).c_str(), text_value.c_str()); \
      ++berth::test::failures;                                                                            \
    }                                                                                                     \
  } while (false)

inline std::string show(const std::string& text) { return "\"" + text + "\""; }
inline std::string show(const char* text) { return "\"" + std::string(text) + "\""; }
template <typename T>
std::string show(T value) {
  if constexpr (std::is_enum_v<T>) {
    return std::to_string(static_cast<long long>(value));
  } else {
    return std::to_string(value);
  }
}

[[noreturn]] inline void skip(const char* why) {
  std::printf("skipped: %s\n", why);
  std::exit(77);
}

struct Test {
  const char* name;
  std::function<void()> run;
};

// Runs all, or those whose name holds the first argument.
inline int run_tests(int argc, char** argv, const std::vector<Test>& tests) {
  for (const Test& test : tests) {
    if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
    const int before = failures;
    test.run();
    std::printf("%s %s\n", failures == before ? "ok  " : "FAIL", test.name);
    std::fflush(stdout);
  }
  return failures == 0 ? 0 : 1;
}

inline std::string read_file(const std::string& path) {
  std::string text;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  char buffer[65536];
  ssize_t count = 0;
  while ((count = ::read(fd, buffer, sizeof(buffer))) > 0) text.append(buffer, static_cast<size_t>(count));
  ::close(fd);
  return text;
}

inline void write_file(int directory, const char* path, std::string_view text, mode_t mode = 0644) {
  const int fd = ::openat(directory, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  CHECK(fd >= 0);
  CHECK_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  ::close(fd);
}

// Builds plans op by op, as the compiler does, but without any of its knowledge.
class PlanBuilder {
 public:
  explicit PlanBuilder(plan::Kind kind) {
    header_.magic = plan::kMagic;
    header_.version = plan::kVersion;
    header_.kind = static_cast<uint32_t>(kind);
    header_.cgroup_fd = header_.pid_namespace_fd = header_.cgroup_fallback_fd = plan::kNone;
    header_.barrier_op = plan::kNone;
  }

  plan::Header& header() { return header_; }
  std::vector<plan::Op>& ops() { return ops_; }

  plan::Ref text(std::string_view value) {
    while (blob_.size() % 8 != 0) blob_.push_back(0);
    const plan::Ref ref = {static_cast<uint32_t>(blob_.size()), static_cast<uint32_t>(value.size())};
    blob_.append(value);
    blob_.push_back(0);
    return ref;
  }

  PlanBuilder& op(plan::OpCode code, std::string_view step, std::vector<uint64_t> numbers = {}, std::vector<std::string> texts = {}) {
    plan::Op op = {};
    op.code = static_cast<uint16_t>(code);
    op.step = text(step);
    for (size_t i = 0; i < numbers.size(); ++i) op.a[i] = numbers[i];
    for (size_t i = 0; i < texts.size(); ++i) op.s[i] = text(texts[i]);
    ops_.push_back(op);
    return *this;
  }

  // The next op is the first behind the start barrier, or the first of the cloned command.
  PlanBuilder& barrier() {
    header_.barrier_op = static_cast<uint32_t>(ops_.size());
    return *this;
  }

  PlanBuilder& exec(const std::vector<std::string>& argv, const std::vector<std::string>& env = {}) {
    if (header_.barrier_op == plan::kNone) barrier();
    return op(plan::OpCode::kExec, "exec", {}, {block(argv), block(env)});
  }

  static std::string block(const std::vector<std::string>& strings) {
    std::string joined;
    for (const std::string& string : strings) joined += string + '\0';
    return joined;
  }

  // The descriptor stays the caller's.
  uint64_t add_fd(int fd) {
    fds_.push_back(fd);
    return fds_.size() - 1;
  }
  [[nodiscard]] const std::vector<int>& fds() const { return fds_; }

  std::string bytes() {
    header_.op_count = static_cast<uint32_t>(ops_.size());
    header_.blob_offset = static_cast<uint32_t>(sizeof(header_) + ops_.size() * sizeof(plan::Op));
    header_.blob_size = static_cast<uint32_t>(blob_.size());
    header_.total_size = header_.blob_offset + header_.blob_size;
    header_.fd_count = static_cast<uint32_t>(fds_.size());
    std::string all(reinterpret_cast<const char*>(&header_), sizeof(header_));
    all.append(reinterpret_cast<const char*>(ops_.data()), ops_.size() * sizeof(plan::Op));
    all.append(blob_);
    return all;
  }

  int memfd(bool sealed = true) {
    const std::string all = bytes();
    const int fd = ::memfd_create("plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK_EQ(::write(fd, all.data(), all.size()), static_cast<ssize_t>(all.size()));
    if (sealed) CHECK_EQ(::fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
    return fd;
  }

 private:
  plan::Header header_ = {};
  std::vector<plan::Op> ops_;
  std::string blob_;
  std::vector<int> fds_;
};

// A detached tmpfs with `program` as /bin/probe.
int make_root(const char* program);
// The ops that make a container of it: namespaces, root, /proc, /dev with null, devpts; up to but without the pivot.
void add_container(PlanBuilder& builder, int root_fd, uint64_t clone_flags);

}  // namespace berth::test
