// Lays a plan out: ops, their strings, their descriptors; finish() writes and seals it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/plan/compile.h"
#include "core/plan/format.h"

namespace berth::plan {

class Builder {
 public:
  Builder();

  // Appends an op. The reference is good until the next add().
  Op& add(OpCode code, std::string_view step);

  Ref text(std::string_view value);
  Ref bytes(const void* data, size_t size);
  Ref block(const std::vector<std::string_view>& strings);

  // Duplicates the caller's descriptor into the plan and returns its index.
  Result<uint32_t> borrow(int fd, std::string_view step);
  uint32_t adopt(Fd fd);

  // A slot that no other op uses.
  Result<uint32_t> slot(std::string_view field);

  [[nodiscard]] Header& header() { return header_; }
  // The next op is the first behind the barrier.
  void barrier() { header_.barrier_op = static_cast<uint32_t>(ops_.size()); }
  void report(std::string line) { clamped_.push_back(std::move(line)); }

  Result<CompiledPlan> finish(Kind kind);

 private:
  Header header_{};
  std::vector<Op> ops_;
  std::string blob_;
  std::vector<Fd> fds_;
  std::vector<std::string> clamped_;
  uint32_t slots_ = 0;
};

}  // namespace berth::plan
