// berth.node: the functions of src/kernel/contract.ts, and `setErrorFactory`, by which load.ts makes failures SystemErrors.
#include <napi.h>

#include "addon/functions.h"
#include "addon/handles.h"
#include "addon/host.h"
#include "addon/instance.h"

namespace berth::addon {
namespace {

Napi::Array to_array(Napi::Env env, const std::vector<std::string>& texts) {
  Napi::Array out = Napi::Array::New(env, texts.size());
  for (uint32_t i = 0; i < texts.size(); ++i) out.Set(i, texts[i]);
  return out;
}

Napi::Object layout_object(Napi::Env env) {
  Napi::Object out = Napi::Object::New(env);
  Napi::Object mounts = Napi::Object::New(env);
  Result<const cgroup::Layout*> found = host().layout();
  if (!found.ok()) {
    out.Set("mode", "v2");
    out.Set("mounts", mounts);
    out.Set("controllers", Napi::Array::New(env));
    return out;
  }
  const cgroup::Layout& layout = **found;
  for (const auto& [controller, mount] : layout.mounts) mounts.Set(controller, mount);
  out.Set("mode", layout.mode == cgroup::Mode::kV2 ? "v2" : layout.mode == cgroup::Mode::kV1 ? "v1" : "hybrid");
  out.Set("mounts", mounts);
  out.Set("controllers", to_array(env, layout.controllers));
  return out;
}

Napi::Value features(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const sys::Probe& probe = host().probe();
  Napi::Object out = Napi::Object::New(env);
  out.Set("cgroup", layout_object(env));
  out.Set("release", probe.release);
  out.Set("architecture", probe.architecture);
  out.Set("cloneIntoCgroup", probe.clone_into_cgroup);
  out.Set("overlayLowerdirPlus", probe.overlay_lowerdir_plus);
  out.Set("idmappedMounts", probe.idmapped_mounts);
  out.Set("recursiveReadOnly", probe.recursive_read_only);
  out.Set("seccomp", probe.seccomp);
  out.Set("appArmor", probe.app_armor);
  out.Set("seLinux", probe.se_linux);
  out.Set("timeNamespace", probe.time_namespace);
  out.Set("userNamespace", probe.user_namespace);
  out.Set("cgroupNamespace", probe.cgroup_namespace);
  out.Set("psi", probe.psi);
  out.Set("capabilities", to_array(env, probe.capabilities));
  return out;
}

Napi::Value program_digests(const Napi::CallbackInfo& info) {
  Napi::Object out = Napi::Object::New(info.Env());
  for (const auto& [name, digest] : host().digests()) out.Set(name, digest);
  return out;
}

Napi::Value set_error_factory(const Napi::CallbackInfo& info) {
  if (!info[0].IsFunction()) {
    throw_type_error(info.Env(), "setErrorFactory.factory", "must be a function");
    return info.Env().Undefined();
  }
  Instance::of(info.Env()).set_error_factory(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

// Runs before Node.js takes the environment down, and so before the handles and references of it go.
void close_instance(void* argument) { static_cast<Instance*>(argument)->channel()->close(); }

void delete_instance(Napi::Env env, Instance* instance) {
  napi_remove_env_cleanup_hook(env, close_instance, instance);
  instance->channel()->close();
  delete instance;
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  auto* instance = new Instance(env);
  if (!instance->channel()->open(env)) {
    delete instance;
    Napi::Error::New(env, "berth.node: no thread-safe function can be made").ThrowAsJavaScriptException();
    return exports;
  }
  env.SetInstanceData<Instance, delete_instance>(instance);
  napi_add_env_cleanup_hook(env, close_instance, instance);
  define_handles(*instance);
  // Everything is probed, and the programs are taken hold of, now.
  host();
  exports.Set("features", Napi::Function::New<features>(env, "features"));
  exports.Set("programDigests", Napi::Function::New<program_digests>(env, "programDigests"));
  exports.Set("setErrorFactory", Napi::Function::New<set_error_factory>(env, "setErrorFactory"));
  export_files(env, exports);
  export_mounts(env, exports);
  export_processes(env, exports);
  export_cgroups(env, exports);
  export_containers(env, exports);
  export_streams(env, exports);
  return exports;
}

}  // namespace
}  // namespace berth::addon

static Napi::Object initialize_module(Napi::Env env, Napi::Object exports) { return berth::addon::initialize(env, exports); }

NODE_API_MODULE(berth, initialize_module)
