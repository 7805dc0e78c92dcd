#include <sys/types.h>

#include "addon/async.h"
#include "addon/functions.h"
#include "addon/handles.h"
#include "addon/host.h"
#include "core/cgroup/cgroup.h"

namespace berth::addon {
namespace {

using OptionalStats = std::optional<cgroup::Stats>;

Napi::Value number_or_null(Napi::Env env, const std::optional<uint64_t>& value) {
  if (!value.has_value()) return env.Null();
  return Napi::Number::New(env, static_cast<double>(*value));
}

Napi::Value decimal_or_null(Napi::Env env, const std::optional<uint64_t>& value) {
  if (!value.has_value()) return env.Null();
  return Napi::String::New(env, std::to_string(*value));
}

Napi::Value psi_line(Napi::Env env, const cgroup::PsiLine& line) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("totalNs", std::to_string(line.total_us) + (line.total_us == 0 ? "" : "000"));
  out.Set("avg10", line.avg10);
  out.Set("avg60", line.avg60);
  out.Set("avg300", line.avg300);
  return out;
}

Napi::Value psi(Napi::Env env, const std::optional<cgroup::Psi>& value) {
  if (!value.has_value()) return env.Null();
  Napi::Object out = Napi::Object::New(env);
  out.Set("some", psi_line(env, value->some));
  out.Set("full", value->full.has_value() ? psi_line(env, *value->full) : env.Null());
  return out;
}

Napi::Value to_js(Napi::Env env, const OptionalStats& found) {
  if (!found.has_value()) return env.Null();
  const cgroup::Stats& s = *found;
  Napi::Object out = Napi::Object::New(env);
  out.Set("timestampNs", std::to_string(s.timestamp_ns));
  out.Set("cpuUsageNs", decimal_or_null(env, s.cpu_usage_ns));
  out.Set("cpuUserNs", decimal_or_null(env, s.cpu_user_ns));
  out.Set("cpuSystemNs", decimal_or_null(env, s.cpu_system_ns));
  out.Set("cpuPeriods", number_or_null(env, s.cpu_periods));
  out.Set("cpuThrottledPeriods", number_or_null(env, s.cpu_throttled_periods));
  out.Set("cpuThrottledNs", decimal_or_null(env, s.cpu_throttled_ns));
  out.Set("memoryUsageBytes", number_or_null(env, s.memory_usage));
  out.Set("memoryWorkingSetBytes", number_or_null(env, s.memory_working_set));
  out.Set("memoryRssBytes", number_or_null(env, s.memory_rss));
  out.Set("memoryCacheBytes", number_or_null(env, s.memory_cache));
  out.Set("memoryMappedFileBytes", number_or_null(env, s.memory_mapped_file));
  out.Set("memoryKernelBytes", number_or_null(env, s.memory_kernel));
  out.Set("memoryMaxUsageBytes", number_or_null(env, s.memory_max_usage));
  out.Set("memoryLimitBytes", number_or_null(env, s.memory_limit));
  out.Set("memoryFailCount", number_or_null(env, s.memory_fail_count));
  out.Set("memoryPageFaults", number_or_null(env, s.memory_page_faults));
  out.Set("memoryMajorPageFaults", number_or_null(env, s.memory_major_page_faults));
  out.Set("swapUsageBytes", number_or_null(env, s.swap_usage));
  out.Set("swapLimitBytes", number_or_null(env, s.swap_limit));
  out.Set("oomKills", number_or_null(env, s.oom_kills));
  out.Set("processCount", number_or_null(env, s.process_count));
  out.Set("threadCount", number_or_null(env, s.thread_count));
  out.Set("pidsLimit", number_or_null(env, s.pids_limit));
  Napi::Object pressure = Napi::Object::New(env);
  pressure.Set("cpu", psi(env, s.cpu_pressure));
  pressure.Set("memory", psi(env, s.memory_pressure));
  pressure.Set("io", psi(env, s.io_pressure));
  out.Set("psi", pressure);
  Napi::Array io = Napi::Array::New(env, s.io.size());
  for (uint32_t i = 0; i < s.io.size(); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("device", s.io[i].device);
    entry.Set("readBytes", static_cast<double>(s.io[i].read_bytes));
    entry.Set("writeBytes", static_cast<double>(s.io[i].write_bytes));
    entry.Set("reads", static_cast<double>(s.io[i].reads));
    entry.Set("writes", static_cast<double>(s.io[i].writes));
    io.Set(i, entry);
  }
  out.Set("io", io);
  Napi::Array hugetlb = Napi::Array::New(env, s.hugetlb.size());
  for (uint32_t i = 0; i < s.hugetlb.size(); ++i) {
    Napi::Object entry = Napi::Object::New(env);
    entry.Set("pageSize", s.hugetlb[i].page_size);
    entry.Set("usageBytes", static_cast<double>(s.hugetlb[i].usage_bytes));
    entry.Set("maxUsageBytes", static_cast<double>(s.hugetlb[i].max_usage_bytes));
    hugetlb.Set(i, entry);
  }
  out.Set("hugetlb", hugetlb);
  return out;
}

Napi::Value cgroup_result(Instance& instance, CgroupHandle::Shared& group) { return CgroupHandle::make(instance, std::move(group)); }

Napi::Value create_cgroup(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "createCgroup.args", info[0], {"path", "resourcesJson", "adopt"});
  std::string path = args.text("path");
  std::optional<std::string> json = args.nullable_text("resourcesJson");
  const bool adopt = args.boolean("adopt");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick,
      [path = std::move(path), json = std::move(json), adopt]() -> Result<CgroupHandle::Shared> {
        BERTH_ASSIGN(const cgroup::Layout* layout, host().layout());
        std::optional<cgroup::Resources> resources;
        if (json.has_value()) {
          BERTH_ASSIGN(cgroup::Resources parsed, cgroup::parse_resources(*json));
          resources = std::move(parsed);
        }
        BERTH_ASSIGN(std::unique_ptr<cgroup::Cgroup> made,
                     cgroup::Cgroup::create(*layout, path, resources.has_value() ? &*resources : nullptr, adopt));
        return CgroupHandle::Shared(std::move(made));
      },
      cgroup_result);
}

Napi::Value open_cgroup(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "openCgroup.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick,
      [path = std::move(path)]() -> Result<CgroupHandle::Shared> {
        BERTH_ASSIGN(const cgroup::Layout* layout, host().layout());
        BERTH_ASSIGN(std::unique_ptr<cgroup::Cgroup> opened, cgroup::Cgroup::open(*layout, path));
        return CgroupHandle::Shared(std::move(opened));
      },
      cgroup_result);
}

Napi::Value update_cgroup(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "updateCgroup.args", info[0], {"cgroup", "resourcesJson"});
  CgroupHandle::Shared group = take_handle<CgroupHandle>(args, "cgroup");
  std::string json = args.text("resourcesJson");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kQuick, [group = std::move(group), json = std::move(json)]() -> Result<void> {
    BERTH_ASSIGN(const cgroup::Resources resources, cgroup::parse_resources(json));
    return group->apply(resources);
  });
}

Napi::Value cgroup_stats(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Dto args(env, "cgroupStats.args", info[0], {"cgroups"});
  const Napi::Value list = args.get("cgroups");
  if (args.ok() && !list.IsArray()) args.fail("cgroups", "must be an array");
  std::vector<CgroupHandle::Shared> groups;
  if (args.ok()) {
    const Napi::Array array = list.As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length() && args.ok(); ++i) {
      const Napi::HandleScope scope(env);
      CgroupHandle* handle = CgroupHandle::from(array.Get(i));
      const std::string where = "cgroups[" + std::to_string(i) + "]";
      if (handle == nullptr) args.fail(where.c_str(), "must be a CgroupHandle");
      else if (handle->payload() == nullptr) args.fail(where.c_str(), "CgroupHandle is closed");
      else groups.push_back(handle->payload());
    }
  }
  if (!args.ok()) return env.Undefined();
  return run_async(
      env, Lane::kQuick,
      [groups = std::move(groups)]() -> Result<std::vector<OptionalStats>> {
        std::vector<OptionalStats> all;
        all.reserve(groups.size());
        for (const CgroupHandle::Shared& group : groups) all.push_back(group->stats());
        return all;
      },
      [](Instance& instance, const std::vector<OptionalStats>& all) -> Napi::Value {
        Napi::Array out = Napi::Array::New(instance.env(), all.size());
        for (uint32_t i = 0; i < all.size(); ++i) {
          const Napi::HandleScope scope(instance.env());
          out.Set(i, to_js(instance.env(), all[i]));
        }
        return out;
      });
}

Napi::Value cgroup_processes(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "cgroupProcesses.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick,
      [path = std::move(path)]() -> Result<std::vector<pid_t>> {
        BERTH_ASSIGN(const cgroup::Layout* layout, host().layout());
        return cgroup::processes(*layout, path);
      },
      [](Instance& instance, const std::vector<pid_t>& pids) -> Napi::Value {
        Napi::Array out = Napi::Array::New(instance.env(), pids.size());
        for (uint32_t i = 0; i < pids.size(); ++i) out.Set(i, pids[i]);
        return out;
      });
}

Napi::Value kill_cgroup(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "killCgroup.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kSlow, [path = std::move(path)]() -> Result<void> {
    BERTH_ASSIGN(const cgroup::Layout* layout, host().layout());
    return cgroup::kill(*layout, path);
  });
}

Napi::Value freeze_cgroup(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "freezeCgroup.args", info[0], {"path", "frozen"});
  std::string path = args.text("path");
  const bool frozen = args.boolean("frozen");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kSlow, [path = std::move(path), frozen]() -> Result<void> {
    BERTH_ASSIGN(const cgroup::Layout* layout, host().layout());
    return cgroup::set_frozen(*layout, path, frozen);
  });
}

Napi::Value remove_cgroup(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "removeCgroup.args", info[0], {"path", "timeoutMs"});
  std::string path = args.text("path");
  const auto timeout = static_cast<uint64_t>(args.integer("timeoutMs", 0, kMaxSafeInteger));
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kSlow, [path = std::move(path), timeout]() -> Result<void> {
    BERTH_ASSIGN(const cgroup::Layout* layout, host().layout());
    return cgroup::remove(*layout, path, timeout);
  });
}

Napi::Value remove_empty_cgroup(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "removeEmptyCgroup.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick,
      [path = std::move(path)]() -> Result<bool> {
        BERTH_ASSIGN(const cgroup::Layout* layout, host().layout());
        return cgroup::remove_empty(*layout, path);
      },
      [](Instance& instance, const bool& gone) -> Napi::Value { return Napi::Boolean::New(instance.env(), gone); });
}

Napi::Value list_cgroups(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "listCgroups.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick,
      [path = std::move(path)]() -> Result<std::vector<std::string>> {
        BERTH_ASSIGN(const cgroup::Layout* layout, host().layout());
        return cgroup::children(*layout, path);
      },
      [](Instance& instance, const std::vector<std::string>& names) -> Napi::Value {
        Napi::Array out = Napi::Array::New(instance.env(), names.size());
        for (uint32_t i = 0; i < names.size(); ++i) out.Set(i, names[i]);
        return out;
      });
}

Napi::Value open_cgroup_events(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "openCgroupEvents.args", info[0], {"cgroup"});
  CgroupHandle::Shared group = take_handle<CgroupHandle>(args, "cgroup");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick, [group = std::move(group)] { return group->open_oom_file(); },
      [](Instance& instance, std::optional<cgroup::OomFile>& found) -> Napi::Value {
        if (!found.has_value()) return instance.env().Null();
        Napi::Object out = Napi::Object::New(instance.env());
        out.Set("kind", found->v2 ? "v2" : "v1");
        out.Set("file", FdHandle::make_fd(instance, std::move(found->file)));
        return out;
      });
}

}  // namespace

void export_cgroups(Napi::Env env, Napi::Object exports) {
  export_function<create_cgroup>(env, exports, "createCgroup");
  export_function<open_cgroup>(env, exports, "openCgroup");
  export_function<update_cgroup>(env, exports, "updateCgroup");
  export_function<cgroup_stats>(env, exports, "cgroupStats");
  export_function<cgroup_processes>(env, exports, "cgroupProcesses");
  export_function<kill_cgroup>(env, exports, "killCgroup");
  export_function<freeze_cgroup>(env, exports, "freezeCgroup");
  export_function<remove_cgroup>(env, exports, "removeCgroup");
  export_function<remove_empty_cgroup>(env, exports, "removeEmptyCgroup");
  export_function<list_cgroups>(env, exports, "listCgroups");
  export_function<open_cgroup_events>(env, exports, "openCgroupEvents");
}

}  // namespace berth::addon
