/** Monitor connections and pipe collectors, against a stand-in that echoes. */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { SystemError } from "../../../src/base/errors.ts";
import type { FdHandle, MonitorConnection, MonitorSpawn } from "../../../src/kernel/contract.ts";

const echo = process.env["BERTH_ECHO_MONITOR"] ?? fileURLToPath(new URL("../../../build/native-build/bin/echo-monitor", import.meta.url));
const original = process.env["BERTH_NATIVE_DIR"] ?? fileURLToPath(new URL("../../../build/native", import.meta.url));

// The addon takes hold of its programs when it is loaded: they are laid out before that.
const programs = mkdtempSync(join(tmpdir(), "berth-native-programs-"));
symlinkSync(join(original, "berth.node"), join(programs, "berth.node"));
if (existsSync(echo)) copyFileSync(echo, join(programs, "berth-monitor"));
afterAll(() => rmSync(programs, { recursive: true, force: true }));
process.env["BERTH_NATIVE_DIR"] = programs;
const { collectGarbage, eventually, failure, kernel, openDescriptors, shell, temporaryDirectory } = await import("./rig.ts");

const directory = temporaryDirectory();
const deep = join(directory, "a-long-directory-name-".repeat(4), "another-long-directory-name-".repeat(4));
mkdirSync(deep, { recursive: true });
const running: MonitorSpawn[] = [];

afterEach(async () => {
  for (const { process: child, connection } of running.splice(0)) {
    connection.close();
    child.signal(9);
    await child.exited();
    child.close();
  }
});

let counter = 0;
async function spawn(): Promise<MonitorSpawn & { readonly socketName: string }> {
  counter += 1;
  const socketName = `m${counter}.sock`;
  const spawned = await kernel.spawnMonitor({ socketDirectory: deep, socketName, cgroup: null, oomScoreAdj: 0 });
  running.push(spawned);
  return { ...spawned, socketName };
}

interface Heard {
  readonly frames: { readonly text: string; readonly handles: readonly FdHandle[] }[];
  closed: number;
}

function listen(connection: MonitorConnection): Heard {
  const heard: Heard = { frames: [], closed: 0 };
  connection.onClose(() => {
    heard.closed += 1;
  });
  connection.onFrame((frame, handles) => heard.frames.push({ text: Buffer.from(frame).toString(), handles }));
  return heard;
}

describe.skipIf(!existsSync(echo))("connections (skipped where the echo monitor is not built)", () => {
  test("frames come back in order, and descriptors with them", async () => {
    const { connection } = await spawn();
    const heard = listen(connection);
    const pipe = kernel.collectPipe({ maxBytes: 100 });
    expect(connection.send(Buffer.from("echo one"), [])).toBe(true);
    expect(connection.send(Buffer.from("echo two"), [pipe.writeEnd, kernel.openNull()])).toBe(true);
    await eventually(() => heard.frames.length === 2, "two frames");
    expect(heard.frames.map(({ text }) => text)).toEqual(["echo one", "echo two"]);
    expect(heard.frames[0]?.handles).toEqual([]);
    const [returned, nothing] = heard.frames[1]?.handles ?? [];
    expect(returned?.number).toBeGreaterThan(2);
    // What came back is the pipe's write end: once all its copies are closed, the collector is at its end.
    pipe.writeEnd.close();
    returned?.close();
    nothing?.close();
    expect(await pipe.result).toEqual({ data: Buffer.alloc(0), truncated: false });
  });

  test("a burst of thousands arrives whole and in order", async () => {
    const { connection } = await spawn();
    const heard = listen(connection);
    connection.send(Buffer.from("burst 5000"), []);
    await eventually(() => heard.frames.length === 5000, "all frames");
    expect(heard.frames.every(({ text }, i) => text === `${i}`)).toBe(true);
  });

  test("what was sent before the peer closed arrives before the end does, however slowly it is taken", async () => {
    const { connection } = await spawn();
    const seen: string[] = [];
    connection.onClose(() => seen.push("end"));
    connection.onFrame((frame) => {
      seen.push(Buffer.from(frame).toString());
      // Long enough for the backlog to fill up behind it.
      if (seen.length % 100 === 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    });
    connection.send(Buffer.from("burst 2000"), []);
    connection.send(Buffer.from("close"), []);
    await eventually(() => seen.at(-1) === "end", "the end");
    expect(seen).toEqual([...Array.from({ length: 2000 }, (_, i) => `${i}`), "end"]);
  });

  test("a full socket is false, not a wait", async () => {
    const { connection } = await spawn();
    listen(connection);
    connection.send(Buffer.from("deaf"), []);
    await new Promise((resolve) => setTimeout(resolve, 50));
    const frame = Buffer.alloc(60_000, "echo");
    let sent = 0;
    while (connection.send(frame, []) && sent < 1000) sent += 1;
    expect(sent).toBeGreaterThan(0);
    expect(sent).toBeLessThan(1000);
  });

  test("the peer's end is told once, and sending then is EPIPE", async () => {
    const { connection, process: child } = await spawn();
    const heard = listen(connection);
    connection.send(Buffer.from("close"), []);
    await eventually(() => heard.closed === 1, "the end");
    expect(await child.exited()).toEqual({ exitCode: 0, signal: null });
    expect(() => connection.send(Buffer.from("echo"), [])).toThrow(SystemError);
    expect(() => connection.send(Buffer.from("echo"), [])).toThrow(/EPIPE|ECONNRESET/);
    let late = 0;
    connection.onClose(() => {
      late += 1;
    });
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect([heard.closed, late]).toEqual([1, 0]);
  });

  test("a frame that is too long ends the connection", async () => {
    const { connection } = await spawn();
    const heard = listen(connection);
    connection.send(Buffer.from("long"), []);
    await eventually(() => heard.closed === 1, "the end");
    expect(heard.frames).toEqual([]);
  });

  test("closing says nothing to the one who closes, and ends the peer", async () => {
    const { connection, process: child } = await spawn();
    const heard = listen(connection);
    connection.close();
    connection.close();
    expect(() => connection.send(Buffer.from("echo"), [])).toThrow(/MonitorConnection is closed/);
    expect(await child.exited()).toEqual({ exitCode: 0, signal: null });
    expect(heard.closed).toBe(0);
  });

  test("the control socket is private, replaces a dead one, and is reached below any path", async () => {
    const { socketName } = await spawn();
    const path = join(deep, socketName);
    expect(path.length).toBeGreaterThan(108);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const second = await kernel.connectMonitor({ socketDirectory: deep, socketName });
    const heard = listen(second);
    second.send(Buffer.from("echo second"), []);
    await eventually(() => heard.frames[0]?.text === "echo second", "an answer");
    second.close();
    running.push(await kernel.spawnMonitor({ socketDirectory: deep, socketName, cgroup: null, oomScoreAdj: 0 }));
    (await kernel.connectMonitor({ socketDirectory: deep, socketName })).close();
  });

  test("a monitor that is not there is ENOENT or ECONNREFUSED", async () => {
    expect(await failure(kernel.connectMonitor({ socketDirectory: deep, socketName: "none" }))).toMatchObject({ errno: "ENOENT" });
    expect(await failure(kernel.connectMonitor({ socketDirectory: "/proc/none", socketName: "none" }))).toMatchObject({
      path: "/proc/none",
    });
    const { socketName, process: child } = await spawn();
    child.signal(9);
    await child.exited();
    expect(await failure(kernel.connectMonitor({ socketDirectory: deep, socketName }))).toMatchObject({ errno: "ECONNREFUSED" });
    expect(await failure(kernel.connectMonitor({ socketDirectory: deep, socketName: "../x" }))).toMatchObject({ errno: "EINVAL" });
  });

  test("a monitor gets five descriptors, leads a session and ignores nothing it was not told to", async () => {
    const { connection, process: child } = await spawn();
    const heard = listen(connection);
    connection.send(Buffer.from("fds"), []);
    await eventually(() => heard.frames.length === 1, "the list");
    expect(heard.frames[0]?.text.trim().split(" ").map(Number).sort()).toEqual([0, 1, 2, 3, 4]);
    const fields = readFileSync(`/proc/${child.pid}/stat`, "utf8")
      .replace(/^.*\) /, "")
      .split(" ");
    expect(Number(fields[3])).toBe(child.pid);
    expect(fields[19]).toBe(child.startTime);
    expect(readFileSync(`/proc/${child.pid}/status`, "utf8")).toMatch(/^SigIgn:\s+0+$/m);
  });

  test("too many descriptors and foreign objects are refused before anything is sent", async () => {
    const { connection } = await spawn();
    const heard = listen(connection);
    const loose = connection as unknown as { send(...args: unknown[]): unknown };
    expect(() => loose.send("text", [])).toThrow(/MonitorConnection\.send\.frame: must be a Uint8Array/);
    expect(() => loose.send(Buffer.from("echo"), [3])).toThrow(
      /MonitorConnection\.send\.handles\[0\]: must be an FdHandle or a PlanHandle/,
    );
    expect(() => loose.send(Buffer.alloc(65_537), [])).toThrow(/from 1 to 65536 bytes/);
    const one = kernel.openNull();
    expect(() => connection.send(Buffer.from("echo"), Array(254).fill(one))).toThrow(/E2BIG/);
    expect(connection.send(Buffer.from("echo"), Array(253).fill(one))).toBe(true);
    one.close();
    expect(() => connection.send(Buffer.from("echo"), [one])).toThrow(/handles\[0\]: FdHandle is closed/);
    await eventually(() => heard.frames.length === 1, "the one that was sent");
    expect(heard.frames[0]?.handles.length).toBe(253);
    for (const handle of heard.frames[0]?.handles ?? []) handle.close();
  });

  test("an exception in a callback is uncaught and keeps no other frame from being delivered", async () => {
    const { connection } = await spawn();
    const heard: string[] = [];
    const uncaught: unknown[] = [];
    const others = process.listeners("uncaughtException");
    process.removeAllListeners("uncaughtException");
    process.on("uncaughtException", (error) => uncaught.push(error.message));
    connection.onFrame((frame) => {
      heard.push(Buffer.from(frame).toString());
      if (heard.length === 1) throw new Error("from the callback");
    });
    connection.send(Buffer.from("burst 3"), []);
    await eventually(() => heard.length === 3, "all frames");
    process.removeAllListeners("uncaughtException");
    for (const listener of others) process.on("uncaughtException", listener);
    expect(uncaught).toEqual(["from the callback"]);
  });

  test("connections and the frames' descriptors leave nothing open", async () => {
    await collectGarbage();
    const before = openDescriptors();
    for (let i = 0; i < 20; i += 1) {
      const { connection, process: child } = await spawn();
      const heard = listen(connection);
      const handle = kernel.openNull();
      connection.send(Buffer.from("echo"), [handle]);
      await eventually(() => heard.frames.length === 1, "the echo");
      heard.frames[0]?.handles[0]?.close();
      handle.close();
      connection.close();
      await child.exited();
      child.close();
    }
    running.splice(0);
    await eventually(async () => {
      await collectGarbage();
      return openDescriptors() <= before;
    }, "descriptors are back to where they were");
  });
});

describe("collected pipes", () => {
  const write = async (handle: FdHandle, script: string): Promise<void> => {
    // A program that is handed the pipe through this process's descriptor table.
    await kernel.runProgram(shell(`{ ${script}; } > /proc/${process.pid}/fd/${handle.number}`)).result;
  };

  test("everything up to end of file", async () => {
    const pipe = kernel.collectPipe({ maxBytes: 1 << 20 });
    await write(pipe.writeEnd, "seq 1 20000");
    pipe.writeEnd.close();
    const { data, truncated } = await pipe.result;
    expect(truncated).toBe(false);
    expect(Buffer.from(data).toString().trim().split("\n").length).toBe(20_000);
  });

  test("past the limit the rest is read and dropped, and the writer is not stopped", async () => {
    const pipe = kernel.collectPipe({ maxBytes: 10 });
    await write(pipe.writeEnd, "seq 1 200000");
    pipe.writeEnd.close();
    expect(await pipe.result).toEqual({ data: Buffer.from("1\n2\n3\n4\n5\n"), truncated: true });
  });

  test("exactly the limit is not truncated", async () => {
    const pipe = kernel.collectPipe({ maxBytes: 4 });
    await write(pipe.writeEnd, "printf 1234");
    pipe.writeEnd.close();
    expect(await pipe.result).toEqual({ data: Buffer.from("1234"), truncated: false });
  });

  test("stop takes what is there although a writer still has it open", async () => {
    const pipe = kernel.collectPipe({ maxBytes: 100 });
    await write(pipe.writeEnd, "echo here");
    pipe.stop();
    pipe.stop();
    expect(await pipe.result).toEqual({ data: Buffer.from("here\n"), truncated: false });
    pipe.writeEnd.close();
  });
});
