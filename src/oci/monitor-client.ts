/**
 * The daemon's end of one monitor's control connection: requests with their answers by id, execs that answer twice, and
 * the exit that comes unasked (api/monitor/schema.ts draws who says what). One connection for each container, kept as
 * long as the monitor lives.
 */
import { constants } from "node:os";
import {
  decode,
  type ExecExited,
  type ExecStarted,
  type Exited,
  encode,
  type Failed,
  type Hello,
  type Message,
  type MessageName,
  type Messages,
  ProtocolError,
} from "../../build/generated/monitor/protocol.ts";
import { DomainError, describeError, SystemError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { FdHandle, MonitorConnection, PlanHandle } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";

export type { ExecExited, ExecStarted, Exited, Hello, State } from "../../build/generated/monitor/protocol.ts";

type Handle = FdHandle | PlanHandle;

interface Pending {
  readonly settle: (message: Message) => void;
  readonly reject: (error: Error) => void;
}

interface Outgoing {
  readonly frame: Uint8Array;
  readonly handles: readonly Handle[];
  readonly sent: () => void;
  readonly reject: (error: Error) => void;
}

export interface RunningExec {
  readonly id: number;
  readonly pid: number;
  readonly exited: Promise<ExecExited>;
}

export interface MonitorClientOptions {
  readonly connection: MonitorConnection;
  readonly containerId: string;
  readonly log: Logger;
}

/** While the socket's buffer is full: how long until the next try, unless a frame comes first. */
const retryMs = 2;

export class MonitorClient {
  readonly #connection: MonitorConnection;
  readonly #containerId: string;
  readonly #log: Logger;
  readonly #pending = new Map<number, Pending>();
  readonly #execs = new Map<number, { resolve(exit: ExecExited): void; reject(error: Error): void }>();
  readonly #closed: Promise<void>;
  readonly #exited: Promise<Exited>;
  #outgoing: Outgoing[] = [];
  #nextId = 1;
  #retry: NodeJS.Timeout | null = null;
  #open = true;
  #hello: Hello | null = null;
  #onClosed: () => void = () => undefined;
  #onExited: (exit: Exited) => void = () => undefined;

  constructor(options: MonitorClientOptions) {
    this.#connection = options.connection;
    this.#containerId = options.containerId;
    this.#log = options.log;
    this.#closed = new Promise((resolve) => {
      this.#onClosed = resolve;
    });
    this.#exited = new Promise((resolve) => {
      this.#onExited = resolve;
    });
    this.#connection.onFrame((frame, handles) => this.#receive(frame, handles));
    this.#connection.onClose(() => this.#lost());
  }

  /** What the monitor said of itself; null until then. */
  get hello(): Hello | null {
    return this.#hello;
  }

  get isOpen(): boolean {
    return this.#open;
  }

  /** Resolves once the exit has been told; never where the connection ends before. */
  get exited(): Promise<Exited> {
    return this.#exited;
  }

  /** Resolves when the connection has ended, from either side. */
  get closed(): Promise<void> {
    return this.#closed;
  }

  /**
   * One request and its answer. `failed` becomes a SystemError; a connection that ends first is `unavailable`. The handles
   * stay the caller's and must be open until this has settled.
   */
  async request<Name extends MessageName, Answer extends MessageName>(
    op: Operation,
    name: Name,
    body: Messages[Name],
    answer: Answer,
    handles: readonly Handle[] = [],
  ): Promise<Messages[Answer]> {
    const { message } = await this.#exchange(op, name, body, handles);
    return this.#expect(name, message, answer);
  }

  /** Runs a process in the container; resolves when it runs. Its exit must be awaited. */
  async exec(op: Operation, body: Messages["exec"], handles: readonly Handle[]): Promise<RunningExec> {
    let settle: { resolve(exit: ExecExited): void; reject(error: Error): void } | null = null;
    const exited = new Promise<ExecExited>((resolve, reject) => {
      settle = { resolve, reject };
    });
    exited.catch(() => undefined);
    const { id, message } = await this.#exchange(op, "exec", body, handles, (requestId) => {
      if (settle) this.#execs.set(requestId, settle);
    });
    try {
      const { pid }: ExecStarted = this.#expect("exec", message, "execStarted");
      return { id, pid, exited };
    } catch (error) {
      this.#execs.delete(id);
      throw error;
    }
  }

  /** Ends an exec's whole process group; said without waiting, as there may be nobody left to answer. */
  killExec(execId: number): void {
    if (!this.#open) return;
    this.#enqueue(
      encode("killExec", this.#takeId(), { execId }),
      [],
      () => undefined,
      () => undefined,
    );
  }

  /** Ends the connection; the container and its monitor go on. */
  close(): void {
    this.#lost();
  }

  async #exchange(
    op: Operation,
    name: MessageName,
    body: Messages[MessageName],
    handles: readonly Handle[],
    onId: (id: number) => void = () => undefined,
  ): Promise<{ id: number; message: Message }> {
    op.throwIfAborted();
    if (!this.#open) throw this.#gone(name);
    const id = this.#takeId();
    const frame = encode(name, id, body as never);
    onId(id);
    const answered = new Promise<Message>((resolve, reject) => {
      this.#pending.set(id, { settle: resolve, reject });
      this.#enqueue(frame, handles, () => undefined, reject);
    });
    try {
      return { id, message: await op.race(answered) };
    } catch (error) {
      // Nobody waits for a late exec: it must not go on by itself.
      if (name === "exec" && op.signal.aborted) this.killExec(id);
      this.#execs.delete(id);
      throw error;
    } finally {
      this.#pending.delete(id);
      // Not sent yet: its handles may be closed from now on.
      this.#outgoing = this.#outgoing.filter((entry) => entry.frame !== frame);
    }
  }

  #expect<Answer extends MessageName>(request: MessageName, message: Message, answer: Answer): Messages[Answer] {
    if (message.name === "failed") throw monitorError(message.body);
    if (message.name !== answer) {
      throw new DomainError("internal", `monitor answered ${request} with ${message.name} instead of ${answer}`, {
        ids: { containerId: this.#containerId },
      });
    }
    return message.body as Messages[Answer];
  }

  #takeId(): number {
    const id = this.#nextId;
    this.#nextId = id >= 0xffff_ffff ? 1 : id + 1;
    return this.#pending.has(id) || this.#execs.has(id) ? this.#takeId() : id;
  }

  #enqueue(frame: Uint8Array, handles: readonly Handle[], sent: () => void, reject: (error: Error) => void): void {
    this.#outgoing.push({ frame, handles, sent, reject });
    this.#flush();
  }

  #flush(): void {
    while (this.#open) {
      const next = this.#outgoing[0];
      if (!next) return;
      try {
        if (!this.#connection.send(next.frame, next.handles)) {
          this.#retryLater();
          return;
        }
      } catch (error) {
        this.#outgoing.shift();
        next.reject(
          new DomainError("unavailable", `monitor: ${describeError(error)}`, { cause: error, ids: { containerId: this.#containerId } }),
        );
        continue;
      }
      this.#outgoing.shift();
      next.sent();
    }
  }

  /** The full buffer drains when the monitor reads, which nothing announces; a frame from it or a moment later will do. */
  #retryLater(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = null;
      this.#flush();
    }, retryMs);
  }

  #receive(frame: Uint8Array, handles: readonly FdHandle[]): void {
    for (const handle of handles) handle.close();
    let message: Message;
    try {
      message = decode(frame);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#log.warn({ containerId: this.#containerId, err: error.message }, "a monitor sent what cannot be read");
      if (error.requestId !== null) this.#pending.get(error.requestId)?.reject(new DomainError("internal", `monitor: ${error.message}`));
      return;
    }
    switch (message.name) {
      case "hello":
        this.#hello = message.body;
        break;
      case "exited":
        this.#onExited(message.body);
        break;
      case "execExited":
        this.#execs.get(message.requestId)?.resolve(message.body);
        this.#execs.delete(message.requestId);
        break;
      default:
        this.#pending.get(message.requestId)?.settle(message);
        this.#pending.delete(message.requestId);
    }
    if (this.#outgoing.length > 0) this.#flush();
  }

  #lost(): void {
    if (!this.#open) return;
    this.#open = false;
    // Also where the other side has ended it: the descriptor is this one's.
    this.#connection.close();
    if (this.#retry) clearTimeout(this.#retry);
    for (const { reject } of this.#pending.values()) reject(this.#gone("its answer"));
    for (const { reject } of this.#execs.values()) reject(this.#gone("the end of an exec"));
    this.#pending.clear();
    this.#execs.clear();
    this.#outgoing = [];
    this.#onClosed();
  }

  #gone(what: string): DomainError {
    return new DomainError("unavailable", `the connection to the monitor ended before ${what}`, {
      ids: { containerId: this.#containerId },
    });
  }
}

/** The core's Error as it travels in `failed`. */
export function monitorError(failed: Failed): SystemError {
  return new SystemError({
    errno: errnoName(failed.errno),
    syscall: failed.syscall,
    path: failed.path,
    step: failed.step,
    detail: failed.detail,
  });
}

/** Of two names for one number the first stands: EAGAIN, ENOTSUP. */
const errnoNames = new Map<number, string>();
for (const [name, number] of Object.entries(constants.errno)) if (!errnoNames.has(number)) errnoNames.set(number, name);

function errnoName(number: number): string {
  return errnoNames.get(number) ?? `errno ${number}`;
}
