#include "addon/async.h"
#include "addon/attach.h"
#include "addon/functions.h"
#include "addon/handles.h"
#include "addon/host.h"
#include "addon/program.h"
#include "core/sys/namespaces.h"
#include "core/sys/pause.h"
#include "core/sys/pidfd.h"
#include "core/sys/process.h"

namespace berth::addon {

Result<std::shared_ptr<Process>> adopt_child(sys::Spawned spawned) {
  Result<std::string> start_time = sys::process_start_time(spawned.pid);
  if (start_time.ok()) return Process::create(spawned.pid, std::move(spawned.pidfd), std::move(start_time).value(), true);
  // A child is there until it is reaped, so this is a procfs that does not work: without an identity it is of no use.
  sys::pidfd_send_signal(spawned.pidfd.get(), SIGKILL);
  Process::create(spawned.pid, std::move(spawned.pidfd), "", true);
  return std::move(start_time).error();
}

Result<AttachTarget> AttachTarget::open(const std::shared_ptr<cgroup::Cgroup>& group) {
  AttachTarget target;
  if (group == nullptr) return target;
  BERTH_ASSIGN(target.fds_, group->open_attach());
  return target;
}

sys::SpawnCgroup AttachTarget::for_spawn() const {
  sys::SpawnCgroup out;
  out.v2_directory = fds_.v2_directory.get();
  for (const Fd& fd : fds_.v1_tasks) out.v1_tasks.push_back(fd.get());
  return out;
}

namespace {

Napi::Value process_result(Instance& instance, std::shared_ptr<Process>& process) {
  return ProcessHandle::make(instance, std::move(process));
}

Napi::Value start_pause(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "startPause.args", info[0],
           {"namespaces", "hostname", "sysctls", "cgroup", "oomScoreAdj", "loopback"});
  sys::PauseOptions options;
  Dto namespaces = args.object("namespaces", {"net", "ipc", "uts", "pid"});
  options.net = namespaces.boolean("net");
  options.ipc = namespaces.boolean("ipc");
  options.uts = namespaces.boolean("uts");
  options.pid = namespaces.boolean("pid");
  options.hostname = args.nullable_text("hostname").value_or("");
  options.sysctls = args.text_map("sysctls");
  CgroupHandle::Shared group = take_nullable_handle<CgroupHandle>(args, "cgroup");
  options.oom_score_adj = static_cast<int>(args.integer("oomScoreAdj", -1000, 1000));
  options.loopback = args.boolean("loopback");
  if (args.ok() && namespaces.ok()) {
    // Never may the pod's settings reach the host's namespaces.
    if (!options.hostname.empty() && !options.uts) args.fail("hostname", "only with a uts namespace of the pod's own");
    if (options.loopback && !options.net) args.fail("loopback", "only with a network namespace of the pod's own");
  }
  if (!args.ok() || !namespaces.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick,
      [options = std::move(options), group = std::move(group)]() mutable -> Result<std::shared_ptr<Process>> {
        BERTH_ASSIGN(options.program, host().program("berth-pause"));
        BERTH_ASSIGN(const AttachTarget target, AttachTarget::open(group));
        options.cgroup = target.for_spawn();
        BERTH_ASSIGN(sys::Spawned spawned, sys::start_pause(options));
        return adopt_child(std::move(spawned));
      },
      process_result);
}

Napi::Value pin_namespace(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "pinNamespace.args", info[0], {"process", "kind", "path"});
  ProcessHandle::Shared process = take_handle<ProcessHandle>(args, "process");
  std::string kind = args.text("kind");
  std::string path = args.text("path");
  if (args.ok() && kind != "net" && kind != "ipc" && kind != "uts" && kind != "pid") args.fail("kind", "not one of net, ipc, uts, pid");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kQuick, [process = std::move(process), kind = std::move(kind), path = std::move(path)] {
    return sys::pin_namespace(FdRef(process->pidfd()), process->pid(), kind, path);
  });
}

Napi::Value unpin_namespace(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "unpinNamespace.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kQuick, [path = std::move(path)] { return sys::unpin_namespace(path); });
}

Napi::Value create_network_namespace(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "createNetworkNamespace.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kQuick, [path = std::move(path)] { return sys::create_network_namespace(path); });
}

Napi::Value open_process(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "openProcess.args", info[0], {"pid", "startTime"});
  const auto pid = static_cast<pid_t>(args.integer("pid", 1, 0x7fffffff));
  std::string start_time = args.nullable_text("startTime").value_or("");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick,
      [pid, start_time = std::move(start_time)]() -> Result<std::shared_ptr<Process>> {
        BERTH_ASSIGN(std::optional<sys::ProcessIdentity> found, sys::open_process(pid, start_time));
        if (!found.has_value()) return std::shared_ptr<Process>();
        return Process::create(pid, std::move(found->pidfd), std::move(found->start_time), false);
      },
      [](Instance& instance, std::shared_ptr<Process>& process) -> Napi::Value {
        if (process == nullptr) return instance.env().Null();
        return ProcessHandle::make(instance, std::move(process));
      });
}

Napi::Value interface_stats(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "interfaceStats.args", info[0], {"networkNamespace"});
  std::string path = args.text("networkNamespace");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick, [path = std::move(path)] { return sys::link_stats(path); },
      [](Instance& instance, const std::vector<sys::LinkStats>& links) -> Napi::Value {
        Napi::Array out = Napi::Array::New(instance.env(), links.size());
        for (uint32_t i = 0; i < links.size(); ++i) {
          const sys::LinkStats& link = links[i];
          Napi::Object entry = Napi::Object::New(instance.env());
          entry.Set("name", link.name);
          entry.Set("rxBytes", static_cast<double>(link.rx_bytes));
          entry.Set("rxPackets", static_cast<double>(link.rx_packets));
          entry.Set("rxErrors", static_cast<double>(link.rx_errors));
          entry.Set("rxDropped", static_cast<double>(link.rx_dropped));
          entry.Set("txBytes", static_cast<double>(link.tx_bytes));
          entry.Set("txPackets", static_cast<double>(link.tx_packets));
          entry.Set("txErrors", static_cast<double>(link.tx_errors));
          entry.Set("txDropped", static_cast<double>(link.tx_dropped));
          out.Set(i, entry);
        }
        return out;
      });
}

}  // namespace

void export_processes(Napi::Env env, Napi::Object exports) {
  export_function<start_pause>(env, exports, "startPause");
  export_function<pin_namespace>(env, exports, "pinNamespace");
  export_function<unpin_namespace>(env, exports, "unpinNamespace");
  export_function<create_network_namespace>(env, exports, "createNetworkNamespace");
  export_function<open_process>(env, exports, "openProcess");
  export_function<run_program>(env, exports, "runProgram");
  export_function<interface_stats>(env, exports, "interfaceStats");
}

}  // namespace berth::addon
