import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { PauseArgs, ProcessHandle } from "../../../src/kernel/contract.ts";
import { failure, isPrivileged, kernel, notPrivileged, openDescriptors, temporaryDirectory } from "../addon/rig.ts";

const directory = temporaryDirectory();

function sleeper(): { readonly child: ChildProcess; readonly pid: number } {
  const child = spawn("/bin/sleep", ["60"], { stdio: "ignore" });
  if (child.pid === undefined) throw new Error("no child");
  return { child, pid: child.pid };
}

describe("processes", () => {
  test("is the one with this pid and start time, or nobody", async () => {
    const { child, pid } = sleeper();
    const process = await kernel.openProcess({ pid, startTime: null });
    expect(process?.pid).toBe(pid);
    expect(process?.startTime).toMatch(/^\d+$/);
    expect(await kernel.openProcess({ pid, startTime: process?.startTime ?? "" })).not.toBe(null);
    expect(await kernel.openProcess({ pid, startTime: "1" })).toBe(null);
    expect(await kernel.openProcess({ pid: 0x3ffffffe, startTime: null })).toBe(null);
    child.kill("SIGKILL");
  });

  test("signals it, and knows when it is gone", async () => {
    const { pid } = sleeper();
    const process = (await kernel.openProcess({ pid, startTime: null })) as ProcessHandle;
    expect(process.signal(0)).toBe(true);
    // Two that wait, and one that comes late.
    const waiting = [process.exited(), process.exited()];
    expect(process.signal(15)).toBe(true);
    for (const exit of waiting) expect(await exit).toEqual({ exitCode: null, signal: null });
    expect(process.signal(15)).toBe(false);
    expect(await process.exited()).toEqual({ exitCode: null, signal: null });
    process.close();
    expect(() => process.signal(15)).toThrow(/closed/);
  });

  test("a signal number that is none is refused", async () => {
    const process_ = (await kernel.openProcess({ pid: process.pid, startTime: null })) as ProcessHandle;
    for (const number of [-1, 65, 1.5, "15", undefined]) {
      expect(() => process_.signal(number as number)).toThrow(/ProcessHandle\.signal\.signalNumber/);
    }
    process_.close();
  });
});

const plain: PauseArgs = {
  namespaces: { net: true, ipc: true, uts: true, pid: false },
  hostname: "pod-name",
  sysctls: {},
  cgroup: null,
  oomScoreAdj: 0,
  loopback: true,
};

describe.skipIf(!isPrivileged)(`pods' namespaces (${notPrivileged})`, () => {
  const started: ProcessHandle[] = [];
  const pins: string[] = [];
  afterEach(async () => {
    for (const pause of started.splice(0)) {
      pause.signal(9);
      await pause.exited();
      pause.close();
    }
    for (const path of pins.splice(0)) await kernel.unpinNamespace({ path });
  });

  async function start(more: Partial<PauseArgs> = {}): Promise<ProcessHandle> {
    const pause = await kernel.startPause({ ...plain, ...more });
    started.push(pause);
    return pause;
  }
  const pin = (name: string): string => {
    const path = join(directory, "netns", name);
    pins.push(path);
    return path;
  };
  const namespace = (pid: number | "self", kind: string): string => readlinkSync(`/proc/${pid}/ns/${kind}`);

  test("a pause process has the namespaces asked for and no others", async () => {
    const { pid } = await start({ namespaces: { net: false, ipc: true, uts: true, pid: true }, loopback: false });
    expect(namespace(pid, "net")).toBe(namespace("self", "net"));
    for (const kind of ["ipc", "uts", "pid", "mnt"]) expect(namespace(pid, kind), kind).not.toBe(namespace("self", kind));
    expect(readFileSync(`/proc/${pid}/cmdline`, "utf8")).toBe("berth-pause\0");
    expect(readFileSync(`/proc/${pid}/status`, "utf8")).toMatch(/^NSpid:\s+\d+\s+1$/m);
  });

  test("its program cannot be opened for writing, and holds nothing of the daemon", async () => {
    const { pid } = await start();
    expect(() => writeFileSync(`/proc/${pid}/exe`, "x", { flag: "r+" })).toThrow(/EROFS|ETXTBSY|ENOENT/);
    expect(existsSync(`/proc/${pid}/root/etc`)).toBe(false);
  });

  test("sysctls are set in the pod, a wrong one fails by its name and leaves no process", async () => {
    const { pid } = await start({ sysctls: { "net.ipv4.ip_unprivileged_port_start": "17", "kernel.shm_rmid_forced": "1" } });
    const path = pin("sysctl");
    const pause = started[0] as ProcessHandle;
    expect(pause.pid).toBe(pid);
    await kernel.pinNamespace({ process: pause, kind: "net", path });
    const before = openDescriptors();
    const error = await failure(kernel.startPause({ ...plain, sysctls: { "net.ipv4.no_such_thing": "1" } }));
    expect(error).toMatchObject({ errno: "ENOENT" });
    expect(error.message).toContain("net/ipv4/no_such_thing");
    expect(await failure(kernel.startPause({ ...plain, sysctls: { "net.ipv4.ip_forward": "many" } }))).toMatchObject({ errno: "EINVAL" });
    expect(await failure(kernel.startPause({ ...plain, sysctls: { "../../etc/x": "1" } }))).toBeDefined();
    expect(openDescriptors()).toBe(before);
  });

  test("its death is told with the signal", async () => {
    const pause = await start();
    pause.signal(9);
    expect(await pause.exited()).toEqual({ exitCode: null, signal: 9 });
  });

  test("a namespace outlives its process where it is pinned", async () => {
    const pause = await start();
    const path = pin("outlives");
    const inode = namespace(pause.pid, "net");
    await kernel.pinNamespace({ process: pause, kind: "net", path });
    expect(await failure(kernel.pinNamespace({ process: pause, kind: "net", path }))).toMatchObject({ errno: "EEXIST" });
    pause.signal(9);
    await pause.exited();
    const mount = (await kernel.listMounts()).find(({ mountPoint }) => mountPoint === path);
    expect(mount).toMatchObject({ type: "nsfs", root: inode });
    expect(await failure(kernel.pinNamespace({ process: pause, kind: "net", path: `${path}-2` }))).toBeDefined();
    expect(existsSync(`${path}-2`)).toBe(false);
    const links = await kernel.interfaceStats({ networkNamespace: path });
    expect(links.map(({ name }) => name)).toContain("lo");
    await kernel.unpinNamespace({ path });
    await kernel.unpinNamespace({ path });
    expect(existsSync(path)).toBe(false);
  });

  test("a network namespace without a process, with lo up; this process stays where it is", async () => {
    const own = namespace("self", "net");
    const path = pin("bare");
    await kernel.createNetworkNamespace({ path });
    const inside = await kernel.runProgram({
      path: "/usr/bin/nsenter",
      args: ["nsenter", `--net=${path}`, "cat", "/proc/net/if_inet6", "/sys/class/net/lo/operstate"],
      env: ["PATH=/usr/bin:/bin"],
      cwd: "/",
      stdin: new Uint8Array(),
      maxOutputBytes: 10_000,
      timeoutMs: 5000,
    }).result;
    // With lo down there would be no ::1.
    expect(String(inside.stdout)).toContain("00000000000000000000000000000001");
    expect(namespace("self", "net")).toBe(own);
    expect(await kernel.interfaceStats({ networkNamespace: path })).toContainEqual(
      expect.objectContaining({ name: "lo", rxErrors: 0, txDropped: 0 }),
    );
  });

  test("what is no network namespace is refused", async () => {
    expect(await failure(kernel.interfaceStats({ networkNamespace: "/proc/self/ns/ipc" }))).toMatchObject({ errno: "EINVAL" });
    expect(await failure(kernel.interfaceStats({ networkNamespace: "/proc/none" }))).toMatchObject({ errno: "ENOENT", path: "/proc/none" });
    expect(await failure(kernel.interfaceStats({ networkNamespace: "/etc/passwd" }))).toBeDefined();
  });
});
