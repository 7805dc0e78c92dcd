/** What the sandbox domain offers to the rest. CRI types stay in `src/server`. */
import type { SandboxId } from "../base/ids.ts";
import type { CgroupHandle, FdHandle, ProcessHandle } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";

export type NamespaceMode = "pod" | "container" | "node" | "target";

export interface SandboxMetadata {
  readonly name: string;
  readonly uid: string;
  readonly namespace: string;
  readonly attempt: number;
}

export interface PortMapping {
  readonly protocol: "tcp" | "udp" | "sctp";
  readonly containerPort: number;
  readonly hostPort: number;
  readonly hostIp: string;
}

export interface DnsConfig {
  readonly servers: readonly string[];
  readonly searches: readonly string[];
  readonly options: readonly string[];
}

/** Linux resources as the CRI gives them; 0 means "not set" as there. */
export interface LinuxResources {
  readonly cpuPeriodUs: number;
  readonly cpuQuotaUs: number;
  readonly cpuShares: number;
  readonly memoryLimitBytes: number;
  readonly oomScoreAdj: number;
  readonly cpusetCpus: string;
  readonly cpusetMems: string;
  readonly hugepageLimits: readonly { readonly pageSize: string; readonly limitBytes: number }[];
  readonly unified: Readonly<Record<string, string>>;
  readonly memorySwapLimitBytes: number;
}

export interface SecurityProfile {
  readonly type: "runtime-default" | "unconfined" | "localhost";
  readonly localhostRef: string;
}

export interface SandboxConfig {
  readonly metadata: SandboxMetadata;
  readonly hostname: string;
  /** Empty: the pod's containers have no log files. */
  readonly logDirectory: string;
  readonly dns: DnsConfig | null;
  readonly portMappings: readonly PortMapping[];
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  /** Empty for the runtime's default parent. */
  readonly cgroupParent: string;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly namespaces: {
    readonly network: NamespaceMode;
    readonly pid: NamespaceMode;
    readonly ipc: NamespaceMode;
    readonly targetId: string;
  };
  readonly privileged: boolean;
  readonly seccomp: SecurityProfile | null;
  readonly apparmor: SecurityProfile | null;
  readonly overhead: LinuxResources | null;
  readonly resources: LinuxResources | null;
  /** Empty for the default handler. */
  readonly runtimeHandler: string;
  /**
   * The request's LinuxSandboxSecurityContext as the wire gave it, JSON by protobufjs' toJSON, for what a later
   * version reads (user namespaces, SELinux, supplemental groups); null where the request had none.
   */
  readonly securityContextJson: string | null;
}

export type SandboxState = "ready" | "not-ready";

export interface PodNetworkStatus {
  /** Primary first; empty for host network. */
  readonly ips: readonly string[];
}

/** One immutable view; each change makes a new object, so encoders may cache by identity. */
export interface SandboxView {
  readonly id: SandboxId;
  readonly config: SandboxConfig;
  readonly state: SandboxState;
  readonly createdAtNs: bigint;
  readonly network: PodNetworkStatus;
  /** Pid of the pause process; 0 where it is gone. */
  readonly pausePid: number;
  /** Milliseconds of each step of its creation. */
  readonly phases: Readonly<Record<string, number>>;
  /** Why it is not ready, or what could not be undone; empty otherwise. */
  readonly reason: string;
  readonly networkNamespacePath: string;
}

export interface SandboxFilter {
  /** A full id or a unique prefix. */
  readonly id: string | null;
  readonly state: SandboxState | null;
  readonly labels: Readonly<Record<string, string>>;
}

/** What a container needs from its pod to be made. Handles stay the sandbox's: do not close them. */
export interface SandboxRuntime {
  readonly view: SandboxView;
  readonly pause: ProcessHandle;
  /** Files made for the pod: host paths to bind into its containers. */
  readonly files: { readonly hosts: string | null; readonly resolvConf: string; readonly hostname: string; readonly shm: string | null };
  /** Absolute cgroup path that the pod's containers go below. */
  readonly cgroupParent: string;
  readonly podCgroup: CgroupHandle | null;
}

export interface SandboxService {
  /**
   * Runs a sandbox or joins the operation that already runs it. A result whose caller has left is hidden until a
   * retry with the same metadata and request claims it, and is undone after a while.
   */
  run(op: Operation, config: SandboxConfig): Promise<SandboxView>;
  /** Ends all containers and the network; unknown and already stopped are success. */
  stop(op: Operation, id: string): Promise<void>;
  /** Stops if need be, removes containers and everything else; unknown is success. */
  remove(op: Operation, id: string): Promise<void>;
  /** Exact id or unique prefix; throws not-found. Never waits. */
  get(id: string): SandboxView;
  list(filter: SandboxFilter): readonly SandboxView[];
  /** For creating a container: throws not-found, or failed-precondition where the sandbox is not ready. */
  runtime(id: string): SandboxRuntime;
  /** A TCP socket that is connected to a port of the pod's loopback. Throws unavailable where nobody takes the connection. */
  dial(op: Operation, id: string, port: number): Promise<FdHandle>;
  /** Daemon start: adopts what runs, reports what died, undoes what was half done. */
  recover(op: Operation): Promise<void>;
  /** Set once by the composition root: how a stop ends the sandbox's containers, how a remove removes them. */
  setContainerHooks(hooks: {
    stopAll(op: Operation, sandboxId: SandboxId): Promise<void>;
    removeAll(op: Operation, sandboxId: SandboxId): Promise<void>;
  }): void;
  networkStatus(): NetworkReadiness;
  close(): Promise<void>;
}

export interface NetworkReadiness {
  readonly ready: boolean;
  /** CamelCase, for the condition's reason: `NetworkPluginNotReady`; empty when ready. */
  readonly reason: string;
  readonly message: string;
}
