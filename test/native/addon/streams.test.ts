import { execFileSync } from "node:child_process";
import { existsSync, fstatSync, rmSync, statSync } from "node:fs";
import { type AddressInfo, createServer, type Server, Socket } from "node:net";
import { afterAll, beforeAll, expect, test } from "vitest";
import { SystemError } from "../../../src/base/errors.ts";
import type { DialArgs } from "../../../src/kernel/contract.ts";
import { failure, kernel } from "./rig.ts";

/** All that a stream brings until its end. */
function read(fd: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    const socket = new Socket({ fd, readable: true, writable: false });
    socket.on("data", (bytes: Buffer) => {
      text += bytes.toString();
    });
    socket.on("end", () => resolve(text));
    socket.on("error", reject);
  });
}

function write(fd: number): Socket {
  return new Socket({ fd, readable: false, writable: true });
}

test("a pipe carries bytes between what its ends are given to", async () => {
  const { readEnd, writeEnd } = kernel.createPipe({ sizeBytes: 1 << 20 });
  const reading = read(readEnd.release());
  write(writeEnd.release()).end("through a pipe");
  expect(await reading).toBe("through a pipe");
  expect([readEnd.number, writeEnd.number]).toEqual([-1, -1]);
});

test("a pair of sockets carries bytes both ways and half-closes", async () => {
  const [first, second] = kernel.createSocketPair({ bufferBytes: 1 << 20 });
  const near = new Socket({ fd: first.release(), readable: true, writable: true, allowHalfOpen: true });
  const far = new Socket({ fd: second.release(), readable: true, writable: true, allowHalfOpen: true });
  let text = "";
  far.on("data", (bytes: Buffer) => {
    text += bytes.toString();
  });
  far.on("end", () => far.end(`got ${text}`));
  near.end("a question");
  const answer: Buffer[] = [];
  for await (const bytes of near) answer.push(bytes as Buffer);
  expect(Buffer.concat(answer).toString()).toBe("got a question");
});

test("what is released is no longer the handle's: neither closing nor releasing touches it again", () => {
  const { readEnd, writeEnd } = kernel.createPipe({ sizeBytes: 0 });
  const fd = readEnd.release();
  readEnd.close();
  expect(fstatSync(fd).isFIFO()).toBe(true);
  expect(() => readEnd.release()).toThrow("FdHandle is closed");
  const socket = new Socket({ fd, readable: true, writable: false });
  socket.destroy();
  writeEnd.close();
  writeEnd.close();
  expect(() => writeEnd.release()).toThrow("FdHandle is closed");
});

test("a handle that a call under way uses is not released", async () => {
  const root = await kernel.openTree({ path: "/etc", clone: false, recursive: false, readOnly: false });
  const reading = kernel.readInRoot({ root, path: "passwd", maxBytes: 1 << 20 });
  // Whether the call is still under way is a matter of luck; a throw leaves the handle as it was.
  try {
    new Socket({ fd: root.release() }).destroy();
  } catch (error) {
    expect((error as Error).message).toMatch(/in use|Unsupported/);
  }
  expect(await reading).not.toBe(null);
  root.close();
});

const servers: Server[] = [];
afterAll(() => {
  for (const server of servers) server.close();
});

async function listen(host: string): Promise<number> {
  const server = createServer((socket) => socket.end(`from ${socket.localAddress}`));
  servers.push(server);
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, host, resolve);
  });
  return (server.address() as AddressInfo).port;
}

const dial = (args: Partial<DialArgs>) =>
  kernel.dialInNamespace({ networkNamespace: null, hosts: ["127.0.0.1", "::1"], port: 1, timeoutMs: 2_000, ...args });

test("dials IPv4, and IPv6 where IPv4 does not answer", async () => {
  expect(await read((await dial({ port: await listen("127.0.0.1") })).release())).toBe("from 127.0.0.1");
  if (!existsSync("/proc/net/if_inet6")) return;
  expect(await read((await dial({ port: await listen("::1") })).release())).toBe("from ::1");
});

test("says what the first address answered where none takes the connection", async () => {
  const error = await failure(dial({ port: 1 }));
  expect(error).toBeInstanceOf(SystemError);
  expect(error).toMatchObject({ errno: "ECONNREFUSED", syscall: "connect", path: "127.0.0.1:1", step: "stream.dial" });
  expect(await failure(dial({ hosts: [] }))).toMatchObject({ errno: "EINVAL" });
  expect(await failure(dial({ hosts: ["localhost"] }))).toMatchObject({ errno: "EINVAL" });
  expect(await failure(dial({ networkNamespace: "/no/such/namespace" }))).toMatchObject({ errno: "ENOENT", syscall: "open" });
  expect(await failure(dial({ networkNamespace: "/etc/passwd" }))).toMatchObject({ errno: "EINVAL", syscall: "setns" });
});

const namespace = "/run/berth-test-dial.netns";
beforeAll(async () => {
  if (process.getuid?.() === 0) await kernel.createNetworkNamespace({ path: namespace });
});
afterAll(async () => {
  if (process.getuid?.() === 0) await kernel.unpinNamespace({ path: namespace });
  rmSync(namespace, { force: true });
});

test("dials within a namespace, and stays out of it itself", async (context) => {
  if (process.getuid?.() !== 0) return context.skip("needs root");
  const port = await listen("127.0.0.1");
  const before = statSync("/proc/self/ns/net").ino;
  expect(await failure(dial({ networkNamespace: namespace, port }))).toMatchObject({ errno: "ECONNREFUSED" });
  expect(statSync("/proc/self/ns/net").ino).toBe(before);
  const inside = execFileSync("nsenter", [`--net=${namespace}`, "/bin/sh", "-c", "readlink /proc/self/ns/net"]).toString();
  expect(inside).not.toContain(String(before));
});

test("refuses what is out of range", () => {
  expect(() => dial({ port: 0 })).toThrow("dialInNamespace.args.port");
  expect(() => dial({ port: 65_536 })).toThrow("dialInNamespace.args.port");
  expect(() => kernel.createPipe({ sizeBytes: -1 })).toThrow("createPipe.args.sizeBytes");
});
