/**
 * SPDY/3.1 frames: their layout, a decoder that is fed bytes as they come, an encoder for what this server sends.
 *
 *   control  1 | version(15) | type(16)   flags(8) | length(24)   payload
 *   data     0 | stream id(31)            flags(8) | length(24)   bytes
 *
 * The decoder never allocates for a length that a peer has only announced: data is passed on piece by piece as it arrives,
 * and the payload of a control frame is kept only up to `maxControlBytes`.
 */

export const flagFin = 0x01;
export const flagUnidirectional = 0x02;

/** Largest payload of a control frame; what Kubernetes clients send is some hundred bytes. */
export const maxControlBytes = 16 * 1024;

export const resetStatus = { protocolError: 1, invalidStream: 2, refusedStream: 3, cancel: 5 } as const;
export const goAwayStatus = { ok: 0, protocolError: 1 } as const;

const frameType = {
  synStream: 1,
  synReply: 2,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  headers: 8,
  windowUpdate: 9,
} as const;

const headerBytes = 8;
const maxDataBytes = 0xff_ffff;

export type ControlFrame =
  | { readonly kind: "syn-stream"; readonly streamId: number; readonly flags: number; readonly headerBlock: Buffer }
  | { readonly kind: "syn-reply"; readonly streamId: number; readonly flags: number; readonly headerBlock: Buffer }
  | { readonly kind: "headers"; readonly streamId: number; readonly flags: number; readonly headerBlock: Buffer }
  | { readonly kind: "rst-stream"; readonly streamId: number; readonly status: number }
  | { readonly kind: "settings"; readonly entries: ReadonlyMap<number, number> }
  | { readonly kind: "ping"; readonly id: number }
  | { readonly kind: "goaway"; readonly lastStreamId: number; readonly status: number }
  | { readonly kind: "window-update"; readonly streamId: number; readonly delta: number }
  | { readonly kind: "unknown"; readonly type: number };

/** The peer broke the protocol; the connection ends. */
export class SpdyError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "SpdyError";
  }
}

export interface FrameSink {
  /** A piece of a data frame; `fin` with the last piece of a frame that carries it. `bytes` may be empty. */
  data(streamId: number, bytes: Buffer, fin: boolean): void;
  /** False: nothing more is delivered until `resume`. */
  control(frame: ControlFrame): boolean;
}

/** Both methods throw SpdyError; the decoder must not be used after that. */
export class FrameDecoder {
  readonly #sink: FrameSink;
  /** Bytes of a header or of a control frame that are not all there yet. */
  #partial = Buffer.alloc(0);
  #held: Buffer[] = [];
  #holding = false;
  /** Of the data frame that is being passed on: what is still to come. */
  #dataLeft = 0;
  #dataStream = 0;
  #dataFin = false;

  constructor(sink: FrameSink) {
    this.#sink = sink;
  }

  push(chunk: Buffer): void {
    if (this.#holding) this.#held.push(chunk);
    else this.#decode(chunk);
  }

  resume(): void {
    this.#holding = false;
    while (!this.#holding) {
      const chunk = this.#held.shift();
      if (!chunk) return;
      this.#decode(chunk);
    }
  }

  #decode(chunk: Buffer): void {
    let rest = chunk;
    while (rest.length > 0) {
      if (this.#holding) {
        this.#held.unshift(rest);
        return;
      }
      rest = this.#dataLeft > 0 ? this.#passData(rest) : this.#collect(rest);
    }
  }

  #passData(chunk: Buffer): Buffer {
    const piece = chunk.length <= this.#dataLeft ? chunk : chunk.subarray(0, this.#dataLeft);
    this.#dataLeft -= piece.length;
    this.#sink.data(this.#dataStream, piece, this.#dataFin && this.#dataLeft === 0);
    return chunk.subarray(piece.length);
  }

  /** Takes what completes a header, then a control frame; returns what it has not used. */
  #collect(chunk: Buffer): Buffer {
    const head = this.#fill(chunk, headerBytes);
    if (!head) return empty;
    const flags = head.readUInt8(4);
    const length = head.readUIntBE(5, 3);
    if ((head.readUInt8(0) & 0x80) === 0) {
      const used = headerBytes - this.#partial.length;
      this.#partial = empty;
      this.#dataStream = head.readUInt32BE(0);
      this.#dataFin = (flags & flagFin) !== 0;
      this.#dataLeft = length;
      if (length === 0) this.#sink.data(this.#dataStream, empty, this.#dataFin);
      return chunk.subarray(used);
    }
    const version = head.readUInt16BE(0) & 0x7fff;
    if (version !== 3) throw new SpdyError(`version ${version} of the protocol`);
    if (length > maxControlBytes) throw new SpdyError(`a control frame of ${length} bytes`);
    const whole = this.#fill(chunk, headerBytes + length);
    if (!whole) return empty;
    const used = headerBytes + length - this.#partial.length;
    this.#partial = empty;
    const type = head.readUInt16BE(2);
    this.#holding = !this.#sink.control(parseControl(type, flags, whole.subarray(headerBytes, headerBytes + length)));
    return chunk.subarray(used);
  }

  /** The first `size` bytes of what is kept and `chunk`, or null where there are fewer; then all are kept. */
  #fill(chunk: Buffer, size: number): Buffer | null {
    if (this.#partial.length === 0 && chunk.length >= size) return chunk;
    const whole = Buffer.concat([this.#partial, chunk.subarray(0, Math.max(0, size - this.#partial.length))]);
    if (whole.length >= size) return whole;
    this.#partial = whole;
    return null;
  }
}

const empty = Buffer.alloc(0);

function parseControl(type: number, flags: number, payload: Buffer): ControlFrame {
  switch (type) {
    case frameType.synStream:
      need(payload, 10, "SYN_STREAM");
      return { kind: "syn-stream", streamId: streamIdAt(payload, 0), flags, headerBlock: Buffer.from(payload.subarray(10)) };
    case frameType.synReply:
      need(payload, 4, "SYN_REPLY");
      return { kind: "syn-reply", streamId: streamIdAt(payload, 0), flags, headerBlock: Buffer.from(payload.subarray(4)) };
    case frameType.headers:
      need(payload, 4, "HEADERS");
      return { kind: "headers", streamId: streamIdAt(payload, 0), flags, headerBlock: Buffer.from(payload.subarray(4)) };
    case frameType.rstStream:
      need(payload, 8, "RST_STREAM");
      return { kind: "rst-stream", streamId: streamIdAt(payload, 0), status: payload.readUInt32BE(4) };
    case frameType.settings:
      return { kind: "settings", entries: parseSettings(payload) };
    case frameType.ping:
      need(payload, 4, "PING");
      return { kind: "ping", id: payload.readUInt32BE(0) };
    case frameType.goAway:
      need(payload, 8, "GOAWAY");
      return { kind: "goaway", lastStreamId: streamIdAt(payload, 0), status: payload.readUInt32BE(4) };
    case frameType.windowUpdate:
      need(payload, 8, "WINDOW_UPDATE");
      return { kind: "window-update", streamId: streamIdAt(payload, 0), delta: payload.readUInt32BE(4) & 0x7fff_ffff };
    default:
      return { kind: "unknown", type };
  }
}

function parseSettings(payload: Buffer): ReadonlyMap<number, number> {
  need(payload, 4, "SETTINGS");
  const count = payload.readUInt32BE(0);
  if (count * 8 !== payload.length - 4) throw new SpdyError(`SETTINGS announces ${count} entries in ${payload.length} bytes`);
  const entries = new Map<number, number>();
  for (let at = 4; at < payload.length; at += 8) entries.set(payload.readUInt32BE(at) & 0xff_ffff, payload.readUInt32BE(at + 4));
  return entries;
}

function need(payload: Buffer, bytes: number, name: string): void {
  if (payload.length < bytes) throw new SpdyError(`${name} of ${payload.length} bytes`);
}

function streamIdAt(payload: Buffer, at: number): number {
  return payload.readUInt32BE(at) & 0x7fff_ffff;
}

// ---- encoding -------------------------------------------------------------------------------------------------

/** The header of a data frame; its bytes follow it on the wire. At most 2^24 - 1 of them. */
export function dataHeader(streamId: number, length: number, fin: boolean): Buffer {
  if (length > maxDataBytes) throw new SpdyError(`a data frame of ${length} bytes`);
  const head = Buffer.allocUnsafe(headerBytes);
  head.writeUInt32BE(streamId, 0);
  head.writeUInt8(fin ? flagFin : 0, 4);
  head.writeUIntBE(length, 5, 3);
  return head;
}

export function synReply(streamId: number, headerBlock: Buffer): Buffer {
  const id = Buffer.allocUnsafe(4);
  id.writeUInt32BE(streamId, 0);
  return control(frameType.synReply, Buffer.concat([id, headerBlock]));
}

export function rstStream(streamId: number, status: number): Buffer {
  return control(frameType.rstStream, words(streamId, status));
}

export function ping(id: number): Buffer {
  return control(frameType.ping, words(id));
}

export function goAway(lastStreamId: number, status: number): Buffer {
  return control(frameType.goAway, words(lastStreamId, status));
}

function words(...values: readonly number[]): Buffer {
  const bytes = Buffer.allocUnsafe(values.length * 4);
  for (const [index, value] of values.entries()) bytes.writeUInt32BE(value, index * 4);
  return bytes;
}

function control(type: number, payload: Buffer): Buffer {
  const head = Buffer.allocUnsafe(headerBytes);
  head.writeUInt16BE(0x8003, 0);
  head.writeUInt16BE(type, 2);
  head.writeUIntBE(payload.length, 4, 4);
  return Buffer.concat([head, payload]);
}
