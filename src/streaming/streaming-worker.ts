/**
 * The thread that serves the streams: the HTTP server and every byte of exec, attach and port-forward. The main thread
 * says what a token is good for, starts commands and dials; it hands their descriptors over by number.
 */
import { Socket } from "node:net";
import { parentPort, workerData } from "node:worker_threads";
import { type Claim, type StreamServer, startStreamServer } from "./http-server.ts";
import type { StdioNumbers, StreamKind, ToMain, ToWorker, WorkerOptions } from "./messages.ts";
import type { StartedCommand } from "./run-command.ts";
import type { CommandStatus } from "./session.ts";

interface Pending<T> {
  resolve(value: T): void;
  reject(error: Error): void;
}

/** The main thread's answers, by what they answer. */
class MainLink {
  readonly #claims = new Map<number, Pending<Claim | null>>();
  readonly #kinds = new Map<number, StreamKind>();
  readonly #starts = new Map<number, Pending<StartedCommand>>();
  readonly #ends = new Map<number, (status: CommandStatus) => void>();
  readonly #dials = new Map<number, Pending<Socket>>();
  #lastId = 0;

  send(message: ToMain): void {
    parentPort?.postMessage(message);
  }

  claim(kind: StreamKind, token: string): Promise<Claim | null> {
    const claimId = this.#nextId();
    this.#kinds.set(claimId, kind);
    return this.#ask(this.#claims, claimId, { type: "claim", claimId, kind, token });
  }

  receive(message: Exclude<ToWorker, { type: "stop" | "reloadTls" }>): void {
    switch (message.type) {
      case "claimed":
        take(this.#claims, message.claimId)?.resolve(this.#makeClaim(message));
        return;
      case "refused":
        this.#kinds.delete(message.claimId);
        take(this.#claims, message.claimId)?.resolve(null);
        return;
      case "started":
        this.#started(message.session, message.stdio);
        return;
      case "startFailed":
        take(this.#starts, message.session)?.reject(new Error(message.message));
        return;
      case "ended":
        take(this.#ends, message.session)?.(message.status);
        return;
      case "dialled":
        take(this.#dials, message.dialId)?.resolve(new Socket({ fd: message.fd, readable: true, writable: true, allowHalfOpen: true }));
        return;
      case "dialFailed":
        take(this.#dials, message.dialId)?.reject(new Error(message.message));
        return;
    }
  }

  #makeClaim({ claimId, session, wanted }: ToWorker & { type: "claimed" }): Claim {
    const kind = take(this.#kinds, claimId) ?? "exec";
    const released = (): void => {
      this.#ends.delete(session);
      this.send({ type: "over", session });
    };
    if (kind === "portforward") {
      const dial = (port: number): Promise<Socket> => {
        const dialId = this.#nextId();
        return this.#ask(this.#dials, dialId, { type: "dial", session, dialId, port });
      };
      return { kind, id: session, dial, released };
    }
    const source = {
      kind,
      terminal: wanted.terminal,
      start: () => this.#ask(this.#starts, session, { type: "start", session }),
      resize: (size: { columns: number; rows: number }) => this.send({ type: "resize", session, size }),
    };
    return { kind, id: session, wanted, source, released };
  }

  #started(session: number, stdio: StdioNumbers): void {
    const ended = new Promise<CommandStatus>((resolve) => this.#ends.set(session, resolve));
    const terminal = open(stdio.terminal, true, true);
    take(this.#starts, session)?.resolve({
      stdin: terminal ?? open(stdio.stdin, false, true),
      stdout: terminal ?? open(stdio.stdout, true, false),
      stderr: open(stdio.stderr, true, false),
      ended,
    });
  }

  #ask<T>(table: Map<number, Pending<T>>, id: number, message: ToMain): Promise<T> {
    return new Promise((resolve, reject) => {
      table.set(id, { resolve, reject });
      this.send(message);
    });
  }

  #nextId(): number {
    this.#lastId += 1;
    return this.#lastId;
  }
}

function take<T>(table: Map<number, T>, id: number): T | undefined {
  const value = table.get(id);
  table.delete(id);
  return value;
}

function open(fd: number | null, readable: boolean, writable: boolean): Socket | null {
  return fd === null ? null : new Socket({ fd, readable, writable, allowHalfOpen: true });
}

const link = new MainLink();

async function serve(options: WorkerOptions): Promise<void> {
  let server: StreamServer | null = null;
  parentPort?.on("message", (message: ToWorker) => {
    if (message.type === "reloadTls") void server?.reloadTls();
    else if (message.type === "stop") {
      void server?.stop(message.reason, message.graceMs).then(() => {
        link.send({ type: "stopped" });
        parentPort?.close();
      });
    } else link.receive(message);
  });
  try {
    server = await startStreamServer({
      ...options,
      claim: (kind, token) => link.claim(kind, token),
      log: (level, fields, message) => link.send({ type: "log", level, fields, message }),
    });
    link.send({ type: "listening", host: server.host, port: server.port });
  } catch (error) {
    link.send({ type: "failed", message: (error as Error).message });
  }
}

void serve(workerData as WorkerOptions);
