// What the addon finds out about the host once, and the programs that it starts.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/cgroup/layout.h"
#include "core/sys/probe.h"

namespace berth::addon {

class Host {
 public:
  [[nodiscard]] const sys::Probe& probe() const { return probe_; }

  // The cgroup hierarchies; ENOENT where none is mounted.
  [[nodiscard]] Result<const cgroup::Layout*> layout() const;

  // A program ("berth-monitor"), open for execveat through a detached read-only mount of its file: whoever gets hold of
  // /proc/PID/exe cannot open it for writing. ENOENT where it was not beside the addon when that was loaded.
  [[nodiscard]] Result<FdRef> program(const std::string& name) const;

  // SHA-256 over each program as loaded, name and lower-case hex. Reads them whole.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> digests() const;

  Host();

 private:
  sys::Probe probe_;
  Result<cgroup::Layout> layout_;
  std::string directory_;
  std::map<std::string, Fd> programs_;
};

// Made at load, never destroyed.
const Host& host();

// Lower-case hex of SHA-256 (FIPS 180-4).
std::string sha256_hex(const void* data, size_t size);

}  // namespace berth::addon
