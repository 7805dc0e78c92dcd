/**
 * Exec and attach over SPDY, protocols v1 to v4: a stream each for error, stdin, stdout, stderr and, from v3 on, for the
 * sizes of a terminal. The status goes on the error stream: JSON in v4, plain text of failures before.
 */
import type { Duplex } from "node:stream";
import type { CommandVersion } from "../protocols.ts";
import {
  type CommandStatus,
  type OutputName,
  type SessionListener,
  type StreamSession,
  statusJson,
  statusText,
  TerminalSizeReader,
  type WantedStreams,
} from "../session.ts";
import { SpdyConnection, type SpdyListener, type SpdyStream } from "./connection.ts";

type StreamName = "error" | "stdin" | OutputName | "resize";

export interface SpdyCommandOptions {
  readonly transport: Duplex;
  readonly head: Buffer;
  readonly version: CommandVersion;
  readonly wanted: WantedStreams;
  /** Until every stream is there. */
  readonly creationTimeoutMs: number;
  /** Output that the client has not taken, before its source has to wait. */
  readonly outputLimitBytes: number;
}

/** Resolves once the client has opened every stream; rejects where it does not, and the connection is closed then. */
export function acceptSpdyCommand(options: SpdyCommandOptions): Promise<StreamSession> {
  const { wanted, version } = options;
  const expected = new Set<StreamName>(["error"]);
  if (wanted.stdin) expected.add("stdin");
  if (wanted.stdout) expected.add("stdout");
  if (wanted.stderr && !wanted.terminal) expected.add("stderr");
  if (wanted.terminal && version >= 3) expected.add("resize");
  return new Promise((resolve, reject) => {
    const streams = new Map<StreamName, SpdyStream>();
    let session: SpdyCommandSession | null = null;
    const give = (error: Error): void => {
      clearTimeout(timer);
      reject(error);
      connection.destroy();
    };
    const timer = setTimeout(() => {
      const missing = [...expected].filter((name) => !streams.has(name));
      give(new Error(`the client did not open its streams within ${options.creationTimeoutMs} ms: ${missing.join(", ")}`));
    }, options.creationTimeoutMs);
    const listener: SpdyListener = {
      opened(stream) {
        const name = stream.headers.get("streamtype") as StreamName | undefined;
        if (session || name === undefined || !expected.has(name) || streams.has(name)) return false;
        streams.set(name, stream);
        if (streams.size === expected.size) {
          clearTimeout(timer);
          session = new SpdyCommandSession(connection, streams, version);
          resolve(session);
        }
        return true;
      },
      closed(error) {
        if (session) session.connectionClosed();
        else give(error ?? new Error("the client left before its streams were open"));
      },
    };
    const connection = new SpdyConnection(options.transport, options.head, listener, options.outputLimitBytes);
  });
}

class SpdyCommandSession implements StreamSession {
  readonly #connection: SpdyConnection;
  readonly #streams: ReadonlyMap<StreamName, SpdyStream>;
  readonly #version: CommandVersion;
  #listener: SessionListener | null = null;
  #over = false;

  constructor(connection: SpdyConnection, streams: ReadonlyMap<StreamName, SpdyStream>, version: CommandVersion) {
    this.#connection = connection;
    this.#streams = streams;
    this.#version = version;
  }

  listen(listener: SessionListener): void {
    this.#listener = listener;
    if (this.#over) {
      listener.gone();
      return;
    }
    const sizes = new TerminalSizeReader();
    const ignore = { data: () => true, end: () => undefined, reset: () => undefined, writable: () => undefined };
    this.#streams.get("error")?.listen(ignore);
    this.#streams.get("resize")?.listen({
      ...ignore,
      data: (bytes) => {
        for (const size of sizes.push(bytes)) if (!this.#over) listener.resize(size);
        return true;
      },
    });
    for (const name of ["stdout", "stderr"] as const) {
      // A client that resets an output wants no more of it, and must not hold up the other.
      const resume = (): void => {
        if (!this.#over && !this.#connection.isClosed) listener.writable();
      };
      this.#streams.get(name)?.listen({ ...ignore, writable: resume, reset: resume });
    }
    this.#streams.get("stdin")?.listen({
      data: (bytes) => this.#over || listener.stdin(bytes),
      end: () => this.#stdinEnded(),
      reset: () => this.#stdinEnded(),
      writable: () => undefined,
    });
  }

  #stdinEnded(): void {
    if (!this.#over && !this.#connection.isClosed) this.#listener?.stdinEnd();
  }

  resumeInput(): void {
    this.#streams.get("stdin")?.resume();
  }

  write(output: OutputName, bytes: Buffer): boolean {
    return this.#over || (this.#streams.get(output)?.write(bytes) ?? true);
  }

  finish(status: CommandStatus): void {
    if (this.#over) return;
    this.#over = true;
    const text = this.#version >= 4 ? statusJson(status) : statusText(status);
    const error = this.#streams.get("error");
    if (text !== "") error?.write(Buffer.from(text));
    for (const stream of this.#streams.values()) stream.end();
    this.#connection.finish();
  }

  destroy(): void {
    this.#over = true;
    this.#connection.destroy();
  }

  connectionClosed(): void {
    if (this.#over) return;
    this.#over = true;
    this.#listener?.gone();
  }
}
