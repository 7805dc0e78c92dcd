/**
 * The daemon's end of the streams: it issues tokens, starts what they are for, and hands descriptors to the worker thread
 * that serves them. A worker that dies takes its streams with it and is started again on the same port.
 */
import { Worker } from "node:worker_threads";
import { DomainError, describeError, toError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { BerthConfig } from "../config/types.ts";
import type { FdHandle } from "../kernel/contract.ts";
import { Operation } from "../operation/context.ts";
import type { RunningOperations } from "../operation/running.ts";
import type { StdioNumbers, ToMain, ToWorker, WorkerOptions } from "./messages.ts";
import type { WantedStreams } from "./session.ts";
import { TokenStore } from "./tokens.ts";
import type {
  AttachStreamRequest,
  ExecStreamRequest,
  PortForwardRequest,
  StreamedProcess,
  StreamingService,
  StreamStdio,
  StreamTargets,
} from "./types.ts";

export interface StreamingOptions {
  readonly config: BerthConfig["streaming"];
  readonly log: Logger;
  readonly running: RunningOperations;
  readonly targets: StreamTargets;
  /** Of the bundled worker; beside this file in what is installed. */
  readonly workerUrl?: URL;
}

type Grant =
  | { readonly kind: "exec"; readonly request: ExecStreamRequest }
  | { readonly kind: "attach"; readonly request: AttachStreamRequest }
  | { readonly kind: "portforward"; readonly request: PortForwardRequest };

interface Session {
  readonly id: number;
  readonly grant: Grant;
  /** As long as the session: cancelled when it is over. */
  readonly op: Operation;
  readonly unlist: () => void;
  process: StreamedProcess | null;
}

const creationTimeoutMs = 30_000;
const startTimeoutMs = 120_000;
const resizeTimeoutMs = 10_000;
const dialTimeoutMs = 30_000;
/** On a stop: how long clients may take to read the end of their streams. */
const stopGraceMs = 1_500;
const restartMs = 1_000;

/** Throws invalid-argument for unusable TLS files, unavailable where the address cannot be bound. */
export async function startStreaming(op: Operation, options: StreamingOptions): Promise<StreamingService> {
  const service = new WorkerStreaming(options);
  await op.raceWithCleanup(service.open(), () => service.close(op));
  return service;
}

class WorkerStreaming implements StreamingService {
  readonly #options: StreamingOptions;
  readonly #tokens = new TokenStore<Grant>();
  readonly #sessions = new Map<number, Session>();
  #worker: Worker | null = null;
  #lastSession = 0;
  #port: number;
  #url = "";
  #closing: Promise<void> | null = null;
  #stopped: () => void = () => undefined;

  constructor(options: StreamingOptions) {
    this.#options = options;
    this.#port = parseAddress(options.config.address).port;
  }

  get url(): string {
    return this.#url;
  }

  get sessions(): number {
    return this.#sessions.size;
  }

  get #isClosing(): boolean {
    return this.#closing !== null;
  }

  exec(request: ExecStreamRequest): string {
    return this.#issue({ kind: "exec", request });
  }

  attach(request: AttachStreamRequest): string {
    return this.#issue({ kind: "attach", request });
  }

  portForward(request: PortForwardRequest): string {
    return this.#issue({ kind: "portforward", request });
  }

  reload(): void {
    this.#send({ type: "reloadTls" });
  }

  close(op: Operation): Promise<void> {
    this.#closing ??= this.#close(op);
    return this.#closing;
  }

  #issue(grant: Grant): string {
    if (this.#isClosing || this.#url === "") throw new DomainError("unavailable", "the streaming server does not run");
    return `${this.#url}/${grant.kind}/${this.#tokens.issue(grant)}`;
  }

  // ---- the worker ----------------------------------------------------------------------------------------------

  open(): Promise<void> {
    const { config, workerUrl } = this.#options;
    const { host } = parseAddress(config.address);
    const tls =
      config.tlsCertificate === "" ? null : { certificate: config.tlsCertificate, key: config.tlsKey, clientCa: config.tlsClientCa };
    const workerData: WorkerOptions = { host, port: this.#port, tls, idleTimeoutMs: config.idleTimeoutMs, creationTimeoutMs };
    const worker = new Worker(workerUrl ?? new URL("./streaming-worker.mjs", import.meta.url), { workerData, name: "streaming" });
    this.#worker = worker;
    return new Promise((resolve, reject) => {
      worker.on("message", (message: ToMain) => {
        if (message.type === "listening") {
          this.#port = message.port;
          this.#url = `${tls ? "https" : "http"}://${shownHost(message.host)}:${message.port}`;
          resolve();
        } else if (message.type === "failed") reject(new DomainError("unavailable", message.message));
        else this.#receive(message);
      });
      worker.on("error", (error) => this.#options.log.error({ err: describeError(error) }, "the streaming worker failed"));
      worker.on("exit", () => {
        reject(new DomainError("unavailable", "the streaming worker ended"));
        this.#workerEnded(worker);
      });
    });
  }

  #workerEnded(worker: Worker): void {
    if (this.#worker !== worker) return;
    const wasServing = this.#url !== "";
    this.#worker = null;
    this.#url = "";
    for (const session of [...this.#sessions.values()]) this.#over(session, "the streaming worker ended");
    this.#stopped();
    if (!wasServing || this.#isClosing) return;
    this.#options.log.error({}, "the streaming worker has ended: its streams are lost, and it is started again");
    setTimeout(() => {
      if (this.#isClosing) return;
      this.open().catch((error: unknown) => this.#options.log.error({ err: describeError(error) }, "streams cannot be served"));
    }, restartMs).unref();
  }

  #send(message: ToWorker): void {
    this.#worker?.postMessage(message);
  }

  async #close(op: Operation): Promise<void> {
    const worker = this.#worker;
    if (!worker) return;
    const stopped = new Promise<void>((resolve) => {
      this.#stopped = resolve;
    });
    this.#send({ type: "stop", reason: "the runtime is stopping", graceMs: stopGraceMs });
    try {
      await op.race(stopped);
    } catch (error) {
      this.#options.log.warn({ err: describeError(error) }, "the streaming worker did not stop in time");
    }
    for (const session of [...this.#sessions.values()]) this.#over(session, "the runtime is stopping");
    this.#worker = null;
    await worker.terminate();
  }

  // ---- sessions ------------------------------------------------------------------------------------------------

  #receive(message: Exclude<ToMain, { type: "listening" | "failed" }>): void {
    switch (message.type) {
      case "claim":
        this.#claim(message);
        return;
      case "log":
        this.#options.log[message.level](message.fields, message.message);
        return;
      case "stopped":
        this.#stopped();
        return;
      case "start":
      case "resize":
      case "dial":
      case "over": {
        const session = this.#sessions.get(message.session);
        if (!session) return;
        if (message.type === "start") void this.#start(session);
        else if (message.type === "resize") void this.#resize(session, message.size);
        else if (message.type === "dial") void this.#dial(session, message.dialId, message.port);
        else this.#over(session, "its stream is over");
      }
    }
  }

  #claim({ claimId, kind, token }: ToMain & { type: "claim" }): void {
    const grant = this.#isClosing ? null : this.#tokens.claim(kind, token);
    if (!grant) {
      this.#send({ type: "refused", claimId });
      return;
    }
    this.#lastSession += 1;
    const op = new Operation({ name: operationNames[kind], log: this.#options.log, timeoutMs: null, ids: idsOf(grant) });
    const session: Session = { id: this.#lastSession, grant, op, unlist: this.#options.running.add(op), process: null };
    this.#sessions.set(session.id, session);
    this.#send({ type: "claimed", claimId, session: session.id, wanted: wantedBy(grant) });
  }

  async #start(session: Session): Promise<void> {
    const { id, grant, op } = session;
    if (grant.kind === "portforward") return;
    const { targets } = this.#options;
    const starting = op.child(op.name, startTimeoutMs);
    try {
      const process = grant.kind === "exec" ? await targets.exec(starting, grant.request) : await targets.attach(starting, grant.request);
      if (!this.#sessions.has(id)) {
        process.kill();
        process.release();
        closeAll(process.stdio);
        return;
      }
      session.process = process;
      this.#send({ type: "started", session: id, stdio: handOver(process.stdio) });
      const status = await process.ended;
      this.#send({ type: "ended", session: id, status });
    } catch (error) {
      op.log.info({ err: describeError(error) }, "a stream did not start");
      this.#send({ type: "startFailed", session: id, message: toError(error).message });
    } finally {
      starting.dispose();
    }
  }

  async #resize(session: Session, size: { readonly columns: number; readonly rows: number }): Promise<void> {
    const resizing = session.op.child("stream.resize", resizeTimeoutMs);
    try {
      await session.process?.resize(resizing, size);
    } catch (error) {
      // The command may have ended meanwhile.
      session.op.log.debug({ err: describeError(error) }, "a terminal was not resized");
    } finally {
      resizing.dispose();
    }
  }

  async #dial(session: Session, dialId: number, port: number): Promise<void> {
    const { id, grant, op } = session;
    if (grant.kind !== "portforward") return;
    const dialling = op.child("stream.dial", dialTimeoutMs);
    try {
      const handle = await this.#options.targets.dial(dialling, grant.request, port);
      if (this.#sessions.has(id)) this.#send({ type: "dialled", session: id, dialId, fd: handle.release() });
      else handle.close();
    } catch (error) {
      this.#send({ type: "dialFailed", session: id, dialId, message: toError(error).message });
    } finally {
      dialling.dispose();
    }
  }

  /** An exec goes on when its client leaves, but not when the daemon does: nobody could see its end then. */
  #over(session: Session, reason: string): void {
    if (!this.#sessions.delete(session.id)) return;
    if (this.#isClosing) session.process?.kill();
    session.process?.release();
    session.op.cancel(new DomainError("cancelled", reason));
    session.op.dispose();
    session.unlist();
  }
}

const operationNames = { exec: "ExecStream", attach: "AttachStream", portforward: "PortForwardStream" } as const;

function idsOf(grant: Grant): Record<string, string> {
  return grant.kind === "portforward" ? { sandboxId: grant.request.sandboxId } : { containerId: grant.request.containerId };
}

function wantedBy(grant: Grant): WantedStreams {
  if (grant.kind === "portforward") return { stdin: false, stdout: false, stderr: false, terminal: false };
  const { stdin, stdout, stderr, terminal } = grant.request;
  return { stdin, stdout, stderr, terminal };
}

function handOver({ stdin, stdout, stderr, terminal }: StreamStdio): StdioNumbers {
  const number = (handle: FdHandle | null): number | null => handle?.release() ?? null;
  return { stdin: number(stdin), stdout: number(stdout), stderr: number(stderr), terminal: number(terminal) };
}

function closeAll({ stdin, stdout, stderr, terminal }: StreamStdio): void {
  for (const handle of [stdin, stdout, stderr, terminal]) handle?.close();
}

function parseAddress(address: string): { readonly host: string; readonly port: number } {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:\s[\]]+)):(\d{1,5})$/.exec(address);
  const port = Number(match?.[3]);
  if (!match || port > 65_535) throw new DomainError("invalid-argument", `streaming address ${JSON.stringify(address)} is not host:port`);
  return { host: match[1] ?? match[2] ?? "", port };
}

/** The kubelet connects from this machine: an address that stands for all of them is named by its loopback. */
function shownHost(host: string): string {
  if (host === "0.0.0.0") return "127.0.0.1";
  if (host === "::") return "[::1]";
  return host.includes(":") ? `[${host}]` : host;
}
