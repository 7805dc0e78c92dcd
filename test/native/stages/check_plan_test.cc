// What check_plan accepts and refuses; and that no input whatever makes it read outside the plan (run with ASan).
#include "core/stages/check_plan.h"

#include <memory>
#include <random>

#include "test/native/stages/harness.h"

namespace {

using berth::plan::Header;
using berth::plan::Kind;
using berth::plan::kNone;
using berth::plan::Op;
using berth::plan::OpCode;
using berth::stages::check_plan;
using berth::stages::PlanFault;
using berth::test::PlanBuilder;

// A copy on the heap of exactly the plan's size, so that a sanitizer sees every byte past its end.
bool accepts(const std::string& bytes, uint32_t fd_count, const char** reason = nullptr) {
  const auto copy = std::make_unique<uint64_t[]>((bytes.size() + 7) / 8 + 1);
  std::memcpy(copy.get(), bytes.data(), bytes.size());
  PlanFault fault;
  const bool good = check_plan(copy.get(), bytes.size(), fd_count, &fault);
  if (!good && fault.reason == nullptr) CHECK(false);
  if (reason != nullptr) *reason = fault.reason;
  return good;
}

PlanBuilder sample() {
  PlanBuilder builder(Kind::kCreate);
  builder.add_fd(0);
  builder.op(OpCode::kSetHostname, "hostname", {}, {"name"})
      .op(OpCode::kCgroupAttach, "cgroup", {0})
      .op(OpCode::kOpenSource, "source", {3, 1, 0}, {"/etc"})
      .op(OpCode::kMountSlot, "mount", {3, 0, 0, 0, 0}, {"", "/etc"})
      .op(OpCode::kSetGroups, "groups", {}, {std::string(8, '\1')})
      .op(OpCode::kSeccomp, "seccomp", {0, kNone}, {std::string(16, '\0')})
      .exec({"/bin/true", "x"}, {"A=b"});
  return builder;
}

void refuses(const char* what, const std::function<void(PlanBuilder&)>& change) {
  PlanBuilder builder = sample();
  change(builder);
  const char* reason = nullptr;
  if (accepts(builder.bytes(), 1, &reason)) {
    std::printf("accepted: %s\n", what);
    CHECK(false);
  }
}

void accepts_good() { CHECK(accepts(sample().bytes(), 1)); }

void refuses_bad() {
  refuses("wrong magic", [](PlanBuilder& b) { b.header().magic = 1; });
  refuses("wrong version", [](PlanBuilder& b) { ++b.header().version; });
  refuses("wrong kind", [](PlanBuilder& b) { b.header().kind = 9; });
  refuses("a namespace that clone3 may not make", [](PlanBuilder& b) { b.header().clone_flags = 0x00020000; });
  refuses("cgroup index", [](PlanBuilder& b) { b.header().cgroup_fd = 1; });
  refuses("barrier outside", [](PlanBuilder& b) { b.header().barrier_op = 99; });
  refuses("unknown op", [](PlanBuilder& b) { b.ops()[0].code = 4711; });
  refuses("kEnd", [](PlanBuilder& b) { b.ops()[0].code = 0; });
  refuses("fd index", [](PlanBuilder& b) { b.ops()[1].a[0] = 1; });
  refuses("slot", [](PlanBuilder& b) { b.ops()[2].a[0] = 512; });
  refuses("text past the blob", [](PlanBuilder& b) { b.ops()[0].s[0].size = 1u << 20; });
  refuses("offset past the blob", [](PlanBuilder& b) { b.ops()[0].s[0].offset = 0xfffffff8; });
  refuses("unaligned text", [](PlanBuilder& b) { b.ops()[0].s[0].offset += 1; });
  refuses("text without its NUL", [](PlanBuilder& b) { b.ops()[0].s[0].size = 3; });
  refuses("NUL inside a text", [](PlanBuilder& b) { b.ops()[0].s[0] = b.text(std::string_view("a\0b", 3)); });
  refuses("empty path", [](PlanBuilder& b) { b.ops()[2].s[0].size = 0; });
  refuses("groups of five bytes", [](PlanBuilder& b) { b.ops()[4].s[0] = b.text("12345"); });
  refuses("filter of nine bytes", [](PlanBuilder& b) { b.ops()[5].s[0] = b.text("123456789"); });
  refuses("no arguments", [](PlanBuilder& b) { b.ops().back().s[0].size = 0; });
  refuses("block without its last NUL", [](PlanBuilder& b) { b.ops().back().s[0] = b.text("argv"); });
  refuses("no program", [](PlanBuilder& b) { b.ops().pop_back(); b.header().barrier_op = 0; });
  refuses("ops after the program", [](PlanBuilder& b) { b.op(OpCode::kSetsid, "late", {0}); });
  refuses("detaching in a create", [](PlanBuilder& b) { b.ops()[0].code = static_cast<uint16_t>(OpCode::kMakeDetached); });
  CHECK(!accepts(sample().bytes(), 2));
  CHECK(!accepts(sample().bytes() + '\0', 1));
  CHECK(!accepts(std::string(), 0));
  CHECK(!accepts(sample().bytes().substr(0, 40), 1));
}

void exec_needs_detaching() {
  PlanBuilder without(Kind::kExec);
  without.exec({"/bin/true"});
  CHECK(!accepts(without.bytes(), 0));
  PlanBuilder with(Kind::kExec);
  with.op(OpCode::kMakeDetached, "detach").barrier().exec({"/bin/true"});
  CHECK(accepts(with.bytes(), 0));
}

// Flips, cuts and random numbers, from a fixed seed: nothing is asserted but that each is answered within bounds.
void survives_noise() {
  std::mt19937 random(20240229);
  const std::string good = sample().bytes();
  for (int round = 0; round < 200'000; ++round) {
    std::string bytes = good;
    const unsigned changes = 1 + random() % 4;
    for (unsigned i = 0; i < changes; ++i) {
      const size_t at = random() % (bytes.size() / 4) * 4;
      const uint32_t value = random() % 3 == 0 ? random() : random() % 600;
      std::memcpy(bytes.data() + at, &value, sizeof(value));
    }
    if (random() % 8 == 0) bytes.resize(random() % bytes.size());
    (void)accepts(bytes, 1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  return berth::test::run_tests(argc, argv,
                                {{"accepts a good plan", accepts_good},
                                 {"refuses bad plans", refuses_bad},
                                 {"an exec detaches exactly once", exec_needs_detaching},
                                 {"survives noise", survives_noise}});
}
