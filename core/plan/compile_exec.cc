#include <sched.h>

#include "core/plan/builder.h"
#include "core/plan/compile.h"
#include "core/plan/process_ops.h"
#include "core/spec/parse.h"

namespace berth::plan {

namespace {

// What an exec's process object leaves open is as for the container's own process.
void inherit(spec::Process& process, const spec::Process& init) {
  if (!process.capabilities) process.capabilities = init.capabilities;
  if (!process.no_new_privileges) process.no_new_privileges = init.no_new_privileges;
  if (!process.rlimits) process.rlimits = init.rlimits;
  if (!process.apparmor_profile) process.apparmor_profile = init.apparmor_profile;
  if (!process.selinux_label) process.selinux_label = init.selinux_label;
  if (!process.oom_score_adj) process.oom_score_adj = init.oom_score_adj;
  if (!process.scheduler) process.scheduler = init.scheduler;
  if (!process.io_priority) process.io_priority = init.io_priority;
}

}  // namespace

Result<CompiledPlan> compile_exec(const ExecInput& input) {
  BERTH_ASSIGN(const spec::Spec spec, spec::parse_config(input.config_json));
  BERTH_ASSIGN(spec::ProcessDocument document, spec::parse_process(input.process_json));
  if (spec.process) inherit(document.process, *spec.process);
  Builder builder;
  const ProcessContext context{document.process, spec.linux_section, input.container_id, input.clamp};

  BERTH_TRY(add_cgroup_attach(builder, input.cgroup));
  add_oom_score(builder, context);

  // Of the namespaces that init has, those that config.json gave it; all others are the caller's own already.
  uint64_t flags = 0;
  for (const spec::Namespace& entry : spec.linux_section.namespaces) flags |= entry.flag;
  if ((flags & CLONE_NEWNS) == 0) {
    return field_error("plan.compile", "linux.namespaces", "a container needs a mount namespace");
  }
  BERTH_ASSIGN(const uint32_t init, builder.borrow(input.init_pidfd, "namespace.join"));
  Op& join = builder.add(OpCode::kJoinNamespace, "join the container's namespaces");
  join.a[0] = init;
  join.a[1] = flags;

  add_terminal(builder, context);
  BERTH_TRY(add_privilege_drop(builder, context));
  builder.add(OpCode::kMakeDetached, "command");
  builder.barrier();
  add_session(builder, context);
  BERTH_TRY(add_program(builder, context));
  return builder.finish(Kind::kExec);
}

}  // namespace berth::plan
