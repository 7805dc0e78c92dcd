/**
 * A SPDY/3.1 client for tests, in the manner of the Kubernetes ones: it never sends WINDOW_UPDATE, deflates its headers with
 * one zlib stream, and reads what the server sends with nothing of the server's own code but the dictionary.
 */
import { connect as connectTcp, type Socket } from "node:net";
import { type ConnectionOptions, connect as connectTls } from "node:tls";
import { constants, createDeflate, createInflate, type Deflate, type Inflate } from "node:zlib";
import { headerDictionary } from "../../src/streaming/spdy/dictionary.ts";

export interface UpgradeResponse {
  readonly status: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

export interface ClientOptions {
  readonly method?: string;
  readonly headers?: readonly (readonly [string, string])[];
  readonly tls?: ConnectionOptions;
}

/** One HTTP request with an upgrade; the socket is the caller's where the answer is 101. */
export function upgrade(url: string, options: ClientOptions = {}): Promise<{ response: UpgradeResponse; socket: Socket; rest: Buffer }> {
  const { hostname, port, pathname, search, protocol } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, "");
  return new Promise((resolve, reject) => {
    const socket: Socket =
      protocol === "https:" ? connectTls({ host, port: Number(port), ...options.tls }) : connectTcp({ host, port: Number(port) });
    let received = Buffer.alloc(0);
    const onData = (chunk: Buffer): void => {
      received = Buffer.concat([received, chunk]);
      const end = received.indexOf("\r\n\r\n");
      if (end < 0) return;
      const [statusLine = "", ...lines] = received.toString("latin1", 0, end).split("\r\n");
      const headers = new Map(
        lines.map((line) => [line.slice(0, line.indexOf(":")).toLowerCase(), line.slice(line.indexOf(":") + 1).trim()]),
      );
      const status = Number(statusLine.split(" ")[1]);
      const rest = received.subarray(end + 4);
      if (status !== 101 && rest.length < Number(headers.get("content-length") ?? 0)) return;
      socket.off("data", onData);
      socket.pause();
      if (status !== 101) socket.destroy();
      resolve({ response: { status, headers, body: rest.toString() }, socket, rest });
    };
    socket.on("data", onData);
    socket.on("error", reject);
    socket.on("close", () => reject(new Error("closed without an answer")));
    const lines = [
      `${options.method ?? "POST"} ${pathname}${search} HTTP/1.1`,
      `Host: ${hostname}:${port}`,
      ...(options.headers ?? []).map(([name, value]) => `${name}: ${value}`),
      "Content-Length: 0",
    ];
    socket.write(`${lines.join("\r\n")}\r\n\r\n`);
  });
}

export const spdyHeaders = (...protocols: readonly string[]): [string, string][] => [
  ["Connection", "Upgrade"],
  ["Upgrade", "SPDY/3.1"],
  ...protocols.map((name): [string, string] => ["X-Stream-Protocol-Version", name]),
];

/** Where the frames go: a socket, or something that carries them. */
export interface Carrier {
  readonly socket: Socket | null;
  write(bytes: Buffer): boolean;
  onBytes(receive: (bytes: Buffer) => void): void;
  onEnd(ended: () => void): void;
  pause(): void;
  resume(): void;
  destroy(): void;
}

export function socketCarrier(socket: Socket, rest: Buffer): Carrier {
  socket.on("error", () => undefined);
  return {
    socket,
    write: (bytes) => socket.write(bytes),
    onBytes(receive) {
      if (rest.length > 0) setImmediate(() => receive(rest));
      socket.on("data", receive);
      socket.resume();
    },
    onEnd(ended) {
      socket.on("end", () => socket.end());
      socket.on("close", ended);
    },
    pause: () => void socket.pause(),
    resume: () => void socket.resume(),
    destroy: () => void socket.destroy(),
  };
}

export class ClientStream {
  readonly id: number;
  readonly #client: SpdyClient;
  readonly chunks: Buffer[] = [];
  bytes = 0;
  finished = false;
  wasReset: number | null = null;
  keep = true;
  onBytes: (bytes: Buffer) => void = () => undefined;
  #wake: (() => void)[] = [];

  constructor(client: SpdyClient, id: number) {
    this.#client = client;
    this.id = id;
  }

  get text(): string {
    return Buffer.concat(this.chunks).toString();
  }

  /** Resolves with all that came, at the end of the stream, its reset or that of the connection. */
  async whole(): Promise<Buffer> {
    await this.until(() => this.finished || this.wasReset !== null || this.#client.closed);
    return Buffer.concat(this.chunks);
  }

  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#wake.push(resolve));
  }

  received(bytes: Buffer, fin: boolean): void {
    this.bytes += bytes.length;
    if (this.keep) this.chunks.push(Buffer.from(bytes));
    this.onBytes(bytes);
    if (fin) this.finished = true;
    this.wake();
  }

  reset(status: number): void {
    this.wasReset = status;
    this.wake();
  }

  wake(): void {
    for (const resolve of this.#wake.splice(0)) resolve();
  }

  write(bytes: Buffer | string): boolean {
    return this.#client.sendData(this.id, Buffer.from(bytes), false);
  }

  end(): void {
    this.#client.sendData(this.id, Buffer.alloc(0), true);
  }

  abort(): void {
    this.#client.sendControl(3, 0, numbers(this.id, 5));
  }
}

export class SpdyClient {
  readonly carrier: Carrier;
  readonly streams = new Map<number, ClientStream>();
  readonly replies = new Set<number>();
  readonly pings: number[] = [];
  goneAway = false;
  closed = false;
  #deflate: Deflate;
  #inflate: Inflate;
  #compressed: Buffer[] = [];
  #sending: Promise<void> = Promise.resolve();
  #received: Buffer = Buffer.alloc(0);
  #nextId = 1;
  #onClose: (() => void)[] = [];
  answerPings = true;

  constructor(carrier: Carrier) {
    this.carrier = carrier;
    this.#deflate = createDeflate({ dictionary: headerDictionary, flush: constants.Z_SYNC_FLUSH });
    this.#deflate.on("data", (chunk: Buffer) => this.#compressed.push(chunk));
    this.#inflate = createInflate({ dictionary: headerDictionary, flush: constants.Z_SYNC_FLUSH });
    this.#inflate.resume();
    this.#inflate.on("error", (error) => {
      throw error;
    });
    carrier.onBytes((bytes) => this.#parse(bytes));
    carrier.onEnd(() => {
      this.closed = true;
      for (const stream of this.streams.values()) stream.wake();
      for (const resolve of this.#onClose.splice(0)) resolve();
    });
  }

  static async connect(url: string, protocols: readonly string[], options: ClientOptions = {}): Promise<SpdyClient> {
    const { response, socket, rest } = await upgrade(url, {
      ...options,
      headers: [...spdyHeaders(...protocols), ...(options.headers ?? [])],
    });
    if (response.status !== 101) throw new Error(`${response.status}: ${response.body}`);
    return new SpdyClient(socketCarrier(socket, rest));
  }

  get socket(): Socket | null {
    return this.carrier.socket;
  }

  whenClosed(): Promise<void> {
    return this.closed ? Promise.resolve() : new Promise((resolve) => this.#onClose.push(resolve));
  }

  /** Opens a stream; what is written to it goes after it. */
  async open(headers: Readonly<Record<string, string>>, options: { fin?: boolean; id?: number } = {}): Promise<ClientStream> {
    const id = options.id ?? this.#nextId;
    this.#nextId = id + 2;
    const stream = new ClientStream(this, id);
    this.streams.set(id, stream);
    await this.sendHeaders(1, options.fin ? 1 : 0, [...numbers(id, 0), 0, 0], headers);
    return stream;
  }

  /** A control frame with a header block behind `prefix`; one at a time, as the compression is one stream. */
  sendHeaders(
    type: number,
    flags: number,
    prefix: ArrayLike<number> & Iterable<number>,
    headers: Readonly<Record<string, string>>,
  ): Promise<void> {
    this.#sending = this.#sending.then(
      () =>
        new Promise((resolve) => {
          this.#compressed = [];
          this.#deflate.write(nameValues(headers), () => {
            this.sendControl(type, flags, Buffer.concat([Buffer.from([...prefix]), ...this.#compressed]));
            resolve();
          });
        }),
    );
    return this.#sending;
  }

  sendControl(type: number, flags: number, payload: Buffer): void {
    const head = Buffer.from([
      0x80,
      3,
      type >> 8,
      type & 0xff,
      flags,
      payload.length >> 16,
      (payload.length >> 8) & 0xff,
      payload.length & 0xff,
    ]);
    this.carrier.write(Buffer.concat([head, payload]));
  }

  sendData(id: number, bytes: Buffer, fin: boolean): boolean {
    const head = Buffer.alloc(8);
    head.writeUInt32BE(id);
    head.writeUInt32BE(bytes.length | (fin ? 0x0100_0000 : 0), 4);
    return this.carrier.write(Buffer.concat([head, bytes]));
  }

  ping(id: number): void {
    this.sendControl(6, 0, numbers(id));
  }

  destroy(): void {
    this.carrier.destroy();
  }

  #parse(bytes: Buffer): void {
    let rest = this.#received.length > 0 ? Buffer.concat([this.#received, bytes]) : bytes;
    while (rest.length >= 8) {
      const length = rest.readUInt32BE(4) & 0xff_ffff;
      if (rest.length < 8 + length) break;
      this.#frame(rest.readUInt32BE(0), rest.readUInt8(4), rest.subarray(8, 8 + length));
      rest = rest.subarray(8 + length);
    }
    this.#received = rest;
  }

  #frame(first: number, flags: number, payload: Buffer): void {
    if (first < 0x8000_0000) {
      this.streams.get(first)?.received(payload, (flags & 1) !== 0);
      return;
    }
    switch (first & 0xffff) {
      case 2:
        this.replies.add(payload.readUInt32BE(0));
        this.#inflate.write(payload.subarray(4));
        this.streams.get(payload.readUInt32BE(0))?.wake();
        return;
      case 3:
        this.streams.get(payload.readUInt32BE(0))?.reset(payload.readUInt32BE(4));
        return;
      case 6:
        this.pings.push(payload.readUInt32BE(0));
        if (this.answerPings && payload.readUInt32BE(0) % 2 === 0) this.sendControl(6, 0, Buffer.from(payload));
        return;
      case 7:
        this.goneAway = true;
        return;
      default:
        throw new Error(`the server sent a control frame of type ${first & 0xffff}`);
    }
  }
}

export function numbers(...values: readonly number[]): Buffer {
  return Buffer.concat(
    values.map((value) => {
      const bytes = Buffer.alloc(4);
      bytes.writeUInt32BE(value);
      return bytes;
    }),
  );
}

export function nameValues(headers: Readonly<Record<string, string>>): Buffer {
  const entries = Object.entries(headers);
  return Buffer.concat([
    numbers(entries.length),
    ...entries.flatMap(([name, value]) => [numbers(name.length), Buffer.from(name), numbers(value.length), Buffer.from(value)]),
  ]);
}
