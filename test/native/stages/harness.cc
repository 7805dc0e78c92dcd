#include "test/native/stages/harness.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>

#include "core/sys/mount.h"

namespace berth::test {

using plan::OpCode;

int make_root(const char* program) {
  const int context = sys::fsopen("tmpfs");
  if (context < 0 || sys::fsconfig_string(context, "mode", "0755") != 0 || sys::fsconfig_create(context) != 0) {
    std::perror("tmpfs");
    std::exit(1);
  }
  const int root = sys::fsmount(context, 0);
  ::close(context);
  CHECK(root >= 0);
  CHECK_EQ(::mkdirat(root, "bin", 0755), 0);
  write_file(root, "bin/probe", read_file(program), 0755);
  return root;
}

void add_container(PlanBuilder& builder, int root_fd, uint64_t clone_flags) {
  builder.header().clone_flags = clone_flags;
  builder.op(OpCode::kUnshare, "unshare", {CLONE_NEWNS})
      .op(OpCode::kRootPropagation, "propagation", {MS_REC | MS_SLAVE})
      .op(OpCode::kAttachRoot, "root", {builder.add_fd(root_fd), plan::kNone}, {"rootfs"})
      .op(OpCode::kMountFilesystem, "mount /proc", {MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, plan::kMountPlainTarget, 0555},
          {"proc", "/proc", "", "proc"})
      .op(OpCode::kMountFilesystem, "mount /dev", {MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME, 0, 0755},
          {"tmpfs", "/dev", PlanBuilder::block({"mode=755", "size=64k"}), "tmpfs"})
      .op(OpCode::kMakeNode, "make /dev/null", {S_IFCHR | 0666, makedev(1, 3)}, {"", "/dev/null", "/dev/null"})
      .op(OpCode::kMountFilesystem, "mount /dev/pts", {MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0, 0755},
          {"devpts", "/dev/pts", PlanBuilder::block({"newinstance", "ptmxmode=0666", "mode=0620"}), "devpts"});
}

}  // namespace berth::test
