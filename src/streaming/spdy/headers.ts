/**
 * Header blocks: names and values, compressed by one zlib stream for each direction of a connection, both preset with the
 * protocol's dictionary.
 *
 *   count(32) { length(32) name  length(32) value }*      values of one name are joined by NUL
 */
import { constants, createInflate, type Inflate } from "node:zlib";
import { headerDictionary } from "./dictionary.ts";
import { SpdyError } from "./frames.ts";

export type Headers = ReadonlyMap<string, string>;

/** Of one block, inflated: deflate makes up to a thousand bytes of one. */
export const maxHeaderBytes = 32 * 1024;
const maxHeaderCount = 64;

/** Inflates the blocks of one connection, in their order. */
export class HeaderReader {
  readonly #inflate: Inflate;
  #chunks: Buffer[] = [];
  #bytes = 0;
  #failure: SpdyError | null = null;
  #fail: (error: SpdyError) => void = () => undefined;

  constructor() {
    this.#inflate = createInflate({ dictionary: headerDictionary, flush: constants.Z_SYNC_FLUSH, chunkSize: 4096 });
    this.#inflate.on("data", (chunk: Buffer) => {
      this.#bytes += chunk.length;
      if (this.#bytes > maxHeaderBytes) this.#broken(new SpdyError(`headers of more than ${maxHeaderBytes} bytes`));
      else this.#chunks.push(chunk);
    });
    this.#inflate.on("error", () => this.#broken(new SpdyError("headers that do not inflate")));
    // Bytes behind a finished zlib stream would be dropped silently, and the blocks after it never come out.
    this.#inflate.on("end", () => this.#broken(new SpdyError("the header stream has ended")));
  }

  /** One at a time. Rejects with SpdyError; nothing can be read after that. */
  read(block: Buffer): Promise<Headers> {
    return new Promise((resolve, reject) => {
      if (this.#failure) {
        reject(this.#failure);
        return;
      }
      this.#fail = reject;
      this.#inflate.write(block, () => {
        if (this.#failure) return;
        const inflated = Buffer.concat(this.#chunks);
        this.#chunks = [];
        this.#bytes = 0;
        try {
          resolve(parseHeaders(inflated));
        } catch (error) {
          this.#broken(error as SpdyError);
        }
      });
    });
  }

  close(): void {
    this.#broken(new SpdyError("the connection is closed"));
  }

  #broken(error: SpdyError): void {
    if (this.#failure) return;
    this.#failure = error;
    this.#chunks = [];
    this.#inflate.destroy();
    this.#fail(error);
  }
}

export function parseHeaders(block: Buffer): Headers {
  let at = 0;
  const number = (): number => {
    if (at + 4 > block.length) throw new SpdyError("headers are cut off");
    const value = block.readUInt32BE(at);
    at += 4;
    return value;
  };
  const text = (): string => {
    const length = number();
    if (length > block.length - at) throw new SpdyError("headers are cut off");
    at += length;
    return block.toString("latin1", at - length, at);
  };
  const count = number();
  if (count > maxHeaderCount) throw new SpdyError(`${count} headers`);
  const headers = new Map<string, string>();
  for (let index = 0; index < count; index += 1) {
    const name = text().toLowerCase();
    const value = text();
    if (name === "") throw new SpdyError("a header without a name");
    if (headers.has(name)) throw new SpdyError("a header comes twice");
    headers.set(name, value.split("\0", 1)[0] ?? "");
  }
  if (at !== block.length) throw new SpdyError("bytes after the headers");
  return headers;
}

/**
 * The blocks that this server sends: replies without headers. They are stored, not deflated, in a zlib stream that names
 * the dictionary and never ends; so they need neither a compressor nor waiting for one.
 */
export class HeaderWriter {
  #begun = false;

  write(headers: Headers): Buffer {
    const parts = [word(headers.size)];
    for (const [name, value] of headers)
      parts.push(word(name.length), Buffer.from(name, "latin1"), word(value.length), Buffer.from(value, "latin1"));
    const plain = Buffer.concat(parts);
    const stored = Buffer.alloc(5);
    stored.writeUInt16LE(plain.length, 1);
    stored.writeUInt16LE(~plain.length & 0xffff, 3);
    const block = Buffer.concat([...(this.#begun ? [] : [zlibHeader]), stored, plain, syncMarker]);
    this.#begun = true;
    return block;
  }
}

function word(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeUInt32BE(value, 0);
  return bytes;
}

/**
 * An empty stored block, as a flushed deflate ends with. Go's inflate only hands out a stored block when the next one begins,
 * and looking for one that has not come yet is an error that it never forgets.
 */
const syncMarker = Buffer.from([0, 0, 0, 0xff, 0xff]);

/** RFC 1950: deflate with a 32 KiB window, FDICT, and the Adler-32 of the dictionary. */
const zlibHeader = Buffer.concat([Buffer.from([0x78, 0xbb]), word(adler32(headerDictionary))]);

function adler32(bytes: Buffer): number {
  let [low, high] = [1, 0];
  for (const byte of bytes) {
    low = (low + byte) % 65_521;
    high = (high + low) % 65_521;
  }
  return high * 65_536 + low;
}
