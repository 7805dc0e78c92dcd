/** What the container domain offers to the rest. CRI types stay in `src/server`. */
import type { ContainerId, ImageId, SandboxId } from "../base/ids.ts";
import type { StreamedCommand } from "../oci/index.ts";
import type { Operation } from "../operation/context.ts";
import type { LinuxResources, NamespaceMode, SecurityProfile } from "../sandbox/types.ts";

export interface ContainerMetadata {
  readonly name: string;
  readonly attempt: number;
}

export type MountPropagation = "private" | "host-to-container" | "bidirectional";

export interface ContainerMount {
  readonly containerPath: string;
  readonly hostPath: string;
  readonly readOnly: boolean;
  readonly recursiveReadOnly: boolean;
  readonly selinuxRelabel: boolean;
  readonly propagation: MountPropagation;
  readonly uidMappings: readonly IdMapping[];
  readonly gidMappings: readonly IdMapping[];
  /** Set for an image volume. */
  readonly image: { readonly reference: string; readonly userSpecified: string; readonly runtimeHandler: string } | null;
  readonly imageSubPath: string;
  /** `noexec`, `nodev`, `nosuid` (KEP-5855). */
  readonly options: readonly string[];
}

export interface IdMapping {
  readonly hostId: number;
  readonly containerId: number;
  readonly length: number;
}

export interface ContainerDevice {
  readonly containerPath: string;
  readonly hostPath: string;
  /** Letters out of `rwm`. */
  readonly permissions: string;
}

export interface ContainerSecurity {
  readonly privileged: boolean;
  readonly addCapabilities: readonly string[];
  readonly dropCapabilities: readonly string[];
  readonly addAmbientCapabilities: readonly string[];
  readonly namespaces: {
    readonly network: NamespaceMode;
    readonly pid: NamespaceMode;
    readonly ipc: NamespaceMode;
    readonly targetId: string;
  };
  /** null where not given; a uid of 0 is a uid. */
  readonly runAsUser: number | null;
  readonly runAsGroup: number | null;
  readonly runAsUsername: string;
  readonly readOnlyRootfs: boolean;
  readonly supplementalGroups: readonly number[];
  readonly supplementalGroupsPolicy: "merge" | "strict";
  readonly noNewPrivileges: boolean;
  readonly maskedPaths: readonly string[];
  readonly readOnlyPaths: readonly string[];
  readonly seccomp: SecurityProfile | null;
  readonly apparmor: SecurityProfile | null;
  /** The request's LinuxContainerSecurityContext as the wire gave it (toJSON), for what a later version reads; null where absent. */
  readonly securityContextJson: string | null;
}

export interface ContainerConfig {
  readonly metadata: ContainerMetadata;
  /** As the request names it: usually the image id that PullImage returned. */
  readonly image: string;
  /** `ImageSpec.user_specified_image`. */
  readonly userSpecifiedImage: string;
  readonly command: readonly string[];
  readonly args: readonly string[];
  readonly workingDirectory: string;
  readonly env: readonly { readonly key: string; readonly value: string }[];
  readonly mounts: readonly ContainerMount[];
  readonly devices: readonly ContainerDevice[];
  readonly cdiDevices: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Relative to the sandbox's log directory; empty for none. */
  readonly logPath: string;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  readonly tty: boolean;
  readonly resources: LinuxResources | null;
  readonly security: ContainerSecurity;
  /** Signal name (`SIGTERM`, `SIGRTMIN+3`); empty for the image's, then SIGTERM. */
  readonly stopSignal: string;
}

export type ContainerState = "created" | "running" | "exited" | "unknown";

/** One immutable view; each change makes a new object, so encoders may cache by identity. */
export interface ContainerView {
  readonly id: ContainerId;
  readonly sandboxId: SandboxId;
  readonly config: ContainerConfig;
  readonly imageId: ImageId;
  /** What `ContainerStatus.image_ref` says: equal to the image id. */
  readonly imageRef: string;
  readonly state: ContainerState;
  readonly createdAtNs: bigint;
  readonly startedAtNs: bigint;
  readonly finishedAtNs: bigint;
  readonly exitCode: number;
  /** `Completed`, `Error`, `OOMKilled`, `ContainerCannotRun`, `Unknown`, … */
  readonly reason: string;
  readonly message: string;
  readonly pid: number;
  /** Absolute; empty for none. */
  readonly logPath: string;
  /** The user that the process really runs as. */
  readonly user: { readonly uid: number; readonly gid: number; readonly supplementalGroups: readonly number[] };
  readonly stopSignal: string;
  /** What is in effect now. */
  readonly resources: LinuxResources | null;
  readonly phases: Readonly<Record<string, number>>;
  readonly runtimeHandler: string;
}

export interface ContainerFilter {
  readonly id: string | null;
  readonly state: ContainerState | null;
  readonly sandboxId: string | null;
  readonly labels: Readonly<Record<string, string>>;
}

export interface ContainerStatsView {
  readonly container: ContainerView;
  /** null where the container does not run. Times in ns, sizes in bytes. */
  readonly cpu: { readonly timestampNs: bigint; readonly usageCoreNs: bigint; readonly usageNanoCores: bigint } | null;
  readonly memory: {
    readonly timestampNs: bigint;
    readonly workingSetBytes: number;
    readonly availableBytes: number;
    readonly usageBytes: number;
    readonly rssBytes: number;
    readonly pageFaults: number;
    readonly majorPageFaults: number;
  } | null;
  readonly swap: { readonly timestampNs: bigint; readonly usageBytes: number; readonly availableBytes: number } | null;
  readonly writableLayer: {
    readonly timestampNs: bigint;
    readonly mountPoint: string;
    readonly usedBytes: number;
    readonly inodesUsed: number;
  };
}

export interface ExecSyncRequest {
  readonly containerId: string;
  readonly command: readonly string[];
  /** 0 for none. Past it the command's whole process group is killed and the call fails with deadline-exceeded. */
  readonly timeoutMs: number;
}

export interface ExecSyncResult {
  readonly exitCode: number;
  /** At most 16 MiB each; the rest is drained and dropped. */
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
}

export interface ExecStreamRequest {
  readonly containerId: string;
  readonly command: readonly string[];
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

export interface AttachRequest {
  readonly containerId: string;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

export interface ContainerService {
  /** As `SandboxService.run`: retries join, unclaimed results hide and expire. */
  create(op: Operation, sandboxId: string, config: ContainerConfig): Promise<ContainerView>;
  start(op: Operation, id: string): Promise<void>;
  /** Stop signal, up to `graceMs`, then SIGKILL to the whole cgroup. Unknown or exited is success. A shorter grace shortens a running stop. */
  stop(op: Operation, id: string, graceMs: number): Promise<void>;
  /** Kills if need be; unknown is success. */
  remove(op: Operation, id: string): Promise<void>;
  get(id: string): ContainerView;
  list(filter: ContainerFilter): readonly ContainerView[];
  execSync(op: Operation, request: ExecSyncRequest): Promise<ExecSyncResult>;
  /** A command with live stdio; resolves when it runs. */
  exec(op: Operation, request: ExecStreamRequest): Promise<StreamedCommand>;
  /** One more client of the container's own stdio. With a terminal its stdout carries all. */
  attach(op: Operation, request: AttachRequest): Promise<StreamedCommand>;
  /** The new file exists when it resolves; no line is lost or doubled. */
  reopenLog(op: Operation, id: string): Promise<void>;
  stats(op: Operation, id: string): Promise<ContainerStatsView>;
  listStats(op: Operation, filter: ContainerFilter): Promise<readonly ContainerStatsView[]>;
  stopAllIn(op: Operation, sandboxId: SandboxId): Promise<void>;
  removeAllIn(op: Operation, sandboxId: SandboxId): Promise<void>;
  recover(op: Operation): Promise<void>;
  close(): Promise<void>;
}
