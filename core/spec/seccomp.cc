#include "core/spec/seccomp.h"

#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <list>
#include <mutex>
#include <string>
#include <unordered_map>

#include "core/base/fd.h"
#include "core/spec/json.h"
#include "core/spec/parse.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

namespace berth::spec {

namespace {

using std::string_view;

constexpr std::string_view kStep = "seccomp.compile";

// BPF_MAXINSNS of the kernel.
constexpr size_t kMaxInstructions = 4096;

// Bounds what the cache can hold. The default profile has some 12 KiB.
constexpr size_t kMaxProfileBytes = 256 * 1024;

struct FilterContext {
  scmp_filter_ctx value = nullptr;
  explicit FilterContext(uint32_t default_action) : value(seccomp_init(default_action)) {}
  FilterContext(const FilterContext&) = delete;
  FilterContext& operator=(const FilterContext&) = delete;
  ~FilterContext() {
    if (value != nullptr) seccomp_release(value);
  }
};

// A rule of the profile: `names` are still names, because one profile serves every architecture.
struct Rule {
  std::vector<string_view> names;
  uint32_t action = 0;
  std::vector<scmp_arg_cmp> arguments;
};

struct Profile {
  uint32_t default_action = 0;
  std::vector<uint32_t> architectures;
  uint64_t flags = 0;
  std::vector<Rule> rules;
};

struct NamedArchitecture {
  string_view name;
  uint32_t token;
};

constexpr NamedArchitecture kArchitectures[] = {
    {"SCMP_ARCH_X86", SCMP_ARCH_X86},           {"SCMP_ARCH_X86_64", SCMP_ARCH_X86_64},
    {"SCMP_ARCH_X32", SCMP_ARCH_X32},           {"SCMP_ARCH_ARM", SCMP_ARCH_ARM},
    {"SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64},   {"SCMP_ARCH_MIPS", SCMP_ARCH_MIPS},
    {"SCMP_ARCH_MIPS64", SCMP_ARCH_MIPS64},     {"SCMP_ARCH_MIPS64N32", SCMP_ARCH_MIPS64N32},
    {"SCMP_ARCH_MIPSEL", SCMP_ARCH_MIPSEL},     {"SCMP_ARCH_MIPSEL64", SCMP_ARCH_MIPSEL64},
    {"SCMP_ARCH_MIPSEL64N32", SCMP_ARCH_MIPSEL64N32}, {"SCMP_ARCH_PPC", SCMP_ARCH_PPC},
    {"SCMP_ARCH_PPC64", SCMP_ARCH_PPC64},       {"SCMP_ARCH_PPC64LE", SCMP_ARCH_PPC64LE},
    {"SCMP_ARCH_S390", SCMP_ARCH_S390},         {"SCMP_ARCH_S390X", SCMP_ARCH_S390X},
    {"SCMP_ARCH_PARISC", SCMP_ARCH_PARISC},     {"SCMP_ARCH_PARISC64", SCMP_ARCH_PARISC64},
    {"SCMP_ARCH_RISCV64", SCMP_ARCH_RISCV64}};

uint32_t read_architecture(const json::Node& node) {
  const string_view name = node.string();
  for (const NamedArchitecture& entry : kArchitectures) {
    if (entry.name == name) return entry.token;
  }
  node.refuse("not an architecture");
  return 0;
}

uint32_t read_action(const json::Node& node, uint16_t errno_value) {
  const string_view name = node.string();
  if (name == "SCMP_ACT_ALLOW") return SCMP_ACT_ALLOW;
  if (name == "SCMP_ACT_ERRNO") return SCMP_ACT_ERRNO(errno_value);
  if (name == "SCMP_ACT_KILL" || name == "SCMP_ACT_KILL_THREAD") return SCMP_ACT_KILL_THREAD;
  if (name == "SCMP_ACT_KILL_PROCESS") return SCMP_ACT_KILL_PROCESS;
  if (name == "SCMP_ACT_TRAP") return SCMP_ACT_TRAP;
  if (name == "SCMP_ACT_TRACE") return SCMP_ACT_TRACE(errno_value);
  if (name == "SCMP_ACT_LOG") return SCMP_ACT_LOG;
  if (name == "SCMP_ACT_NOTIFY") {
    node.refuse("the notify listener is not supported yet");
    return 0;
  }
  node.refuse("not an action");
  return 0;
}

uint64_t read_flag(const json::Node& node) {
  const string_view name = node.string();
  if (name == "SECCOMP_FILTER_FLAG_TSYNC") return SECCOMP_FILTER_FLAG_TSYNC;
  if (name == "SECCOMP_FILTER_FLAG_LOG") return SECCOMP_FILTER_FLAG_LOG;
  if (name == "SECCOMP_FILTER_FLAG_SPEC_ALLOW") return SECCOMP_FILTER_FLAG_SPEC_ALLOW;
  // Only means something to the user of a listener.
  if (name == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV") return 0;
  node.refuse("not a flag");
  return 0;
}

scmp_compare read_operator(const json::Node& node) {
  const string_view name = node.string();
  if (name == "SCMP_CMP_NE") return SCMP_CMP_NE;
  if (name == "SCMP_CMP_LT") return SCMP_CMP_LT;
  if (name == "SCMP_CMP_LE") return SCMP_CMP_LE;
  if (name == "SCMP_CMP_EQ") return SCMP_CMP_EQ;
  if (name == "SCMP_CMP_GE") return SCMP_CMP_GE;
  if (name == "SCMP_CMP_GT") return SCMP_CMP_GT;
  if (name == "SCMP_CMP_MASKED_EQ") return SCMP_CMP_MASKED_EQ;
  node.refuse("not an operator");
  return SCMP_CMP_EQ;
}

scmp_arg_cmp read_argument(const json::Node& node) {
  scmp_arg_cmp out = {};
  bool has_index = false;
  bool has_operator = false;
  uint64_t value = 0;
  uint64_t value_two = 0;
  node.members([&](string_view key, const json::Node& field) {
    if (key == "index") {
      out.arg = field.integer<uint32_t>(0, 5);
      has_index = true;
    } else if (key == "value") {
      value = field.integer<uint64_t>();
    } else if (key == "valueTwo") {
      value_two = field.integer<uint64_t>();
    } else if (key == "op") {
      out.op = read_operator(field);
      has_operator = true;
    }
  });
  if (!has_index) node.refuse("index is missing");
  if (!has_operator) node.refuse("op is missing");
  out.datum_a = value;
  // MASKED_EQ: `value` is the mask and `valueTwo` what is compared; no other operator has a second value.
  out.datum_b = out.op == SCMP_CMP_MASKED_EQ ? value_two : 0;
  return out;
}

// `errnoRet` may stand before or after the action that it belongs to.
uint16_t read_errno(const json::Node& node, const char* key_of_errno) {
  uint16_t value = EPERM;
  node.members([&](string_view key, const json::Node& field) {
    // MAX_ERRNO of the kernel's filters.
    if (key == key_of_errno) value = field.integer<uint16_t>(0, 4095);
  });
  return value;
}

void read_rule(const json::Node& node, Rule& out) {
  const uint16_t errno_value = read_errno(node, "errnoRet");
  bool has_action = false;
  node.members([&](string_view key, const json::Node& field) {
    if (key == "names") {
      field.elements([&](const json::Node& element) { out.names.push_back(element.string(false)); });
    } else if (key == "action") {
      out.action = read_action(field, errno_value);
      has_action = true;
    } else if (key == "args") {
      field.elements([&](const json::Node& element) { out.arguments.push_back(read_argument(element)); });
    }
  });
  if (node.refused()) return;
  if (!has_action) return node.refuse("action is missing");
  if (out.names.empty()) node.refuse("names is missing or empty");
}

void read_profile(const json::Node& node, Profile& out) {
  const uint16_t errno_value = read_errno(node, "defaultErrnoRet");
  bool has_action = false;
  node.members([&](string_view key, const json::Node& field) {
    if (key == "defaultAction") {
      out.default_action = read_action(field, errno_value);
      has_action = true;
    } else if (key == "architectures") {
      field.elements([&](const json::Node& element) { out.architectures.push_back(read_architecture(element)); });
    } else if (key == "flags") {
      field.elements([&](const json::Node& element) { out.flags |= read_flag(element); });
    } else if (key == "listenerPath" || key == "listenerMetadata") {
      if (!field.is_empty()) field.refuse("the notify listener is not supported yet");
    } else if (key == "syscalls") {
      out.rules.reserve(field.array_size());
      field.elements([&](const json::Node& element) { read_rule(element, out.rules.emplace_back()); });
    }
  });
  if (!node.refused() && !has_action) node.refuse("defaultAction is missing");
}

Error library_error(int result, string_view call, string_view object = {}) {
  return make_error(result < 0 ? -result : EINVAL, kStep, call, object, "libseccomp");
}

// One rule for one system call. libseccomp takes each argument once in a rule, so that conditions on the same argument
// become rules of their own: any of them suffices, as in every other runtime.
Result<void> add_rule(scmp_filter_ctx context, uint32_t action, int number, string_view name,
                      const std::vector<scmp_arg_cmp>& arguments) {
  bool repeated = false;
  uint32_t seen = 0;
  for (const scmp_arg_cmp& argument : arguments) {
    repeated = repeated || (seen & (1u << argument.arg)) != 0;
    seen |= 1u << argument.arg;
  }
  const auto check = [&](int result) -> Result<void> {
    // The same rule again is no contradiction.
    if (result == 0 || result == -EEXIST) return {};
    return library_error(result, "seccomp_rule_add", name);
  };
  if (!repeated) {
    return check(seccomp_rule_add_array(context, action, number, static_cast<unsigned>(arguments.size()), arguments.data()));
  }
  for (const scmp_arg_cmp& argument : arguments) {
    BERTH_TRY(check(seccomp_rule_add_array(context, action, number, 1, &argument)));
  }
  return {};
}

// libseccomp 2.5 writes programs to descriptors alone.
Result<std::vector<sock_filter>> export_program(scmp_filter_ctx context) {
  const Fd memory(memfd_create("berth-seccomp", MFD_CLOEXEC));
  if (!memory.valid()) return errno_error(kStep, "memfd_create");
  const int result = seccomp_export_bpf(context, memory.get());
  if (result != 0) return library_error(result, "seccomp_export_bpf");
  struct stat status = {};
  if (fstat(memory.get(), &status) != 0) return errno_error(kStep, "fstat");
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0 || size % sizeof(sock_filter) != 0) return make_error(EINVAL, kStep, "seccomp_export_bpf", {}, "odd size");
  std::vector<sock_filter> program(size / sizeof(sock_filter));
  if (program.size() > kMaxInstructions) {
    return field_error(kStep, "linux.seccomp", "the program is longer than the kernel takes (4096 instructions)");
  }
  if (pread(memory.get(), program.data(), size, 0) != static_cast<ssize_t>(size)) return errno_error(kStep, "pread");
  return program;
}

Result<std::shared_ptr<const SeccompProgram>> build(const Profile& profile) {
  FilterContext context(profile.default_action);
  if (context.value == nullptr) return make_error(EINVAL, kStep, "seccomp_init", "linux.seccomp.defaultAction");
  for (const uint32_t architecture : profile.architectures) {
    const int result = seccomp_arch_add(context.value, architecture);
    if (result != 0 && result != -EEXIST) return library_error(result, "seccomp_arch_add");
  }
  // A binary tree instead of a list: the kernel evaluates a filter for every call, and loads a shallow one faster.
  const int optimized = seccomp_attr_set(context.value, SCMP_FLTATR_CTL_OPTIMIZE, 2);
  if (optimized != 0) return library_error(optimized, "seccomp_attr_set");
  std::string name_text;
  for (const Rule& rule : profile.rules) {
    // libseccomp refuses rules that change nothing.
    if (rule.action == profile.default_action) continue;
    for (const string_view name : rule.names) {
      name_text.assign(name);
      const int number = seccomp_syscall_resolve_name(name_text.c_str());
      if (number == __NR_SCMP_ERROR) continue;
      BERTH_TRY(add_rule(context.value, rule.action, number, name, rule.arguments));
    }
  }
  BERTH_ASSIGN(std::vector<sock_filter> instructions, export_program(context.value));
  auto program = std::make_shared<SeccompProgram>();
  program->instructions = std::move(instructions);
  program->flags = profile.flags;
  return std::shared_ptr<const SeccompProgram>(std::move(program));
}

// One profile's place in the cache. Whoever finds it empty compiles while holding `mutex`; others wait on it.
struct Entry {
  std::mutex mutex;
  std::shared_ptr<const SeccompProgram> program;
};

class Cache {
 public:
  std::shared_ptr<Entry> acquire(string_view key) {
    const std::lock_guard lock(mutex_);
    if (const auto found = index_.find(key); found != index_.end()) {
      order_.splice(order_.begin(), order_, found->second);
      return order_.front().entry;
    }
    order_.push_front(Slot{std::string(key), std::make_shared<Entry>()});
    index_.emplace(order_.front().key, order_.begin());
    return order_.front().entry;
  }

  // Makes room for a program that has just been compiled. Not earlier: one that is refused displaces nothing.
  void settle() {
    const std::lock_guard lock(mutex_);
    while (order_.size() > kSeccompCacheEntries) drop(std::prev(order_.end()));
  }

  // Forgets a profile that could not be compiled.
  void forget(string_view key, const std::shared_ptr<Entry>& entry) {
    const std::lock_guard lock(mutex_);
    if (const auto found = index_.find(key); found != index_.end() && found->second->entry == entry) drop(found->second);
  }

  void count(bool hit) {
    const std::lock_guard lock(mutex_);
    ++(hit ? hits_ : misses_);
  }

  SeccompCacheStats stats() {
    const std::lock_guard lock(mutex_);
    return {order_.size(), hits_, misses_};
  }

 private:
  struct Slot {
    std::string key;
    std::shared_ptr<Entry> entry;
  };

  void drop(std::list<Slot>::iterator slot) {
    index_.erase(slot->key);
    order_.erase(slot);
  }

  std::mutex mutex_;
  std::list<Slot> order_;  // most recently used first
  // Keys are views of the slots' own strings, which a list never moves.
  std::unordered_map<string_view, std::list<Slot>::iterator> index_;
  uint64_t hits_ = 0;
  uint64_t misses_ = 0;
};

// Never destroyed: threads of a pool may still compile while the process ends.
Cache& cache() {
  static Cache* const instance = new Cache;
  return *instance;
}

}  // namespace

Result<std::shared_ptr<const SeccompProgram>> compile_seccomp_uncached(std::string_view profile_json) {
  if (profile_json.size() > kMaxProfileBytes) return field_error(kStep, "linux.seccomp", "longer than 256 KiB");
  BERTH_ASSIGN(json::Document document, json::parse(profile_json, kMaxProfileBytes, kMaxDepth));
  const json::Path linux_path{nullptr, "linux", -1};
  const json::Path path{&linux_path, "seccomp", -1};
  json::Refusal refusal;
  Profile profile;
  read_profile(json::Node(document.dom, &path, &refusal), profile);
  if (refusal.any()) return refusal.take();
  return build(profile);
}

Result<std::shared_ptr<const SeccompProgram>> compile_seccomp(std::string_view profile_json) {
  // Before it gets a place in the cache, which bounds the cache's bytes.
  if (profile_json.size() > kMaxProfileBytes) return compile_seccomp_uncached(profile_json);
  const std::shared_ptr<Entry> entry = cache().acquire(profile_json);
  const std::lock_guard lock(entry->mutex);
  if (entry->program != nullptr) {
    cache().count(true);
    return entry->program;
  }
  cache().count(false);
  auto compiled = compile_seccomp_uncached(profile_json);
  if (!compiled.ok()) {
    cache().forget(profile_json, entry);
    return compiled;
  }
  entry->program = *compiled;
  cache().settle();
  return compiled;
}

SeccompCacheStats seccomp_cache_stats() { return cache().stats(); }

}  // namespace berth::spec
