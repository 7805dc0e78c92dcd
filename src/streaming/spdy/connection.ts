/**
 * The server's side of one SPDY/3.1 connection as Kubernetes clients use it: they open streams, both sides send data, and
 * flow control is TCP's alone. Those clients neither send nor heed WINDOW_UPDATE, so windows are ignored here; when a stream's
 * consumer is full, nothing more is read from the connection.
 *
 *   client  SYN_STREAM ─▶          opened(stream), or null: RST_STREAM
 *           ◀─ SYN_REPLY
 *           DATA ⇄ DATA            until FIN (half-close) from each side, or RST_STREAM from one
 *           ◀─ GOAWAY, end         finish()
 */
import type { Duplex } from "node:stream";
import {
  type ControlFrame,
  dataHeader,
  FrameDecoder,
  flagFin,
  goAway,
  goAwayStatus,
  ping,
  resetStatus,
  rstStream,
  SpdyError,
  synReply,
} from "./frames.ts";
import { HeaderReader, type Headers, HeaderWriter } from "./headers.ts";

/** What is written and not yet taken by the kernel may grow to this before writers are told to wait. */
export const defaultOutputLimitBytes = 512 * 1024;
/** Data of streams that have no consumer yet, over the whole connection; past it nothing is read. */
const earlyLimitBytes = 256 * 1024;
/** Open at a time. A port-forward connection needs two. */
const maxStreams = 4096;
/** Answers to pings and resets that a peer makes us send without reading them. */
const maxOwedBytes = 1 << 20;
/** While nothing is read, a client that has gone is only noticed by writing to it. */
const probeMs = 2_000;
/** After our end: what is still sent to us is read and dropped, as closing earlier would reset what the client has not read. */
const lingerMs = 60_000;

/** What a stream's owner wants to hear. Nothing is called after `reset`, nor `data` after `end`. */
export interface StreamListener {
  /** False: no more until `resume()`. */
  data(bytes: Buffer): boolean;
  /** The client has half-closed. */
  end(): void;
  /** The client wants nothing of this stream any more. */
  reset(): void;
  /** After a `write` that returned false: there is room again. */
  writable(): void;
}

export interface SpdyListener {
  /** A new stream, to be answered at once: false refuses it. `listen` must follow, at some time. */
  opened(stream: SpdyStream): boolean;
  /** The connection is over, from whatever side; once. `error` is null for an ordinary end. */
  closed(error: Error | null): void;
}

export class SpdyStream {
  readonly id: number;
  readonly headers: Headers;
  readonly #connection: SpdyConnection;
  #listener: StreamListener | null = null;
  #early: Buffer[] = [];
  #blocked = false;
  #inputEnded: boolean;
  #endTold = false;
  #outputEnded = false;
  #reset = false;

  constructor(connection: SpdyConnection, id: number, headers: Headers, inputEnded: boolean) {
    this.#connection = connection;
    this.id = id;
    this.headers = headers;
    this.#inputEnded = inputEnded;
  }

  /** The client will send no more. */
  get inputEnded(): boolean {
    return this.#inputEnded;
  }

  /** Nothing will be read or written any more. */
  get isOver(): boolean {
    return this.#reset || (this.#inputEnded && this.#outputEnded);
  }

  /** Once: what came before is delivered now. */
  listen(listener: StreamListener): void {
    this.#listener = listener;
    if (this.#reset) {
      listener.reset();
      return;
    }
    this.#deliver();
  }

  /** False: wait for `writable`. What is written to a stream that is over is dropped. */
  write(bytes: Buffer): boolean {
    if (this.#reset || this.#outputEnded) return true;
    return this.#connection.writeData(this, bytes, false);
  }

  /** Half-closes our side. */
  end(): void {
    if (this.#reset || this.#outputEnded) return;
    this.#outputEnded = true;
    this.#connection.writeData(this, none, true);
    this.#connection.settle(this);
  }

  /** Both directions end, without the listener hearing of it. */
  cancel(): void {
    if (this.isOver) return;
    this.#connection.sendReset(this.id, resetStatus.cancel);
    this.#forget();
    this.#connection.settle(this);
  }

  /** After a `data` that returned false. */
  resume(): void {
    if (!this.#blocked) return;
    this.#blocked = false;
    this.#deliver();
    if (!this.#blocked) this.#connection.unblock(this);
  }

  /** Called by the connection. */
  received(bytes: Buffer, fin: boolean): void {
    if (this.#reset || this.#inputEnded) return;
    this.#inputEnded = fin;
    if (bytes.length > 0) {
      if (this.#listener && !this.#blocked && this.#early.length === 0) this.#hand(this.#listener, bytes);
      else {
        this.#early.push(bytes);
        this.#connection.keptEarly(bytes.length);
      }
    }
    if (this.#listener && !this.#blocked) this.#deliver();
    this.#connection.settle(this);
  }

  /** Called by the connection: RST_STREAM, or its end. */
  wasReset(): void {
    if (this.#reset) return;
    this.#forget();
    this.#listener?.reset();
  }

  /** Called by the connection. */
  notifyWritable(): void {
    if (!this.#reset && !this.#outputEnded) this.#listener?.writable();
  }

  #forget(): void {
    this.#reset = true;
    for (const bytes of this.#early.splice(0)) this.#connection.keptEarly(-bytes.length);
    this.#blocked = false;
    this.#connection.unblock(this);
  }

  #deliver(): void {
    const listener = this.#listener;
    while (listener && !this.#blocked && !this.#reset) {
      const bytes = this.#early.shift();
      if (!bytes) break;
      this.#connection.keptEarly(-bytes.length);
      this.#hand(listener, bytes);
    }
    if (listener && this.#inputEnded && this.#early.length === 0 && !this.#endTold && !this.#reset) {
      this.#endTold = true;
      listener.end();
    }
  }

  #hand(listener: StreamListener, bytes: Buffer): void {
    if (listener.data(bytes) || this.#reset) return;
    this.#blocked = true;
    this.#connection.block(this);
  }
}

const none = Buffer.alloc(0);

export class SpdyConnection {
  readonly #transport: Duplex;
  readonly #listener: SpdyListener;
  readonly #outputLimitBytes: number;
  readonly #decoder: FrameDecoder;
  readonly #reader = new HeaderReader();
  readonly #writer = new HeaderWriter();
  readonly #streams = new Map<number, SpdyStream>();
  readonly #blocked = new Set<SpdyStream>();
  readonly #waiting = new Set<SpdyStream>();
  #lastStreamId = 0;
  #earlyBytes = 0;
  #paused = false;
  #probe: NodeJS.Timeout | null = null;
  #probeId = 0;
  /** A header block is being inflated: what follows it must wait. */
  #inflating = false;
  #finishing = false;
  #linger: NodeJS.Timeout | null = null;
  #closed = false;

  /** `head`: bytes that came with the upgrade request. Nothing is delivered before the next turn of the event loop. */
  constructor(transport: Duplex, head: Buffer, listener: SpdyListener, outputLimitBytes: number = defaultOutputLimitBytes) {
    this.#transport = transport;
    this.#outputLimitBytes = outputLimitBytes;
    this.#listener = listener;
    this.#decoder = new FrameDecoder({
      data: (streamId, bytes, fin) => this.#data(streamId, bytes, fin),
      control: (frame) => this.#control(frame),
    });
    transport.on("data", (chunk: Buffer) => this.#feed(() => this.#decoder.push(chunk)));
    transport.on("drain", () => this.#drained());
    transport.on("end", () => this.#close(null));
    transport.on("error", (error: Error) => this.#close(error));
    transport.on("close", () => this.#close(null));
    transport.pause();
    setImmediate(() => {
      if (this.#closed) return;
      if (head.length > 0) this.#feed(() => this.#decoder.push(head));
      if (!this.#paused && !this.#closed) transport.resume();
    });
  }

  get isClosed(): boolean {
    return this.#closed;
  }

  /** Streams that are not over. */
  get openStreams(): number {
    return this.#streams.size;
  }

  /** Ends in order: what is written is sent, then GOAWAY and the end; input is dropped from now on. Streams hear nothing. */
  finish(): void {
    if (this.#closed || this.#finishing) return;
    this.#finishing = true;
    this.#streams.clear();
    this.#blocked.clear();
    this.#waiting.clear();
    this.#transport.write(goAway(this.#lastStreamId, goAwayStatus.ok));
    this.#transport.end(() => {
      this.#linger ??= setTimeout(() => this.#transport.destroy(), lingerMs);
    });
    this.#updateFlow();
  }

  /** Ends at once. */
  destroy(error: Error | null = null): void {
    this.#close(error);
  }

  // ---- for SpdyStream ------------------------------------------------------------------------------------------

  writeData(stream: SpdyStream, bytes: Buffer, fin: boolean): boolean {
    if (this.#closed || this.#finishing) return true;
    const transport = this.#transport;
    transport.cork();
    transport.write(dataHeader(stream.id, bytes.length, fin));
    if (bytes.length > 0) transport.write(bytes);
    transport.uncork();
    if (transport.writableLength <= this.#outputLimitBytes) return true;
    this.#waiting.add(stream);
    return false;
  }

  sendReset(streamId: number, status: number): void {
    this.#owe(rstStream(streamId, status));
  }

  keptEarly(change: number): void {
    this.#earlyBytes += change;
    this.#updateFlow();
  }

  block(stream: SpdyStream): void {
    this.#blocked.add(stream);
    this.#updateFlow();
  }

  unblock(stream: SpdyStream): void {
    if (this.#blocked.delete(stream)) this.#updateFlow();
  }

  /** Forgets a stream that is over. */
  settle(stream: SpdyStream): void {
    if (!stream.isOver) return;
    this.#streams.delete(stream.id);
    this.#waiting.delete(stream);
  }

  // ---- input ---------------------------------------------------------------------------------------------------

  #feed(decode: () => void): void {
    if (this.#closed || this.#finishing) return;
    try {
      decode();
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  #data(streamId: number, bytes: Buffer, fin: boolean): void {
    if (this.#finishing || this.#closed) return;
    if (streamId === 0) throw new SpdyError("data on stream 0");
    // Of a stream that is over: it was under way when we ended it.
    this.#streams.get(streamId)?.received(bytes, fin);
  }

  #control(frame: ControlFrame): boolean {
    if (this.#finishing || this.#closed) return true;
    switch (frame.kind) {
      case "syn-stream":
        this.#readHeaders(frame.headerBlock, (headers) => this.#open(frame.streamId, frame.flags, headers));
        return false;
      case "headers":
      case "syn-reply":
        // Nothing is done with them, but the compression's state runs through every block.
        this.#readHeaders(frame.headerBlock, () => {
          if ((frame.flags & flagFin) !== 0) this.#streams.get(frame.streamId)?.received(none, true);
        });
        return false;
      case "rst-stream": {
        const stream = this.#streams.get(frame.streamId);
        this.#streams.delete(frame.streamId);
        if (stream) {
          this.#waiting.delete(stream);
          stream.wasReset();
        }
        return true;
      }
      case "ping":
        // Even ids are answers to ours.
        if (frame.id % 2 === 1) this.#owe(ping(frame.id));
        return true;
      case "goaway":
        // No new streams; those that are there go on, and the client closes when it is done with them.
        return true;
      case "settings":
      case "window-update":
      case "unknown":
        return true;
    }
  }

  #readHeaders(block: Buffer, use: (headers: Headers) => void): void {
    this.#updateFlow(true);
    this.#reader.read(block).then(
      (headers) =>
        this.#feed(() => {
          use(headers);
          this.#updateFlow(false);
          this.#decoder.resume();
        }),
      (error: Error) => {
        if (!this.#closed) this.#fail(error);
      },
    );
  }

  #open(id: number, flags: number, headers: Headers): void {
    if (id === 0 || id % 2 === 0 || id <= this.#lastStreamId)
      throw new SpdyError(`a new stream with the id ${id} after ${this.#lastStreamId}`);
    this.#lastStreamId = id;
    if (this.#streams.size >= maxStreams) {
      this.sendReset(id, resetStatus.refusedStream);
      return;
    }
    const stream = new SpdyStream(this, id, headers, (flags & flagFin) !== 0);
    this.#streams.set(id, stream);
    if (!this.#listener.opened(stream)) {
      this.#streams.delete(id);
      this.sendReset(id, resetStatus.refusedStream);
      return;
    }
    if (!this.#closed && !this.#finishing) this.#transport.write(synReply(id, this.#writer.write(new Map())));
  }

  // ---- flow ----------------------------------------------------------------------------------------------------

  #updateFlow(inflating: boolean = this.#inflating): void {
    this.#inflating = inflating;
    if (this.#closed) return;
    const full = !this.#finishing && (this.#blocked.size > 0 || this.#earlyBytes > earlyLimitBytes);
    const pause = full || (inflating && !this.#finishing);
    if (pause !== this.#paused) {
      this.#paused = pause;
      if (pause) this.#transport.pause();
      else this.#transport.resume();
    }
    if (full && !this.#probe) this.#probe = setInterval(() => this.#probePeer(), probeMs);
    if (!full && this.#probe) {
      clearInterval(this.#probe);
      this.#probe = null;
    }
  }

  /** A ping that nobody need answer: writing to a socket whose peer is gone fails, which reading would have told. */
  #probePeer(): void {
    if (this.#transport.writableLength > 0) return;
    this.#probeId = (this.#probeId + 2) % 0x7fff_fffe;
    this.#transport.write(ping(this.#probeId));
  }

  /** A peer that makes us answer and does not read is cut off before the answers pile up. */
  #owe(frame: Buffer): void {
    if (this.#closed || this.#finishing) return;
    if (this.#transport.writableLength > this.#outputLimitBytes + maxOwedBytes)
      this.#fail(new SpdyError("the peer does not read the answers that it asks for"));
    else this.#transport.write(frame);
  }

  #drained(): void {
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const stream of waiting) stream.notifyWritable();
  }

  // ---- end -----------------------------------------------------------------------------------------------------

  #fail(error: Error): void {
    if (this.#closed) return;
    if (!this.#transport.destroyed && !this.#finishing) this.#transport.write(goAway(this.#lastStreamId, goAwayStatus.protocolError));
    this.#close(error);
  }

  #close(error: Error | null): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#probe) clearInterval(this.#probe);
    if (this.#linger) clearTimeout(this.#linger);
    this.#reader.close();
    const streams = [...this.#streams.values()];
    this.#streams.clear();
    this.#blocked.clear();
    this.#waiting.clear();
    this.#transport.destroy();
    for (const stream of streams) stream.wasReset();
    this.#listener.closed(error);
  }
}
