#include <linux/sched.h>
#include <sched.h>

#include "core/spec/names.h"
#include "core/spec/sections.h"

#ifndef SCHED_DEADLINE
#define SCHED_DEADLINE 6
#endif

namespace berth::spec {

namespace {

// Values of ioprio_set(2). <linux/ioprio.h> of newer kernels names a parameter `class`, which is no C++.
constexpr uint32_t kIoClassRealTime = 1;
constexpr uint32_t kIoClassBestEffort = 2;
constexpr uint32_t kIoClassIdle = 3;
constexpr uint32_t kIoClassShift = 13;

// 2^32-1 means "unchanged" to the kernel's calls, so it is never an id.
uint32_t read_id(const json::Node& node) { return node.integer<uint32_t>(0, 0xfffffffeu); }

void read_user(const json::Node& node, User& out) {
  node.members([&](string_view key, const json::Node& field) {
    if (key == "uid") {
      out.uid = read_id(field);
    } else if (key == "gid") {
      out.gid = read_id(field);
    } else if (key == "umask") {
      out.umask = field.integer<uint32_t>(0, 0777);
    } else if (key == "additionalGids") {
      out.additional_gids.clear();
      // NGROUPS_MAX.
      if (field.array_size() > 65536) field.refuse("more than 65536 groups");
      field.elements([&](const json::Node& element) { out.additional_gids.push_back(read_id(element)); });
    } else if (key == "username") {
      refuse_unsupported(field);
    }
  });
}

void read_capability_set(const json::Node& node, uint64_t& mask, std::vector<string_view>& unknown) {
  node.elements([&](const json::Node& element) {
    const string_view name = element.string(false);
    if (const auto number = capability_number(name)) {
      mask |= 1ULL << *number;
    } else if (!element.refused()) {
      unknown.push_back(name);
    }
  });
}

void read_capabilities(const json::Node& node, Capabilities& out) {
  node.members([&](string_view key, const json::Node& field) {
    if (key == "bounding") {
      read_capability_set(field, out.bounding, out.unknown);
    } else if (key == "effective") {
      read_capability_set(field, out.effective, out.unknown);
    } else if (key == "permitted") {
      read_capability_set(field, out.permitted, out.unknown);
    } else if (key == "inheritable") {
      read_capability_set(field, out.inheritable, out.unknown);
    } else if (key == "ambient") {
      read_capability_set(field, out.ambient, out.unknown);
    }
  });
  if ((out.effective & ~out.permitted) != 0) node.refuse("effective has capabilities that permitted has not");
}

void read_rlimits(const json::Node& node, std::vector<Rlimit>& out) {
  node.elements([&](const json::Node& element) {
    Rlimit limit;
    bool typed = false;
    element.members([&](string_view key, const json::Node& field) {
      if (key == "type") {
        limit.name = field.string();
        const auto number = rlimit_number(limit.name);
        if (!number) return field.refuse("not an rlimit");
        limit.resource = *number;
        typed = true;
      } else if (key == "soft") {
        limit.soft = field.integer<uint64_t>();
      } else if (key == "hard") {
        limit.hard = field.integer<uint64_t>();
      }
    });
    if (!typed) element.refuse("type is missing");
    if (limit.soft > limit.hard) element.refuse("soft is above hard");
    for (const Rlimit& earlier : out) {
      if (earlier.resource == limit.resource) element.refuse("given twice");
    }
    out.push_back(limit);
  });
}

void read_console_size(const json::Node& node, Process& out) {
  node.members([&](string_view key, const json::Node& field) {
    if (key == "height") {
      out.rows = field.integer<uint16_t>();
    } else if (key == "width") {
      out.columns = field.integer<uint16_t>();
    }
  });
}

uint32_t scheduler_policy(const json::Node& node) {
  const string_view name = node.string();
  if (name == "SCHED_OTHER") return SCHED_OTHER;
  if (name == "SCHED_FIFO") return SCHED_FIFO;
  if (name == "SCHED_RR") return SCHED_RR;
  if (name == "SCHED_BATCH") return SCHED_BATCH;
  if (name == "SCHED_IDLE") return SCHED_IDLE;
  if (name == "SCHED_DEADLINE") return SCHED_DEADLINE;
  node.refuse("not a scheduling policy");
  return 0;
}

uint64_t scheduler_flag(const json::Node& node) {
  const string_view name = node.string();
  if (name == "SCHED_FLAG_RESET_ON_FORK") return SCHED_FLAG_RESET_ON_FORK;
  if (name == "SCHED_FLAG_RECLAIM") return SCHED_FLAG_RECLAIM;
  if (name == "SCHED_FLAG_DL_OVERRUN") return SCHED_FLAG_DL_OVERRUN;
  if (name == "SCHED_FLAG_KEEP_POLICY") return SCHED_FLAG_KEEP_POLICY;
  if (name == "SCHED_FLAG_KEEP_PARAMS") return SCHED_FLAG_KEEP_PARAMS;
  if (name == "SCHED_FLAG_UTIL_CLAMP_MIN") return SCHED_FLAG_UTIL_CLAMP_MIN;
  if (name == "SCHED_FLAG_UTIL_CLAMP_MAX") return SCHED_FLAG_UTIL_CLAMP_MAX;
  node.refuse("not a scheduling flag");
  return 0;
}

void read_scheduler(const json::Node& node, Scheduler& out) {
  bool has_policy = false;
  node.members([&](string_view key, const json::Node& field) {
    if (key == "policy") {
      out.policy = scheduler_policy(field);
      has_policy = true;
    } else if (key == "nice") {
      out.nice = field.integer<int32_t>(-20, 19);
    } else if (key == "priority") {
      out.priority = field.integer<uint32_t>(0, 99);
    } else if (key == "flags") {
      field.elements([&](const json::Node& element) { out.flags |= scheduler_flag(element); });
    } else if (key == "runtime") {
      out.runtime = field.integer<uint64_t>();
    } else if (key == "deadline") {
      out.deadline = field.integer<uint64_t>();
    } else if (key == "period") {
      out.period = field.integer<uint64_t>();
    }
  });
  if (!has_policy) node.refuse("policy is missing");
}

uint32_t read_io_priority(const json::Node& node) {
  uint32_t io_class = kIoClassBestEffort;
  uint32_t level = 0;
  node.members([&](string_view key, const json::Node& field) {
    if (key == "class") {
      const string_view name = field.string();
      if (name == "IOPRIO_CLASS_RT") {
        io_class = kIoClassRealTime;
      } else if (name == "IOPRIO_CLASS_BE") {
        io_class = kIoClassBestEffort;
      } else if (name == "IOPRIO_CLASS_IDLE") {
        io_class = kIoClassIdle;
      } else {
        field.refuse("not an I/O priority class");
      }
    } else if (key == "priority") {
      level = field.integer<uint32_t>(0, 7);
    }
  });
  return io_class << kIoClassShift | level;
}

void read_environment(const json::Node& node, std::vector<string_view>& out) {
  out.clear();
  out.reserve(node.array_size());
  node.elements([&](const json::Node& element) {
    const string_view entry = element.string();
    // Passed on, such an entry would take its meaning from whoever parses the environment next.
    if (entry.find('=') == string_view::npos || entry.front() == '=') return element.refuse("not KEY=value");
    out.push_back(entry);
  });
}

}  // namespace

void read_process(const json::Node& node, Process& out) {
  node.members([&](string_view key, const json::Node& field) {
    if (key == "terminal") {
      out.terminal = field.boolean();
    } else if (key == "consoleSize") {
      read_console_size(field, out);
    } else if (key == "user") {
      read_user(field, out.user);
    } else if (key == "args") {
      read_strings(field, out.args);
    } else if (key == "env") {
      read_environment(field, out.env);
    } else if (key == "cwd") {
      out.cwd = field.string(false);
      if (!out.cwd.starts_with('/')) field.refuse("not an absolute path");
    } else if (key == "capabilities") {
      read_capabilities(field, out.capabilities.emplace());
    } else if (key == "rlimits") {
      read_rlimits(field, out.rlimits.emplace());
    } else if (key == "noNewPrivileges") {
      out.no_new_privileges = field.boolean();
    } else if (key == "oomScoreAdj") {
      out.oom_score_adj = field.integer<int32_t>(-1000, 1000);
    } else if (key == "apparmorProfile") {
      out.apparmor_profile = field.string();
    } else if (key == "selinuxLabel") {
      out.selinux_label = field.string();
    } else if (key == "scheduler") {
      read_scheduler(field, out.scheduler.emplace());
    } else if (key == "ioPriority") {
      out.io_priority = read_io_priority(field);
    } else if (key == "execCPUAffinity" || key == "commandLine") {
      refuse_unsupported(field);
    }
  });
  if (node.refused()) return;
  if (out.cwd.empty()) node.refuse("cwd is missing");
  if (out.args.empty()) node.refuse("args is missing or empty");
  if (!out.args.empty() && out.args.front().empty()) node.refuse("args[0] is empty");
}

}  // namespace berth::spec
