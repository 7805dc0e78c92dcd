/** What the streaming domain offers to the server, and what it asks of those who have containers and pods. */
import type { FdHandle } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";
import type { CommandStatus, TerminalSize } from "./session.ts";

export type { CommandStatus, TerminalSize } from "./session.ts";

export interface ExecStreamRequest {
  readonly containerId: string;
  readonly command: readonly string[];
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

export interface AttachStreamRequest {
  readonly containerId: string;
  readonly terminal: boolean;
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
}

export interface PortForwardRequest {
  readonly sandboxId: string;
}

/**
 * Our ends of a command's stdio: pipes, or stream sockets; what was not asked for is null. With `terminal` the three are
 * null and one socket carries both directions. They become the taker's.
 */
export interface StreamStdio {
  readonly stdin: FdHandle | null;
  readonly stdout: FdHandle | null;
  readonly stderr: FdHandle | null;
  readonly terminal: FdHandle | null;
}

export interface StreamedProcess {
  readonly stdio: StreamStdio;
  /** Never rejects. For an attach: the end of the container. */
  readonly ended: Promise<CommandStatus>;
  resize(op: Operation, size: TerminalSize): Promise<void>;
  /** Ends an exec at once, with all that it runs; nothing for an attach. */
  kill(): void;
  /** Nobody waits for `ended` any more. */
  release(): void;
}

/** Given by the composition root. Errors are DomainErrors; their text reaches the client. */
export interface StreamTargets {
  /** Resolves when the command runs. */
  exec(op: Operation, request: ExecStreamRequest): Promise<StreamedProcess>;
  attach(op: Operation, request: AttachStreamRequest): Promise<StreamedProcess>;
  /** A socket that is connected to a port of the pod's loopback. */
  dial(op: Operation, request: PortForwardRequest, port: number): Promise<FdHandle>;
}

export interface StreamingService {
  /** `http://host:port`, or https. */
  readonly url: string;
  /** Streams that are open. */
  readonly sessions: number;
  /** Each issues a URL that is good for one request within a minute. Throws resource-exhausted. */
  exec(request: ExecStreamRequest): string;
  attach(request: AttachStreamRequest): string;
  portForward(request: PortForwardRequest): string;
  /** Looks for a new certificate now. */
  reload(): void;
  /** Ends every stream, telling the client why, and every command that was exec'ed through one. Idempotent. */
  close(op: Operation): Promise<void>;
}
