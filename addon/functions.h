// The functions of the contract, by subject. Each group adds its own to the exports.
#pragma once

#include <napi.h>

namespace berth::addon {

void export_files(Napi::Env env, Napi::Object exports);
void export_mounts(Napi::Env env, Napi::Object exports);
void export_processes(Napi::Env env, Napi::Object exports);
void export_cgroups(Napi::Env env, Napi::Object exports);
void export_containers(Napi::Env env, Napi::Object exports);
void export_streams(Napi::Env env, Napi::Object exports);

template <Napi::Value (*function)(const Napi::CallbackInfo&)>
void export_function(Napi::Env env, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<function>(env, name));
}

}  // namespace berth::addon
