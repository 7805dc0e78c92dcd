import { chmodSync, existsSync, lstatSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { bindSocket, resolveGroup } from "../../../src/server/socket.ts";
import { connectCri } from "../../support/cri-client.ts";
import { startFakeServer, temporaryDirectory, testOperation } from "./fake-services.ts";

const gid = process.getgid?.() ?? 0;

function listener(): { listen: (path: string) => Promise<void>; server: Server; seen: { mode: number; parentMode: number }[] } {
  const server = createServer((socket) => socket.destroy());
  const seen: { mode: number; parentMode: number }[] = [];
  onTestFinished(() => {
    server.close();
  });
  const listen = (path: string): Promise<void> =>
    new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen(path, () => {
        seen.push({ mode: lstatSync(path).mode & 0o777, parentMode: lstatSync(join(path, "..")).mode & 0o777 });
        resolve();
      });
    });
  return { listen, server, seen };
}

/** What a daemon that was killed leaves behind. */
async function leaveDeadSocket(path: string): Promise<void> {
  const { listen, server } = listener();
  const bound = await bindSocket(testOperation(), path, gid, listen);
  await new Promise((resolve) => server.close(resolve));
  expect(lstatSync(bound.path).isSocket()).toBe(true);
}

describe("the socket", () => {
  test("is 0660 in a directory of 0750, and was reachable for nobody before, whatever the umask", async () => {
    const path = join(temporaryDirectory(), "run", "berth.sock");
    const before = process.umask(0);
    onTestFinished(() => {
      process.umask(before);
    });
    const { listen, seen } = listener();
    const bound = await bindSocket(testOperation(), path, gid, listen);
    expect(lstatSync(path).mode & 0o777).toBe(0o660);
    expect(lstatSync(path).gid).toBe(gid);
    expect(lstatSync(join(path, "..")).mode & 0o777).toBe(0o750);
    expect(seen).toMatchObject([{ parentMode: 0o700 }]);
    expect(readdirSync(join(path, ".."))).toEqual(["berth.sock"]);
    await bound.remove();
    await bound.remove();
    expect(existsSync(path)).toBe(false);
  });

  test("of a dead daemon is replaced", async () => {
    const path = join(temporaryDirectory(), "berth.sock");
    await leaveDeadSocket(path);
    const { server } = await startFakeServer({ socket: path });
    const client = connectCri(server.socketPath);
    onTestFinished(() => client.close());
    expect((await client.runtime.Version({})).runtimeName).toBe("berth");
  });

  test("of a live daemon is not taken, and goes on working", async () => {
    const { server, client } = await startFakeServer();
    await expect(startFakeServer({ socket: server.socketPath })).rejects.toMatchObject({
      kind: "failed-precondition",
      message: expect.stringContaining("another daemon"),
    });
    await client.runtime.Version({});
  });

  test("in whose place something else stands is refused", async () => {
    const path = join(temporaryDirectory(), "berth.sock");
    writeFileSync(path, "precious");
    await expect(bindSocket(testOperation(), path, gid, listener().listen)).rejects.toMatchObject({
      kind: "failed-precondition",
      message: expect.stringContaining("not a socket"),
    });
    expect(lstatSync(path).isFile()).toBe(true);
  });

  test("is refused in a directory that everybody may write to", async () => {
    const directory = join(temporaryDirectory(), "open");
    mkdirSync(directory);
    chmodSync(directory, 0o1777);
    const bound = bindSocket(testOperation(), join(directory, "berth.sock"), gid, listener().listen);
    await expect(bound).rejects.toMatchObject({ kind: "failed-precondition", message: expect.stringContaining("writable by everybody") });
  });

  test.runIf(process.getuid?.() === 0)("is within reach of its group in a private directory; another directory is left alone", async () => {
    const directory = temporaryDirectory();
    for (const [name, mode, wanted] of [
      ["private", 0o700, 0o750],
      ["shared", 0o755, 0o755],
    ] as const) {
      const path = join(directory, name, "berth.sock");
      mkdirSync(join(directory, name), { mode });
      await bindSocket(testOperation(), path, 4242, listener().listen);
      const parent = lstatSync(join(directory, name));
      expect([parent.mode & 0o777, parent.gid, lstatSync(path).gid]).toEqual([wanted, name === "private" ? 4242 : gid, 4242]);
    }
  });

  test("whose path the kernel could not hold is refused with its length", async () => {
    const path = join(temporaryDirectory(), "x".repeat(100), "berth.sock");
    await expect(bindSocket(testOperation(), path, gid, listener().listen)).rejects.toMatchObject({ kind: "invalid-argument" });
  });

  test("leaves nothing behind where listening fails", async () => {
    const directory = temporaryDirectory();
    chmodSync(directory, 0o700);
    const failing = bindSocket(testOperation(), join(directory, "berth.sock"), gid, () => Promise.reject(new Error("no")));
    await expect(failing).rejects.toThrow("no");
    expect(readdirSync(directory)).toEqual([]);
  });

  test("that has been replaced by another daemon's is not removed", async () => {
    const path = join(temporaryDirectory(), "berth.sock");
    const first = listener();
    const bound = await bindSocket(testOperation(), path, gid, first.listen);
    await new Promise((resolve) => first.server.close(resolve));
    await bindSocket(testOperation(), path, gid, listener().listen);
    await bound.remove();
    expect(existsSync(path)).toBe(true);
  });
});

describe("the group of the socket", () => {
  test("is a number or a name of the group file", async () => {
    const file = join(temporaryDirectory(), "group");
    writeFileSync(file, "root:x:0:\nkube:x:990:a,b\nbroken\nodd:x:abc:\n");
    expect(await resolveGroup("0", file)).toBe(0);
    expect(await resolveGroup("4242", file)).toBe(4242);
    expect(await resolveGroup("kube", file)).toBe(990);
    for (const name of ["nobody", "broken", "odd", ""]) {
      await expect(resolveGroup(name, file)).rejects.toMatchObject({ kind: "invalid-argument" });
    }
  });
});
