#include "core/spec/mount_options.h"
#include "core/spec/sections.h"

namespace berth::spec {

namespace {

void read_mount(const json::Node& node, Mount& out) {
  node.members([&](string_view key, const json::Node& field) {
    if (key == "destination") {
      out.destination = field.string(false);
    } else if (key == "type") {
      out.type = field.string();
    } else if (key == "source") {
      out.source = field.string();
    } else if (key == "options") {
      field.elements([&](const json::Node& element) {
        if (const char* why = add_mount_option(element.string(), out.options)) element.refuse(why);
      });
    } else if (key == "uidMappings" || key == "gidMappings") {
      refuse_unsupported(field);
    }
  });
  if (node.refused()) return;
  if (out.destination.empty()) return node.refuse("destination is missing");
  if (out.type == "bind") out.options.bind = true;
  if (out.options.bind) {
    if (out.source.empty()) return node.refuse("source is missing");
    if (!out.options.filesystem.empty()) return node.refuse("a bind mount has no options of a file system");
    if (out.options.copy_up) return node.refuse("tmpcopyup is for tmpfs alone");
  } else {
    if (out.type.empty()) return node.refuse("type is missing");
    if (out.options.copy_up && out.type != "tmpfs") return node.refuse("tmpcopyup is for tmpfs alone");
  }
}

}  // namespace

void read_mounts(const json::Node& node, std::vector<Mount>& out) {
  out.clear();
  out.reserve(node.array_size());
  node.elements([&](const json::Node& element) { read_mount(element, out.emplace_back()); });
}

}  // namespace berth::spec
