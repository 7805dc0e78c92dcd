/**
 * The default seccomp profile, as the runtime-spec's seccomp object: an allowlist by name.
 *
 * - A name that is on no list gets ENOSYS: the C library then falls back to what it used before, as on an older kernel.
 * - What is known and refused gets EPERM, so that nobody takes it for absent.
 * - The runtime-spec has no conditions: rules that depend on capabilities are decided here, for one set of capabilities.
 * - Names that libseccomp does not know, or an architecture does not have, are passed over by it.
 */
import type { SpecSeccomp, SpecSeccompArg, SpecSeccompRule } from "./runtime-spec.ts";

export type Architecture = "amd64" | "arm64" | "ppc64le" | "s390x" | "riscv64";

const words = (text: string): string[] => text.trim().split(/\s+/);

/** Files, memory, time, processes, sockets, signals: what no program does without. */
const allowed: readonly string[] = words(`
  access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64
  fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr
  flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futimesat
  getcwd getdents getdents64 getxattr getxattrat ioctl lchown lchown32 lgetxattr link linkat listxattr listxattrat
  llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat
  open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
  removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr setxattrat splice stat stat64
  statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate truncate64 umask unlink unlinkat utime
  utimensat utimensat_time64 utimes vmsplice write writev file_getattr

  brk cachestat madvise map_shadow_stack memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2 mprotect mremap
  mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease process_vm_readv
  process_vm_writev remap_file_pages membarrier

  epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
  _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select inotify_add_watch inotify_init inotify_init1
  inotify_rm_watch fanotify_mark io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit

  alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
  clock_nanosleep_time64 adjtimex getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
  timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime
  timerfd_gettime64 timerfd_settime timerfd_settime64 times

  capget capset execve execveat exit exit_group fork getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups
  getgroups32 getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit
  get_robust_list getrusage getsid gettid getuid getuid32 ioprio_get ioprio_set kill landlock_add_rule
  landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules lsm_set_self_attr nice pause pidfd_open
  pidfd_send_signal prctl prlimit64 ptrace restart_syscall riscv_hwprobe rseq sched_getaffinity sched_getattr
  sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
  sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
  setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32
  setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid set_thread_area
  get_thread_area set_tid_address setuid setuid32 sysinfo tgkill tkill ugetrlimit uname uretprobe vfork wait4 waitid waitpid

  futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake ipc mq_getsetattr mq_notify mq_open mq_timedreceive
  mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop
  semtimedop semtimedop_time64 shmat shmctl shmdt shmget

  rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
  rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack signal signalfd signalfd4 sigpending sigprocmask
  sigreturn sigsuspend sgetmask ssetmask

  accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg recvmmsg_time64 recvmsg send
  sendmmsg sendmsg sendto setsockopt shutdown socketpair
`);

const allowedByArchitecture: Readonly<Record<Architecture, readonly string[]>> = {
  amd64: words("arch_prctl modify_ldt"),
  arm64: words("arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2"),
  ppc64le: words("sync_file_range2 swapcontext"),
  s390x: words("s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr s390_guarded_storage s390_sthyi"),
  riscv64: words("riscv_flush_icache"),
};

/** Allowed with the capability, EPERM without it: the kernel would ask for it too, for most arguments. */
const byCapability: Readonly<Record<string, readonly string[]>> = {
  CAP_BPF: words("bpf"),
  CAP_DAC_READ_SEARCH: words("open_by_handle_at"),
  CAP_PERFMON: words("perf_event_open"),
  CAP_SYS_ADMIN: words(`
    bpf fanotify_init file_setattr fsconfig fsmount fsopen fspick listmount lookup_dcookie mount mount_setattr move_mount
    open_tree open_tree_attr perf_event_open pivot_root quotactl quotactl_fd setdomainname sethostname setns statmount
    swapoff swapon syslog umount umount2 unshare
  `),
  CAP_SYS_BOOT: words("kexec_file_load kexec_load reboot"),
  CAP_SYS_CHROOT: words("chroot"),
  CAP_SYS_MODULE: words("create_module delete_module finit_module init_module"),
  CAP_SYS_NICE: words("get_mempolicy mbind migrate_pages move_pages set_mempolicy set_mempolicy_home_node"),
  CAP_SYS_PACCT: words("acct"),
  CAP_SYS_PTRACE: words("kcmp pidfd_getfd process_madvise"),
  CAP_SYS_RAWIO: words("ioperm iopl"),
  CAP_SYS_TIME: words("clock_settime clock_settime64 settimeofday stime"),
  CAP_SYS_TTY_CONFIG: words("vhangup"),
  CAP_SYSLOG: words("syslog"),
};

/**
 * Refused whatever the capabilities: keyrings and io_uring reach past namespaces or past this filter, userfaultfd serves
 * exploits, `socketcall` hides the address family in memory where no filter can look.
 */
const refused: readonly string[] = words(`
  add_key get_kernel_syms io_uring_enter io_uring_register io_uring_setup keyctl nfsservctl query_module request_key
  socketcall sysfs _sysctl userfaultfd uselib ustat vm86 vm86old
`);

const eperm = 1;
const einval = 22;
const enosys = 38;

/** CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}; CLONE_NEWTIME lies in the bits of the exit signal and is for clone3 and unshare. */
const cloneNamespaceFlags: readonly number[] = [0x0002_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];

const architectures: Readonly<Record<Architecture, readonly string[]>> = {
  amd64: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
  arm64: ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
  ppc64le: ["SCMP_ARCH_PPC64LE"],
  s390x: ["SCMP_ARCH_S390X", "SCMP_ARCH_S390"],
  riscv64: ["SCMP_ARCH_RISCV64"],
};

export function buildDefaultSeccomp(architecture: Architecture, capabilities: readonly string[]): SpecSeccomp {
  const has = new Set(capabilities);
  const granted = new Set<string>();
  const denied = new Set<string>(refused);
  for (const [capability, names] of Object.entries(byCapability))
    for (const name of names) (has.has(capability) ? granted : denied).add(name);
  for (const name of granted) denied.delete(name);
  const allow = [...allowed, ...allowedByArchitecture[architecture], ...granted];
  return {
    defaultAction: "SCMP_ACT_ERRNO",
    defaultErrnoRet: enosys,
    architectures: architectures[architecture],
    syscalls: [
      { names: [...new Set(allow)].sort(), action: "SCMP_ACT_ALLOW" },
      { names: [...denied].sort(), action: "SCMP_ACT_ERRNO", errnoRet: eperm },
      ...cloneRules(architecture, has.has("CAP_SYS_ADMIN")),
      ...personalityRules(),
      ...socketRules(has.has("CAP_AUDIT_WRITE")),
    ],
  };
}

const whenAll = (action: string, names: readonly string[], args: readonly SpecSeccompArg[], errnoRet?: number): SpecSeccompRule => ({
  names,
  action,
  ...(errnoRet === undefined ? {} : { errnoRet }),
  args,
});

/**
 * clone without namespace flags for everybody. clone3 has its flags in memory: ENOSYS makes the C library use clone. The
 * flags are clone's first argument, on s390 its second.
 */
function cloneRules(architecture: Architecture, admin: boolean): SpecSeccompRule[] {
  if (admin) return [{ names: ["clone", "clone3"], action: "SCMP_ACT_ALLOW" }];
  const index = architecture === "s390x" ? 1 : 0;
  const every = cloneNamespaceFlags.reduce((mask, flag) => mask + flag, 0);
  const masked = (mask: number, value: number): SpecSeccompArg => ({ index, value: mask, valueTwo: value, op: "SCMP_CMP_MASKED_EQ" });
  return [
    whenAll("SCMP_ACT_ALLOW", ["clone"], [masked(every, 0)]),
    ...cloneNamespaceFlags.map((flag) => whenAll("SCMP_ACT_ERRNO", ["clone"], [masked(flag, flag)], eperm)),
    { names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: enosys },
  ];
}

/** PER_LINUX, PER_LINUX32, each with UNAME26, and the query. ADDR_NO_RANDOMIZE and READ_IMPLIES_EXEC are not among them. */
function personalityRules(): SpecSeccompRule[] {
  return [0, 8, 0x20000, 0x20008, 0xffff_ffff].map((value) =>
    whenAll("SCMP_ACT_ALLOW", ["personality"], [{ index: 0, value, op: "SCMP_CMP_EQ" }]),
  );
}

const afNetlink = 16;
const afAlg = 38;
const afVsock = 40;
/** One past the last family that exists. */
const afMax = 46;
const netlinkAudit = 9;

/**
 * Every family below AF_ALG, the one between AF_ALG and AF_VSOCK, and those above AF_VSOCK that exist. The last range is
 * closed at its upper end by naming its members: a filter sees 64 bits of the argument, the kernel reads 32, so that
 * "greater than 40" would let 2^32 + 38 through.
 *
 * Without CAP_AUDIT_WRITE an audit socket is EINVAL: login programs take that for a kernel without audit and go on.
 */
function socketRules(audit: boolean): SpecSeccompRule[] {
  const family = (op: string, value: number): SpecSeccompArg => ({ index: 0, value, op });
  const allow = (...args: SpecSeccompArg[]): SpecSeccompRule => whenAll("SCMP_ACT_ALLOW", ["socket"], args);
  const range = (from: number, below: number): SpecSeccompRule[] =>
    Array.from({ length: below - from }, (_, offset) => allow(family("SCMP_CMP_EQ", from + offset)));
  const protocol = (op: string): SpecSeccompArg => ({ index: 2, value: netlinkAudit, op });
  const belowAlg = audit
    ? [allow(family("SCMP_CMP_LT", afAlg))]
    : [
        allow(family("SCMP_CMP_LT", afNetlink)),
        allow(family("SCMP_CMP_EQ", afNetlink), protocol("SCMP_CMP_NE")),
        whenAll("SCMP_ACT_ERRNO", ["socket"], [family("SCMP_CMP_EQ", afNetlink), protocol("SCMP_CMP_EQ")], einval),
        ...range(afNetlink + 1, afAlg),
      ];
  return [
    ...belowAlg,
    ...range(afAlg + 1, afVsock),
    ...range(afVsock + 1, afMax),
    whenAll("SCMP_ACT_ERRNO", ["socket"], [family("SCMP_CMP_EQ", afAlg)], eperm),
    whenAll("SCMP_ACT_ERRNO", ["socket"], [family("SCMP_CMP_EQ", afVsock)], eperm),
  ];
}
