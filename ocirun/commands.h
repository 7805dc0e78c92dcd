// One function for each command; the value is the exit code.
#pragma once

#include "core/base/result.h"
#include "ocirun/arguments.h"

namespace berth::ocirun {

Result<int> run_create(const Arguments& arguments);
Result<int> run_start(const Arguments& arguments);
Result<int> run_run(const Arguments& arguments);
Result<int> run_exec(const Arguments& arguments);
Result<int> run_state(const Arguments& arguments);
Result<int> run_kill(const Arguments& arguments);
Result<int> run_delete(const Arguments& arguments);

}  // namespace berth::ocirun
