#include "core/plan/builder.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

namespace berth::plan {

namespace {

constexpr std::string_view kStep = "plan.seal";

Result<Fd> open_memfd() {
  // Where vm.memfd_noexec is 2, nothing else is given; kernels before 6.3 do not know the flag.
  Fd memory(memfd_create("berth-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL));
  if (!memory.valid() && errno == EINVAL) memory.reset(memfd_create("berth-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.valid()) return errno_error(kStep, "memfd_create");
  return memory;
}

Result<void> write_all(int fd, std::string_view data, off_t offset) {
  while (!data.empty()) {
    const ssize_t written = pwrite(fd, data.data(), data.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return errno_error(kStep, "pwrite");
    data.remove_prefix(static_cast<size_t>(written));
    offset += written;
  }
  return {};
}

}  // namespace

Builder::Builder() {
  header_.magic = kMagic;
  header_.version = kVersion;
  header_.cgroup_fd = kNone;
  header_.cgroup_fallback_fd = kNone;
  header_.pid_namespace_fd = kNone;
  ops_.reserve(96);
  blob_.reserve(16 * 1024);
}

Op& Builder::add(OpCode code, std::string_view step) {
  const Ref name = text(step);
  Op& op = ops_.emplace_back();
  op.code = static_cast<uint16_t>(code);
  op.step = name;
  return op;
}

Ref Builder::text(std::string_view value) {
  return bytes(value.data(), value.size());
}

Ref Builder::bytes(const void* data, size_t size) {
  blob_.resize((blob_.size() + 7) & ~size_t{7});
  const Ref ref{static_cast<uint32_t>(blob_.size()), static_cast<uint32_t>(size)};
  if (size > 0) blob_.append(static_cast<const char*>(data), size);
  blob_.push_back('\0');
  return ref;
}

Ref Builder::block(const std::vector<std::string_view>& strings) {
  std::string joined;
  for (const std::string_view string : strings) {
    joined.append(string);
    joined.push_back('\0');
  }
  return bytes(joined.data(), joined.size());
}

Result<uint32_t> Builder::borrow(int fd, std::string_view step) {
  Fd copy(fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy.valid()) return errno_error(step, "fcntl(F_DUPFD_CLOEXEC)");
  return adopt(std::move(copy));
}

uint32_t Builder::adopt(Fd fd) {
  fds_.push_back(std::move(fd));
  return static_cast<uint32_t>(fds_.size() - 1);
}

Result<uint32_t> Builder::slot(std::string_view field) {
  if (slots_ == kMaxSlots) return field_error("plan.compile", field, "more than 512 mounts from the host");
  return slots_++;
}

Result<CompiledPlan> Builder::finish(Kind kind) {
  blob_.resize((blob_.size() + 7) & ~size_t{7});
  const size_t ops_size = ops_.size() * sizeof(Op);
  const size_t total = sizeof(Header) + ops_size + blob_.size();
  if (total > kMaxPlanBytes) return make_error(E2BIG, kStep, "parse", {}, "the plan is longer than 4 MiB");
  header_.kind = static_cast<uint32_t>(kind);
  header_.total_size = static_cast<uint32_t>(total);
  header_.op_count = static_cast<uint32_t>(ops_.size());
  header_.blob_offset = static_cast<uint32_t>(sizeof(Header) + ops_size);
  header_.blob_size = static_cast<uint32_t>(blob_.size());
  header_.fd_count = static_cast<uint32_t>(fds_.size());

  BERTH_ASSIGN(Fd memory, open_memfd());
  std::string image;
  image.reserve(total);
  image.append(reinterpret_cast<const char*>(&header_), sizeof(header_));
  image.append(reinterpret_cast<const char*>(ops_.data()), ops_size);
  image.append(blob_);
  BERTH_TRY(write_all(memory.get(), image, 0));
  if (fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0) {
    return errno_error(kStep, "fcntl(F_ADD_SEALS)");
  }
  CompiledPlan plan;
  plan.memfd = std::move(memory);
  plan.fds = std::move(fds_);
  plan.bytes = header_.total_size;
  plan.clamped = std::move(clamped_);
  plan.terminal = header_.terminal != 0;
  return plan;
}

}  // namespace berth::plan
