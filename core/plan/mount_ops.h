// The ops that make the container's mount tree.
#pragma once

#include <string_view>
#include <vector>

#include "core/plan/builder.h"
#include "core/spec/types.h"

namespace berth::plan {

// Opens what comes from the host and then mounts everything, in two passes, because a source is only reachable in the
// host's mount namespace and a target only in the container's.
class MountPlanner {
 public:
  MountPlanner(Builder& builder, const spec::Spec& spec, std::string_view bundle, std::string_view cgroup_path);

  // Checks every mount of config.json and emits kOpenSource for those that need one. `rootfs_fd` as in CompileInput.
  Result<void> open_sources(int rootfs_fd);

  // After the mount namespace is made: the root, the mounts in config.json's order, device nodes and links below /dev.
  Result<void> mount_all();

  // After /dev is furnished and sysctls are written: masked and read-only paths, read-only file systems.
  void protect();

  // /dev is the container's own and gets the default nodes.
  [[nodiscard]] bool furnishes_dev() const { return furnishes_dev_; }

  void pivot();

 private:
  // What a mount of config.json becomes.
  struct Step {
    const spec::Mount* mount = nullptr;
    uint32_t slot = kNone;
    // v1, without a cgroup namespace: the container's own group in each hierarchy.
    std::vector<uint32_t> hierarchy_slots;
    uint64_t flags = 0;
  };

  Result<void> open_source(size_t index);
  Result<void> check_target(size_t index, Step& step) const;
  Result<uint32_t> add_open(std::string_view path, bool recursive, bool optional, std::string_view field);
  void mount_filesystem(const Step& step);
  void mount_bind(const Step& step);
  void mount_cgroup(const Step& step);
  void mount_hierarchies(const Step& step);
  void make_devices();
  void make_dev_links();

  Builder& builder_;
  const spec::Spec& spec_;
  std::string_view bundle_;
  std::string_view cgroup_path_;
  std::vector<Step> steps_;
  std::vector<std::string> readonly_later_;
  uint32_t root_fd_ = kNone;
  uint32_t root_slot_ = kNone;
  std::string root_path_;
  bool furnishes_dev_ = true;
};

// Without "." and empty components, ".." resolved as in a tree without links: for comparisons, never for opening.
std::string lexically_clean(std::string_view path);

}  // namespace berth::plan
