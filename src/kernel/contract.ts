/**
 * The native boundary: everything that the addon offers, and nothing else of it is used. `load.ts` loads
 * the addon and checks that it has exactly these functions; unit tests pass a fake of this interface.
 *
 * Rules of the boundary
 * - A DTO has exactly the keys declared here, in this order on both sides; an absent value is `null`, never
 *   `undefined`; a missing or misspelt key throws `TypeError` naming `function.argument.key`.
 * - Functions that may block return a promise and run on the addon's own bounded pool; a few that cannot
 *   block are synchronous and say so. Nothing here uses libuv's pool.
 * - Failures reject with the fields of `SystemError` (base/errors.ts): errno, syscall, path, step.
 * - Handles are opaque. Each is closed by `close()` (idempotent) or by the garbage collector; using a closed
 *   handle throws. No file descriptor number crosses the boundary, except in `FdHandle.number` for diagnostics and
 *   from `FdHandle.release` to what takes the descriptor over.
 * - int64 quantities are JavaScript numbers where 2^53 suffices (bytes, microseconds) and decimal strings of
 *   nanoseconds otherwise.
 */

/** An owned file descriptor. */
export interface FdHandle {
  /** For diagnostics and for `/proc/self/fd/N` in error texts alone; -1 once closed. */
  readonly number: number;
  /**
   * Gives the descriptor up to the caller, by number, and closes the handle: for `net.Socket({fd})`, here or in a worker
   * thread of this process. Throws where the handle is closed, or a call under way uses it.
   */
  release(): number;
  close(): void;
}

/** What the kernel offers, probed once at load; nothing is assumed from a version. */
export interface KernelFeatures {
  readonly cgroup: CgroupLayout;
  readonly release: string;
  readonly architecture: "amd64" | "arm64" | "ppc64le" | "s390x" | "riscv64";
  readonly cloneIntoCgroup: boolean;
  readonly overlayLowerdirPlus: boolean;
  readonly idmappedMounts: boolean;
  readonly recursiveReadOnly: boolean;
  readonly seccomp: boolean;
  readonly appArmor: boolean;
  readonly seLinux: boolean;
  readonly timeNamespace: boolean;
  readonly userNamespace: boolean;
  readonly cgroupNamespace: boolean;
  readonly psi: boolean;
  /** Effective capabilities of the daemon, as `CAP_…`. */
  readonly capabilities: readonly string[];
}

export interface CgroupLayout {
  readonly mode: "v2" | "v1" | "hybrid";
  /** v1 and hybrid: controller (or `name=systemd`) → its mount point; v2: the empty name → `/sys/fs/cgroup`. */
  readonly mounts: Readonly<Record<string, string>>;
  /** Controllers usable for containers: cpu, cpuset, memory, pids, devices, freezer, io, hugetlb, … */
  readonly controllers: readonly string[];
}

// ---- files --------------------------------------------------------------------------------------------------

export interface WriteFileArgs {
  readonly path: string;
  readonly data: Uint8Array;
  readonly mode: number;
  /** fsync of the file and of its directory before the promise resolves. */
  readonly durable: boolean;
}

export interface FilesystemUsage {
  readonly totalBytes: number;
  readonly freeBytes: number;
  readonly totalInodes: number;
  readonly freeInodes: number;
  /** `st_dev` major:minor, as /proc/self/mountinfo prints it. */
  readonly device: string;
  readonly mountPoint: string;
  readonly type: string;
}

export interface TreeUsage {
  readonly bytes: number;
  readonly inodes: number;
}

export interface MountInfo {
  readonly id: number;
  readonly parentId: number;
  readonly device: string;
  readonly root: string;
  readonly mountPoint: string;
  readonly type: string;
  readonly source: string;
  readonly shared: boolean;
}

// ---- overlay ------------------------------------------------------------------------------------------------

export interface OverlayArgs {
  /** Topmost first. At least one. */
  readonly lowers: readonly string[];
  /** null makes a read-only overlay (with a single lower: a read-only bind). */
  readonly upper: string | null;
  readonly work: string | null;
}

// ---- processes ----------------------------------------------------------------------------------------------

/** A process, held by pidfd and by its start time so that a recycled pid is never mistaken for it. */
export interface ProcessHandle {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, clock ticks since boot, as a decimal string. */
  readonly startTime: string;
  /** Synchronous: pidfd_send_signal. False where the process is gone already. */
  signal(signalNumber: number): boolean;
  /**
   * Resolves when the process has ended (at once if it has). For a child of the daemon it is reaped and the wait
   * status is given; for a foreign process both are null.
   */
  exited(): Promise<{ readonly exitCode: number | null; readonly signal: number | null }>;
  close(): void;
}

export interface PauseArgs {
  /** Kinds of namespaces that the pod gets of its own. */
  readonly namespaces: { readonly net: boolean; readonly ipc: boolean; readonly uts: boolean; readonly pid: boolean };
  readonly hostname: string | null;
  /** Written in the new namespaces through a private procfs; keys with dots, values verbatim. */
  readonly sysctls: Readonly<Record<string, string>>;
  /** Cgroup (path below each hierarchy's mount) that the process starts in; null for the daemon's own. */
  readonly cgroup: CgroupHandle | null;
  readonly oomScoreAdj: number;
  /** Brings `lo` up in a new network namespace. */
  readonly loopback: boolean;
}

export interface NamespaceArgs {
  readonly process: ProcessHandle;
  readonly kind: "net" | "ipc" | "uts" | "pid";
  /** File below e.g. `/var/run/netns`, made if absent, over which the namespace is bind-mounted. */
  readonly path: string;
}

export interface ProgramArgs {
  /** Absolute path: nothing is looked up in PATH. */
  readonly path: string;
  /** argv[0] included. */
  readonly args: readonly string[];
  /** The whole environment: `KEY=value`. */
  readonly env: readonly string[];
  readonly cwd: string;
  readonly stdin: Uint8Array;
  /** Past this many bytes of either output the program is killed. */
  readonly maxOutputBytes: number;
  readonly timeoutMs: number;
}

export interface ProgramResult {
  readonly exitCode: number | null;
  readonly signal: number | null;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  readonly timedOut: boolean;
  readonly outputExceeded: boolean;
}

/** A running program; `kill` ends its whole process group. */
export interface ProgramHandle {
  readonly result: Promise<ProgramResult>;
  kill(): void;
}

// ---- cgroups ------------------------------------------------------------------------------------------------

/** A cgroup in every hierarchy, with fds held open for attaching, statistics and events. */
export interface CgroupHandle {
  /** As given: absolute below the hierarchy's mount, e.g. `/kubepods/burstable/pod…/<id>`. */
  readonly path: string;
  close(): void;
}

export interface CgroupArgs {
  readonly path: string;
  /** JSON of the runtime-spec's `linux.resources`, or null for no limits. */
  readonly resourcesJson: string | null;
  /**
   * Makes missing parents too (they get no limits). An existing leaf is an error EEXIST unless `adopt`.
   */
  readonly adopt: boolean;
}

/** Every number is null where the kernel has no such figure. Bytes, counts, microseconds. */
export interface CgroupStats {
  /** CLOCK_REALTIME of the reading, ns since the epoch, decimal. */
  readonly timestampNs: string;
  /** ns, decimal. */
  readonly cpuUsageNs: string | null;
  readonly cpuUserNs: string | null;
  readonly cpuSystemNs: string | null;
  readonly cpuPeriods: number | null;
  readonly cpuThrottledPeriods: number | null;
  readonly cpuThrottledNs: string | null;
  readonly memoryUsageBytes: number | null;
  /** usage less inactive_file, never negative: what cAdvisor calls working set. */
  readonly memoryWorkingSetBytes: number | null;
  readonly memoryRssBytes: number | null;
  readonly memoryCacheBytes: number | null;
  readonly memoryMappedFileBytes: number | null;
  readonly memoryKernelBytes: number | null;
  readonly memoryMaxUsageBytes: number | null;
  readonly memoryLimitBytes: number | null;
  readonly memoryFailCount: number | null;
  readonly memoryPageFaults: number | null;
  readonly memoryMajorPageFaults: number | null;
  readonly swapUsageBytes: number | null;
  readonly swapLimitBytes: number | null;
  readonly oomKills: number | null;
  readonly processCount: number | null;
  readonly threadCount: number | null;
  readonly pidsLimit: number | null;
  readonly psi: {
    readonly cpu: PsiStats | null;
    readonly memory: PsiStats | null;
    readonly io: PsiStats | null;
  };
  readonly io: readonly {
    readonly device: string;
    readonly readBytes: number;
    readonly writeBytes: number;
    readonly reads: number;
    readonly writes: number;
  }[];
  readonly hugetlb: readonly { readonly pageSize: string; readonly usageBytes: number; readonly maxUsageBytes: number }[];
}

export interface PsiLine {
  readonly totalNs: string;
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
}
export interface PsiStats {
  readonly some: PsiLine;
  readonly full: PsiLine | null;
}

// ---- network ------------------------------------------------------------------------------------------------

export interface InterfaceStats {
  readonly name: string;
  readonly rxBytes: number;
  readonly rxPackets: number;
  readonly rxErrors: number;
  readonly rxDropped: number;
  readonly txBytes: number;
  readonly txPackets: number;
  readonly txErrors: number;
  readonly txDropped: number;
}

// ---- monitor ------------------------------------------------------------------------------------------------

/**
 * A compiled plan: a sealed memfd and the fds that it refers to by index (core/plan/format.h). Closing it closes
 * them. It serves one create or one exec.
 */
export interface PlanHandle {
  readonly bytes: number;
  readonly fdCount: number;
  /** What the process gets of its own limits instead of what was asked, for messages; empty unless `clamp`. */
  readonly clamped: readonly string[];
  close(): void;
}

export interface CreatePlanArgs {
  /** The bundle's config.json: runtime-spec 1.3. */
  readonly configJson: string;
  readonly bundle: string;
  readonly containerId: string;
  /** The detached root file system; null where `root.path` of the bundle is a visible directory or mount. */
  readonly rootfs: FdHandle | null;
  readonly cgroup: CgroupHandle | null;
  /** Namespaces joined through handles instead of paths: kind → process that has them. */
  readonly joinProcess: ProcessHandle | null;
  /** The daemon's own limits, to clamp what it cannot grant (rlimits, oom_score_adj). */
  readonly clamp: boolean;
}

export interface ExecPlanArgs {
  /** JSON of the runtime-spec's `process` object. */
  readonly processJson: string;
  /** config.json of the container: seccomp, capabilities and labels come from here unless `processJson` has them. */
  readonly configJson: string;
  readonly containerId: string;
  /** The container's init. */
  readonly init: ProcessHandle;
  readonly cgroup: CgroupHandle | null;
  readonly clamp: boolean;
}

export interface MonitorArgs {
  /** Directory of the monitor's control socket; the socket is bound below it by dirfd, so its length does not matter. */
  readonly socketDirectory: string;
  readonly socketName: string;
  /** Cgroup for monitors, not the pod's; null for the daemon's own. */
  readonly cgroup: CgroupHandle | null;
  readonly oomScoreAdj: number;
}

export interface MonitorSpawn {
  readonly process: ProcessHandle;
  readonly connection: MonitorConnection;
}

/** A SEQPACKET connection to a monitor. Frames are encoded and decoded by `api/monitor`. */
export interface MonitorConnection {
  /**
   * Synchronous and never blocking: false where the socket's buffer is full (wait for a reply first), throws
   * SystemError where the peer is gone. `handles` travel by SCM_RIGHTS (a PlanHandle stands for its memfd followed
   * by its fds) and stay open here.
   */
  send(frame: Uint8Array, handles: readonly (FdHandle | PlanHandle)[]): boolean;
  /** One callback for each frame, in order; fds that came along are handed over. Set once, before anything is sent. */
  onFrame(callback: (frame: Uint8Array, handles: readonly FdHandle[]) => void): void;
  /** Called once when the peer has closed or the connection failed. */
  onClose(callback: () => void): void;
  close(): void;
}

/** The two ends of a pipe. */
export interface PipeEnds {
  readonly readEnd: FdHandle;
  readonly writeEnd: FdHandle;
}

export interface DialArgs {
  /** Path of the network namespace; null for the daemon's own. */
  readonly networkNamespace: string | null;
  /** Tried in this order: numeric addresses, IPv4 or IPv6. */
  readonly hosts: readonly string[];
  readonly port: number;
  /** For each address. */
  readonly timeoutMs: number;
}

/** Collects what is written into a pipe until end of file, a limit or `stop`. */
export interface PipeCollector {
  /** The end to hand to the writer; close it after it has been sent. */
  readonly writeEnd: FdHandle;
  /** Resolves at end of file or `stop()`; past `maxBytes` the rest is read and dropped and `truncated` is true. */
  readonly result: Promise<{ readonly data: Uint8Array; readonly truncated: boolean }>;
  /** Takes what is there now and resolves. */
  stop(): void;
}

// ---- the whole ------------------------------------------------------------------------------------------------

export interface Kernel {
  /** Synchronous; probed once, at load. */
  features(): KernelFeatures;
  /** Synchronous: bytes of SHA-256 over the programs (monitor, pause, unpack, oci) as loaded, name → hex. */
  programDigests(): Readonly<Record<string, string>>;

  // files
  /** Temporary file in the same directory, then rename(2). */
  writeFileAtomic(args: WriteFileArgs): Promise<void>;
  /** Removes a tree without following links and without crossing a mount; absent is success. */
  removeTree(args: { readonly path: string }): Promise<void>;
  /** mkdir -p with this mode for what is made; each level opened by dirfd. */
  makeDirectories(args: { readonly path: string; readonly mode: number }): Promise<void>;
  /** syncfs(2) of the file system that holds `path`. */
  syncFilesystem(args: { readonly path: string }): Promise<void>;
  filesystemUsage(args: { readonly path: string }): Promise<FilesystemUsage>;
  /** Walks a tree, blocks of 512 bytes counted once for each inode; for the background alone. */
  treeUsage(args: { readonly path: string }): Promise<TreeUsage>;
  /** Reads a regular file below `root`, resolved with RESOLVE_IN_ROOT, O_NONBLOCK; null where absent. ENOTSUP not regular, EFBIG too large. */
  readInRoot(args: { readonly root: FdHandle; readonly path: string; readonly maxBytes: number }): Promise<Uint8Array | null>;
  /** /proc/self/mountinfo, parsed. */
  listMounts(): Promise<readonly MountInfo[]>;

  // mounts
  /** A detached overlay (volatile where it has an upper), by fsopen/fsmount. */
  mountOverlay(args: OverlayArgs): Promise<FdHandle>;
  /** open_tree(2); `clone` gives a detached copy, `readOnly` with mount_setattr. */
  openTree(args: {
    readonly path: string;
    readonly clone: boolean;
    readonly recursive: boolean;
    readonly readOnly: boolean;
  }): Promise<FdHandle>;
  /** move_mount(2) of a detached mount (a copy of it is attached, the handle stays usable) onto a visible path. */
  attachMount(args: { readonly mount: FdHandle; readonly path: string }): Promise<void>;
  /** umount2(2) with MNT_DETACH|UMOUNT_NOFOLLOW until nothing is mounted there; not mounted or absent is success. */
  unmount(args: { readonly path: string }): Promise<void>;
  /** A tmpfs of its own (pod's /dev/shm), mounted at a visible path. */
  mountTmpfs(args: { readonly path: string; readonly sizeBytes: number; readonly mode: number }): Promise<void>;

  // namespaces and processes
  startPause(args: PauseArgs): Promise<ProcessHandle>;
  pinNamespace(args: NamespaceArgs): Promise<void>;
  /** umount and unlink of a pinned namespace; absent is success. */
  unpinNamespace(args: { readonly path: string }): Promise<void>;
  /** Makes a network namespace with `lo` up and pins it, without a process. */
  createNetworkNamespace(args: { readonly path: string }): Promise<void>;
  /** pidfd of a process with this pid and start time (null: any); null where there is none. */
  openProcess(args: { readonly pid: number; readonly startTime: string | null }): Promise<ProcessHandle | null>;
  runProgram(args: ProgramArgs): ProgramHandle;

  // cgroups
  createCgroup(args: CgroupArgs): Promise<CgroupHandle>;
  /** Opens an existing one; ENOENT where none of its hierarchies has it. */
  openCgroup(args: { readonly path: string }): Promise<CgroupHandle>;
  updateCgroup(args: { readonly cgroup: CgroupHandle; readonly resourcesJson: string }): Promise<void>;
  cgroupStats(args: { readonly cgroups: readonly CgroupHandle[] }): Promise<readonly (CgroupStats | null)[]>;
  /** Pids in it and in its sub-groups, of all hierarchies, ascending; absent is none. */
  cgroupProcesses(args: { readonly path: string }): Promise<readonly number[]>;
  /** SIGKILL to all: `cgroup.kill`, or freeze-kill-thaw on v1; sub-groups too. Absent is success. */
  killCgroup(args: { readonly path: string }): Promise<void>;
  /** `true` freezes, `false` thaws; resolves when the kernel says so. */
  freezeCgroup(args: { readonly path: string; readonly frozen: boolean }): Promise<void>;
  /** Kills what is left, removes sub-groups and the leaf in each hierarchy; retries EBUSY for `timeoutMs`. Absent is success. */
  removeCgroup(args: { readonly path: string; readonly timeoutMs: number }): Promise<void>;
  /**
   * The file that counts OOM kills, opened for reading: `memory.events` (v2, oomKind 1 of the monitor's `configure`) or
   * `memory.oom_control` (v1, oomKind 2); null where there is no memory controller.
   */
  openCgroupEvents(args: { readonly cgroup: CgroupHandle }): Promise<{ readonly kind: "v2" | "v1"; readonly file: FdHandle } | null>;
  /** rmdir in each hierarchy; false where a process or a sub-group is in it. Kills nobody; absent is true. */
  removeEmptyCgroup(args: { readonly path: string }): Promise<boolean>;
  /** Direct children of a cgroup in any hierarchy, names alone. */
  listCgroups(args: { readonly path: string }): Promise<readonly string[]>;

  // streams
  /** Synchronous: a pipe of which both ends block; `sizeBytes` is a wish, 0 for the kernel's. */
  createPipe(args: { readonly sizeBytes: number }): PipeEnds;
  /** Synchronous: two connected stream sockets, both blocking; `bufferBytes` (a wish, 0 for the kernel's) for what each sends. */
  createSocketPair(args: { readonly bufferBytes: number }): readonly [FdHandle, FdHandle];
  /**
   * Connects a TCP socket from within a network namespace, on a thread of its own that ends with the call. The first address
   * that answers is taken; ECONNREFUSED, ETIMEDOUT, … of the first one otherwise.
   */
  dialInNamespace(args: DialArgs): Promise<FdHandle>;

  // network
  interfaceStats(args: { readonly networkNamespace: string }): Promise<readonly InterfaceStats[]>;

  // plan and monitor
  compileCreatePlan(args: CreatePlanArgs): Promise<PlanHandle>;
  compileExecPlan(args: ExecPlanArgs): Promise<PlanHandle>;
  spawnMonitor(args: MonitorArgs): Promise<MonitorSpawn>;
  connectMonitor(args: { readonly socketDirectory: string; readonly socketName: string }): Promise<MonitorConnection>;
  /** Synchronous: a pipe whose read end is collected. */
  collectPipe(args: { readonly maxBytes: number }): PipeCollector;
  /** Synchronous: /dev/null, for the stdio that a request does not want. */
  openNull(): FdHandle;
  /** Opens (O_APPEND|O_CREAT|O_NOFOLLOW, 0640) a log file; missing directories are made 0755. */
  openLog(args: { readonly path: string }): Promise<FdHandle>;

  // unpack
  spawnUnpack(args: UnpackArgs): Promise<UnpackHandle>;
}

export interface UnpackArgs {
  /** Directory that becomes the layer's root; must be empty. */
  readonly target: string;
  readonly mediaType: string;
  readonly limits: { readonly maxBytes: number; readonly maxEntries: number };
}

export interface UnpackResult {
  /** `sha256:<hex>` of the uncompressed tar. */
  readonly diffId: string;
  readonly bytes: number;
  readonly entries: number;
  readonly inodes: number;
}

/** A jailed berth-unpack that is fed the compressed bytes of one layer. */
export interface UnpackHandle {
  /** Writes bytes; resolves when the unpacker has taken them (back-pressure). Rejects where it has died. */
  write(data: Uint8Array): Promise<void>;
  /** No more bytes; resolves when all is extracted and the privileged list has been applied. */
  finish(): Promise<UnpackResult>;
  /** Kills it; `finish` then rejects. Idempotent. */
  abort(): void;
}
