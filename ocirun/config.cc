#include "ocirun/config.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>

#include <charconv>

#include "core/base/fd.h"
#include "core/spec/json.h"
#include "core/spec/parse.h"
#include "core/sys/file_text.h"

namespace berth::ocirun {

namespace {

using rapidjson::Value;
namespace json = berth::spec::json;

const Value* member(const Value& object, const char* name) {
  if (!object.IsObject()) return nullptr;
  const auto found = object.FindMember(name);
  return found == object.MemberEnd() ? nullptr : &found->value;
}

std::string text_of(const Value* value) {
  return value != nullptr && value->IsString() ? std::string(value->GetString(), value->GetStringLength()) : std::string();
}

Result<uint32_t> read_id(const std::string& text, const char* option) {
  uint32_t id = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), id);
  if (text.empty() || parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || id == UINT32_MAX) {
    return field_error("arguments", option, "not a number of a user or group");
  }
  return id;
}

class ProcessEditor {
 public:
  explicit ProcessEditor(rapidjson::Document& dom) : dom_(dom), allocator_(dom.GetAllocator()) {}

  void set(const char* name, Value value) {
    dom_.RemoveMember(name);
    dom_.AddMember(Value(name, allocator_), value, allocator_);
  }
  Value string(const std::string& text) { return Value(text.data(), static_cast<rapidjson::SizeType>(text.size()), allocator_); }
  Value strings(const std::vector<std::string>& list) {
    Value out(rapidjson::kArrayType);
    for (const std::string& text : list) out.PushBack(string(text), allocator_);
    return out;
  }
  // The array `name` of `object`, made where it is absent.
  Value& array(Value& object, const char* name) {
    const auto found = object.FindMember(name);
    if (found != object.MemberEnd() && found->value.IsArray()) return found->value;
    object.RemoveMember(name);
    object.AddMember(Value(name, allocator_), Value(rapidjson::kArrayType), allocator_);
    return object.FindMember(name)->value;
  }
  Value& object(const char* name) {
    const auto found = dom_.FindMember(name);
    if (found != dom_.MemberEnd() && found->value.IsObject()) return found->value;
    set(name, Value(rapidjson::kObjectType));
    return dom_.FindMember(name)->value;
  }
  rapidjson::Document& dom() { return dom_; }
  rapidjson::Document::AllocatorType& allocator() { return allocator_; }

 private:
  rapidjson::Document& dom_;
  rapidjson::Document::AllocatorType& allocator_;
};

Result<void> set_user(ProcessEditor& editor, const Arguments& arguments) {
  if (!arguments.user.empty()) {
    const size_t colon = arguments.user.find(':');
    BERTH_ASSIGN(const uint32_t uid, read_id(arguments.user.substr(0, colon), "--user"));
    Value user(rapidjson::kObjectType);
    user.AddMember("uid", uid, editor.allocator());
    uint32_t gid = 0;
    if (colon != std::string::npos) {
      BERTH_ASSIGN(gid, read_id(arguments.user.substr(colon + 1), "--user"));
    }
    user.AddMember("gid", gid, editor.allocator());
    editor.set("user", std::move(user));
  }
  for (const std::string& text : arguments.additional_gids) {
    BERTH_ASSIGN(const uint32_t gid, read_id(text, "--additional-gids"));
    editor.array(editor.object("user"), "additionalGids").PushBack(gid, editor.allocator());
  }
  return {};
}

}  // namespace

Result<std::string> read_text(const std::string& path) { return sys::read_file(AT_FDCWD, path.c_str(), "config.read"); }

std::string quoted(std::string_view text) {
  return json::minified(Value(text.data(), static_cast<rapidjson::SizeType>(text.size())));
}

Result<BundleConfig> read_bundle(const std::string& directory) {
  BundleConfig out;
  char resolved[PATH_MAX];
  if (realpath(directory.c_str(), resolved) == nullptr) return errno_error("bundle", "realpath", directory);
  out.bundle = resolved;
  BERTH_ASSIGN(out.json, read_text(out.bundle + "/config.json"));
  BERTH_ASSIGN(const json::Document document, json::parse(out.json, spec::kMaxConfigBytes, spec::kMaxDepth));
  const Value& config = document.dom;
  out.oci_version = text_of(member(config, "ociVersion"));
  if (const Value* annotations = member(config, "annotations")) out.annotations_json = json::minified(*annotations);
  if (const Value* root = member(config, "root")) {
    const std::string path = text_of(member(*root, "path"));
    out.rootfs = path.starts_with('/') ? path : out.bundle + "/" + path;
  }
  if (const Value* section = member(config, "linux")) {
    out.cgroups_path = text_of(member(*section, "cgroupsPath"));
    const Value* resources = member(*section, "resources");
    if (resources != nullptr && resources->IsObject()) out.resources_json = json::minified(*resources);
  }
  if (const Value* process = member(config, "process")) {
    const Value* terminal = member(*process, "terminal");
    out.terminal = terminal != nullptr && terminal->IsTrue();
  }
  return out;
}

Result<std::string> exec_process(const BundleConfig& config, const Arguments& arguments) {
  if (!arguments.process_file.empty()) return read_text(arguments.process_file);
  BERTH_ASSIGN(json::Document document, json::parse(config.json, spec::kMaxConfigBytes, spec::kMaxDepth));
  const auto found = document.dom.FindMember("process");
  if (found == document.dom.MemberEnd() || !found->value.IsObject()) return field_error("exec", "process", "is missing");
  rapidjson::Document process;
  process.CopyFrom(found->value, process.GetAllocator());
  ProcessEditor editor(process);
  editor.set("args", editor.strings(arguments.rest));
  editor.set("terminal", Value(arguments.tty));
  process.RemoveMember("consoleSize");
  if (!arguments.cwd.empty()) editor.set("cwd", editor.string(arguments.cwd));
  for (const std::string& entry : arguments.env) {
    editor.array(process, "env").PushBack(editor.string(entry), editor.allocator());
  }
  BERTH_TRY(set_user(editor, arguments));
  if (arguments.no_new_privileges) editor.set("noNewPrivileges", Value(true));
  for (const std::string& name : arguments.capabilities) {
    for (const char* set : {"bounding", "effective", "permitted"}) {
      editor.array(editor.object("capabilities"), set).PushBack(editor.string(name), editor.allocator());
    }
  }
  return json::minified(process);
}

}  // namespace berth::ocirun
