// What berth-oci itself reads of a bundle's config.json, beside what the compiler does.
#pragma once

#include <string>

#include "core/base/result.h"
#include "ocirun/arguments.h"

namespace berth::ocirun {

struct BundleConfig {
  std::string bundle;  // absolute
  std::string json;    // config.json as it stands
  std::string oci_version;
  std::string rootfs;          // absolute
  std::string cgroups_path;    // linux.cgroupsPath, or empty
  std::string resources_json;  // linux.resources, or empty
  std::string annotations_json = "{}";
  bool terminal = false;
};

// Reads DIR/config.json.
Result<BundleConfig> read_bundle(const std::string& directory);

// The process object of an exec: that of config.json with what the command line changes.
Result<std::string> exec_process(const BundleConfig& config, const Arguments& arguments);

Result<std::string> read_text(const std::string& path);

// `text` as a JSON string with its quotes.
std::string quoted(std::string_view text);

}  // namespace berth::ocirun
