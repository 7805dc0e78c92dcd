#include "core/spec/mount_options.h"

#include <linux/mount.h>
#include <sched.h>

#include <initializer_list>

#include "test/native/check.h"

#ifndef MS_REC
#define MS_REC 16384
#define MS_UNBINDABLE (1 << 17)
#define MS_PRIVATE (1 << 18)
#define MS_SLAVE (1 << 19)
#define MS_SHARED (1 << 20)
#endif

namespace {

using berth::spec::add_mount_option;
using berth::spec::MountOptions;

MountOptions read(std::initializer_list<const char*> options) {
  MountOptions out;
  for (const char* option : options) CHECK(add_mount_option(option, out) == nullptr);
  return out;
}

}  // namespace

TEST(flags_set_and_clear) {
  const MountOptions options = read({"ro", "nosuid", "nodev", "noexec"});
  CHECK_EQ(options.attr_set, static_cast<uint64_t>(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC));
  CHECK_EQ(options.attr_clear, 0u);
  CHECK_EQ(read({"rw", "exec"}).attr_clear, static_cast<uint64_t>(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC));
}

TEST(the_last_one_wins) {
  CHECK_EQ(read({"ro", "rw"}).attr_set, 0u);
  CHECK_EQ(read({"ro", "rw"}).attr_clear, static_cast<uint64_t>(MOUNT_ATTR_RDONLY));
  CHECK_EQ(read({"rw", "ro"}).attr_set, static_cast<uint64_t>(MOUNT_ATTR_RDONLY));
  CHECK_EQ(read({"rw", "ro"}).attr_clear, 0u);
  CHECK_EQ(read({"rslave", "rprivate"}).propagation, static_cast<uint64_t>(MS_PRIVATE | MS_REC));
}

TEST(access_times_are_one_field) {
  const MountOptions strict = read({"noatime", "strictatime"});
  CHECK_EQ(strict.attr_set, static_cast<uint64_t>(MOUNT_ATTR_STRICTATIME));
  CHECK_EQ(strict.attr_clear, static_cast<uint64_t>(MOUNT_ATTR__ATIME));
  const MountOptions relative = read({"noatime", "relatime"});
  CHECK_EQ(relative.attr_set & MOUNT_ATTR__ATIME, static_cast<uint64_t>(MOUNT_ATTR_RELATIME));
  // nodiratime is a flag of its own and survives.
  CHECK_EQ(read({"nodiratime", "noatime"}).attr_set, static_cast<uint64_t>(MOUNT_ATTR_NODIRATIME | MOUNT_ATTR_NOATIME));
}

TEST(recursive_variants_are_kept_apart) {
  const MountOptions options = read({"rbind", "rro", "rnosuid", "nodev"});
  CHECK(options.bind);
  CHECK(options.recursive_bind);
  CHECK_EQ(options.recursive_set, static_cast<uint64_t>(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID));
  CHECK_EQ(options.attr_set, static_cast<uint64_t>(MOUNT_ATTR_NODEV));
  CHECK_EQ(read({"rrw"}).recursive_clear, static_cast<uint64_t>(MOUNT_ATTR_RDONLY));
  // These begin with r and are no variants.
  CHECK_EQ(read({"ro", "relatime"}).recursive_set, 0u);
  CHECK_EQ(read({"rstrictatime"}).recursive_set, static_cast<uint64_t>(MOUNT_ATTR_STRICTATIME));
}

TEST(every_recursive_option_of_the_specification_is_known) {
  for (const char* option : {"rro", "rrw", "rnosuid", "rsuid", "rnodev", "rdev", "rnoexec", "rexec", "rnodiratime", "rdiratime", "rrelatime",
                             "rnorelatime", "rnoatime", "ratime", "rstrictatime", "rnostrictatime", "rnosymfollow", "rsymfollow"}) {
    const MountOptions options = read({option});
    CHECK((options.recursive_set | options.recursive_clear) != 0);
    CHECK(options.filesystem.empty());
  }
}

TEST(the_rest_goes_to_the_file_system) {
  const MountOptions options = read({"mode=755", "size=64k", "newinstance", "sync", "lazytime", "defaults"});
  CHECK_EQ(options.filesystem.size(), 5u);
  CHECK_EQ(options.filesystem[0], "mode=755");
  CHECK_EQ(options.attr_set, 0u);
}

TEST(refuses_what_it_does_not_do) {
  MountOptions out;
  CHECK(add_mount_option("remount", out) != nullptr);
  CHECK(add_mount_option("idmap", out) != nullptr);
  CHECK(add_mount_option("", out) != nullptr);
}

TEST(copy_up) { CHECK(read({"tmpcopyup"}).copy_up); }

CHECK_MAIN()
