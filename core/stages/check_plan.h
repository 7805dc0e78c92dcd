// The check of a plan before anything of it is executed. What passes may be executed without any further look at offsets,
// counts, indexes or terminators; what an op then does is the kernel's to permit.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/plan/format.h"

namespace berth::stages {

// Why a plan is refused, and at which op (kNone: at the header). `reason` is static text.
struct PlanFault {
  uint32_t op_index = plan::kNone;
  const char* reason = nullptr;
};

// The header alone, as the parent reads it: sizes, kind, fd indexes, clone flags.
bool check_header(const plan::Header& header, size_t plan_size, uint32_t fd_count, PlanFault* fault);

// The whole plan: `data` is 8-byte aligned. Allocates nothing and reads nothing outside data[0, size).
bool check_plan(const void* data, size_t size, uint32_t fd_count, PlanFault* fault);

}  // namespace berth::stages
