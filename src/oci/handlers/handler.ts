/**
 * What the container domain asks of an OCI runtime. The contract with each is the same bundle (config.json and a root);
 * the native handler compiles it into a plan, a command would be given the directory.
 */
import type { CgroupHandle, FdHandle, ProcessHandle } from "../../kernel/contract.ts";
import type { Operation } from "../../operation/context.ts";
import type { ContainerExit } from "../exit-file.ts";

export interface RootfsRequest {
  readonly bundle: string;
  /** Topmost first. */
  readonly lowers: readonly string[];
  readonly upper: string;
  readonly work: string;
}

/** The container's root before the container has it; closing it lets go of the mount unless the container holds it. */
export interface RootfsMount {
  readonly handle: FdHandle;
}

/** The process that becomes the parent of the container's init, started early as it depends on nothing. */
export interface Launch {
  /** Ends it; idempotent. */
  abort(): void;
}

export interface LogTarget {
  readonly directory: FdHandle;
  /** File name in the directory. */
  readonly name: string;
}

export interface CreateRequest {
  readonly id: string;
  readonly bundle: string;
  readonly configJson: string;
  readonly rootfs: RootfsMount;
  readonly cgroup: CgroupHandle;
  /** Holds the namespaces that config.json names as `/proc/<its pid>/ns/…`. */
  readonly pause: ProcessHandle;
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly stdinOnce: boolean;
  /** null for a container without a log. */
  readonly log: LogTarget | null;
  /** The container's init has a PID namespace to itself; else its end must end the rest of the cgroup. */
  readonly ownPid: boolean;
}

export interface AdoptRequest {
  readonly id: string;
  readonly bundle: string;
  readonly cgroupPath: string;
  readonly pid: number;
  readonly startTime: string;
  readonly ownPid: boolean;
}

/** How a container ended. */
export interface ContainerEnd {
  readonly exit: ContainerExit;
  /** Nobody saw the end: the monitor was gone and had written nothing. */
  readonly lost: boolean;
}

export interface ExecRequest {
  readonly command: readonly string[];
  /** 0 for none. */
  readonly timeoutMs: number;
}

export interface ExecOutcome {
  readonly exitCode: number;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
}

export interface StreamExecRequest {
  readonly command: readonly string[];
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

export interface AttachStreamsRequest {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

/**
 * Our ends of a command's stdio; they become the taker's. With a terminal of its own the three are null and one socket
 * carries both directions.
 */
export interface CommandStdio {
  readonly stdin: FdHandle | null;
  readonly stdout: FdHandle | null;
  readonly stderr: FdHandle | null;
  readonly terminal: FdHandle | null;
}

export type CommandEnd =
  | { readonly kind: "exited"; readonly exitCode: number }
  /** The container that was attached to has ended. */
  | { readonly kind: "success" }
  | { readonly kind: "failed"; readonly message: string };

/** An exec or an attach that is under way. */
export interface StreamedCommand {
  readonly stdio: CommandStdio;
  /** Never rejects. */
  readonly ended: Promise<CommandEnd>;
  resize(op: Operation, size: { readonly columns: number; readonly rows: number }): Promise<void>;
  /** Ends an exec with all that it runs; nothing for an attach. */
  kill(): void;
  /** Nobody waits for `ended` any more. Idempotent. */
  release(): void;
}

/** A container whose init exists. */
export interface LiveContainer {
  readonly init: ProcessHandle;
  readonly cgroup: CgroupHandle;
  /** Resolves once, whatever becomes of its monitor; never rejects. */
  readonly ended: Promise<ContainerEnd>;
  start(op: Operation): Promise<{ readonly startedAtNs: bigint }>;
  /** By pidfd, whatever the monitor does. False where init is gone. */
  signal(signalNumber: number): boolean;
  execSync(op: Operation, request: ExecRequest): Promise<ExecOutcome>;
  execStream(op: Operation, request: StreamExecRequest): Promise<StreamedCommand>;
  attach(op: Operation, request: AttachStreamsRequest): Promise<StreamedCommand>;
  reopenLog(op: Operation): Promise<void>;
  /** Lets go of handles and connection; the container goes on. Idempotent. */
  close(): void;
}

export interface AdoptedContainer {
  readonly live: LiveContainer;
  readonly phase: "created" | "running";
  readonly startedAtNs: bigint;
}

/** What adopting finds: the container, its end, or nothing (then it is dead and nobody saw how). */
export type Adoption =
  | { readonly kind: "live"; readonly container: AdoptedContainer }
  | { readonly kind: "ended"; readonly end: ContainerEnd };

export interface RuntimeHandler {
  readonly name: string;
  /** Once, before anything else. */
  open(op: Operation): Promise<void>;
  mountRootfs(op: Operation, request: RootfsRequest): Promise<RootfsMount>;
  launch(op: Operation, id: string): Promise<Launch>;
  create(op: Operation, launch: Launch, request: CreateRequest): Promise<LiveContainer>;
  /** After a restart of the daemon. */
  adopt(op: Operation, request: AdoptRequest): Promise<Adoption>;
  /** Ends and removes what carries this id, with nothing but the id; absent is success. The cgroup is the caller's. */
  discard(op: Operation, id: string): Promise<void>;
  /** Removes the files of one that is known to have ended. */
  forget(op: Operation, id: string): Promise<void>;
  /** Ids that it finds files of, whoever knows them. */
  strays(op: Operation): Promise<readonly string[]>;
  close(): void;
}
