/** Cgroups of this host, in whatever layout it has, below one of the tests' own. */
import { existsSync, mkdirSync, readFileSync, rmdirSync } from "node:fs";
import { afterAll, afterEach, describe, expect, test } from "vitest";
import type { CgroupHandle, ProcessHandle } from "../../../src/kernel/contract.ts";
import { eventually, failure, isPrivileged, kernel, notPrivileged } from "../addon/rig.ts";

const { mode, mounts, controllers } = kernel.features().cgroup;
const top = `/berth-test-${process.pid}`;
const isV2 = mode === "v2";

/** Directories of a cgroup, one for each hierarchy. */
const places = (path: string): string[] => [...new Set(Object.values(mounts))].map((mount) => mount + path);
/** A file of the cgroup by the controller's v1 name; the v2 hierarchy has all of them in one place. */
const read = (path: string, controller: string, file: string): string =>
  readFileSync(`${mounts[isV2 ? "" : controller]}${path}/${file}`, "utf8").trim();

const canMake = ((): boolean => {
  if (!isPrivileged || controllers.length === 0) return false;
  const probe = `${Object.values(mounts)[0]}${top}-probe`;
  try {
    mkdirSync(probe);
    rmdirSync(probe);
    return true;
  } catch {
    return false;
  }
})();

let counter = 0;
const handles: CgroupHandle[] = [];
const processes: ProcessHandle[] = [];

async function make(resources: object | null = null, path = `${top}/g${counter++}`): Promise<CgroupHandle> {
  const handle = await kernel.createCgroup({
    path,
    resourcesJson: resources === null ? null : JSON.stringify(resources),
    adopt: false,
  });
  handles.push(handle);
  return handle;
}

/** A process that is born in the cgroup. */
async function occupy(cgroup: CgroupHandle): Promise<ProcessHandle> {
  const process = await kernel.startPause({
    namespaces: { net: false, ipc: false, uts: false, pid: false },
    hostname: null,
    sysctls: {},
    cgroup,
    oomScoreAdj: 0,
    loopback: false,
  });
  processes.push(process);
  return process;
}

afterEach(async () => {
  for (const process of processes.splice(0)) {
    process.signal(9);
    await process.exited();
    process.close();
  }
  for (const handle of handles.splice(0)) handle.close();
});

describe.skipIf(!canMake)(`cgroups (${notPrivileged} and writable hierarchies)`, () => {
  afterAll(async () => {
    await kernel.removeCgroup({ path: top, timeoutMs: 5000 });
  });

  test("is made in every hierarchy with its parents, once", async () => {
    const path = `${top}/parent/child/leaf`;
    await make(null, path);
    for (const place of places(path)) expect(existsSync(place), place).toBe(true);
    expect(await failure(make(null, path))).toMatchObject({ errno: "EEXIST", step: "cgroup.create" });
    (await kernel.createCgroup({ path, resourcesJson: null, adopt: true })).close();
    (await kernel.openCgroup({ path })).close();
    expect(await kernel.listCgroups({ path: `${top}/parent` })).toEqual(["child"]);
    await kernel.removeCgroup({ path: `${top}/parent`, timeoutMs: 1000 });
    for (const place of places(`${top}/parent`)) expect(existsSync(place), place).toBe(false);
    await kernel.removeCgroup({ path: `${top}/parent`, timeoutMs: 0 });
    expect(await failure(kernel.openCgroup({ path }))).toMatchObject({ errno: "ENOENT" });
    expect(await kernel.listCgroups({ path })).toEqual([]);
    expect(await kernel.cgroupProcesses({ path })).toEqual([]);
    await kernel.killCgroup({ path });
  });

  test("many are made while the parent comes and goes with the last of them", async () => {
    const parent = `${top}/tide`;
    await Promise.all(
      Array.from({ length: 8 }, async (_, i) => {
        for (let round = 0; round < 20; round += 1) {
          const path = `${parent}/c${i}`;
          (await kernel.createCgroup({ path, resourcesJson: null, adopt: false })).close();
          await kernel.removeCgroup({ path, timeoutMs: 1000 });
          await kernel.removeEmptyCgroup({ path: parent });
        }
      }),
    );
    expect(await kernel.removeEmptyCgroup({ path: parent })).toBe(true);
    for (const place of places(parent)) expect(existsSync(place), place).toBe(false);
  });

  test("a refused resource leaves no cgroup behind, not even the parents that it made", async () => {
    const path = `${top}/refused/leaf`;
    expect(await failure(make({ memory: { limit: "1G" } }, path))).toMatchObject({ errno: "EINVAL", path: "linux.resources.memory.limit" });
    const error = await failure(make({ cpu: { cpus: "0-99999" } }, path));
    expect(error).toMatchObject({ step: "cgroup.limits" });
    expect(error.message).toMatch(/cpuset\.cpus.*writing "0-99999"/);
    for (const place of places(`${top}/refused`)) expect(existsSync(place), place).toBe(false);
  });

  test("paths that could leave the hierarchy or mean all of it are refused", async () => {
    for (const path of ["/", "relative", `${top}/../x`, `${top}//x`, ""]) {
      expect(await failure(kernel.createCgroup({ path, resourcesJson: null, adopt: false }))).toMatchObject({ errno: "EINVAL" });
      expect(await failure(kernel.removeCgroup({ path, timeoutMs: 0 }))).toMatchObject({ errno: "EINVAL" });
      expect(await failure(kernel.killCgroup({ path }))).toMatchObject({ errno: "EINVAL" });
    }
  });

  test("limits reach the kernel", async () => {
    const { path } = await make({
      cpu: { shares: 1024, quota: 50_000, period: 100_000, cpus: "0" },
      memory: { limit: 64 << 20, reservation: 32 << 20, swap: 64 << 20 },
      pids: { limit: 17 },
    });
    expect(read(path, "pids", "pids.max")).toBe("17");
    if (isV2) {
      expect(read(path, "cpu", "cpu.weight")).toBe("100");
      expect(read(path, "cpu", "cpu.max")).toBe("50000 100000");
      expect(read(path, "memory", "memory.max")).toBe(`${64 << 20}`);
      expect(read(path, "memory", "memory.low")).toBe(`${32 << 20}`);
    } else {
      expect(read(path, "cpu", "cpu.shares")).toBe("1024");
      expect(read(path, "cpu", "cpu.cfs_quota_us")).toBe("50000");
      expect(read(path, "memory", "memory.limit_in_bytes")).toBe(`${64 << 20}`);
      expect(read(path, "memory", "memory.soft_limit_in_bytes")).toBe(`${32 << 20}`);
    }
    expect(read(path, "cpuset", "cpuset.cpus")).toBe("0");
  });

  test("memory and swap limits move up and down together", async () => {
    const cgroup = await make({ memory: { limit: 32 << 20, swap: 64 << 20 } });
    const steps: [number, number][] = [
      [128, 256],
      [300, 300],
      [16, 16],
      [16, 512],
      [-1, -1],
      [8, 8],
    ];
    for (const [limit, swap] of steps) {
      const bytes = (mebibytes: number): number => (mebibytes < 0 ? -1 : mebibytes << 20);
      await kernel.updateCgroup({ cgroup, resourcesJson: JSON.stringify({ memory: { limit: bytes(limit), swap: bytes(swap) } }) });
      const [stats] = await kernel.cgroupStats({ cgroups: [cgroup] });
      expect(stats?.memoryLimitBytes, `limit ${limit}`).toBe(limit < 0 ? null : limit << 20);
      if (stats?.swapLimitBytes !== null) expect(stats?.swapLimitBytes, `swap ${swap}`).toBe((swap - limit) << 20);
    }
  });

  test("quota, period and burst move up and down together", async () => {
    const cgroup = await make({ cpu: { quota: 200_000, period: 100_000 } });
    const steps = [
      { quota: 10_000, period: 50_000 },
      { quota: 900_000, period: 1_000_000, burst: 500_000 },
      { quota: 5000, burst: 1000 },
      { quota: -1 },
      { period: 20_000 },
    ];
    for (const cpu of steps) await kernel.updateCgroup({ cgroup, resourcesJson: JSON.stringify({ cpu }) });
    expect(read(cgroup.path, "cpu", isV2 ? "cpu.max" : "cpu.cfs_period_us")).toBe(isV2 ? "max 20000" : "20000");
  });

  test("what this layout does not have is refused by its field", async () => {
    const cgroup = await make();
    const update = (resources: object): Promise<Error> =>
      failure(kernel.updateCgroup({ cgroup, resourcesJson: JSON.stringify(resources) }));
    if (isV2) {
      expect(await update({ memory: { swappiness: 10 } })).toMatchObject({ path: "linux.resources.memory.swappiness" });
      expect(await update({ network: { classID: 1 } })).toMatchObject({ path: "linux.resources.network.classID" });
    } else {
      expect(await update({ unified: { "memory.high": "1" } })).toMatchObject({ path: "linux.resources.unified.memory.high" });
    }
    // A page size that no controller limits here is passed over, as the kubelet sends them all.
    if (!controllers.includes("hugetlb")) {
      await kernel.updateCgroup({ cgroup, resourcesJson: JSON.stringify({ hugepageLimits: [{ pageSize: "2MB", limit: 0 }] }) });
    }
  });

  test.skipIf(isV2)("device rules are written in their order (v1; v2 is tested by its program)", async () => {
    const { path } = await make({
      devices: [
        { allow: true, type: "c", major: 9, minor: 9, access: "rwm" },
        { allow: false, access: "rwm" },
        { allow: true, type: "c", major: 1, minor: 3, access: "rw" },
        { allow: true, type: "b", access: "m" },
      ],
    });
    expect(read(path, "devices", "devices.list").split("\n").sort()).toEqual(["b *:* m", "c 1:3 rw"]);
  });

  test("a process is born in it and counted", async () => {
    const cgroup = await make();
    const inner = await make(null, `${cgroup.path}/inner`);
    const process = await occupy(inner);
    expect(await kernel.cgroupProcesses({ path: inner.path })).toEqual([process.pid]);
    const lines = readFileSync(`/proc/${process.pid}/cgroup`, "utf8").trim().split("\n");
    for (const line of lines.filter((one) => isV2 === one.startsWith("0::"))) expect(line.endsWith(`:${inner.path}`), line).toBe(true);
    const [stats] = await kernel.cgroupStats({ cgroups: [inner] });
    expect(stats).toMatchObject({ processCount: 1, threadCount: 1, oomKills: 0 });
    expect(BigInt(stats?.cpuUsageNs ?? 0)).toBeGreaterThan(0n);
    expect(stats?.memoryUsageBytes).toBeGreaterThan(0);
    expect(stats?.memoryWorkingSetBytes).toBeLessThanOrEqual(stats?.memoryUsageBytes ?? 0);
    // Sub-groups count for the parent.
    expect((await kernel.cgroupStats({ cgroups: [cgroup] }))[0]?.processCount).toBe(1);
  });

  test("killing reaches sub-groups, and frozen processes too", async () => {
    const cgroup = await make();
    const inner = await make(null, `${cgroup.path}/a`);
    const innermost = await make(null, `${cgroup.path}/a/b`);
    const all = [await occupy(inner), await occupy(innermost), await occupy(innermost)];
    await kernel.freezeCgroup({ path: innermost.path, frozen: true });
    const exits = all.map((process) => process.exited());
    await kernel.killCgroup({ path: cgroup.path });
    for (const exit of await Promise.all(exits)) expect(exit).toEqual({ exitCode: null, signal: 9 });
    expect(await kernel.cgroupProcesses({ path: cgroup.path })).toEqual([]);
  });

  test("frozen processes do not run, thawed ones do", async () => {
    const cgroup = await make();
    const process = await occupy(cgroup);
    await kernel.freezeCgroup({ path: cgroup.path, frozen: true });
    const exit = process.exited();
    process.signal(15);
    process.signal(9);
    if (!isV2) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      expect(await kernel.cgroupProcesses({ path: cgroup.path })).toEqual([process.pid]);
    }
    await kernel.freezeCgroup({ path: cgroup.path, frozen: false });
    expect(await exit).toEqual({ exitCode: null, signal: 9 });
  });

  test("removing kills what is left; statistics of what is gone are null", async () => {
    const cgroup = await make();
    const inner = await make(null, `${cgroup.path}/inner`);
    const process = await occupy(inner);
    await kernel.cgroupStats({ cgroups: [cgroup, inner] });
    await kernel.removeCgroup({ path: cgroup.path, timeoutMs: 2000 });
    expect(await process.exited()).toEqual({ exitCode: null, signal: 9 });
    for (const place of places(cgroup.path)) expect(existsSync(place), place).toBe(false);
    expect(await kernel.cgroupStats({ cgroups: [cgroup, inner] })).toEqual([null, null]);
  });

  test("the daemon is never killed by way of its own cgroup", async () => {
    const own = readFileSync("/proc/self/cgroup", "utf8")
      .trim()
      .split("\n")
      .map((line) => line.split(":"))
      .filter(([, names]) => (names === "") === isV2)
      .map((fields) => fields.slice(2).join(":"))
      .find((path) => path !== "/");
    if (own === undefined) return;
    expect(await failure(kernel.killCgroup({ path: own }))).toMatchObject({ errno: "EPERM" });
    expect(await failure(kernel.freezeCgroup({ path: own, frozen: true }))).toMatchObject({ errno: "EPERM" });
  });

  test("the file of OOM kills is the one that the monitor reads", async () => {
    const cgroup = await make();
    const events = await kernel.openCgroupEvents({ cgroup });
    expect(events?.kind).toBe(isV2 ? "v2" : "v1");
    expect(readFileSync(`/proc/self/fd/${events?.file.number}`, "utf8")).toMatch(/^oom_kill 0$/m);
    events?.file.close();
  });

  test("statistics of many in one pass keep their descriptors and give them back", async () => {
    const cgroups = await Promise.all(Array.from({ length: 20 }, () => make()));
    const first = await kernel.cgroupStats({ cgroups });
    const second = await kernel.cgroupStats({ cgroups });
    expect(second.length).toBe(20);
    expect(Object.keys(first[0] ?? {})).toEqual(Object.keys(second[0] ?? {}));
    expect(BigInt(second[0]?.timestampNs ?? 0)).toBeGreaterThan(BigInt(first[0]?.timestampNs ?? 0));
    for (const { path } of cgroups) await kernel.removeCgroup({ path, timeoutMs: 1000 });
    await eventually(async () => (await kernel.cgroupStats({ cgroups })).every((one) => one === null), "all are gone");
  });
});
