#include "addon/async.h"
#include "addon/functions.h"
#include "addon/handles.h"
#include "core/sys/overlay.h"

namespace berth::addon {
namespace {

Napi::Value fd_result(Instance& instance, Fd& fd) { return FdHandle::make_fd(instance, std::move(fd)); }

Napi::Value mount_overlay(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "mountOverlay.args", info[0], {"lowers", "upper", "work"});
  sys::OverlayOptions options;
  options.lowers = args.texts("lowers");
  options.upper = args.nullable_text("upper").value_or("");
  options.work = args.nullable_text("work").value_or("");
  if (args.ok() && options.lowers.empty()) args.fail("lowers", "must have at least one directory");
  if (args.ok() && options.upper.empty() != options.work.empty()) args.fail("work", "comes together with upper");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kQuick, [options = std::move(options)] { return sys::mount_overlay(options); }, fd_result);
}

Napi::Value open_tree(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "openTree.args", info[0], {"path", "clone", "recursive", "readOnly"});
  std::string path = args.text("path");
  const bool clone = args.boolean("clone");
  const bool recursive = args.boolean("recursive");
  const bool read_only = args.boolean("readOnly");
  if (args.ok() && read_only && !clone) args.fail("readOnly", "only a clone can be made read-only");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick,
      [path = std::move(path), clone, recursive, read_only] { return sys::open_mount_tree(path, clone, recursive, read_only); }, fd_result);
}

Napi::Value attach_mount(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "attachMount.args", info[0], {"mount", "path"});
  FdHandle::Shared mount = take_handle<FdHandle>(args, "mount");
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kQuick,
                   [mount = std::move(mount), path = std::move(path)] { return sys::attach_detached(mount->ref(), path); });
}

Napi::Value unmount(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "unmount.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kSlow, [path = std::move(path)] { return sys::unmount_all(path); });
}

Napi::Value mount_tmpfs(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "mountTmpfs.args", info[0], {"path", "sizeBytes", "mode"});
  std::string path = args.text("path");
  const auto size = static_cast<uint64_t>(args.integer("sizeBytes", 0, kMaxSafeInteger));
  const auto mode = static_cast<mode_t>(args.integer("mode", 0, 07777));
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kQuick, [path = std::move(path), size, mode] { return sys::mount_tmpfs(path, size, mode); });
}

}  // namespace

void export_mounts(Napi::Env env, Napi::Object exports) {
  export_function<mount_overlay>(env, exports, "mountOverlay");
  export_function<open_tree>(env, exports, "openTree");
  export_function<attach_mount>(env, exports, "attachMount");
  export_function<unmount>(env, exports, "unmount");
  export_function<mount_tmpfs>(env, exports, "mountTmpfs");
}

}  // namespace berth::addon
