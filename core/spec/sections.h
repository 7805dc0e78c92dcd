// The parsers of config.json's sections; parse.cc drives them.
#pragma once

#include "core/spec/json.h"
#include "core/spec/types.h"

namespace berth::spec {

void read_process(const json::Node& node, Process& out);
void read_mounts(const json::Node& node, std::vector<Mount>& out);
void read_linux(const json::Node& node, Linux& out);

// linux.resources: types and ranges alone. core/cgroup applies it.
void check_resources(const json::Node& node);

void read_strings(const json::Node& node, std::vector<string_view>& out);

// Refuses a field of the runtime-spec that is not supported, unless it is empty.
void refuse_unsupported(const json::Node& node);

}  // namespace berth::spec
