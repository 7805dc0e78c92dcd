// The plan: what a freshly forked child executes to become a container's init, or a process exec'ed into one.
//
// A plan is one sealed memfd:  Header | Op[op_count] | blob.  It is flat, position independent and fully resolved:
// the child parses no JSON, looks nothing up and allocates nothing while it executes it. Everything that is not known
// when the plan is compiled comes as a descriptor: `fd` arguments are indexes into the descriptors that travel with the
// plan, `slot` arguments name a descriptor that an earlier op has opened.
//
// A monitor outlives the daemon, so plans of a newer daemon may reach an older monitor: `version` changes whenever an op
// changes its meaning; a monitor says in `hello` which version it executes, and the compiler writes that version.
#pragma once

#include <cstdint>

namespace berth::plan {

inline constexpr uint32_t kMagic = 0x4e4c5042;  // "BPLN"
inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kMaxPlanBytes = 4u << 20;
inline constexpr uint32_t kMaxSlots = 512;
inline constexpr uint32_t kNone = 0xffffffff;

enum class Kind : uint32_t { kCreate = 1, kExec = 2 };

// A string or byte range of the blob. Each is followed by a NUL that `size` does not count. Every range begins at a
// multiple of 8, so that numbers in it can be read in place. "Block" below means strings ending in NUL one after
// another, the last NUL counted in `size`; an empty block has size 0.
struct Ref {
  uint32_t offset;  // from the beginning of the blob
  uint32_t size;
};

struct Header {
  uint32_t magic;
  uint32_t version;
  uint32_t total_size;
  uint32_t kind;
  uint32_t op_count;
  uint32_t blob_offset;
  uint32_t blob_size;
  uint32_t fd_count;
  // Namespaces that clone3(2) makes for kCreate: CLONE_NEW{PID,NET,IPC,UTS}. The mount and cgroup namespaces are never
  // among them: sources are opened in the host's mount namespace first, and a cgroup namespace made by clone3 would be
  // rooted at the parent's cgroup even with CLONE_INTO_CGROUP; both are made by kUnshare.
  uint64_t clone_flags;
  // Index of a directory fd for CLONE_INTO_CGROUP, or kNone.
  uint32_t cgroup_fd;
  // Index of a pid namespace (nsfs fd or pidfd) that the init is born in (kCreate), or kNone for the caller's or a new
  // one (CLONE_NEWPID). The parent joins it with setns before clone3 and goes back to its own afterwards.
  uint32_t pid_namespace_fd;
  // Non-zero: stdio is a pty that kTerminal makes in the container's devpts; the parent gets kTerminal's message.
  uint32_t terminal;
  // First op that runs after the start barrier (kCreate), or in the cloned command (kExec, the op after kMakeDetached).
  uint32_t barrier_op;
  // Index of a directory fd used where clone3 into cgroup_fd answers EBUSY (exec into a container that made sub-groups),
  // or kNone.
  uint32_t cgroup_fallback_fd;
  uint32_t padding;
  uint64_t reserved;
};

// What each op does and what its arguments are: a[] numbers, s[] strings, blocks or bytes.
//
// Before the first op the child sets PR_SET_DUMPABLE to 0 and umask to 0, and opens /proc of the host (checked to be
// procfs): kOomScoreAdj, kLabelProcess and kTimeOffsets go through that descriptor even after kPivot or a joined mount
// namespace. Paths in the container resolve with RESOLVE_IN_ROOT below the new root (magic links refused); "target" is
// such a path. Missing parents of a target are made, 0755, root-owned. An fd index that is kNone means none.
enum class OpCode : uint16_t {
  kEnd = 0,

  // -- namespaces and cgroups
  kCgroupAttach,     // a0 fd index of a v1 `tasks` file, open for writing: writes "0"
  kJoinNamespace,    // a0 fd index of an nsfs file or a pidfd, a1 CLONE_NEW* flags (several for a pidfd)
  kUnshare,          // a0 CLONE_NEW* flags
  kSetHostname,      // s0
  kSetDomainname,    // s0
  kLoopbackUp,       // brings lo up in the present network namespace

  // -- mount tree of the container
  kOpenSource,       // a0 slot, a1 open_tree flags (OPEN_TREE_CLONE, AT_RECURSIVE, …), a2 kMountOptional: an absent path leaves the slot empty; s0 absolute host path: taken in the host's mount namespace, links followed. All come before kUnshare(CLONE_NEWNS)
  kRootPropagation,  // a0 MS_* propagation (with MS_REC) of the new mount namespace's "/" before anything is mounted
  kAttachRoot,       // a0 fd index of the detached root, or kNone: then a1 is the slot of a kOpenSource. s0 host path for messages
  kMountFilesystem,  // a0 MOUNT_ATTR_* flags, a1 flags (kMount…), a2 mode of a directory that is made for the target, a3 propagation MS_* or 0; s0 type, s1 target, s2 block of "key=value" and "flag" for fsconfig, s3 source
  kMountSlot,        // a0 slot of a detached mount, a1 attr_set, a2 attr_clr (its top mount), a3 flags (kMount…), a4 propagation MS_* (MS_REC: of the whole tree) or 0; s1 target, made as a directory or a file as the source is one. With kMountOptional an empty slot is passed over
  kSetAttributes,    // a0 attr_set, a1 attr_clr, a2 AT_RECURSIVE or 0, a3 propagation or 0, a4 slot of a mount that is not attached yet, or kNone: the mount at target s1
  kMakeDirectory,    // a0 mode, a1 uid, a2 gid; s1 target; existing is fine
  kMakeNode,         // a0 mode with type, a1 device number (makedev), a2 uid, a3 gid; s1 target; s2 host path to bind where mknod is not permitted, or empty. An existing node of the same type and number is fine (mode and owner are set)
  kMakeSymlink,      // a0 1: whatever exists there stays; 0: it is an error unless it is the same link; 2: an entry that is no directory is replaced. s0 contents, s1 target
  kMask,             // s1 target: a file gets a bind of a private null device, a directory a shared read-only tmpfs; absent (ENOENT, ENOTDIR) is fine
  kReadonlyPath,     // s1 target: becomes a read-only bind of itself, recursively; absent is fine
  kPivot,            // a0 flags (kPivotReadonlyRoot), a1 propagation MS_* of the new "/" or 0: pivot_root, detach the old root, chdir "/"
  kSysctl,           // s0 path below /proc/sys with slashes, s1 value: through a private procfs or the host's descriptor, read back

  // -- terminal
  kTerminal,         // a0 uid, a1 gid (kNone: stays) of the slave, a2 rows, a3 columns (0: leave): opens /dev/pts/ptmx of the container (checked to be devpts), TIOCGPTPEER, sends the master (SyncKind::kTerminal), the slave becomes 0, 1 and 2
  kConsole,          // binds the terminal of this process on /dev/console

  // -- process attributes, in the order that they are safe in
  kSetsid,           // a0 1: and fd 0 becomes the controlling terminal
  kOomScoreAdj,      // a0 value (as int64), a1 1: EACCES/EPERM is passed over
  kRlimit,           // a0 resource, a1 soft, a2 hard
  kUmask,            // a0
  kPersonality,      // a0
  kScheduler,        // a0 policy, a1 nice (as int64), a2 priority, a3 flags, a4 runtime, a5 deadline; s0 = u64 period
  kIoPriority,       // a0 value of ioprio_set
  kCpuAffinity,      // s0 cpu_set bytes
  kSessionKeyring,   // s0 name; ENOSYS and EDQUOT are passed over
  kLabelProcess,     // s0 file below /proc/thread-self/attr ("apparmor/exec", "exec"), s1 value: at the next exec
  kBoundingSet,      // a0 mask of capabilities that stay
  kKeepCaps,         // prctl PR_SET_KEEPCAPS before the uid changes
  kSetGroups,        // s0 u32[]
  kSetGid,           // a0: real, effective, saved
  kSetUid,           // a0: real, effective, saved
  kCapabilities,     // a0 effective, a1 permitted, a2 inheritable
  kAmbient,          // a0 mask: cleared, then raised
  kNoNewPrivileges,
  kSeccomp,          // a0 flags for seccomp(2), a1 slot for a listener or kNone; s0 struct sock_filter[]
  kChdir,            // a0 flags (kChdir…), a1 uid, a2 gid of what is made; s0 path in the container; the raw getcwd must begin with "/"
  kLookupProgram,    // s0 argv[0], s1 value of PATH: resolved here so that create fails, not start; the result goes to kExec. Names with a slash are taken as they are. ENOENT where nothing is found, EACCES where only non-executables are
  kExec,             // s0 block argv, s1 block environment
  kMakeDetached,     // exec: everything up to here runs in the intermediate outside the pid namespace; what follows in the command that it clones with CLONE_PARENT
  kTimeOffsets,      // s0 text for /proc/self/timens_offsets
  kUserMapWait,      // waits until the parent has written uid_map and gid_map
  kCopyFile,         // a0 mode; s0 bytes, s1 target: writes a small file below the root (O_EXCL|O_NOFOLLOW unless it is a regular file)
};

inline constexpr uint64_t kMountOptional = 1;     // ENODEV, EPERM and an absent source are passed over (mqueue, cgroup)
inline constexpr uint64_t kMountPlainTarget = 2;  // no component of the target may be a link, and it must be a directory (/proc, /sys)
inline constexpr uint64_t kMountOnProc = 4;       // the target may lie on procfs; otherwise that is EPERM
inline constexpr uint64_t kMountCopyUp = 8;       // what the target directory holds is copied into the new file system before it is attached
inline constexpr uint64_t kPivotReadonlyRoot = 1;
inline constexpr uint64_t kChdirMake = 1;         // make the directory (mkdir -p, 0755) first; the last component gets a1:a2
inline constexpr uint64_t kChdirTry = 2;          // EACCES is passed over: a later kChdir, as the container's user, decides
inline constexpr uint64_t kChdirUnlessDone = 4;   // nothing to do where an earlier kChdir succeeded

// One operation. `step` is a string of the blob that names it in errors ("mount /proc").
struct Op {
  uint16_t code;
  uint16_t flags;
  Ref step;
  uint32_t padding;
  uint64_t a[6];
  Ref s[4];
};

static_assert(sizeof(Header) == 72);
static_assert(sizeof(Op) == 96);

}  // namespace berth::plan
