// The forked child that executes a plan: its state, and the ops by group. Everything here runs after fork in a copy of the
// parent's memory: system calls alone, no allocation, no locks, no libc state. Nothing returns an error: what fails is
// told to the parent and ends the child (`child_fail`).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "core/plan/format.h"
#include "core/stages/stages.h"

namespace berth::stages {

inline constexpr size_t kPathBytes = 4096;
inline constexpr dev_t kNullDevice = 1 << 8 | 3;  // character device 1:3

struct Child {
  const uint8_t* plan_data = nullptr;
  const plan::Header* header = nullptr;
  const plan::Op* op = nullptr;  // the one that is being executed
  uint32_t op_index = plan::kNone;
  const int* fds = nullptr;

  int sync = -1;
  int proc = -1;        // procfs that was on the host's /proc
  int root = -1;        // O_PATH: the container's root; -1: not known, see child_root
  int mask = -1;        // the tmpfs with the null device and the empty directory
  int host_null = -1;   // where the null device could not be made: the host's
  int private_proc = -1;
  uint64_t root_propagation = 0;
  uint16_t columns = 0;  // of a terminal, from the parent
  uint16_t rows = 0;
  bool chdir_done = false;

  const char** argv = nullptr;
  const char** envp = nullptr;
  char program[kPathBytes] = {};

  int slots[plan::kMaxSlots];
};

// Tells the parent and ends with 127. `error_number` 0 takes errno.
[[noreturn]] void child_fail(Child& child, const char* syscall, const char* path, int error_number = 0, const char* detail = nullptr);

// The whole life of the child; ends in execve.
[[noreturn]] void child_main(const PlanInput& plan, const ChildStdio& stdio, int sync);

// -- arguments of the present op
const char* child_text(const Child& child, const plan::Ref& ref);
int child_fd(Child& child, uint64_t index);
int child_slot(Child& child, uint64_t slot);
void child_set_slot(Child& child, uint64_t slot, int fd);

// -- resolving below the container's root (child_target.cc)

enum class Make { kNothing, kDirectory, kFile };

struct Lookup {
  Make make = Make::kNothing;
  mode_t mode = 0755;   // of the last component, where it is made
  bool plain = false;   // no component may be a link
};

// O_PATH descriptor of the container's root: of kAttachRoot, or of "/" once that is the container's.
int child_root(Child& child);
// O_PATH descriptor of what `path` is in the container, or -1 with errno. Links are followed inside the root alone.
int child_lookup(Child& child, const char* path, const Lookup& lookup);
// The directory that holds the last component of `path` (made with its parents where absent), and that component in `name`
// (NAME_MAX + 1 bytes). Does not return where the path has no such component.
int child_parent(Child& child, const char* path, char* name);

// -- mounts (child_mount.cc)
void child_open_source(Child& child);
void child_root_propagation(Child& child);
void child_attach_root(Child& child);
void child_mount_filesystem(Child& child);
void child_mount_slot(Child& child);
void child_set_attributes(Child& child);
void child_mask(Child& child);
void child_readonly_path(Child& child);
void child_pivot(Child& child);
void child_console(Child& child);

// -- entries of the root (child_entry.cc)
void child_make_directory(Child& child);
void child_make_node(Child& child);
void child_make_symlink(Child& child);
void child_copy_file(Child& child);
// Copies what the directory `from` holds into `to`: files, directories, links, with mode, owner and times.
void child_copy_tree(Child& child, int from, int to, const char* path);

// -- process attributes (child_process.cc); false: not one of them
bool child_process_op(Child& child);
// 0, 1 and 2 are never a device of the host's /dev: a null device among them is opened anew in the container.
void child_reopen_null(Child& child);
// Closes every descriptor but 0, 1, 2 and the parent's.
void child_close_all(Child& child);
void child_terminal(Child& child);
// Hands a pty's master to the parent.
void child_send_terminal(Child& child, int master);

}  // namespace berth::stages
