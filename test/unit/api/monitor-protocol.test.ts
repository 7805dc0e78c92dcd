import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import * as generator from "../../../api/monitor/generate.mjs";
import {
  decode,
  encode,
  type Failed,
  type MessageName,
  maxFrameBytes,
  messageTypes,
  ProtocolError,
} from "../../../build/generated/monitor/protocol.ts";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");

const failed: Failed = { errno: -2, step: "a", syscall: "", path: "é", detail: "" };

describe("the generated monitor protocol", () => {
  it("is what the schema makes now", async () => {
    const schema = await generator.loadSchema();
    generator.checkSchema(schema);
    const at = (name: string): string => readFileSync(new URL(`../../../build/generated/monitor/${name}`, import.meta.url), "utf8");
    expect(generator.typescript(schema)).toBe(at("protocol.ts"));
    expect(generator.cpp(schema)).toBe(at("protocol.h"));
  });

  // The same bytes as in test/native/protocol/protocol_test.cc.
  it("writes the agreed bytes", () => {
    expect(hex(encode("failed", 0x01020304, failed))).toBe("0500010004030201feffffff010000006100000000" + "02000000c3a9" + "00000000");
    const state = {
      phase: 2,
      pid: 0xfffffffe,
      startTime: "18446744073709551615",
      startedAtNs: "-1",
      runningExecs: 3,
      attachedClients: 0,
      logBytes: "1",
      logDroppedBytes: "0",
    };
    const bytes = encode("state", 7, state);
    expect(hex(bytes)).toBe(`0f0001000700000002feffffff${"ff".repeat(16)}03000000000000000100000000000000${"00".repeat(8)}`);
    expect(decode(bytes)).toEqual({ name: "state", version: 1, requestId: 7, body: state });
  });

  it("reads every message that it writes", async () => {
    const { messages } = await generator.loadSchema();
    const sample = {
      u8: 200,
      u16: 60000,
      u32: 4e9,
      i32: -5,
      u64: "9007199254740993",
      i64: "-9007199254740993",
      bool: true,
      string: "tëxt",
    };
    for (const [name, message] of Object.entries(messages)) {
      const body = Object.fromEntries(
        message.fields.map((field) => [
          field.name,
          field.type === "bytes" ? new Uint8Array([0, 1]) : sample[field.type as keyof typeof sample],
        ]),
      );
      const back = decode(encode(name as MessageName, 9, body as never));
      expect(back).toEqual({ name, version: 1, requestId: 9, body });
      expect(messageTypes[name as MessageName]).toBe(message.type);
    }
  });

  it("reads older and newer frames", () => {
    const bytes = encode("resize", 1, { execId: 5, columns: 6, rows: 7 });
    expect(decode(Buffer.concat([bytes, Buffer.from("more")])).body).toEqual({ execId: 5, columns: 6, rows: 7 });
    expect(decode(bytes.subarray(0, -2)).body).toEqual({ execId: 5, columns: 6, rows: 0 });
    expect(() => decode(bytes.subarray(0, -1))).toThrow(/resize\.rows/);
    const strings = encode("failed", 1, failed);
    expect(decode(strings.subarray(0, 12)).body).toEqual({ errno: -2, step: "", syscall: "", path: "", detail: "" });
  });

  it("refuses values that a field cannot hold, and names it", () => {
    expect(() => encode("signal", 1, { number: -1, execId: 0 })).toThrow("signal.number");
    expect(() => encode("signal", 1, { number: 1.5, execId: 0 })).toThrow("signal.number");
    expect(() => encode("resize", 1, { execId: 0, columns: 65536, rows: 1 })).toThrow("resize.columns");
    expect(() => encode("failed", 1, { ...failed, step: "a\0b" })).toThrow("failed.step");
    expect(() => encode("failed", 1, { ...failed, path: "x".repeat(maxFrameBytes) })).toThrow(RangeError);
    expect(() => encode("started", 1, { startedAtNs: "9223372036854775808" })).toThrow("started.startedAtNs");
    expect(() => encode("started", 1, { startedAtNs: "1.5" })).toThrow("started.startedAtNs");
    expect(() => encode("start", -1, {})).toThrow("requestId");
  });

  it("refuses what is no frame, with what can be said of it", () => {
    expect(() => decode(new Uint8Array(7))).toThrow(ProtocolError);
    const unknown = Buffer.from("e703010005000000", "hex");
    expect(() => decode(unknown)).toThrow(expect.objectContaining({ type: 999, requestId: 5 }));
    const lying = Buffer.from(encode("failed", 3, failed));
    lying.writeUInt32LE(0xffffffff, 12);
    expect(() => decode(lying)).toThrow(expect.objectContaining({ type: 5, requestId: 3 }));
  });

  it("answers noise with ProtocolError alone", () => {
    let seed = 20240229;
    const next = (): number => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return seed >>> 24;
    };
    for (let round = 0; round < 20_000; round++) {
      const frame = Uint8Array.from({ length: next() % 64 }, () => (next() % 4 === 0 ? next() : next() % 20));
      if (frame.length > 1) frame[1] = 0;
      try {
        decode(frame);
      } catch (error) {
        if (!(error instanceof ProtocolError)) throw error;
      }
    }
  });

  it("does not view the sender's buffer", () => {
    const bytes = encode("failed", 1, failed);
    const shifted = new Uint8Array(Buffer.concat([Buffer.alloc(3), bytes])).subarray(3);
    expect(decode(shifted).body).toEqual(failed);
  });
});

describe("the schema check", () => {
  const base = { protocolVersion: 1, maxFrameBytes: 65536 };
  const field = (name: string, type: string) => ({ name, type, doc: "" });
  it.each([
    ["two messages of one type", { a: { type: 1, doc: "", fields: [] }, b: { type: 1, doc: "", fields: [] } }],
    ["a field twice", { a: { type: 1, doc: "", fields: [field("x", "u8"), field("x", "u8")] } }],
    ["an unknown field type", { a: { type: 1, doc: "", fields: [field("x", "u128")] } }],
    ["a type outside 16 bits", { a: { type: 65536, doc: "", fields: [] } }],
    ["a name that is no identifier", { "a-b": { type: 1, doc: "", fields: [] } }],
  ])("refuses %s", (_, messages) => {
    expect(() => generator.checkSchema({ ...base, messages })).toThrow(/schema/);
  });
});
