/**
 * Port-forward over SPDY, `portforward.k8s.io`: for each connection that its client has accepted it opens an error stream
 * and a data stream, which carry the same `requestid` and `port`. One pair is one connection to the pod.
 *
 *   error + data ─▶ dial the port
 *     it fails            why, on the error stream; both end; the other pairs go on
 *     data FIN            half-close of the target
 *     target ends         FIN on data; the rest of the other direction is given a moment, as old clients wait for our end
 *     data RST            the target is closed; FIN on error, which the client waits for
 */

import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { SpdyConnection, type SpdyStream } from "./connection.ts";

export interface PortForwardOptions {
  readonly transport: Duplex;
  readonly head: Buffer;
  /** Until the second stream of a pair. */
  readonly creationTimeoutMs: number;
  /** Connects to a port of the pod; the socket allows half-open connections, and is paused. */
  readonly dial: (port: number) => Promise<Socket>;
  /** The connection has ended, every target is closed; once. */
  readonly closed: (error: Error | null) => void;
}

/** After the target's end: how long the client may be silent before the pair is over. */
const halfClosedQuietMs = 1_000;
/** Of one connection; each holds a socket in the pod. */
const maxPairs = 1_024;
/** Bytes for a target that has not taken them yet, before its client has to wait. */
const targetBufferBytes = 64 * 1024;

export class PortForward {
  readonly #options: PortForwardOptions;
  readonly #connection: SpdyConnection;
  readonly #pairs = new Map<string, Pair>();

  constructor(options: PortForwardOptions) {
    this.#options = options;
    this.#connection = new SpdyConnection(options.transport, options.head, {
      opened: (stream) => this.#opened(stream),
      closed: (error) => {
        for (const pair of this.#pairs.values()) pair.abandon();
        this.#pairs.clear();
        options.closed(error);
      },
    });
  }

  /** Ends the connection and all it carries. */
  destroy(): void {
    this.#connection.destroy();
  }

  #opened(stream: SpdyStream): boolean {
    const type = stream.headers.get("streamtype");
    const port = parsePort(stream.headers.get("port"));
    if ((type !== "error" && type !== "data") || port === null) return false;
    const key = requestKey(stream, type);
    let pair = this.#pairs.get(key);
    if (!pair) {
      if (this.#pairs.size >= maxPairs) return false;
      pair = new Pair(port, this.#options, () => this.#pairs.delete(key));
      this.#pairs.set(key, pair);
    }
    return pair.add(type, stream, port);
  }
}

/** Clients before request ids open the error stream first and the data stream right after it. */
function requestKey(stream: SpdyStream, type: "error" | "data"): string {
  const requestId = stream.headers.get("requestid");
  if (requestId !== undefined && requestId !== "") return `request ${requestId}`;
  return `stream ${type === "error" ? stream.id : stream.id - 2}`;
}

function parsePort(text: string | undefined): number | null {
  const port = /^\d{1,5}$/.test(text ?? "") ? Number(text) : 0;
  return port >= 1 && port <= 65_535 ? port : null;
}

const ignore = { data: () => true, end: () => undefined, reset: () => undefined, writable: () => undefined };

class Pair {
  readonly #port: number;
  readonly #options: PortForwardOptions;
  readonly #forget: () => void;
  #error: SpdyStream | null = null;
  #data: SpdyStream | null = null;
  #target: Socket | null = null;
  #timer: NodeJS.Timeout;
  #clientEnded = false;
  #targetEnded = false;
  #over = false;

  constructor(port: number, options: PortForwardOptions, forget: () => void) {
    this.#port = port;
    this.#options = options;
    this.#forget = forget;
    this.#timer = setTimeout(
      () => this.#end(`port ${port}: the client did not open both streams within ${options.creationTimeoutMs} ms`),
      options.creationTimeoutMs,
    );
  }

  /** False: the stream is refused. */
  add(type: "error" | "data", stream: SpdyStream, port: number): boolean {
    if (this.#over || port !== this.#port || (type === "error" ? this.#error : this.#data) !== null) return false;
    if (type === "error") {
      this.#error = stream;
      stream.listen(ignore);
    } else this.#data = stream;
    if (this.#error && this.#data) {
      clearTimeout(this.#timer);
      this.#connect(this.#data);
    }
    return true;
  }

  /** The connection is gone: nobody hears of the end. */
  abandon(): void {
    this.#over = true;
    clearTimeout(this.#timer);
    this.#target?.destroy();
  }

  #connect(data: SpdyStream): void {
    this.#options.dial(this.#port).then(
      (target) => {
        if (this.#over) target.destroy();
        else this.#join(data, target);
      },
      (error: Error) => this.#end(`port ${this.#port}: ${error.message}`),
    );
  }

  #join(data: SpdyStream, target: Socket): void {
    this.#target = target;
    target.on("data", (bytes: Buffer) => {
      if (!data.write(bytes)) target.pause();
    });
    target.on("drain", () => data.resume());
    target.on("end", () => {
      this.#targetEnded = true;
      data.end();
      if (this.#clientEnded) this.#end(null);
      else this.#awaitQuiet();
    });
    // A target that resets its connection is no failure of forwarding, and a client takes any text for the end of all.
    target.on("error", () => this.#end(null));
    target.on("close", () => this.#end(null));
    data.listen({
      data: (bytes) => {
        if (this.#over) return true;
        if (this.#targetEnded) this.#awaitQuiet();
        return target.write(bytes) || target.writableLength <= targetBufferBytes;
      },
      end: () => {
        if (this.#over) return;
        this.#clientEnded = true;
        target.end();
        if (this.#targetEnded) this.#end(null);
      },
      reset: () => this.#end(null),
      writable: () => target.resume(),
    });
    if (!this.#over) target.resume();
  }

  /** A client before 1.26 does not say that it is done with a connection whose target has ended: it waits for our end. */
  #awaitQuiet(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#end(null), halfClosedQuietMs);
  }

  #end(failure: string | null): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#forget();
    const target = this.#target;
    // What the target was sent is still to reach it: it is only cut off where it does not take it.
    if (target && !target.destroyed) {
      if (this.#clientEnded && !target.writableFinished) target.destroySoon();
      else target.destroy();
    }
    if (failure !== null) this.#error?.write(Buffer.from(failure));
    this.#data?.end();
    this.#error?.end();
    // What the client still sends goes nowhere.
    if (target) this.#data?.resume();
    else this.#data?.listen(ignore);
  }
}
