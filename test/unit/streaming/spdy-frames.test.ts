import { randomBytes } from "node:crypto";
import { PassThrough } from "node:stream";
import { constants, createDeflate, createInflate, deflateSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { SpdyConnection } from "../../../src/streaming/spdy/connection.ts";
import { headerDictionary } from "../../../src/streaming/spdy/dictionary.ts";
import {
  type ControlFrame,
  dataHeader,
  FrameDecoder,
  maxControlBytes,
  ping,
  rstStream,
  SpdyError,
} from "../../../src/streaming/spdy/frames.ts";
import { HeaderReader, HeaderWriter, maxHeaderBytes, parseHeaders } from "../../../src/streaming/spdy/headers.ts";
import { nameValues, numbers } from "../../support/spdy-client.ts";

interface Seen {
  readonly data: [number, string, boolean][];
  readonly control: ControlFrame[];
}

function decoder(hold = false): { decoder: FrameDecoder; seen: Seen } {
  const seen: Seen = { data: [], control: [] };
  const made = new FrameDecoder({
    data(streamId, bytes, fin) {
      const last = seen.data.at(-1);
      if (last && last[0] === streamId && !last[2]) seen.data.splice(-1, 1, [streamId, last[1] + bytes.toString("latin1"), fin]);
      else seen.data.push([streamId, bytes.toString("latin1"), fin]);
    },
    control(frame) {
      seen.control.push(frame);
      return !hold;
    },
  });
  return { decoder: made, seen };
}

const controlFrame = (type: number, payload: Buffer, flags = 0, version = 3): Buffer =>
  Buffer.concat([
    Buffer.from([0x80, version, 0, type, flags, payload.length >> 16, (payload.length >> 8) & 0xff, payload.length & 0xff]),
    payload,
  ]);

const stream = Buffer.concat([
  controlFrame(1, Buffer.concat([numbers(1, 0), Buffer.from([0, 0]), Buffer.from("block")]), 1),
  dataHeader(1, 5, false),
  Buffer.from("hello"),
  ping(7),
  dataHeader(1, 0, true),
  rstStream(3, 5),
  controlFrame(4, numbers(1, 4, 65536)),
  controlFrame(9, numbers(1, 100)),
  controlFrame(7, numbers(9, 0)),
  controlFrame(99, Buffer.from("??")),
  dataHeader(5, 3, true),
  Buffer.from("end"),
]);

const expected: Seen = {
  data: [
    [1, "hello", true],
    [5, "end", true],
  ],
  control: [
    { kind: "syn-stream", streamId: 1, flags: 1, headerBlock: Buffer.from("block") },
    { kind: "ping", id: 7 },
    { kind: "rst-stream", streamId: 3, status: 5 },
    { kind: "settings", entries: new Map([[4, 65536]]) },
    { kind: "window-update", streamId: 1, delta: 100 },
    { kind: "goaway", lastStreamId: 9, status: 0 },
    { kind: "unknown", type: 99 },
  ],
};

describe("FrameDecoder", () => {
  it("reads the same however the bytes are cut", () => {
    for (let size = 1; size <= stream.length; size += 1) {
      const { decoder: made, seen } = decoder();
      for (let at = 0; at < stream.length; at += size) made.push(stream.subarray(at, at + size));
      expect(seen).toEqual(expected);
    }
  });

  it("holds everything behind a frame until it may go on", () => {
    const { decoder: made, seen } = decoder(true);
    for (let at = 0; at < stream.length; at += 3) made.push(stream.subarray(at, at + 3));
    expect(seen.control.length).toBe(1);
    expect(seen.data).toEqual([]);
    for (let i = 0; i < 7; i += 1) made.resume();
    expect(seen).toEqual(expected);
  });

  it("passes on what has come of a long data frame, and allocates for nothing that has not", () => {
    const { decoder: made, seen } = decoder();
    made.push(dataHeader(1, 0xff_ffff, true));
    made.push(Buffer.from("first"));
    made.push(Buffer.from(" second"));
    expect(seen.data).toEqual([[1, "first second", false]]);
  });

  it.each([
    ["a foreign version", controlFrame(6, numbers(1), 0, 2)],
    ["a control frame that is too long", controlFrame(1, Buffer.alloc(maxControlBytes + 1))],
    ["a short SYN_STREAM", controlFrame(1, Buffer.alloc(9))],
    ["a short RST_STREAM", controlFrame(3, Buffer.alloc(7))],
    ["a short PING", controlFrame(6, Buffer.alloc(3))],
    ["a short GOAWAY", controlFrame(7, Buffer.alloc(4))],
    ["a short WINDOW_UPDATE", controlFrame(9, Buffer.alloc(4))],
    ["a short SYN_REPLY", controlFrame(2, Buffer.alloc(3))],
    ["a short HEADERS", controlFrame(8, Buffer.alloc(0))],
    ["a short SETTINGS", controlFrame(4, Buffer.alloc(0))],
    ["SETTINGS that announce more than there is", controlFrame(4, numbers(0xffff_ffff, 1, 2))],
  ])("refuses %s", (_name, bytes) => {
    expect(() => decoder().decoder.push(bytes)).toThrow(SpdyError);
  });

  it("refuses an announced length before its bytes come", () => {
    expect(() => decoder().decoder.push(Buffer.from([0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]))).toThrow(SpdyError);
  });

  it("answers random bytes with a SpdyError at worst", () => {
    for (let round = 0; round < 3_000; round += 1) {
      const bytes = randomBytes(64 + (round % 64));
      if (round % 3 === 0) bytes.set([0x80, 3, 0, round % 12, 0, 0, 0, round % 30]);
      const { decoder: made } = decoder();
      try {
        made.push(bytes);
      } catch (error) {
        expect(error).toBeInstanceOf(SpdyError);
      }
    }
  });
});

function deflater(): (plain: Buffer) => Promise<Buffer> {
  const deflate = createDeflate({ dictionary: headerDictionary, flush: constants.Z_SYNC_FLUSH });
  let chunks: Buffer[] = [];
  deflate.on("data", (chunk: Buffer) => chunks.push(chunk));
  return (plain) =>
    new Promise((resolve) => {
      chunks = [];
      deflate.write(plain, () => resolve(Buffer.concat(chunks)));
    });
}

describe("headers", () => {
  it("has the dictionary of the protocol", () => {
    let [low, high] = [1, 0];
    for (const byte of headerDictionary) {
      low = (low + byte) % 65521;
      high = (high + low) % 65521;
    }
    expect([headerDictionary.length, high, low]).toEqual([1423, 0xe3c6, 0xa7c2]);
  });

  it("inflates many blocks of one compression", async () => {
    const deflate = deflater();
    const reader = new HeaderReader();
    for (let i = 0; i < 200; i += 1) {
      const headers = { streamtype: i % 2 ? "data" : "error", port: String(i), requestid: String(i >> 1) };
      expect(Object.fromEntries(await reader.read(await deflate(nameValues(headers))))).toEqual(headers);
    }
    reader.close();
  });

  it("lowers names, and takes the first of several values", async () => {
    const reader = new HeaderReader();
    const headers = await reader.read(await deflater()(nameValues({ StreamType: "error\0data" })));
    expect([...headers]).toEqual([["streamtype", "error"]]);
    reader.close();
  });

  it("stops a block that inflates to too much", async () => {
    const reader = new HeaderReader();
    const bomb = await deflater()(Buffer.alloc(8 << 20));
    expect(bomb.length).toBeLessThan(maxControlBytes);
    await expect(reader.read(bomb)).rejects.toThrow(`more than ${maxHeaderBytes}`);
    await expect(reader.read(bomb)).rejects.toThrow(SpdyError);
  });

  it.each([
    ["garbage", Buffer.from("this is not zlib")],
    ["another dictionary", deflateSync(nameValues({ a: "b" }), { dictionary: Buffer.from("other") })],
    ["no dictionary and cut headers", deflateSync(Buffer.from([0, 0, 0, 1, 0, 0]))],
    ["nothing", Buffer.alloc(0)],
  ])("refuses %s", async (_name, block) => {
    const reader = new HeaderReader();
    await expect(reader.read(block)).rejects.toThrow(SpdyError);
  });

  it.each([
    ["more headers than there are", numbers(3)],
    ["too many", numbers(65)],
    ["a name longer than the block", Buffer.concat([numbers(1, 0xffff_ffff), Buffer.from("a")])],
    ["an empty name", nameValues({ "": "x" })],
    ["a repeated name", Buffer.concat([numbers(2), nameValues({ a: "1" }).subarray(4), nameValues({ A: "2" }).subarray(4)])],
    ["bytes behind the last", Buffer.concat([nameValues({ a: "1" }), Buffer.from("x")])],
  ])("refuses %s", (_name, block) => {
    expect(() => parseHeaders(block)).toThrow(SpdyError);
  });

  it("writes blocks that an ordinary inflate reads", async () => {
    const inflate = createInflate({ dictionary: headerDictionary, flush: constants.Z_SYNC_FLUSH });
    const chunks: Buffer[] = [];
    inflate.on("data", (chunk: Buffer) => chunks.push(chunk));
    const writer = new HeaderWriter();
    const inputs: Record<string, string>[] = [{}, { a: "1", "status-text": "200 OK" }, {}];
    for (const headers of inputs) {
      const block = writer.write(new Map(Object.entries(headers)));
      // Without the empty block at its end, Go's inflate takes each block for a stream that was cut off.
      expect(block.subarray(-5)).toEqual(Buffer.from([0, 0, 0, 0xff, 0xff]));
      await new Promise<void>((resolve) => inflate.write(block, () => resolve()));
    }
    expect(Buffer.concat(chunks)).toEqual(Buffer.concat(inputs.map(nameValues)));
    inflate.destroy();
  });
});

describe("SpdyConnection", () => {
  it("survives whatever comes: an end, and nothing thrown", async () => {
    const deflate = await deflater()(nameValues({ streamtype: "error" }));
    for (let round = 0; round < 300; round += 1) {
      const transport = new PassThrough();
      const sent = new PassThrough();
      transport.write = ((bytes: Buffer) => sent.write(bytes)) as typeof transport.write;
      const closed: number[] = [];
      new SpdyConnection(transport, Buffer.alloc(0), { opened: () => round % 2 === 0, closed: () => closed.push(round) });
      const valid = controlFrame(1, Buffer.concat([numbers(1, 0), Buffer.from([0, 0]), deflate]));
      const bytes = Buffer.concat([valid, dataHeader(1, 20, false), randomBytes(20), ping(1), randomBytes(40)]);
      for (let i = 0; i < round % 5; i += 1) bytes[(round * 7 + i * 13) % bytes.length] = round & 0xff;
      transport.push(bytes);
      transport.push(null);
      await new Promise((resolve) => setImmediate(resolve));
      await new Promise<void>((resolve) => {
        const look = (): void => {
          if (closed.length === 1) resolve();
          else setTimeout(look, 1);
        };
        look();
      });
    }
  }, 30_000);
});
