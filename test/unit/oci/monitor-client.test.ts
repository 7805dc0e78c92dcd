import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { decode, encode, type Message, type MessageName, type Messages } from "../../../build/generated/monitor/protocol.ts";
import { SystemError } from "../../../src/base/errors.ts";
import { silentLogger } from "../../../src/base/log.ts";
import type { FdHandle, MonitorConnection } from "../../../src/kernel/contract.ts";
import { readExitFile } from "../../../src/oci/exit-file.ts";
import { MonitorClient } from "../../../src/oci/monitor-client.ts";
import { Operation } from "../../../src/operation/context.ts";

/** A peer that answers by hand. */
class Peer implements MonitorConnection {
  readonly sent: Message[] = [];
  full = false;
  broken = false;
  #frames: (frame: Uint8Array, handles: readonly FdHandle[]) => void = () => undefined;
  #close: () => void = () => undefined;

  send(frame: Uint8Array): boolean {
    if (this.broken) throw new SystemError({ errno: "EPIPE", syscall: "sendmsg", path: "", step: "monitor.send" });
    if (this.full) return false;
    this.sent.push(decode(frame));
    return true;
  }
  onFrame(callback: (frame: Uint8Array, handles: readonly FdHandle[]) => void): void {
    this.#frames = callback;
  }
  onClose(callback: () => void): void {
    this.#close = callback;
  }
  close(): void {}
  say<Name extends MessageName>(name: Name, requestId: number, body: Messages[Name], handles: readonly FdHandle[] = []): void {
    this.#frames(encode(name, requestId, body), handles);
  }
  raw(frame: Uint8Array): void {
    this.#frames(frame, []);
  }
  hangUp(): void {
    this.#close();
  }
}

const operation = (timeoutMs = 1_000): Operation => new Operation({ name: "test", log: silentLogger(), timeoutMs });

function make(): { peer: Peer; client: MonitorClient } {
  const peer = new Peer();
  return { peer, client: new MonitorClient({ connection: peer, containerId: "c", log: silentLogger() }) };
}

const state: Messages["state"] = {
  phase: 2,
  pid: 5,
  startTime: "7",
  startedAtNs: "9",
  runningExecs: 0,
  attachedClients: 0,
  logBytes: "0",
  logDroppedBytes: "0",
};
const exec: Messages["exec"] = { planFds: 0, terminal: false, terminalColumns: 0, terminalRows: 0 };

describe("the client of a monitor", () => {
  it("matches answers to requests by id, whatever their order", async () => {
    const { peer, client } = make();
    const first = client.request(operation(), "status", {}, "state");
    const second = client.request(operation(), "reopenLog", {}, "ok");
    const [a, b] = peer.sent;
    peer.say("ok", b?.requestId ?? 0, {});
    peer.say("state", a?.requestId ?? 0, state);
    expect(await first).toEqual(state);
    expect(await second).toEqual({});
    expect(a?.requestId).not.toBe(b?.requestId);
  });

  it("turns `failed` into the kernel's error", async () => {
    const { peer, client } = make();
    const request = client.request(operation(), "start", {}, "started");
    peer.say("failed", peer.sent[0]?.requestId ?? 0, { errno: 13, step: "exec", syscall: "execveat", path: "/bin/x", detail: "why" });
    await expect(request).rejects.toMatchObject({
      name: "SystemError",
      errno: "EACCES",
      step: "exec",
      syscall: "execveat",
      path: "/bin/x",
    });
  });

  it("says what is wrong with an answer that does not fit, or cannot be read", async () => {
    const { peer, client } = make();
    const odd = client.request(operation(), "start", {}, "started");
    peer.say("ok", peer.sent[0]?.requestId ?? 0, {});
    await expect(odd).rejects.toThrow("answered start with ok");
    const unreadable = client.request(operation(), "status", {}, "state");
    const frame = encode("ok", peer.sent[1]?.requestId ?? 0, {}).slice();
    new DataView(frame.buffer).setUint16(0, 999, true);
    peer.raw(frame);
    await expect(unreadable).rejects.toThrow("999");
    peer.raw(new Uint8Array([1, 2]));
    expect(client.isOpen).toBe(true);
  });

  it("rejects everything that waits when the connection ends, and everything after", async () => {
    const { peer, client } = make();
    const request = client.request(operation(), "status", {}, "state");
    const starting = client.exec(operation(), exec, []);
    peer.say("execStarted", peer.sent[1]?.requestId ?? 0, { pid: 3 });
    const running = await starting;
    peer.hangUp();
    await expect(request).rejects.toMatchObject({ kind: "unavailable" });
    await expect(running.exited).rejects.toMatchObject({ kind: "unavailable" });
    await expect(client.request(operation(), "status", {}, "state")).rejects.toMatchObject({ kind: "unavailable" });
    await client.closed;
  });

  it("obeys the deadline, and kills an exec that nobody waits for any more", async () => {
    const { peer, client } = make();
    await expect(client.request(operation(20), "status", {}, "state")).rejects.toMatchObject({ kind: "deadline-exceeded" });
    await expect(client.exec(operation(20), exec, [])).rejects.toMatchObject({ kind: "deadline-exceeded" });
    const execId = peer.sent[1]?.requestId;
    expect(peer.sent[2]).toMatchObject({ name: "killExec", body: { execId } });
    // A late answer is nobody's.
    peer.say("execStarted", execId ?? 0, { pid: 3 });
  });

  it("keeps order while the socket is full, and sends nothing for a request that was given up", async () => {
    const { peer, client } = make();
    peer.full = true;
    const given = client.request(operation(10), "status", {}, "state");
    const kept = client.request(operation(), "reopenLog", {}, "ok");
    await expect(given).rejects.toMatchObject({ kind: "deadline-exceeded" });
    peer.full = false;
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(peer.sent.map(({ name }) => name)).toEqual(["reopenLog"]);
    peer.say("ok", peer.sent[0]?.requestId ?? 0, {});
    await kept;
  });

  it("reports a peer that is gone at the send", async () => {
    const { peer, client } = make();
    peer.broken = true;
    await expect(client.request(operation(), "status", {}, "state")).rejects.toMatchObject({ kind: "unavailable" });
  });

  it("closes descriptors that nobody asked for", () => {
    const { peer } = make();
    let closed = 0;
    peer.say("ok", 99, {}, [{ number: 4, release: () => 4, close: () => void closed++ }]);
    expect(closed).toBe(1);
  });
});

describe("the exit file", () => {
  it("is an exited frame; anything else is no exit", async () => {
    const directory = mkdtempSync(join(tmpdir(), "berth-exit-"));
    const exited = {
      exitCode: 137,
      signal: 9,
      oomKilled: true,
      startedAtNs: "5",
      finishedAtNs: "1700000000000000001",
      logDroppedBytes: "3",
    };
    writeFileSync(join(directory, "good"), encode("exited", 0, exited));
    writeFileSync(join(directory, "other"), encode("ok", 0, {}));
    writeFileSync(join(directory, "torn"), encode("exited", 0, exited).subarray(0, 14));
    expect(await readExitFile(directory, "good", silentLogger())).toEqual({
      exitCode: 137,
      signal: 9,
      oomKilled: true,
      startedAtNs: 5n,
      finishedAtNs: 1700000000000000001n,
      logDroppedBytes: 3n,
    });
    for (const name of ["absent", "other", "torn"]) expect(await readExitFile(directory, name, silentLogger()), name).toBeNull();
    rmSync(directory, { recursive: true });
  });
});
