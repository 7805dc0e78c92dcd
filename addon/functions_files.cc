#include "addon/async.h"
#include "addon/functions.h"
#include "addon/handles.h"
#include "core/sys/tree.h"

namespace berth::addon {
namespace {

Napi::Value write_file_atomic(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "writeFileAtomic.args", info[0], {"path", "data", "mode", "durable"});
  std::string path = args.text("path");
  std::string data = args.bytes("data");
  const auto mode = static_cast<mode_t>(args.integer("mode", 0, 07777));
  const bool durable = args.boolean("durable");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kQuick, [path = std::move(path), data = std::move(data), mode, durable] {
    return sys::write_file_atomic(path, data.data(), data.size(), mode, durable);
  });
}

Napi::Value remove_tree(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "removeTree.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kSlow, [path = std::move(path)] { return sys::remove_tree(path); });
}

Napi::Value make_directories(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "makeDirectories.args", info[0], {"path", "mode"});
  std::string path = args.text("path");
  const auto mode = static_cast<mode_t>(args.integer("mode", 0, 07777));
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kQuick, [path = std::move(path), mode]() -> Result<void> {
    Result<Fd> made = sys::make_directories(path, mode);
    if (!made.ok()) return std::move(made).error();
    return {};
  });
}

Napi::Value sync_filesystem(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "syncFilesystem.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(info.Env(), Lane::kSlow, [path = std::move(path)] { return sys::sync_filesystem(path); });
}

Napi::Value filesystem_usage(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "filesystemUsage.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick, [path = std::move(path)] { return sys::filesystem_usage(path); },
      [](Instance& instance, const sys::FilesystemUsage& usage) -> Napi::Value {
        Napi::Object out = Napi::Object::New(instance.env());
        out.Set("totalBytes", static_cast<double>(usage.total_bytes));
        out.Set("freeBytes", static_cast<double>(usage.free_bytes));
        out.Set("totalInodes", static_cast<double>(usage.total_inodes));
        out.Set("freeInodes", static_cast<double>(usage.free_inodes));
        out.Set("device", usage.device);
        out.Set("mountPoint", usage.mount_point);
        out.Set("type", usage.type);
        return out;
      });
}

Napi::Value tree_usage(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "treeUsage.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kSlow, [path = std::move(path)] { return sys::tree_usage(path); },
      [](Instance& instance, const sys::TreeUsage& usage) -> Napi::Value {
        Napi::Object out = Napi::Object::New(instance.env());
        out.Set("bytes", static_cast<double>(usage.bytes));
        out.Set("inodes", static_cast<double>(usage.inodes));
        return out;
      });
}

Napi::Value read_in_root(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "readInRoot.args", info[0], {"root", "path", "maxBytes"});
  FdHandle::Shared root = take_handle<FdHandle>(args, "root");
  std::string path = args.text("path");
  const auto limit = static_cast<uint64_t>(args.integer("maxBytes", 0, 1 << 30));
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick, [root = std::move(root), path = std::move(path), limit] { return sys::read_in_root(root->ref(), path, limit); },
      [](Instance& instance, const std::optional<std::string>& text) -> Napi::Value {
        if (!text.has_value()) return instance.env().Null();
        return Napi::Buffer<char>::Copy(instance.env(), text->data(), text->size());
      });
}

Napi::Value list_mounts(const Napi::CallbackInfo& info) {
  return run_async(
      info.Env(), Lane::kQuick, [] { return sys::list_mounts(); },
      [](Instance& instance, const std::vector<sys::MountInfo>& mounts) -> Napi::Value {
        Napi::Array out = Napi::Array::New(instance.env(), mounts.size());
        for (uint32_t i = 0; i < mounts.size(); ++i) {
          const Napi::HandleScope scope(instance.env());
          const sys::MountInfo& mount = mounts[i];
          Napi::Object entry = Napi::Object::New(instance.env());
          entry.Set("id", static_cast<double>(mount.id));
          entry.Set("parentId", static_cast<double>(mount.parent_id));
          entry.Set("device", mount.device);
          entry.Set("root", mount.root);
          entry.Set("mountPoint", mount.mount_point);
          entry.Set("type", mount.type);
          entry.Set("source", mount.source);
          entry.Set("shared", mount.shared);
          out.Set(i, entry);
        }
        return out;
      });
}

Napi::Value open_log(const Napi::CallbackInfo& info) {
  Dto args(info.Env(), "openLog.args", info[0], {"path"});
  std::string path = args.text("path");
  if (!args.ok()) return info.Env().Undefined();
  return run_async(
      info.Env(), Lane::kQuick, [path = std::move(path)] { return sys::open_log(path); },
      [](Instance& instance, Fd& fd) -> Napi::Value { return FdHandle::make_fd(instance, std::move(fd)); });
}

}  // namespace

void export_files(Napi::Env env, Napi::Object exports) {
  export_function<write_file_atomic>(env, exports, "writeFileAtomic");
  export_function<remove_tree>(env, exports, "removeTree");
  export_function<make_directories>(env, exports, "makeDirectories");
  export_function<sync_filesystem>(env, exports, "syncFilesystem");
  export_function<filesystem_usage>(env, exports, "filesystemUsage");
  export_function<tree_usage>(env, exports, "treeUsage");
  export_function<read_in_root>(env, exports, "readInRoot");
  export_function<list_mounts>(env, exports, "listMounts");
  export_function<open_log>(env, exports, "openLog");
}

}  // namespace berth::addon
