#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/plan/builder.h"
#include "core/plan/compile.h"
#include "core/plan/mount_ops.h"
#include "core/plan/process_ops.h"
#include "core/spec/names.h"
#include "core/spec/parse.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace berth::plan {

namespace {

using std::string_view;

constexpr string_view kStep = "plan.compile";

std::string namespace_field(const spec::Namespace& entry) { return "linux.namespaces(" + std::string(entry.kind) + ")"; }

// The path stands for the process that is joined by its pidfd.
bool is_joined_process(const spec::Namespace& entry, const JoinProcess& join) {
  if (join.pidfd < 0 || entry.path.empty()) return false;
  return entry.path == "/proc/" + std::to_string(join.pid) + "/ns/" + std::string(spec::namespace_file(entry.flag));
}

Result<Fd> open_namespace(const spec::Namespace& entry) {
  // O_NONBLOCK: what stands there may be a FIFO.
  Fd file(open(entry.path.data(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!file.valid()) {
    Error error = errno_error("namespace.open", "open", entry.path);
    error.detail = namespace_field(entry);
    return error;
  }
  const int type = ioctl(file.get(), NS_GET_NSTYPE);
  if (type < 0 || static_cast<uint64_t>(type) != entry.flag) {
    return field_error(kStep, namespace_field(entry) + ".path", std::string(entry.path) + " is no such namespace");
  }
  return file;
}

// Which namespaces the container has that are not its parent's, by what makes them.
struct Namespaces {
  uint64_t cloned = 0;    // by clone3
  uint64_t unshared = 0;  // by kUnshare, later
};

Result<Namespaces> add_joins(Builder& builder, const spec::Spec& spec, const JoinProcess& join) {
  Namespaces out;
  uint64_t by_pidfd = 0;
  uint32_t pidfd_index = kNone;
  for (const spec::Namespace& entry : spec.linux_section.namespaces) {
    if (entry.path.empty()) {
      const bool later = (entry.flag & (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWTIME)) != 0;
      (later ? out.unshared : out.cloned) |= entry.flag;
      continue;
    }
    if (entry.flag == CLONE_NEWNS) {
      return field_error(kStep, namespace_field(entry) + ".path", "a container needs a mount namespace of its own");
    }
    uint32_t index = kNone;
    if (is_joined_process(entry, join)) {
      if (pidfd_index == kNone) {
        BERTH_ASSIGN(pidfd_index, builder.borrow(join.pidfd, "namespace.join"));
      }
      index = pidfd_index;
      if (entry.flag != CLONE_NEWPID) by_pidfd |= entry.flag;
    } else {
      BERTH_ASSIGN(Fd file, open_namespace(entry));
      index = builder.adopt(std::move(file));
      if (entry.flag != CLONE_NEWPID) {
        Op& op = builder.add(OpCode::kJoinNamespace, "join " + std::string(entry.kind) + " namespace");
        op.a[0] = index;
        op.a[1] = entry.flag;
      }
    }
    if (entry.flag == CLONE_NEWPID) builder.header().pid_namespace_fd = index;
  }
  if (by_pidfd != 0) {
    Op& op = builder.add(OpCode::kJoinNamespace, "join the pod's namespaces");
    op.a[0] = pidfd_index;
    op.a[1] = by_pidfd;
  }
  return out;
}

// A namespace that the container shares with this process, under whichever path it was given.
bool is_own_namespace(const spec::Namespace& entry) {
  if (entry.path.empty()) return false;
  struct stat joined = {};
  struct stat own = {};
  const std::string path = "/proc/self/ns/" + std::string(spec::namespace_file(entry.flag));
  if (stat(entry.path.data(), &joined) != 0 || stat(path.c_str(), &own) != 0) return false;
  return joined.st_ino == own.st_ino && joined.st_dev == own.st_dev;
}

Result<void> add_sysctls(Builder& builder, const spec::Spec& spec) {
  for (const spec::Sysctl& sysctl : spec.linux_section.sysctl) {
    const std::string field = "linux.sysctl." + std::string(sysctl.name);
    const spec::Namespace* entry = spec.find_namespace(sysctl.namespace_flag);
    if (entry == nullptr || is_own_namespace(*entry)) {
      return field_error(kStep, field, "the container shares this parameter with the host");
    }
    Op& op = builder.add(OpCode::kSysctl, "sysctl " + std::string(sysctl.name));
    op.s[0] = builder.text(sysctl.path);
    op.s[1] = builder.text(sysctl.value);
  }
  return {};
}

Result<void> add_names(Builder& builder, const spec::Spec& spec) {
  if (spec.hostname.empty() && spec.domainname.empty()) return {};
  const string_view field = spec.hostname.empty() ? "domainname" : "hostname";
  const spec::Namespace* entry = spec.find_namespace(CLONE_NEWUTS);
  if (entry == nullptr || is_own_namespace(*entry)) return field_error(kStep, field, "needs a uts namespace");
  if (!spec.hostname.empty()) builder.add(OpCode::kSetHostname, "hostname").s[0] = builder.text(spec.hostname);
  if (!spec.domainname.empty()) builder.add(OpCode::kSetDomainname, "domainname").s[0] = builder.text(spec.domainname);
  return {};
}

Result<void> add_time_offsets(Builder& builder, const spec::Spec& spec) {
  std::string text;
  const auto append = [&](string_view clock, const spec::TimeOffset& offset) {
    if (!offset.present) return;
    text += clock;
    text += ' ' + std::to_string(offset.seconds) + ' ' + std::to_string(offset.nanoseconds) + '\n';
  };
  append("monotonic", spec.linux_section.monotonic_offset);
  append("boottime", spec.linux_section.boottime_offset);
  if (text.empty()) return {};
  const spec::Namespace* entry = spec.find_namespace(CLONE_NEWTIME);
  if (entry == nullptr || !entry->path.empty()) return field_error(kStep, "linux.timeOffsets", "needs a new time namespace");
  builder.add(OpCode::kTimeOffsets, "time offsets").s[0] = builder.text(text);
  return {};
}

}  // namespace

Result<CompiledPlan> compile_create(const CompileInput& input) {
  BERTH_ASSIGN(const spec::Spec spec, spec::parse_config(input.config_json));
  if (!spec.process) return field_error(kStep, "process", "is missing");
  if (spec.find_namespace(CLONE_NEWNS) == nullptr) {
    return field_error(kStep, "linux.namespaces", "a container needs a mount namespace");
  }
  Builder builder;
  const ProcessContext context{*spec.process, spec.linux_section, input.container_id, input.clamp};

  // In the host's mount namespace.
  BERTH_TRY(add_cgroup_attach(builder, input.cgroup));
  if (!spec.process->terminal) add_session(builder, context);
  add_oom_score(builder, context);
  BERTH_ASSIGN(const Namespaces namespaces, add_joins(builder, spec, input.join));
  builder.header().clone_flags = namespaces.cloned;
  MountPlanner mounts(builder, spec, input.bundle, input.cgroup.path);
  BERTH_TRY(mounts.open_sources(input.rootfs_fd));

  // The process sits in its cgroup by now, so that a cgroup namespace is rooted there.
  builder.add(OpCode::kUnshare, "namespaces").a[0] = namespaces.unshared;
  BERTH_TRY(add_time_offsets(builder, spec));
  // Nothing that is mounted from here on may reach the host, nor the other way round. Sources that propagate keep doing
  // so: they are peers of the host's mounts and are not part of this tree yet.
  builder.add(OpCode::kRootPropagation, "propagation").a[0] = MS_REC | MS_PRIVATE;
  BERTH_TRY(mounts.mount_all());
  add_terminal(builder, context);
  if (spec.process->terminal) {
    add_session(builder, context);
    if (mounts.furnishes_dev()) builder.add(OpCode::kConsole, "console");
  }
  BERTH_TRY(add_names(builder, spec));
  BERTH_TRY(add_sysctls(builder, spec));
  mounts.protect();
  mounts.pivot();

  BERTH_TRY(add_privilege_drop(builder, context));
  builder.barrier();
  BERTH_TRY(add_program(builder, context));
  return builder.finish(Kind::kCreate);
}

}  // namespace berth::plan
