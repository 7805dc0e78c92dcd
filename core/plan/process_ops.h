// The ops that turn a process into the container's: shared by create and exec.
#pragma once

#include <string_view>

#include "core/plan/builder.h"
#include "core/spec/types.h"

namespace berth::plan {

struct ProcessContext {
  const spec::Process& process;
  const spec::Linux& linux_section;
  std::string_view container_id;
  Clamp clamp;
};

// v1 `tasks` attachments and the v2 directories of the header.
Result<void> add_cgroup_attach(Builder& builder, const CgroupAttach& cgroup);

void add_oom_score(Builder& builder, const ProcessContext& context);

// kTerminal, where the process has one. The session is made by add_session.
void add_terminal(Builder& builder, const ProcessContext& context);
void add_session(Builder& builder, const ProcessContext& context);

// Everything from personality to the lookup of the program, in an order in which each step still has the privilege that
// it needs and none is regained:
//
//   personality, scheduler, keyring, labels, rlimits, umask     need privileges over the process itself
//   working directory, first try                                 as root: it may have to be made
//   bounding set                                                 CAP_SETPCAP
//   groups, gid, (keep capabilities,) uid                        CAP_SETGID, CAP_SETUID
//   capabilities, ambient set
//   working directory, as the user; no_new_privs; lookup         as the program will see them
//
// Where a filter is to be installed without no_new_privs, the process keeps CAP_SYS_ADMIN until add_program has done so.
Result<void> add_privilege_drop(Builder& builder, const ProcessContext& context);

// The filter, the rest of the capabilities, the program: what runs behind the barrier. Nothing but capset and execve is
// called under the filter, so that it need not allow what a runtime does.
Result<void> add_program(Builder& builder, const ProcessContext& context);

}  // namespace berth::plan
