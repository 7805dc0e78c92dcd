// The options of a mount in config.json (runtime-spec, "Linux mount options"), sorted by the call that takes them.
#pragma once

#include <string_view>

#include "core/spec/types.h"

namespace berth::spec {

// Adds one option. Returns nullptr, or why it is refused (a string that lives forever). What the runtime-spec does not
// list goes to the file system. Later options win over earlier ones.
const char* add_mount_option(std::string_view option, MountOptions& out);

// Types whose superblock the kernel shares or makes without a device: `ro` then concerns the mount alone, since the
// superblock must stay writable for others (sysfs, proc) or until it is furnished (tmpfs).
bool is_pseudo_filesystem(std::string_view type);

}  // namespace berth::spec
