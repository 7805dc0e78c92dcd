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

// A string or byte range of the blob. Strings are followed by a NUL that `size` does not count.
struct Ref {
  uint32_t offset;
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
  // Namespaces that clone3(2) makes (CLONE_NEW*), for kCreate.
  uint64_t clone_flags;
  // Index of a directory fd for CLONE_INTO_CGROUP, or kNone.
  uint32_t cgroup_fd;
  // Index of a pid namespace (nsfs fd or pidfd) that the process is born in, or kNone for the caller's or a new one.
  uint32_t pid_namespace_fd;
  // Non-zero: stdio is a pty that the child makes in its own devpts and sends to the parent.
  uint32_t terminal;
  // First op that runs after the start barrier (kCreate), or after the intermediate has cloned the command (kExec).
  uint32_t barrier_op;
  uint64_t reserved[2];
};

// What each op does and what its arguments are: a[] numbers, s[] strings or bytes.
enum class OpCode : uint16_t {
  kEnd = 0,

  // -- namespaces and cgroups
  kJoinNamespace,    // a0 fd index, a1 CLONE_NEW* flags (several for a pidfd)
  kUnshare,          // a0 CLONE_NEW* flags
  kCgroupAttach,     // a0 fd index of a v1 `tasks` or v2 `cgroup.procs` file: writes "0"
  kSetHostname,      // s0
  kSetDomainname,    // s0
  kLoopbackUp,       // brings lo up in the present network namespace

  // -- mount tree of the container; all targets resolve with RESOLVE_IN_ROOT below the root
  kRootPropagation,  // a0 MS_* propagation of the new mount namespace before anything is mounted
  kOpenSource,       // a0 slot, a1 open_tree flags, s0 host path: taken in the host's mount namespace
  kAttachRoot,       // a0 fd index of the detached root, or kNone and s0 a host path that is bound recursively; a1 slot for the root
  kMountFilesystem,  // a0 MOUNT_ATTR_* flags, a1 flags (kMountMode*), a2 mode, a3 propagation MS_*; s0 type, s1 target, s2 options "k=v,k" for fsconfig, s3 source
  kMountSlot,        // a0 slot of a detached mount, a1 attr_set, a2 attr_clr, a3 flags, a4 propagation; s1 target
  kSetAttributes,    // a0 attr_set, a1 attr_clr, a2 AT_RECURSIVE or 0, a3 propagation; s1 target
  kMakeDirectory,    // a0 mode, a1 uid, a2 gid; s1 target; existing is fine
  kMakeNode,         // a0 mode with type, a1 device number, a2 uid, a3 gid; s1 target; s2 host path to bind where mknod is not permitted
  kMakeSymlink,      // s0 contents, s1 target; an existing entry is an error unless it is the same link
  kMask,             // s1 target: a file gets a bind of a private null device, a directory a shared read-only tmpfs; absent is fine
  kReadonlyPath,     // s1 target, absent is fine
  kCopyUp,           // tmpcopyup of the directory at s1 from slot a0
  kPivot,            // a0 flags (kPivotReadonlyRoot): pivot_root, detach the old root, chdir "/"
  kConsole,          // binds the terminal of this process on /dev/console
  kSysctl,           // s0 path below /proc/sys with slashes, s1 value: through a private procfs, read back

  // -- process attributes, in the order that they are safe in
  kSetsid,
  kOomScoreAdj,      // a0 value (as int64)
  kRlimit,           // a0 resource, a1 soft, a2 hard
  kUmask,            // a0
  kPersonality,      // a0
  kScheduler,        // a0 policy, a1 nice, a2 priority, a3 flags, a4 runtime, a5 deadline; s0 = u64 period
  kIoPriority,       // a0 value of ioprio_set
  kCpuAffinity,      // s0 cpu_set bytes
  kSessionKeyring,   // s0 name
  kLabelProcess,     // s0 file below /proc/thread-self/attr, s1 value: at the next exec
  kBoundingSet,      // a0 mask of capabilities that stay
  kKeepCaps,         // prctl PR_SET_KEEPCAPS before the uid changes
  kSetGroups,        // s0 u32[]
  kSetGid,           // a0
  kSetUid,           // a0
  kCapabilities,     // a0 effective, a1 permitted, a2 inheritable
  kAmbient,          // a0 mask
  kNoNewPrivileges,
  kSeccomp,          // a0 flags for seccomp(2), a1 slot for a listener or kNone; s0 struct sock_filter[]
  kChdir,            // a0 1: make it first, owned a1:a2; s0 path in the container
  kLookupProgram,    // s0 argv[0], s1 PATH: resolved here so that create fails, not start; result goes to kExec
  kExec,             // s0 argv block, s1 environment block: strings ending in NUL one after another
  kMakeDetached,     // exec: everything up to here runs in the intermediate outside the pid namespace
  kMountMqueueFromSource,  // a0 slot
  kTimeOffsets,      // s0 text for /proc/self/timens_offsets
  kUserMapWait,      // waits until the parent has written uid_map and gid_map
  kCopyFile,         // a0 mode; s0 bytes, s1 target: writes a small file below the root (O_EXCL|O_NOFOLLOW unless it is a regular file)
};

inline constexpr uint64_t kMountModeReadonlyLater = 1;   // becomes read-only after the tree below it is complete
inline constexpr uint64_t kMountTargetFile = 2;          // make a file, not a directory, where the target is absent
inline constexpr uint64_t kMountOptional = 4;            // ENODEV/EPERM are passed over (mqueue, cgroup)
inline constexpr uint64_t kPivotReadonlyRoot = 1;

// One operation. `step` is a string of the blob that names it in errors ("mount /proc").
struct Op {
  uint16_t code;
  uint16_t flags;
  Ref step;
  uint32_t padding;
  uint64_t a[6];
  Ref s[4];
};

static_assert(sizeof(Header) == 80 + 0 || sizeof(Header) % 8 == 0);
static_assert(sizeof(Op) % 8 == 0);

}  // namespace berth::plan
