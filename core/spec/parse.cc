#include "core/spec/parse.h"

#include <sys/utsname.h>

#include "core/spec/json.h"
#include "core/spec/names.h"
#include "core/spec/sections.h"

namespace berth::spec {

namespace {

// The kernel's __NEW_UTS_LEN.
constexpr size_t kMaxHostname = 64;

void read_root(const json::Node& node, Root& out) {
  node.members([&](string_view key, const json::Node& field) {
    if (key == "path") {
      out.path = field.string(false);
    } else if (key == "readonly") {
      out.readonly = field.boolean();
    }
  });
}

string_view read_host_name(const json::Node& node) {
  const string_view name = node.string();
  if (name.size() > kMaxHostname) node.refuse("longer than 64 bytes");
  return name;
}

// What a runtime needs to have: the kernel's part of the specification, not the file's.
void check_version(const json::Node& node, string_view version) {
  if (!version.starts_with("1.")) node.refuse("not a 1.x version of the runtime-spec");
}

void read_config(const json::Node& node, Spec& out) {
  node.members([&](string_view key, const json::Node& field) {
    if (key == "ociVersion") {
      out.oci_version = field.string();
      check_version(field, out.oci_version);
    } else if (key == "process") {
      read_process(field, out.process.emplace());
    } else if (key == "root") {
      read_root(field, out.root);
    } else if (key == "hostname") {
      out.hostname = read_host_name(field);
    } else if (key == "domainname") {
      out.domainname = read_host_name(field);
    } else if (key == "mounts") {
      read_mounts(field, out.mounts);
    } else if (key == "linux") {
      read_linux(field, out.linux_section);
    } else if (key == "annotations") {
      field.members([](string_view, const json::Node& value) { (void)value.string(); });
    } else if (key == "hooks" ) {
      field.members([](string_view, const json::Node& list) { refuse_unsupported(list); });
    } else if (key == "solaris" || key == "windows" || key == "vm" || key == "zos" || key == "freebsd") {
      refuse_unsupported(field);
    }
  });
}

void require_field(bool present, const char* name, json::Refusal& refusal) {
  if (present) return;
  const json::Path path{nullptr, name, -1};
  refusal.set(&path, "is missing");
}

}  // namespace

void refuse_unsupported(const json::Node& node) {
  if (!node.is_empty()) node.refuse("is not supported");
}

void read_strings(const json::Node& node, std::vector<string_view>& out) {
  out.clear();
  out.reserve(node.array_size());
  node.elements([&](const json::Node& element) { out.push_back(element.string()); });
}

Result<Spec> parse_config(std::string_view text) {
  if (text.size() > kMaxConfigBytes) return field_error("config.parse", "", "longer than 4 MiB");
  // Four fifths of a container's config.json are its seccomp profile, which the cache of programs knows by its text: it is
  // cut out, so that it is only parsed when it is compiled.
  const std::string_view seccomp = json::find_object(text, "linux", "seccomp");
  std::string rest;
  if (!seccomp.empty()) {
    const auto begin = static_cast<size_t>(seccomp.data() - text.data());
    rest.reserve(text.size() - seccomp.size() + 2);
    rest.append(text.substr(0, begin)).append("{}").append(text.substr(begin + seccomp.size()));
  }
  BERTH_ASSIGN(json::Document document, json::parse(seccomp.empty() ? text : rest, kMaxConfigBytes, kMaxDepth));
  Spec spec;
  if (seccomp.size() > 2) spec.linux_section.seccomp = seccomp;
  spec.text = std::move(document.text);
  json::Refusal refusal;
  read_config(json::Node(document.dom, nullptr, &refusal), spec);
  require_field(!spec.oci_version.empty(), "ociVersion", refusal);
  if (refusal.any()) return refusal.take();
  return spec;
}

Result<ProcessDocument> parse_process(std::string_view text) {
  BERTH_ASSIGN(json::Document document, json::parse(text, kMaxConfigBytes, kMaxDepth));
  ProcessDocument out;
  out.text = std::move(document.text);
  json::Refusal refusal;
  const json::Path path{nullptr, "process", -1};
  read_process(json::Node(document.dom, &path, &refusal), out.process);
  if (refusal.any()) return refusal.take();
  return out;
}

}  // namespace berth::spec
