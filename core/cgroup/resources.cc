#include "core/cgroup/resources.h"

#include <rapidjson/document.h>
#include <rapidjson/error/en.h>

namespace berth::cgroup {
namespace {

constexpr std::string_view kStep = "cgroup.resources";
using Value = rapidjson::Value;

// Reads members of one JSON object; the first failure is kept and everything after it does nothing.
class Reader {
 public:
  Reader(const Value* object, std::string path, std::optional<Error>* failure)
      : object_(object), path_(std::move(path)), failure_(failure) {}

  [[nodiscard]] bool failed() const { return failure_->has_value(); }

  void fail(const char* key, std::string_view why) {
    if (!failed()) *failure_ = field_error(kStep, path_ + "." + key, why);
  }

  // The member, or nullptr where it is absent or null.
  const Value* find(const char* key) {
    if (failed()) return nullptr;
    const auto member = object_->FindMember(key);
    return member == object_->MemberEnd() || member->value.IsNull() ? nullptr : &member->value;
  }

  void number(const char* key, std::optional<int64_t>* out) {
    const Value* value = find(key);
    if (value == nullptr) return;
    if (!value->IsInt64()) return fail(key, "not a 64-bit integer");
    *out = value->GetInt64();
  }
  void number(const char* key, std::optional<uint64_t>* out) {
    const Value* value = find(key);
    if (value == nullptr) return;
    if (!value->IsUint64()) return fail(key, "not an unsigned 64-bit integer");
    *out = value->GetUint64();
  }
  void boolean(const char* key, std::optional<bool>* out) {
    const Value* value = find(key);
    if (value == nullptr) return;
    if (!value->IsBool()) return fail(key, "not a boolean");
    *out = value->GetBool();
  }
  void text(const char* key, std::string* out) {
    const Value* value = find(key);
    if (value == nullptr) return;
    if (!value->IsString()) return fail(key, "not a string");
    out->assign(value->GetString(), value->GetStringLength());
    if (out->find('\0') != std::string::npos) fail(key, "contains a NUL");
  }

  template <typename Body>
  void object(const char* key, Body body) {
    const Value* value = find(key);
    if (value == nullptr) return;
    if (!value->IsObject()) return fail(key, "not an object");
    Reader inner(value, path_ + "." + key, failure_);
    body(inner);
  }
  template <typename Body>
  void array(const char* key, Body body) {
    const Value* value = find(key);
    if (value == nullptr) return;
    if (!value->IsArray()) return fail(key, "not an array");
    unsigned index = 0;
    for (const Value& element : value->GetArray()) {
      const std::string name = std::string(key) + "[" + std::to_string(index++) + "]";
      if (!element.IsObject()) return fail(name.c_str(), "not an object");
      Reader inner(&element, path_ + "." + name, failure_);
      body(inner);
      if (failed()) return;
    }
  }
  // Every member whatever its name: body(name, value).
  template <typename Body>
  void each(Body body) {
    for (const auto& member : object_->GetObject()) {
      if (failed()) return;
      body(std::string(member.name.GetString(), member.name.GetStringLength()), member.value);
    }
  }
  Reader at(const std::string& key, const Value& value) { return Reader(&value, path_ + "." + key, failure_); }

 private:
  const Value* object_;
  std::string path_;
  std::optional<Error>* failure_;
};

void read_device_rule(Reader& entry, std::vector<DeviceRule>* rules) {
  DeviceRule rule;
  std::optional<bool> allow;
  std::optional<int64_t> major;
  std::optional<int64_t> minor;
  std::string type;
  std::string access;
  entry.boolean("allow", &allow);
  entry.text("type", &type);
  entry.number("major", &major);
  entry.number("minor", &minor);
  entry.text("access", &access);
  if (entry.failed()) return;
  if (!allow.has_value()) return entry.fail("allow", "missing");
  rule.allow = *allow;
  if (type.empty()) type = "a";
  if (type != "a" && type != "b" && type != "c" && type != "u" && type != "p") return entry.fail("type", "not one of a, b, c, u");
  if (type == "p") return entry.fail("type", "a pipe is no device that a cgroup controls");
  rule.type = type == "u" ? 'c' : type[0];
  rule.major = major.value_or(kAnyDevice);
  rule.minor = minor.value_or(kAnyDevice);
  if (rule.major < kAnyDevice || rule.major > 0xfff) return entry.fail("major", "out of range");
  if (rule.minor < kAnyDevice || rule.minor > 0xfffff) return entry.fail("minor", "out of range");
  if (rule.type == 'a' && (rule.major != kAnyDevice || rule.minor != kAnyDevice)) {
    return entry.fail("type", "a rule for all devices cannot name one");
  }
  if (access.empty()) access = "rwm";
  rule.access = 0;
  for (const char c : access) {
    if (c == 'r') rule.access |= kAccessRead;
    else if (c == 'w') rule.access |= kAccessWrite;
    else if (c == 'm') rule.access |= kAccessMknod;
    else return entry.fail("access", "not made of r, w, m");
  }
  rules->push_back(rule);
}

// {"major", "minor", <key>}: entries without the value (leafWeight alone, say) are passed over.
void read_device_values(Reader& parent, const char* list, const char* key, std::vector<DeviceValue>* out) {
  parent.array(list, [key, out](Reader& entry) {
    std::optional<int64_t> major;
    std::optional<int64_t> minor;
    std::optional<uint64_t> value;
    entry.number("major", &major);
    entry.number("minor", &minor);
    entry.number(key, &value);
    if (entry.failed()) return;
    if (!major.has_value()) return entry.fail("major", "missing");
    if (!minor.has_value()) return entry.fail("minor", "missing");
    if (value.has_value()) out->push_back({*major, *minor, *value});
  });
}

void read_memory(Reader& memory, MemoryResources* out) {
  memory.number("limit", &out->limit);
  memory.number("reservation", &out->reservation);
  memory.number("swap", &out->swap);
  memory.number("kernelTCP", &out->kernel_tcp);
  memory.number("swappiness", &out->swappiness);
  memory.boolean("disableOOMKiller", &out->disable_oom_killer);
  std::optional<bool> check;
  memory.boolean("checkBeforeUpdate", &check);
  out->check_before_update = check.value_or(false);
  for (const auto& [key, value] : {std::pair<const char*, const std::optional<int64_t>&>{"limit", out->limit},
                                   {"reservation", out->reservation},
                                   {"swap", out->swap},
                                   {"kernelTCP", out->kernel_tcp}}) {
    if (value.value_or(0) < -1) memory.fail(key, "below -1");
  }
  if (out->swappiness.value_or(0) > 200) memory.fail("swappiness", "above 200");
}

void read_cpu(Reader& cpu, CpuResources* out) {
  cpu.number("shares", &out->shares);
  cpu.number("quota", &out->quota);
  cpu.number("period", &out->period);
  cpu.number("burst", &out->burst);
  cpu.number("realtimeRuntime", &out->realtime_runtime);
  cpu.number("realtimePeriod", &out->realtime_period);
  cpu.number("idle", &out->idle);
  cpu.text("cpus", &out->cpus);
  cpu.text("mems", &out->mems);
}

void read_hugepage(Reader& entry, std::vector<HugepageLimit>* out) {
  HugepageLimit limit;
  std::optional<uint64_t> bytes;
  entry.text("pageSize", &limit.page_size);
  entry.number("limit", &bytes);
  if (entry.failed()) return;
  // It becomes part of a file name.
  if (limit.page_size.empty() || limit.page_size.find_first_not_of("0123456789KMGTB") != std::string::npos) {
    return entry.fail("pageSize", "not like 2MB");
  }
  if (!bytes.has_value()) return entry.fail("limit", "missing");
  limit.limit = *bytes;
  out->push_back(std::move(limit));
}

void read_network(Reader& network, Resources* out) {
  network.number("classID", &out->network_class);
  network.array("priorities", [out](Reader& entry) {
    InterfacePriority priority;
    std::optional<uint64_t> value;
    entry.text("name", &priority.name);
    entry.number("priority", &value);
    if (entry.failed()) return;
    if (priority.name.empty() || priority.name.find_first_of(" \n") != std::string::npos) return entry.fail("name", "not an interface");
    priority.priority = value.value_or(0);
    out->network_priorities.push_back(std::move(priority));
  });
}

void read_rdma(Reader& rdma, std::vector<RdmaLimit>* out) {
  rdma.each([&rdma, out](const std::string& name, const Value& value) {
    if (!value.IsObject()) return rdma.fail(name.c_str(), "not an object");
    if (name.find_first_of(" \n") != std::string::npos) return rdma.fail(name.c_str(), "not a device");
    RdmaLimit limit;
    limit.device = name;
    Reader entry = rdma.at(name, value);
    entry.number("hcaHandles", &limit.handles);
    entry.number("hcaObjects", &limit.objects);
    out->push_back(std::move(limit));
  });
}

void read_unified(Reader& unified, std::vector<UnifiedValue>* out) {
  unified.each([&unified, out](const std::string& file, const Value& value) {
    if (!value.IsString()) return unified.fail(file.c_str(), "not a string");
    if (file.empty() || file[0] == '.' || file.find_first_of("/\n") != std::string::npos || file.find('\0') != std::string::npos) {
      return unified.fail(file.c_str(), "not the name of a cgroup file");
    }
    out->push_back({file, std::string(value.GetString(), value.GetStringLength())});
  });
}

}  // namespace

Result<Resources> parse_resources(std::string_view json) {
  rapidjson::Document document;
  // Iterative: nesting costs memory, not stack.
  document.Parse<rapidjson::kParseIterativeFlag | rapidjson::kParseValidateEncodingFlag>(json.data(), json.size());
  if (document.HasParseError()) {
    return field_error(kStep, "linux.resources",
                       std::string(rapidjson::GetParseError_En(document.GetParseError())) + " at byte " +
                           std::to_string(document.GetErrorOffset()));
  }
  Resources out;
  if (document.IsNull()) return out;
  if (!document.IsObject()) return field_error(kStep, "linux.resources", "not an object");
  std::optional<Error> failure;
  Reader top(&document, "linux.resources", &failure);
  if (top.find("devices") != nullptr) out.devices.emplace();
  top.array("devices", [&out](Reader& entry) { read_device_rule(entry, &*out.devices); });
  top.object("memory", [&out](Reader& memory) { read_memory(memory, &out.memory); });
  top.object("cpu", [&out](Reader& cpu) { read_cpu(cpu, &out.cpu); });
  top.object("pids", [&out](Reader& pids) { pids.number("limit", &out.pids_limit); });
  top.object("blockIO", [&out](Reader& io) {
    io.number("weight", &out.block_io.weight);
    io.number("leafWeight", &out.block_io.leaf_weight);
    read_device_values(io, "weightDevice", "weight", &out.block_io.weight_device);
    read_device_values(io, "weightDevice", "leafWeight", &out.block_io.leaf_weight_device);
    read_device_values(io, "throttleReadBpsDevice", "rate", &out.block_io.read_bps);
    read_device_values(io, "throttleWriteBpsDevice", "rate", &out.block_io.write_bps);
    read_device_values(io, "throttleReadIOPSDevice", "rate", &out.block_io.read_iops);
    read_device_values(io, "throttleWriteIOPSDevice", "rate", &out.block_io.write_iops);
  });
  top.array("hugepageLimits", [&out](Reader& entry) { read_hugepage(entry, &out.hugepages); });
  top.object("network", [&out](Reader& network) { read_network(network, &out); });
  top.object("rdma", [&out](Reader& rdma) { read_rdma(rdma, &out.rdma); });
  top.object("unified", [&out](Reader& unified) { read_unified(unified, &out.unified); });
  if (failure.has_value()) return std::move(*failure);
  return out;
}

}  // namespace berth::cgroup
