// Plans, monitors and what travels to them.
#include <fcntl.h>

#include "addon/async.h"
#include "addon/attach.h"
#include "addon/collector.h"
#include "addon/connection.h"
#include "addon/functions.h"
#include "addon/handles.h"
#include "addon/host.h"
#include "addon/unpack.h"
#include "core/plan/compile.h"
#include "core/sys/file_text.h"
#include "core/sys/monitor_socket.h"

namespace berth::addon {
namespace {

// What the plan attaches to, with the descriptors that it borrows while it is compiled.
struct PlanCgroup {
  cgroup::AttachFds fds;
  Fd fallback;
  plan::CgroupAttach attach;
};

Result<PlanCgroup> open_plan_cgroup(const CgroupHandle::Shared& group) {
  PlanCgroup out;
  if (group == nullptr) return out;
  BERTH_ASSIGN(out.fds, group->open_attach());
  out.attach.v2_directory = out.fds.v2_directory.get();
  for (const Fd& fd : out.fds.v1_tasks) out.attach.v1_tasks.push_back(fd.get());
  out.attach.path = group->path();
  return out;
}

// Init may have moved into a sub-group of its own making: on v2 that is where an exec is put when the container's cgroup
// takes no processes any more.
Result<void> open_fallback(const Process& init, PlanCgroup* target) {
  constexpr std::string_view kStep = "plan.cgroup";
  BERTH_ASSIGN(const cgroup::Layout* layout, host().layout());
  if (!layout->v2() || target->attach.v2_directory < 0) return {};
  const std::string file = "/proc/" + std::to_string(init.pid()) + "/cgroup";
  Result<std::string> text = sys::read_file(AT_FDCWD, file.c_str(), kStep);
  // Without init there is no fallback, and the exec fails for that reason anyhow.
  if (!text.ok()) return {};
  sys::for_each_line(*text, [&](std::string_view line) {
    if (!line.starts_with("0::/")) return;
    const std::string path = "." + std::string(line.substr(3));
    target->fallback.reset(::openat(layout->hierarchies[0].root.get(), path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  });
  target->attach.v2_fallback_directory = target->fallback.get();
  return {};
}

Napi::Value plan_result(Instance& instance, PlanHandle::Shared& plan) { return PlanHandle::make(instance, std::move(plan)); }

Napi::Value compile_create_plan(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "compileCreatePlan.args", info[0],
           {"configJson", "bundle", "containerId", "rootfs", "cgroup", "joinProcess", "clamp"});
  std::string config = args.text("configJson");
  std::string bundle = args.text("bundle");
  std::string id = args.text("containerId");
  FdHandle::Shared rootfs = take_nullable_handle<FdHandle>(args, "rootfs");
  CgroupHandle::Shared group = take_nullable_handle<CgroupHandle>(args, "cgroup");
  ProcessHandle::Shared join = take_nullable_handle<ProcessHandle>(args, "joinProcess");
  const bool clamp = args.boolean("clamp");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick,
      [config = std::move(config), bundle = std::move(bundle), id = std::move(id), rootfs = std::move(rootfs), group = std::move(group),
       join = std::move(join), clamp]() -> Result<PlanHandle::Shared> {
        BERTH_ASSIGN(PlanCgroup target, open_plan_cgroup(group));
        plan::CompileInput input;
        input.config_json = config;
        input.bundle = bundle;
        input.container_id = id;
        input.rootfs_fd = rootfs == nullptr ? -1 : rootfs->get();
        input.cgroup = target.attach;
        if (join != nullptr) input.join = plan::JoinProcess{join->pid(), join->pidfd()};
        input.clamp.enabled = clamp;
        BERTH_ASSIGN(plan::CompiledPlan compiled, plan::compile_create(input));
        return std::make_shared<plan::CompiledPlan>(std::move(compiled));
      },
      plan_result);
}

Napi::Value compile_exec_plan(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "compileExecPlan.args", info[0], {"processJson", "configJson", "containerId", "init", "cgroup", "clamp"});
  std::string process = args.text("processJson");
  std::string config = args.text("configJson");
  std::string id = args.text("containerId");
  ProcessHandle::Shared init = take_handle<ProcessHandle>(args, "init");
  CgroupHandle::Shared group = take_nullable_handle<CgroupHandle>(args, "cgroup");
  const bool clamp = args.boolean("clamp");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick,
      [process = std::move(process), config = std::move(config), id = std::move(id), init = std::move(init), group = std::move(group),
       clamp]() -> Result<PlanHandle::Shared> {
        BERTH_ASSIGN(PlanCgroup target, open_plan_cgroup(group));
        BERTH_TRY(open_fallback(*init, &target));
        plan::ExecInput input;
        input.process_json = process;
        input.config_json = config;
        input.container_id = id;
        input.init_pidfd = init->pidfd();
        input.cgroup = target.attach;
        input.clamp.enabled = clamp;
        BERTH_ASSIGN(plan::CompiledPlan compiled, plan::compile_exec(input));
        return std::make_shared<plan::CompiledPlan>(std::move(compiled));
      },
      plan_result);
}

struct StartedMonitor {
  std::shared_ptr<Process> process;
  std::shared_ptr<Connection> connection;
};

Result<StartedMonitor> start_monitor(const std::string& directory, const std::string& name, const CgroupHandle::Shared& group,
                                     int oom_score_adj) {
  constexpr std::string_view kStep = "monitor.start";
  sys::SpawnOptions options;
  BERTH_ASSIGN(options.program, host().program("berth-monitor"));
  BERTH_ASSIGN(const AttachTarget target, AttachTarget::open(group));
  BERTH_ASSIGN(Fd listener, sys::listen_monitor(directory, name));
  Fd ours;
  Fd theirs;
  BERTH_TRY(sys::monitor_pair(&ours, &theirs));
  Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid()) return errno_error(kStep, "open", "/dev/null");
  options.path = "berth-monitor";
  options.args = {"berth-monitor"};
  options.fds = {null.get(), null.get(), null.get(), theirs.get(), listener.get()};
  options.cgroup = target.for_spawn();
  options.oom_score_adj = oom_score_adj;
  BERTH_ASSIGN(sys::Spawned spawned, sys::spawn(options, kStep));
  BERTH_ASSIGN(std::shared_ptr<Process> process, adopt_child(std::move(spawned)));
  return StartedMonitor{std::move(process), std::make_shared<Connection>(std::move(ours))};
}

Napi::Value spawn_monitor(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "spawnMonitor.args", info[0], {"socketDirectory", "socketName", "cgroup", "oomScoreAdj"});
  std::string directory = args.text("socketDirectory");
  std::string name = args.text("socketName");
  CgroupHandle::Shared group = take_nullable_handle<CgroupHandle>(args, "cgroup");
  const auto score = static_cast<int>(args.integer("oomScoreAdj", -1000, 1000));
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick,
      [directory = std::move(directory), name = std::move(name), group = std::move(group), score] {
        return start_monitor(directory, name, group, score);
      },
      [](Instance& instance, StartedMonitor& started) -> Napi::Value {
        Napi::Object out = Napi::Object::New(instance.env());
        out.Set("process", ProcessHandle::make(instance, std::move(started.process)));
        out.Set("connection", MonitorConnection::make(instance, std::move(started.connection)));
        return out;
      });
}

Napi::Value connect_monitor(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "connectMonitor.args", info[0], {"socketDirectory", "socketName"});
  std::string directory = args.text("socketDirectory");
  std::string name = args.text("socketName");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick, [directory = std::move(directory), name = std::move(name)] { return sys::connect_monitor(directory, name); },
      [](Instance& instance, Fd& socket) -> Napi::Value {
        return MonitorConnection::make(instance, std::make_shared<Connection>(std::move(socket)));
      });
}

Napi::Value open_null(const Napi::CallbackInfo& info) {
  Fd fd(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!fd.valid()) {
    throw_error(info.Env(), errno_error("null.open", "open", "/dev/null"));
    return info.Env().Undefined();
  }
  return FdHandle::make_fd(Instance::of(info.Env()), std::move(fd));
}

}  // namespace

void export_containers(Napi::Env env, Napi::Object exports) {
  export_function<compile_create_plan>(env, exports, "compileCreatePlan");
  export_function<compile_exec_plan>(env, exports, "compileExecPlan");
  export_function<spawn_monitor>(env, exports, "spawnMonitor");
  export_function<connect_monitor>(env, exports, "connectMonitor");
  export_function<collect_pipe>(env, exports, "collectPipe");
  export_function<open_null>(env, exports, "openNull");
  export_function<spawn_unpack>(env, exports, "spawnUnpack");
}

}  // namespace berth::addon
