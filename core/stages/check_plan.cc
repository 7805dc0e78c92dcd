#include "core/stages/check_plan.h"

#include <sched.h>

#include <cstring>

#include "core/sys/clone.h"

namespace berth::stages {
namespace {

using plan::Header;
using plan::kMaxSlots;
using plan::kNone;
using plan::Op;
using plan::OpCode;
using plan::Ref;

// What the arguments of an op are.
//   a: 'n' a number · 'i' fd index · 'j' fd index or none · 'l' slot · 'm' slot or none
//   s: 't' text, not empty · 'o' text, may be empty · 'k' block · 'b' bytes
// Arguments past the end of a specification are not looked at.
struct Shape {
  OpCode code;
  const char* a;
  const char* s;
};

constexpr Shape kShapes[] = {
    {OpCode::kCgroupAttach, "i", ""},
    {OpCode::kJoinNamespace, "in", ""},
    {OpCode::kUnshare, "n", ""},
    {OpCode::kSetHostname, "", "o"},
    {OpCode::kSetDomainname, "", "o"},
    {OpCode::kLoopbackUp, "", ""},
    {OpCode::kOpenSource, "lnn", "t"},
    {OpCode::kRootPropagation, "n", ""},
    {OpCode::kAttachRoot, "jm", "o"},
    {OpCode::kMountFilesystem, "nnnn", "ttko"},
    {OpCode::kMountSlot, "lnnnn", "ot"},
    {OpCode::kSetAttributes, "nnnnm", "oo"},
    {OpCode::kMakeDirectory, "nnn", "ot"},
    {OpCode::kMakeNode, "nnnn", "oto"},
    {OpCode::kMakeSymlink, "n", "tt"},
    {OpCode::kMask, "", "ot"},
    {OpCode::kReadonlyPath, "", "ot"},
    {OpCode::kPivot, "nn", ""},
    {OpCode::kSysctl, "", "to"},
    {OpCode::kTerminal, "nnnn", ""},
    {OpCode::kConsole, "", ""},
    {OpCode::kSetsid, "n", ""},
    {OpCode::kOomScoreAdj, "nn", ""},
    {OpCode::kRlimit, "nnn", ""},
    {OpCode::kUmask, "n", ""},
    {OpCode::kPersonality, "n", ""},
    {OpCode::kScheduler, "nnnnnn", "b"},
    {OpCode::kIoPriority, "n", ""},
    {OpCode::kCpuAffinity, "", "b"},
    {OpCode::kSessionKeyring, "", "o"},
    {OpCode::kLabelProcess, "", "tt"},
    {OpCode::kBoundingSet, "n", ""},
    {OpCode::kKeepCaps, "", ""},
    {OpCode::kSetGroups, "", "b"},
    {OpCode::kSetGid, "n", ""},
    {OpCode::kSetUid, "n", ""},
    {OpCode::kCapabilities, "nnn", ""},
    {OpCode::kAmbient, "n", ""},
    {OpCode::kNoNewPrivileges, "", ""},
    {OpCode::kSeccomp, "nm", "b"},
    {OpCode::kChdir, "nnn", "t"},
    {OpCode::kLookupProgram, "", "to"},
    {OpCode::kExec, "", "kk"},
    {OpCode::kMakeDetached, "", ""},
    {OpCode::kTimeOffsets, "", "t"},
    {OpCode::kUserMapWait, "", ""},
    {OpCode::kCopyFile, "n", "bt"},
};

const Shape* find_shape(uint16_t code) {
  for (const Shape& shape : kShapes) {
    if (static_cast<uint16_t>(shape.code) == code) return &shape;
  }
  return nullptr;
}

class Checker {
 public:
  Checker(const uint8_t* data, const Header& header, PlanFault* fault) : data_(data), header_(header), fault_(fault) {}

  bool run() {
    bool detached = false;
    uint32_t ends = 0;
    for (uint32_t i = 0; i < header_.op_count; ++i) {
      fault_->op_index = i;
      Op op;
      std::memcpy(&op, data_ + sizeof(Header) + static_cast<size_t>(i) * sizeof(Op), sizeof(op));
      if (!check_op(op)) return false;
      if (op.code == static_cast<uint16_t>(OpCode::kExec)) {
        if (i + 1 != header_.op_count) return refuse("ops after the program");
        ++ends;
      }
      if (op.code == static_cast<uint16_t>(OpCode::kMakeDetached)) {
        if (header_.kind != static_cast<uint32_t>(plan::Kind::kExec) || detached) return refuse("misplaced detaching");
        if (header_.barrier_op != i + 1) return refuse("barrier elsewhere");
        detached = true;
      }
    }
    fault_->op_index = kNone;
    if (ends != 1) return refuse("no program");
    if (header_.kind == static_cast<uint32_t>(plan::Kind::kExec) && !detached) return refuse("no detaching");
    return true;
  }

 private:
  bool refuse(const char* reason) {
    fault_->reason = reason;
    return false;
  }

  // The range lies in the blob, and a NUL follows it there; an empty range is empty wherever it claims to be.
  bool check_ref(const Ref& ref) {
    if (ref.size == 0) return true;
    return ref.offset <= header_.blob_size && ref.size < header_.blob_size - ref.offset && ref.offset % 8 == 0 &&
           data_[header_.blob_offset + ref.offset + ref.size] == 0;
  }
  const char* text(const Ref& ref) { return reinterpret_cast<const char*>(data_) + header_.blob_offset + ref.offset; }

  bool check_op(const Op& op) {
    const Shape* shape = find_shape(op.code);
    if (shape == nullptr) return refuse("unknown op");
    if (!check_ref(op.step) || (op.step.size > 0 && std::memchr(text(op.step), 0, op.step.size) != nullptr)) return refuse("name of the step");
    for (size_t i = 0; shape->a[i] != 0; ++i) {
      const uint64_t value = op.a[i];
      switch (shape->a[i]) {
        case 'i':
          if (value >= header_.fd_count) return refuse("index of a descriptor");
          break;
        case 'j':
          if (value != kNone && value >= header_.fd_count) return refuse("index of a descriptor");
          break;
        case 'l':
          if (value >= kMaxSlots) return refuse("slot");
          break;
        case 'm':
          if (value != kNone && value >= kMaxSlots) return refuse("slot");
          break;
        default:
          break;
      }
    }
    for (size_t i = 0; shape->s[i] != 0; ++i) {
      const Ref& ref = op.s[i];
      if (!check_ref(ref)) return refuse("range outside the blob");
      const bool inner_nul = ref.size > 0 && std::memchr(text(ref), 0, ref.size) != nullptr;
      switch (shape->s[i]) {
        case 't':
          if (ref.size == 0) return refuse("empty text");
          [[fallthrough]];
        case 'o':
          if (inner_nul) return refuse("NUL in a text");
          if (ref.size >= kMaxText) return refuse("text too long");
          break;
        case 'k':
          if (ref.size > 0 && text(ref)[ref.size - 1] != 0) return refuse("block without its last NUL");
          break;
        default:
          break;
      }
    }
    return check_special(op);
  }

  bool check_special(const Op& op) {
    switch (static_cast<OpCode>(op.code)) {
      case OpCode::kAttachRoot:
        return (op.a[0] == kNone) != (op.a[1] == kNone) || refuse("root neither a descriptor nor a slot");
      case OpCode::kSetAttributes:
        return (op.a[4] == kNone) != (op.s[1].size == 0) || refuse("attributes of nothing");
      case OpCode::kRlimit:
        return op.a[0] < 64 || refuse("resource");
      case OpCode::kSetGroups:
        return (op.s[0].size % 4 == 0 && op.s[0].size <= 65536 * 4) || refuse("groups");
      case OpCode::kCpuAffinity:
        return (op.s[0].size > 0 && op.s[0].size <= 8192) || refuse("cpu set");
      case OpCode::kScheduler:
        return op.s[0].size == 0 || op.s[0].size == 8 || refuse("scheduler");
      case OpCode::kSeccomp:
        return (op.s[0].size > 0 && op.s[0].size % 8 == 0 && op.s[0].size / 8 <= 4096) || refuse("filter");
      case OpCode::kExec:
        return op.s[0].size > 0 || refuse("no arguments");
      default:
        return true;
    }
  }

  // Longest text: a PATH may be long, a path may not; the kernel says so itself.
  static constexpr uint32_t kMaxText = 128 * 1024;

  const uint8_t* data_;
  const Header& header_;
  PlanFault* fault_;
};

bool refuse_header(PlanFault* fault, const char* reason) {
  fault->op_index = kNone;
  fault->reason = reason;
  return false;
}

}  // namespace

bool check_header(const Header& header, size_t plan_size, uint32_t fd_count, PlanFault* fault) {
  if (header.magic != plan::kMagic) return refuse_header(fault, "not a plan");
  if (header.version != plan::kVersion) return refuse_header(fault, "version of the plan");
  if (header.total_size != plan_size || plan_size > plan::kMaxPlanBytes) return refuse_header(fault, "size of the plan");
  if (header.kind != static_cast<uint32_t>(plan::Kind::kCreate) && header.kind != static_cast<uint32_t>(plan::Kind::kExec)) {
    return refuse_header(fault, "kind of the plan");
  }
  if (header.fd_count != fd_count) return refuse_header(fault, "number of descriptors");
  const uint64_t ops_end = sizeof(Header) + static_cast<uint64_t>(header.op_count) * sizeof(Op);
  if (header.op_count == 0 || ops_end > header.blob_offset) return refuse_header(fault, "number of ops");
  if (header.blob_offset % 8 != 0) return refuse_header(fault, "offset of the blob");
  if (static_cast<uint64_t>(header.blob_offset) + header.blob_size > plan_size) return refuse_header(fault, "size of the blob");
  const auto index_or_none = [&](uint32_t index) { return index == kNone || index < fd_count; };
  if (!index_or_none(header.cgroup_fd) || !index_or_none(header.pid_namespace_fd) || !index_or_none(header.cgroup_fallback_fd)) {
    return refuse_header(fault, "index of a descriptor");
  }
  constexpr uint64_t allowed = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWUSER;
  if ((header.clone_flags & ~allowed) != 0) return refuse_header(fault, "clone flags");
  if (header.kind == static_cast<uint32_t>(plan::Kind::kExec) && header.clone_flags != 0) return refuse_header(fault, "clone flags");
  if (header.barrier_op >= header.op_count) return refuse_header(fault, "barrier");
  return true;
}

bool check_plan(const void* data, size_t size, uint32_t fd_count, PlanFault* fault) {
  if (size < sizeof(Header)) return refuse_header(fault, "too short");
  Header header;
  std::memcpy(&header, data, sizeof(header));
  if (!check_header(header, size, fd_count, fault)) return false;
  return Checker(static_cast<const uint8_t*>(data), header, fault).run();
}

}  // namespace berth::stages
