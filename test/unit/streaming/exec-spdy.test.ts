import { createHash, randomBytes } from "node:crypto";
import { PassThrough, Readable } from "node:stream";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { CommandStatus } from "../../../src/streaming/session.ts";
import { type ClientStream, SpdyClient, spdyHeaders, upgrade } from "../../support/spdy-client.ts";
import { everything, type Rig, startRig, until } from "./rig.ts";

const v4 = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

interface Streams {
  readonly client: SpdyClient;
  readonly error: ClientStream;
  readonly stdin: ClientStream;
  readonly stdout: ClientStream;
  readonly stderr: ClientStream;
}

async function connect(
  url: string,
  protocols: readonly string[] = v4,
  terminal = false,
): Promise<Streams & { resize: ClientStream | null }> {
  const client = await SpdyClient.connect(url, protocols);
  const open = (streamtype: string): Promise<ClientStream> => client.open({ streamtype });
  const error = await open("error");
  const stdin = await open("stdin");
  const stdout = await open("stdout");
  if (terminal) return { client, error, stdin, stdout, stderr: stdout, resize: await open("resize") };
  return { client, error, stdin, stdout, stderr: await open("stderr"), resize: null };
}

const status = async (error: ClientStream): Promise<unknown> => JSON.parse((await error.whole()).toString());
const shell = (script: string): string[] => ["/bin/sh", "-c", script];

describe("exec over SPDY", () => {
  let rig: Rig;
  beforeEach(async () => {
    rig = await startRig();
  });
  afterEach(() => rig.stop());

  it("carries stdin, both outputs and success", async () => {
    const { client, error, stdin, stdout, stderr } = await connect(rig.exec(shell("cat; echo problem >&2")));
    stdin.write("one ");
    stdin.write("two");
    stdin.end();
    expect((await stdout.whole()).toString()).toBe("one two");
    expect((await stderr.whole()).toString()).toBe("problem\n");
    expect(await status(error)).toEqual({ metadata: {}, status: "Success" });
    await client.whenClosed();
    expect(client.goneAway).toBe(true);
    expect(stdin.finished && stdout.finished && stderr.finished && error.finished).toBe(true);
    expect(client.replies.size).toBe(4);
    await rig.allReleased();
  });

  it("tells the exit code in v4", async () => {
    const { error } = await connect(rig.exec(shell("exit 42")));
    expect(await status(error)).toEqual({
      metadata: {},
      status: "Failure",
      message: "command terminated with non-zero exit code: exit code 42",
      reason: "NonZeroExitCode",
      details: { causes: [{ reason: "ExitCode", message: "42" }] },
    });
  });

  it("tells what kept the command from running", async () => {
    const { error } = await connect(rig.exec(["/no/such/program"]));
    expect(await status(error)).toMatchObject({ status: "Failure", reason: "InternalError", code: 500 });
  });

  it.each(["v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"])(
    "speaks %s: text on failure, nothing on success",
    async (protocol) => {
      const { response, socket } = await upgrade(rig.exec(shell("true")), { headers: spdyHeaders(protocol) });
      expect(response.headers.get("x-stream-protocol-version")).toBe(protocol);
      socket.destroy();
      const failed = await connect(rig.exec(shell("echo out; exit 3")), [protocol]);
      expect((await failed.error.whole()).toString()).toBe("command terminated with non-zero exit code: exit code 3");
      expect(failed.stdout.text).toBe("out\n");
      const fine = await connect(rig.exec(shell("true")), [protocol]);
      expect((await fine.error.whole()).toString()).toBe("");
    },
  );

  it("answers without a version to a client that offers none, and speaks v1", async () => {
    const client = await SpdyClient.connect(rig.exec(shell("exit 1"), { stdin: false }), []);
    const error = await client.open({ streamtype: "error" });
    await client.open({ streamtype: "stdout" });
    await client.open({ streamtype: "stderr" });
    expect((await error.whole()).toString()).toContain("exit code 1");
  });

  it("takes the client's first offer that it knows, joined or repeated, and no v5", async () => {
    const offers = ["v5.channel.k8s.io, v9.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"];
    const { response, socket } = await upgrade(rig.exec(["true"]), { headers: spdyHeaders(...offers) });
    expect(response.headers.get("x-stream-protocol-version")).toBe("v4.channel.k8s.io");
    socket.destroy();
  });

  it("refuses protocols that it does not know", async () => {
    const { response } = await upgrade(rig.exec(["true"]), { headers: spdyHeaders("v9.channel.k8s.io") });
    expect(response.status).toBe(403);
    expect(response.headers.get("x-accepted-stream-protocol-versions")).toContain("v4.channel.k8s.io");
    await rig.allReleased();
  });

  it("passes sizes of the terminal on, cut and joined as they come", async () => {
    const { resize, stdin, stdout, error } = await connect(rig.exec(["cat"], { terminal: true, stderr: false }), v4, true);
    stdin.write("x");
    await stdout.until(() => stdout.text === "x");
    resize?.write('{"Width":80,"Height":24}\n{"Width":1');
    resize?.write('20,"Height":40}\n{"Width":0,"Height":5}\n{"nonsense"}{"Width":3,"Height":4}');
    await until(() => rig.sizes.length === 3, "three sizes");
    expect(rig.sizes).toEqual([
      { columns: 80, rows: 24 },
      { columns: 120, rows: 40 },
      { columns: 3, rows: 4 },
    ]);
    stdin.end();
    rig.processes[0]?.kill();
    await error.whole();
  });

  it("passes the last size on that came before the command ran", async () => {
    let begin: () => void = () => undefined;
    const started = new Promise<void>((resolve) => {
      begin = resolve;
    });
    const start = async () => {
      await started;
      return { stdin: null, stdout: new PassThrough(), stderr: null, ended: new Promise<CommandStatus>(() => undefined) };
    };
    const url = rig.command({ kind: "exec", command: [], start, wanted: { ...everything, terminal: true, stderr: false } });
    const { resize, client } = await connect(url, v4, true);
    resize?.write('{"Width":80,"Height":24}{"Width":90,"Height":34}');
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(rig.sizes).toEqual([]);
    begin();
    await until(() => rig.sizes.length === 1, "a size");
    expect(rig.sizes).toEqual([{ columns: 90, rows: 34 }]);
    client.destroy();
  });

  it("does not end a terminal's input when the client does", async () => {
    const { stdin, stdout } = await connect(rig.exec(["cat"], { terminal: true, stderr: false }), v4, true);
    stdin.write("typed");
    stdin.end();
    await stdout.until(() => stdout.text === "typed");
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(rig.processes[0]?.exitCode).toBe(null);
  });

  it("brings what was sent before the command ran", async () => {
    const client = await SpdyClient.connect(rig.exec(["cat"], { stderr: false }), v4);
    const stdin = await client.open({ streamtype: "stdin" });
    stdin.write("early");
    stdin.end();
    const stdout = await client.open({ streamtype: "stdout" });
    const error = await client.open({ streamtype: "error" }, { fin: true });
    expect((await stdout.whole()).toString()).toBe("early");
    expect(await status(error)).toMatchObject({ status: "Success" });
  });

  it("carries 48 MiB through stdin to stdout byte for byte", async () => {
    const { stdin, stdout, error } = await connect(rig.exec(["cat"]));
    const sent = createHash("sha256");
    const received = createHash("sha256");
    stdout.keep = false;
    stdout.onBytes = (bytes) => void received.update(bytes);
    const piece = randomBytes((1 << 20) - 3);
    for (let i = 0; i < 48; i += 1) {
      sent.update(piece);
      stdin.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
    }
    stdin.end();
    expect(await status(error)).toMatchObject({ status: "Success" });
    await stdout.whole();
    expect(stdout.bytes).toBe(48 * ((1 << 20) - 3));
    expect(received.digest("hex")).toBe(sent.digest("hex"));
  });

  it("needs no WINDOW_UPDATE, and ignores those it gets", async () => {
    const { client, stdout, error } = await connect(rig.exec(["head", "-c", "1000000", "/dev/zero"]));
    client.sendControl(9, 0, Buffer.from([0, 0, 0, 5, 0, 0, 0, 1]));
    client.sendControl(4, 0, Buffer.from([0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 1]));
    client.sendControl(77, 0, Buffer.from("of another time"));
    expect((await stdout.whole()).length).toBe(1_000_000);
    expect(await status(error)).toMatchObject({ status: "Success" });
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
    const url = rig.command({ kind: "exec", command: [], start, wanted: { ...everything, stdin: false, stderr: false } });
    const client = await SpdyClient.connect(url, v4);
    const error = await client.open({ streamtype: "error" });
    const out = await client.open({ streamtype: "stdout" });
    out.keep = false;
    await out.until(() => out.bytes > 0);
    client.carrier.pause();
    await new Promise((resolve) => setTimeout(resolve, 300));
    const before = produced;
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(produced).toBe(before);
    // Half a MiB here; the rest is what the kernel keeps for the two sockets.
    expect(produced - out.bytes).toBeLessThan(16 << 20);
    client.carrier.resume();
    expect(await status(error)).toMatchObject({ status: "Success" });
    await out.whole();
    expect(out.bytes).toBe(size);
  });

  it("reads no more than the command does, and sees the client leave all the same", async () => {
    const { client, stdin } = await connect(rig.exec(["sleep", "1000"]));
    for (let i = 0; i < 320; i += 1) stdin.write(Buffer.alloc(65_536));
    const { socket } = client;
    const kernelHas = (): number => (socket?.bytesWritten ?? 0) - (socket?.writableLength ?? 0);
    await new Promise((resolve) => setTimeout(resolve, 300));
    const before = kernelHas();
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(kernelHas()).toBe(before);
    expect(socket?.writableLength).toBeGreaterThan(4 << 20);
    client.destroy();
    await rig.allReleased();
  }, 20_000);

  it("answers pings, also many at once, and not its own", async () => {
    const { client } = await connect(rig.exec(["cat"]));
    for (let id = 1; id < 100; id += 2) client.ping(id);
    client.ping(2);
    await until(() => client.pings.length === 50, "50 pings");
    expect(client.pings).toEqual(Array.from({ length: 50 }, (_, index) => 2 * index + 1));
    client.destroy();
  });

  it("ends stdin, and not the command, when the client leaves", async () => {
    const { client, stdout } = await connect(rig.exec(shell("echo ready; cat >/dev/null; sleep 0.2; exit 7")));
    await stdout.until(() => stdout.text === "ready\n");
    const [child] = rig.processes;
    client.destroy();
    await rig.allReleased();
    expect(child?.exitCode).toBe(null);
    await until(() => child?.exitCode === 7, "the command's own end");
  });

  it("ends the writer of an output that nobody reads any more", async () => {
    const { client, stdout } = await connect(rig.exec(["yes"]));
    await stdout.until(() => stdout.bytes > 1000);
    client.destroy();
    const [child] = rig.processes;
    await until(() => child?.signalCode === "SIGPIPE" || child?.exitCode === 1, "the end of yes");
  });

  it("does not wait for what the command has left behind", async () => {
    const { stdout, error } = await connect(rig.exec(shell("sleep 1000 & echo $!")));
    expect(await status(error)).toMatchObject({ status: "Success" });
    process.kill(Number(stdout.text));
  });

  it("does not wait for a left-behind writer that never stops", async () => {
    const { stdout, error } = await connect(rig.exec(shell("yes & echo $! >&2")));
    stdout.keep = false;
    expect(await status(error)).toMatchObject({ status: "Success" });
  });

  it("brings all that was written before the end to a slow client", async () => {
    const { client, stdout, error } = await connect(rig.exec(shell("head -c 900000 /dev/zero; echo end")));
    client.carrier.pause();
    await until(() => rig.processes[0]?.exitCode !== null || rig.processes[0]?.killed === true, "the end of the command", 2_000).catch(
      () => undefined,
    );
    await new Promise((resolve) => setTimeout(resolve, 700));
    client.carrier.resume();
    expect((await stdout.whole()).length).toBe(900_004);
    expect(await status(error)).toMatchObject({ status: "Success" });
  });

  it("drops the output of a stream that the client has reset, and goes on with the other", async () => {
    const { stdout, stderr, error } = await connect(rig.exec(shell("sleep 0.1; head -c 5000000 /dev/zero; echo done >&2")));
    stdout.abort();
    expect((await stderr.whole()).toString()).toBe("done\n");
    expect(await status(error)).toMatchObject({ status: "Success" });
  });

  it("refuses streams that nobody asked for", async () => {
    const { client, stdin, error } = await connect(rig.exec(["cat"]));
    const again = await client.open({ streamtype: "stdout" });
    const unknown = await client.open({ streamtype: "video" });
    const none = await client.open({});
    for (const stream of [again, unknown, none]) {
      await stream.whole();
      expect(stream.wasReset).toBe(3);
    }
    stdin.end();
    expect(await status(error)).toMatchObject({ status: "Success" });
  });

  it("runs many at once", async () => {
    const all = await Promise.all(
      Array.from({ length: 30 }, async (_, index) => {
        const { stdin, stdout, error } = await connect(rig.exec(shell(`cat; exit ${index}`)));
        stdin.write(`command ${index}`);
        stdin.end();
        await error.whole();
        return [stdout.text, error.text.includes(`"message":"${index}"`)];
      }),
    );
    expect(all).toEqual(all.map((_, index) => [`command ${index}`, index !== 0]));
    await rig.allReleased();
  }, 30_000);

  it("ends every stream with a reason when it stops", async () => {
    const { error, client } = await connect(rig.exec(["sleep", "1000"]));
    await until(() => rig.processes.length === 1, "the command");
    await rig.server.stop("the runtime is stopping", 1_000);
    expect(await status(error)).toMatchObject({ status: "Failure", details: { causes: [{ message: "the runtime is stopping" }] } });
    expect(client.closed).toBe(true);
    expect(rig.open.size).toBe(0);
  });

  it("cuts a client off that does not read when it stops", async () => {
    const { client, stdout } = await connect(rig.exec(["yes"]));
    client.carrier.pause();
    await until(() => stdout.bytes >= 0 && rig.processes.length === 1, "the command");
    await new Promise((resolve) => setTimeout(resolve, 200));
    const begun = performance.now();
    await rig.server.stop("the runtime is stopping", 300);
    expect(performance.now() - begun).toBeLessThan(2_000);
    client.destroy();
  });
});

describe("stream creation over SPDY", () => {
  it("ends where the client does not open its streams, and starts nothing", async () => {
    const rig = await startRig({ creationTimeoutMs: 150 });
    const client = await SpdyClient.connect(rig.exec(["cat"]), v4);
    await client.open({ streamtype: "error" });
    await client.whenClosed();
    await rig.allReleased();
    expect(rig.starts).toBe(0);
    expect(rig.logs.map(({ fields }) => String(fields["err"]))).toEqual([expect.stringContaining("stdin, stdout, stderr")]);
    await rig.stop();
  });

  it("ends a stream without traffic", async () => {
    const rig = await startRig({ idleTimeoutMs: 200 });
    const { client } = await connect(rig.exec(["sleep", "1000"]));
    await client.whenClosed();
    await rig.allReleased();
    await rig.stop();
  });
});

describe("attach over SPDY", () => {
  let rig: Rig;
  beforeEach(async () => {
    rig = await startRig();
  });
  afterEach(() => rig.stop());

  it("ends with success when the container does", async () => {
    const stdout = new PassThrough();
    let end: (status: CommandStatus) => void = () => undefined;
    const ended = new Promise<CommandStatus>((resolve) => {
      end = resolve;
    });
    const url = rig.attach(() => Promise.resolve({ stdin: null, stdout, stderr: null, ended }), { stdin: false, stderr: false });
    const client = await SpdyClient.connect(url, v4);
    const error = await client.open({ streamtype: "error" });
    const out = await client.open({ streamtype: "stdout" });
    stdout.write("hello");
    await out.until(() => out.text === "hello");
    stdout.end();
    end({ kind: "success" });
    expect(await status(error)).toEqual({ metadata: {}, status: "Success" });
  });

  it("ends by itself where the container closes its output", async () => {
    const stdout = new PassThrough();
    const url = rig.attach(() => Promise.resolve({ stdin: null, stdout, stderr: null, ended: new Promise(() => undefined) }), {
      stdin: false,
      stderr: false,
    });
    const client = await SpdyClient.connect(url, v4);
    const error = await client.open({ streamtype: "error" });
    await client.open({ streamtype: "stdout" });
    stdout.end("last");
    expect(await status(error)).toEqual({ metadata: {}, status: "Success" });
  });
});
