// A container's directory below --root: state.json, the socket that `start` uses, the exit code.
//
//   state.json   written once, when the container is created
//   start.sock   exists while the program waits to be started
//   exit         the program's exit code, once it has ended (of containers that nobody waits for)
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "core/cgroup/cgroup.h"
#include "ocirun/config.h"

namespace berth::ocirun {

enum class Status { kCreated, kRunning, kStopped };

struct Container {
  std::string directory;
  std::string id;
  std::string bundle;
  std::string rootfs;
  std::string oci_version;
  std::string annotations_json = "{}";
  std::string cgroup;  // path below each hierarchy's mount; empty for none
  std::string created;  // RFC 3339
  pid_t pid = -1;
  std::string start_time;  // of the process, so that a recycled pid is not taken for it
};

// Makes ROOT (0700) and ROOT/ID; EEXIST where there is such a container.
Result<Container> make_container(const std::string& root, const std::string& id, const BundleConfig& config);
Result<Container> load_container(const std::string& root, const std::string& id);
Result<void> save_container(const Container& container);
// Removes the directory; absent is success.
void remove_directory(const Container& container);

struct Live {
  Status status = Status::kStopped;
  Fd pidfd;  // invalid where stopped
};
Live look(const Container& container);

std::string_view status_name(Status status);

// The cgroup that config.json names, or /berth-oci/ID, with the limits of config.json.
Result<std::unique_ptr<cgroup::Cgroup>> make_cgroup(const cgroup::Layout& layout, Container& container, const BundleConfig& config);
Result<void> remove_cgroup(const cgroup::Layout& layout, const Container& container);

Result<void> write_text(const std::string& path, std::string_view text);

}  // namespace berth::ocirun
