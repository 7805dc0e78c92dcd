#include "core/plan/process_ops.h"

#include <linux/capability.h>
#include <sys/resource.h>

#include <algorithm>

#include "core/plan/host.h"
#include "core/spec/names.h"
#include "core/spec/seccomp.h"

namespace berth::plan {

namespace {

using std::string_view;

constexpr uint64_t bit(int capability) { return 1ULL << capability; }

// What a shell takes where PATH is not set.
constexpr string_view kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
constexpr uint32_t kDefaultUmask = 022;

bool no_new_privileges(const ProcessContext& context) { return context.process.no_new_privileges.value_or(false); }

struct CapabilitySets {
  uint64_t bounding = 0;
  uint64_t effective = 0;
  uint64_t permitted = 0;
  uint64_t inheritable = 0;
  uint64_t ambient = 0;
};

// What the kernel can be asked for: no capability that it does not have, none that the caller lacks.
CapabilitySets granted_capabilities(const ProcessContext& context) {
  CapabilitySets out;
  if (!context.process.capabilities) return out;
  const spec::Capabilities& wanted = *context.process.capabilities;
  uint64_t available = caller_privileges().known_capabilities;
  if (context.clamp.enabled) available &= caller_privileges().capabilities;
  out.bounding = wanted.bounding & available;
  out.effective = wanted.effective & available;
  out.permitted = wanted.permitted & available;
  out.inheritable = wanted.inheritable & available;
  // The kernel takes an ambient capability only where it is permitted and inheritable.
  out.ambient = wanted.ambient & out.permitted & out.inheritable;
  return out;
}

void report_capabilities(Builder& builder, const ProcessContext& context, const CapabilitySets& granted) {
  if (!context.process.capabilities) return;
  const spec::Capabilities& wanted = *context.process.capabilities;
  const uint64_t all_wanted = wanted.bounding | wanted.effective | wanted.permitted | wanted.inheritable | wanted.ambient;
  const uint64_t all_granted = granted.bounding | granted.effective | granted.permitted | granted.inheritable | granted.ambient;
  for (int capability = 0; capability <= spec::kLastKnownCapability; ++capability) {
    if ((all_wanted & ~all_granted & bit(capability)) == 0) continue;
    builder.report("capability " + std::string(spec::capability_name(capability)) + " cannot be granted on this host");
  }
  const uint64_t lost_ambient = wanted.ambient & all_granted & ~granted.ambient;
  for (int capability = 0; capability <= spec::kLastKnownCapability; ++capability) {
    if ((lost_ambient & bit(capability)) == 0) continue;
    builder.report("ambient capability " + std::string(spec::capability_name(capability)) +
                   " is not permitted and inheritable");
  }
  std::vector<string_view> unknown = wanted.unknown;
  std::sort(unknown.begin(), unknown.end());
  unknown.erase(std::unique(unknown.begin(), unknown.end()), unknown.end());
  for (const string_view name : unknown) builder.report("capability " + std::string(name.substr(0, 64)) + " is not known");
}

// The process must hold CAP_SYS_ADMIN to install a filter without no_new_privs, and its own set may lack it.
bool keeps_admin(const ProcessContext& context, const CapabilitySets& granted) {
  return !context.linux_section.seccomp.empty() && !no_new_privileges(context) &&
         (granted.effective & bit(CAP_SYS_ADMIN)) == 0;
}

void add_capabilities(Builder& builder, const CapabilitySets& sets, uint64_t extra) {
  Op& op = builder.add(OpCode::kCapabilities, "capabilities");
  op.a[0] = sets.effective | extra;
  op.a[1] = sets.permitted | extra;
  op.a[2] = sets.inheritable;
}

std::string limit_text(uint64_t value) { return value == RLIM_INFINITY ? "unlimited" : std::to_string(value); }

void add_rlimits(Builder& builder, const ProcessContext& context) {
  if (!context.process.rlimits) return;
  const bool may_raise = caller_privileges().has(CAP_SYS_RESOURCE);
  for (const spec::Rlimit& limit : *context.process.rlimits) {
    rlim_t soft = limit.soft;
    rlim_t hard = limit.hard;
    if (context.clamp.enabled && !may_raise) {
      struct rlimit64 own = {};
      if (prlimit64(0, static_cast<__rlimit_resource>(limit.resource), nullptr, &own) == 0 && hard > own.rlim_max) {
        builder.report("rlimit " + std::string(limit.name.substr(7)) + " " + limit_text(hard) + " → " + limit_text(own.rlim_max));
        hard = own.rlim_max;
        soft = std::min<rlim_t>(soft, hard);
      }
    }
    Op& op = builder.add(OpCode::kRlimit, limit.name);
    op.a[0] = static_cast<uint64_t>(limit.resource);
    op.a[1] = soft;
    op.a[2] = hard;
  }
}

void add_chdir(Builder& builder, const ProcessContext& context, uint64_t flags) {
  Op& op = builder.add(OpCode::kChdir, "working directory");
  op.a[0] = flags;
  op.a[1] = context.process.user.uid;
  op.a[2] = context.process.user.gid;
  op.s[0] = builder.text(context.process.cwd);
}

Result<void> add_labels(Builder& builder, const ProcessContext& context) {
  const spec::Process& process = context.process;
  if (process.apparmor_profile && !process.apparmor_profile->empty()) {
    const bool unconfined = *process.apparmor_profile == "unconfined";
    // Without AppArmor "unconfined" is true already; any other profile would silently not be enforced.
    if (!apparmor_enabled()) {
      if (!unconfined) return field_error("plan.compile", "process.apparmorProfile", "AppArmor is not enabled on this host");
    } else {
      Op& op = builder.add(OpCode::kLabelProcess, "AppArmor profile");
      op.s[0] = builder.text("apparmor/exec");
      op.s[1] = builder.text("exec " + std::string(*process.apparmor_profile));
    }
  }
  if (process.selinux_label && !process.selinux_label->empty()) {
    Op& op = builder.add(OpCode::kLabelProcess, "SELinux label");
    op.s[0] = builder.text("exec");
    op.s[1] = builder.text(*process.selinux_label);
  }
  return {};
}

string_view path_of(const spec::Process& process) {
  // The first one counts, as it does for getenv(3): the lookup agrees with what the program itself would find.
  for (const string_view entry : process.env) {
    if (entry.starts_with("PATH=")) return entry.substr(5);
  }
  return kDefaultPath;
}

}  // namespace

Result<void> add_cgroup_attach(Builder& builder, const CgroupAttach& cgroup) {
  for (const int tasks : cgroup.v1_tasks) {
    BERTH_ASSIGN(const uint32_t index, builder.borrow(tasks, "cgroup.attach"));
    builder.add(OpCode::kCgroupAttach, "cgroup attach").a[0] = index;
  }
  if (cgroup.v2_directory >= 0) {
    BERTH_ASSIGN(builder.header().cgroup_fd, builder.borrow(cgroup.v2_directory, "cgroup.attach"));
  }
  if (cgroup.v2_fallback_directory >= 0) {
    BERTH_ASSIGN(builder.header().cgroup_fallback_fd, builder.borrow(cgroup.v2_fallback_directory, "cgroup.attach"));
  }
  return {};
}

void add_oom_score(Builder& builder, const ProcessContext& context) {
  if (!context.process.oom_score_adj) return;
  int value = *context.process.oom_score_adj;
  bool passed_over = false;
  const CallerPrivileges& caller = caller_privileges();
  if (context.clamp.enabled && !caller.has(CAP_SYS_RESOURCE)) {
    passed_over = true;
    if (value < caller.oom_score_adj) {
      builder.report("oomScoreAdj " + std::to_string(value) + " → " + std::to_string(caller.oom_score_adj));
      value = caller.oom_score_adj;
    }
  }
  Op& op = builder.add(OpCode::kOomScoreAdj, "oom_score_adj");
  op.a[0] = static_cast<uint64_t>(static_cast<int64_t>(value));
  op.a[1] = passed_over ? 1 : 0;
}

void add_terminal(Builder& builder, const ProcessContext& context) {
  if (!context.process.terminal) return;
  builder.header().terminal = 1;
  Op& op = builder.add(OpCode::kTerminal, "terminal");
  op.a[0] = context.process.user.uid;
  // devpts gives the slave the group that it was mounted with (gid=5).
  op.a[1] = kNone;
  op.a[2] = context.process.rows;
  op.a[3] = context.process.columns;
}

void add_session(Builder& builder, const ProcessContext& context) {
  builder.add(OpCode::kSetsid, "session").a[0] = context.process.terminal ? 1 : 0;
}

Result<void> add_privilege_drop(Builder& builder, const ProcessContext& context) {
  const spec::Process& process = context.process;
  const CapabilitySets granted = granted_capabilities(context);
  report_capabilities(builder, context, granted);

  if (context.linux_section.personality) {
    builder.add(OpCode::kPersonality, "personality").a[0] = *context.linux_section.personality;
  }
  if (process.scheduler) {
    Op& op = builder.add(OpCode::kScheduler, "scheduler");
    op.a[0] = process.scheduler->policy;
    op.a[1] = static_cast<uint64_t>(static_cast<int64_t>(process.scheduler->nice));
    op.a[2] = process.scheduler->priority;
    op.a[3] = process.scheduler->flags;
    op.a[4] = process.scheduler->runtime;
    op.a[5] = process.scheduler->deadline;
    op.s[0] = builder.bytes(&process.scheduler->period, sizeof(process.scheduler->period));
  }
  if (process.io_priority) builder.add(OpCode::kIoPriority, "I/O priority").a[0] = *process.io_priority;
  {
    Op& op = builder.add(OpCode::kSessionKeyring, "session keyring");
    op.s[0] = builder.text("_ses." + std::string(context.container_id));
  }
  BERTH_TRY(add_labels(builder, context));
  add_rlimits(builder, context);
  builder.add(OpCode::kUmask, "umask").a[0] = process.user.umask.value_or(kDefaultUmask);

  add_chdir(builder, context, kChdirMake | kChdirTry);

  builder.add(OpCode::kBoundingSet, "bounding set").a[0] = granted.bounding;
  {
    Op& op = builder.add(OpCode::kSetGroups, "groups");
    op.s[0] = builder.bytes(process.user.additional_gids.data(), process.user.additional_gids.size() * sizeof(uint32_t));
  }
  builder.add(OpCode::kSetGid, "gid").a[0] = process.user.gid;
  if (process.user.uid != 0) builder.add(OpCode::kKeepCaps, "keep capabilities");
  builder.add(OpCode::kSetUid, "uid").a[0] = process.user.uid;
  add_capabilities(builder, granted, keeps_admin(context, granted) ? bit(CAP_SYS_ADMIN) : 0);
  builder.add(OpCode::kAmbient, "ambient capabilities").a[0] = granted.ambient;
  add_chdir(builder, context, kChdirUnlessDone);
  if (no_new_privileges(context)) builder.add(OpCode::kNoNewPrivileges, "no_new_privs");
  Op& op = builder.add(OpCode::kLookupProgram, "program");
  op.s[0] = builder.text(process.args.front());
  op.s[1] = builder.text(path_of(process));
  return {};
}

Result<void> add_program(Builder& builder, const ProcessContext& context) {
  const CapabilitySets granted = granted_capabilities(context);
  if (!context.linux_section.seccomp.empty()) {
    BERTH_ASSIGN(const auto program, spec::compile_seccomp(context.linux_section.seccomp));
    Op& op = builder.add(OpCode::kSeccomp, "seccomp");
    op.a[0] = program->flags;
    op.a[1] = kNone;
    op.s[0] = builder.bytes(program->instructions.data(), program->instructions.size() * sizeof(sock_filter));
  }
  if (keeps_admin(context, granted)) add_capabilities(builder, granted, 0);
  Op& op = builder.add(OpCode::kExec, "exec");
  op.s[0] = builder.block(context.process.args);
  op.s[1] = builder.block(context.process.env);
  return {};
}

}  // namespace berth::plan
