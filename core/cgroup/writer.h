// Writing limits into one cgroup's files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/cgroup/layout.h"
#include "core/cgroup/resources.h"

namespace berth::cgroup {

// The directories of one cgroup with what is needed to name its files in errors.
struct Target {
  const Layout& layout;
  const std::string& path;
  const std::vector<Fd>& directories;

  // Index of the hierarchy that has the controller and this cgroup; -1 for none.
  [[nodiscard]] int find(std::string_view controller) const;
  [[nodiscard]] std::string name(int hierarchy, std::string_view file) const;
  [[nodiscard]] bool has_file(int hierarchy, const char* file) const;
  Result<void> write(int hierarchy, const char* file, std::string_view value) const;
  Result<std::string> read(int hierarchy, const char* file) const;
};

Result<void> write_v1(const Target& target, const Resources& resources);
Result<void> write_v2(const Target& target, const Resources& resources);

}  // namespace berth::cgroup
