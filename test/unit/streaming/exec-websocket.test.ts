import { createHash, randomBytes } from "node:crypto";
import { Readable } from "node:stream";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import type { CommandStatus } from "../../../src/streaming/session.ts";
import { everything, type Rig, startRig, until } from "./rig.ts";

const shell = (script: string): string[] => ["/bin/sh", "-c", script];

/** A client that keeps what comes, by channel. */
class Client {
  readonly socket: WebSocket;
  readonly #base64: boolean;
  readonly messages: [number, Buffer][] = [];
  readonly bytes = [0, 0, 0, 0, 0];
  keep = true;
  onBytes: (channel: number, bytes: Buffer) => void = () => undefined;
  pongs = 0;
  readonly closed: Promise<number>;

  constructor(url: string, protocol: string | string[]) {
    this.#base64 = protocol.includes("base64");
    this.socket = new WebSocket(url.replace("http", "ws"), protocol === "" ? [] : protocol);
    this.socket.on("pong", () => {
      this.pongs += 1;
    });
    this.socket.on("message", (data: Buffer, isBinary) => {
      expect(isBinary).toBe(!this.#base64);
      const channel = isBinary ? (data[0] ?? -1) : (data[0] ?? 0) - 0x30;
      const bytes = isBinary ? data.subarray(1) : Buffer.from(data.toString("latin1", 1), "base64");
      this.bytes[channel] = (this.bytes[channel] ?? 0) + bytes.length;
      this.onBytes(channel, bytes);
      if (this.keep) this.messages.push([channel, bytes]);
    });
    this.closed = new Promise((resolve) => this.socket.on("close", (code) => resolve(code)));
    this.socket.on("error", () => undefined);
  }

  opened(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.socket.on("open", () => resolve());
      this.socket.on("error", reject);
    });
  }

  of(channel: number): string {
    return Buffer.concat(this.messages.filter(([from]) => from === channel).map(([, bytes]) => bytes)).toString();
  }

  send(channel: number, bytes: Buffer | string): void {
    if (this.#base64) this.socket.send(`${channel}${Buffer.from(bytes).toString("base64")}`);
    else this.socket.send(Buffer.concat([Buffer.from([channel]), Buffer.from(bytes)]));
  }

  endStdin(): void {
    this.socket.send(Buffer.from([255, 0]));
  }
}

describe("exec over WebSocket", () => {
  let rig: Rig;
  beforeEach(async () => {
    rig = await startRig();
  });
  afterEach(() => rig.stop());

  it("carries stdin with its half-close, both outputs and the status in v5", async () => {
    const client = new Client(rig.exec(shell("cat; echo problem >&2; exit 9")), "v5.channel.k8s.io");
    await client.opened();
    expect(client.socket.protocol).toBe("v5.channel.k8s.io");
    client.send(0, "one ");
    client.send(0, "two");
    client.endStdin();
    expect(await client.closed).toBe(1000);
    expect([client.of(1), client.of(2)]).toEqual(["one two", "problem\n"]);
    expect(JSON.parse(client.of(3))).toMatchObject({ status: "Failure", details: { causes: [{ reason: "ExitCode", message: "9" }] } });
    await rig.allReleased();
  });

  it("opens with an empty message on the lowest channel that the client reads", async () => {
    const first = async (wanted: object): Promise<unknown> => {
      const client = new Client(rig.exec(["true"], wanted), "v5.channel.k8s.io");
      await client.closed;
      return client.messages[0];
    };
    expect(await first({})).toEqual([1, Buffer.alloc(0)]);
    expect(await first({ stdout: false })).toEqual([2, Buffer.alloc(0)]);
    expect(await first({ stdout: false, stderr: false })).toEqual([3, Buffer.alloc(0)]);
  });

  it("takes v4 where it is offered first, and knows no half-close there", async () => {
    const client = new Client(rig.exec(["head", "-c", "4"]), ["v4.channel.k8s.io", "v5.channel.k8s.io"]);
    await client.opened();
    expect(client.socket.protocol).toBe("v4.channel.k8s.io");
    client.endStdin();
    client.send(0, "abcd");
    await client.closed;
    expect(client.of(1)).toBe("abcd");
    expect(JSON.parse(client.of(3))).toMatchObject({ status: "Success" });
  });

  it.each(["channel.k8s.io", "base64.channel.k8s.io", "v4.base64.channel.k8s.io", ""])("speaks %j", async (protocol) => {
    const client = new Client(rig.exec(shell("head -c 5; exit 2")), protocol);
    await client.opened();
    client.send(0, "hello");
    await client.closed;
    expect(client.of(1)).toBe("hello");
    const status = client.of(3);
    if (protocol.startsWith("v4")) expect(JSON.parse(status)).toMatchObject({ reason: "NonZeroExitCode" });
    else expect(status).toBe("command terminated with non-zero exit code: exit code 2");
  });

  it("passes sizes of the terminal on", async () => {
    const client = new Client(rig.exec(["cat"], { terminal: true, stderr: false }), "v5.channel.k8s.io");
    await client.opened();
    client.send(4, '{"Width":100,"Height":50}');
    await until(() => rig.sizes.length === 1, "a size");
    expect(rig.sizes).toEqual([{ columns: 100, rows: 50 }]);
    client.socket.terminate();
  });

  it("carries 24 MiB through stdin to stdout byte for byte", async () => {
    const client = new Client(rig.exec(["cat"]), "v5.channel.k8s.io");
    await client.opened();
    const [sent, received] = [createHash("sha256"), createHash("sha256")];
    client.keep = false;
    client.onBytes = (channel, bytes) => void (channel === 1 && received.update(bytes));
    const piece = randomBytes((1 << 19) + 1);
    for (let i = 0; i < 48; i += 1) {
      sent.update(piece);
      client.send(0, piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    client.endStdin();
    expect(await client.closed).toBe(1000);
    expect(client.bytes[1]).toBe(48 * ((1 << 19) + 1));
    expect(received.digest("hex")).toBe(sent.digest("hex"));
  });

  it("takes a bounded part of the output for a client that does not read, then delivers all", async () => {
    const size = 64 << 20;
    let produced = 0;
    const stdout = new Readable({
      read() {
        const bytes = Math.min(65_536, size - produced);
        produced += bytes;
        this.push(bytes === 0 ? null : Buffer.alloc(bytes));
      },
    });
    const ended = new Promise<CommandStatus>((end) => stdout.on("end", () => end({ kind: "exited", exitCode: 0 })));
    const start = () => Promise.resolve({ stdin: null, stdout, stderr: null, ended });
    const client = new Client(
      rig.command({ kind: "exec", command: [], start, wanted: { ...everything, stdin: false, stderr: false } }),
      "v5.channel.k8s.io",
    );
    client.keep = false;
    await client.opened();
    client.socket.pause();
    await new Promise((resolve) => setTimeout(resolve, 300));
    const before = produced;
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(produced).toBe(before);
    expect(produced - (client.bytes[1] ?? 0)).toBeLessThan(16 << 20);
    client.socket.resume();
    expect(await client.closed).toBe(1000);
    expect(client.bytes[1]).toBe(size);
  });

  it("sends a status after output that a slow client has not read for long", async () => {
    const client = new Client(rig.exec(shell("head -c 900000 /dev/zero; exit 4")), "v5.channel.k8s.io");
    await client.opened();
    client.socket.pause();
    await new Promise((resolve) => setTimeout(resolve, 800));
    client.socket.resume();
    await client.closed;
    expect(client.of(1).length).toBe(900_000);
    expect(client.of(3)).toContain('"4"');
  });

  it("keeps the client's watch content while the command does not read, and sees it leave", async () => {
    const client = new Client(rig.exec(["sleep", "1000"]), "v5.channel.k8s.io");
    await client.opened();
    for (let i = 0; i < 320; i += 1) client.send(0, Buffer.alloc(65_536));
    await until(() => client.pongs > 0, "a pong", 9_000);
    expect(client.socket.bufferedAmount).toBeGreaterThan(4 << 20);
    client.socket.terminate();
    await rig.allReleased();
  }, 25_000);

  it("ends stdin when the client leaves", async () => {
    const client = new Client(rig.exec(shell("cat >/dev/null; exit 6")), "v5.channel.k8s.io");
    await client.opened();
    await until(() => rig.processes.length === 1, "the command");
    client.socket.terminate();
    await until(() => rig.processes[0]?.exitCode === 6, "the command's end");
    await rig.allReleased();
  });

  it.each([
    ["nothing at all", Buffer.alloc(0)],
    ["an output's channel", Buffer.from([1, 65])],
    ["an unknown channel", Buffer.from([9, 65])],
    ["a half-close of nothing", Buffer.from([255])],
    ["a half-close of an output", Buffer.from([255, 1])],
    ["a size without a terminal", Buffer.from("\x04{}")],
  ])("ignores %s", async (_name, message) => {
    const client = new Client(rig.exec(["cat"]), "v5.channel.k8s.io");
    await client.opened();
    client.socket.send(message);
    client.send(0, "fine");
    client.endStdin();
    client.endStdin();
    await client.closed;
    expect(client.of(1)).toBe("fine");
  });

  it("ends the connection over a frame that is none", async () => {
    const client = new Client(rig.exec(["cat"]), "v5.channel.k8s.io");
    await client.opened();
    (client.socket as unknown as { _socket: { write(bytes: Buffer): void } })._socket.write(Buffer.from([0xff, 0xff, 0xff, 0xff]));
    expect(await client.closed).toBe(1002);
    await rig.allReleased();
  });

  it("tells why it ends when it stops", async () => {
    const client = new Client(rig.exec(["sleep", "1000"]), "v5.channel.k8s.io");
    await client.opened();
    await until(() => rig.processes.length === 1, "the command");
    await rig.server.stop("the runtime is stopping", 1_000);
    await client.closed;
    expect(client.of(3)).toContain("the runtime is stopping");
  });
});
