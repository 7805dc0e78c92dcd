// config.json → Spec. Strict: a wrong type, an out-of-range number, a string with NUL, a key given twice and every field
// of the runtime-spec that is not supported are EINVAL with the field's path ("mounts[3].options[1]") in Error::path.
// Properties that the runtime-spec does not know are passed over, as it demands.
#pragma once

#include <string_view>

#include "core/base/result.h"
#include "core/spec/types.h"

namespace berth::spec {

inline constexpr size_t kMaxConfigBytes = 4u << 20;
inline constexpr unsigned kMaxDepth = 32;

Result<Spec> parse_config(std::string_view json);

// A process object alone, as an exec gives it.
Result<ProcessDocument> parse_process(std::string_view json);

}  // namespace berth::spec
