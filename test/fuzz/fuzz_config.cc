// config.json from anybody: parsed and, where it is accepted, compiled; the plan then passes the executor's own check.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include <unistd.h>

#include "core/plan/compile.h"
#include "core/spec/parse.h"
#include "core/stages/check_plan.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  berth::plan::CompileInput input;
  input.config_json = text;
  input.bundle = "/bundle";
  input.container_id = "fuzz";
  input.clamp.enabled = true;
  // Profiles have a target of their own, and take milliseconds.
  const auto spec = berth::spec::parse_config(text);
  if (!spec.ok() || !spec.value().linux_section.seccomp.empty()) return 0;
  auto plan = berth::plan::compile_create(input);
  if (!plan.ok()) return 0;
  std::vector<uint64_t> bytes(plan->bytes / 8 + 1);
  if (pread(plan->memfd.get(), bytes.data(), plan->bytes, 0) != static_cast<ssize_t>(plan->bytes)) std::abort();
  berth::stages::PlanFault fault;
  if (!berth::stages::check_plan(bytes.data(), plan->bytes, static_cast<uint32_t>(plan->fds.size()), &fault)) {
    // The one thing that the executor limits and the compiler leaves to it: texts longer than any path.
    if (std::string_view(fault.reason) != "text too long") std::abort();
  }
  return 0;
}
