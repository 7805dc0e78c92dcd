import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { DomainError } from "../../../src/base/errors.ts";
import type { Containers } from "../../../src/container/index.ts";
import type { ContainerConfig, ContainerView } from "../../../src/container/types.ts";
import { setFailpoints } from "../../../src/operation/failpoints.ts";
import { containerConfig, FakeHost, operation, podId, security } from "./fake-host.ts";

let host: FakeHost;
let containers: Containers;

beforeEach(async () => {
  host = new FakeHost();
  containers = await host.recovered();
});

afterEach(async () => {
  setFailpoints("");
  await containers.close();
  host.dispose();
});

async function started(changes: Partial<ContainerConfig> = {}): Promise<ContainerView> {
  const { id } = await containers.create(operation(), podId, containerConfig(changes));
  await containers.start(operation(), id);
  return containers.get(id);
}

const kindOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "no error",
    (error: DomainError) => error.kind,
  );
const soon = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20));
const endInit = (exitCode: number | null, signal: number | null): void => host.monitor.init?.end(exitCode, signal);

describe("StartContainer", () => {
  it("runs the container, with the time that the monitor saw", async () => {
    const view = await started();
    expect(view.state).toBe("running");
    expect(view.startedAtNs).toBe(host.monitor.startedAtNs);
    expect(view.phases).toHaveProperty("container.start");
    expect(host.events).toEqual(["created app created", "started app running"]);
  });

  it("is refused for what is not created, and unknown", async () => {
    const { id } = await started();
    expect(await kindOf(containers.start(operation(), id))).toBe("failed-precondition");
    endInit(0, null);
    await soon();
    expect(await kindOf(containers.start(operation(), id))).toBe("failed-precondition");
    expect(await kindOf(containers.start(operation(), "unknown"))).toBe("not-found");
  });

  it("is refused in a pod that is not ready", async () => {
    const { id } = await containers.create(operation(), podId, containerConfig());
    host.podReady = false;
    expect(await kindOf(containers.start(operation(), id))).toBe("failed-precondition");
    expect(containers.get(id).state).toBe("created");
  });

  it("that fails leaves an exited container that says why", async () => {
    host.behaviour.startFailure = { errno: 8, step: "exec", path: "/bin/app" };
    const { id } = await containers.create(operation(), podId, containerConfig());
    await expect(containers.start(operation(), id)).rejects.toThrow("ENOEXEC");
    await soon();
    expect(containers.get(id)).toMatchObject({ state: "exited", exitCode: 128, reason: "ContainerCannotRun" });
    expect(containers.get(id).message).toContain("ENOEXEC");
  });

  it("goes on when its caller has left", async () => {
    const { id } = await containers.create(operation(), podId, containerConfig());
    setFailpoints("container.start=1*delay(80)");
    expect(await kindOf(containers.start(operation(20), id))).toBe("deadline-exceeded");
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(containers.get(id).state).toBe("running");
  });
});

describe("the end of a container", () => {
  it.each([
    [0, null, 0, "Completed"],
    [3, null, 3, "Error"],
    [null, 9, 137, "Error"],
    [null, 15, 143, "Error"],
  ] as const)("exit %s signal %s is exit code %s, %s", async (exitCode, signal, code, reason) => {
    const { id } = await started();
    endInit(exitCode, signal);
    await soon();
    const view = containers.get(id);
    expect(view).toMatchObject({ state: "exited", exitCode: code, reason, pid: 0 });
    expect(view.finishedAtNs).toBeGreaterThanOrEqual(view.startedAtNs);
    expect(host.events.slice(1)).toEqual(["started app running", "stopped app exited"]);
  });

  it("by the kernel's lack of memory is OOMKilled", async () => {
    host.oomKilled = true;
    const { id } = await started();
    endInit(null, 9);
    await soon();
    expect(containers.get(id)).toMatchObject({ exitCode: 137, reason: "OOMKilled" });
  });

  it("of a command that ends at once is told after its start, and never goes back to running", async () => {
    const { id } = await containers.create(operation(), podId, containerConfig());
    const start = containers.start(operation(), id);
    const { monitor } = host;
    const timer = setInterval(() => monitor.phase === 2 && monitor.init?.end(0, null), 0);
    await start;
    clearInterval(timer);
    await soon();
    endInit2(monitor);
    await soon();
    expect(containers.get(id).state).toBe("exited");
    expect(host.events).toEqual(["created app created", expect.stringMatching(/^started app/), "stopped app exited"]);
  });

  it("that nobody saw, as its monitor was killed, is Unknown, and what is left of it is killed", async () => {
    const { id } = await started();
    const init = host.monitor.init;
    host.monitor.process.end(null, 9);
    await soon();
    expect(init?.alive).toBe(false);
    expect(containers.get(id)).toMatchObject({ state: "exited", exitCode: 255, reason: "Unknown" });
    expect(containers.get(id).message).toContain("monitor");
  });

  it("is read from the exit file when the connection broke before it was told", async () => {
    const { id } = await started();
    const { monitor } = host;
    for (const connection of [...monitor.connections]) connection.end();
    monitor.init?.end(7, null);
    await soon();
    expect(containers.get(id)).toMatchObject({ state: "exited", exitCode: 7 });
  });

  it("survives a broken connection while the monitor lives", async () => {
    const { id } = await started();
    for (const connection of [...host.monitor.connections]) connection.end();
    await soon();
    expect(containers.get(id).state).toBe("running");
    const { stdout } = await containers.execSync(operation(), { containerId: id, command: ["true"], timeoutMs: 0 });
    expect(stdout.byteLength).toBe(0);
    endInit(0, null);
    await soon();
    expect(containers.get(id)).toMatchObject({ state: "exited", exitCode: 0 });
  });

  it("is not held up by a monitor that never says so", async () => {
    const { id } = await started();
    host.monitor.silent = true;
    endInit(0, null);
    await new Promise((resolve) => setTimeout(resolve, 400));
    expect(containers.get(id)).toMatchObject({ state: "exited", reason: "Unknown" });
    expect(host.processes.size).toBe(0);
  });

  it("in a shared PID namespace ends the rest of its cgroup", async () => {
    host.sandboxConfig = { ...host.sandboxConfig, namespaces: { ...host.sandboxConfig.namespaces, pid: "pod" } };
    await started({ security: { ...security, namespaces: { ...security.namespaces, pid: "pod" } } });
    host.calls.length = 0;
    endInit(0, null);
    await soon();
    expect(host.calls).toContain("killCgroup");
  });
});

function endInit2(monitor: FakeHost["monitor"]): void {
  if (monitor.init?.alive) monitor.init.end(0, null);
}

describe("StopContainer", () => {
  it("sends the stop signal and does not wait for the rest of the grace", async () => {
    const { id } = await started();
    const before = performance.now();
    await containers.stop(operation(), id, 30_000);
    expect(performance.now() - before).toBeLessThan(1_000);
    expect(containers.get(id)).toMatchObject({ state: "exited", exitCode: 143, reason: "Error" });
  });

  it("sends the signal of the request before the image's", async () => {
    host.image = { ...host.image, config: { ...host.image.config, stopSignal: "SIGQUIT" } };
    host.behaviour.diesOf = new Set([3, 37]);
    const first = await started({ stopSignal: "SIGRTMIN+3" });
    expect(first.stopSignal).toBe("SIGRTMIN+3");
    await containers.stop(operation(), first.id, 30_000);
    expect(containers.get(first.id).exitCode).toBe(128 + 37);
    const second = await started({ metadata: { name: "second", attempt: 0 } });
    await containers.stop(operation(), second.id, 30_000);
    expect(containers.get(second.id).exitCode).toBe(128 + 3);
  });

  it("kills the cgroup when the grace is over", async () => {
    host.behaviour.diesOf = new Set();
    const { id } = await started();
    host.calls.length = 0;
    await containers.stop(operation(), id, 50);
    expect(containers.get(id).exitCode).toBe(137);
    expect(host.calls).toContain("killCgroup");
  });

  it("kills at once without a grace", async () => {
    const { id } = await started();
    await containers.stop(operation(), id, 0);
    expect(containers.get(id).exitCode).toBe(137);
  });

  it("is shortened by a later one with less patience, and never lengthened", async () => {
    host.behaviour.diesOf = new Set();
    const { id } = await started();
    const patient = containers.stop(operation(), id, 30_000);
    await soon();
    const before = performance.now();
    const quick = containers.stop(operation(), id, 50);
    const slow = containers.stop(operation(), id, 60_000);
    await Promise.all([patient, quick, slow]);
    expect(performance.now() - before).toBeLessThan(1_000);
  });

  it("goes on when its caller has left", async () => {
    host.behaviour.diesOf = new Set();
    const { id } = await started();
    expect(await kindOf(containers.stop(operation(20), id, 80))).toBe("deadline-exceeded");
    expect(containers.get(id).state).toBe("running");
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(containers.get(id).state).toBe("exited");
  });

  it("of what is unknown or has exited is success, and of a created one ends it", async () => {
    await containers.stop(operation(), "unknown", 10);
    const { id } = await containers.create(operation(), podId, containerConfig());
    await containers.stop(operation(), id, 10_000);
    expect(containers.get(id).state).toBe("exited");
    await containers.stop(operation(), id, 10_000);
    expect(await kindOf(containers.start(operation(), id))).toBe("failed-precondition");
  });

  it("works without its monitor", async () => {
    const { id } = await started();
    host.monitor.silent = true;
    await containers.stop(operation(), id, 0);
    expect(containers.get(id).state).toBe("exited");
  });
});

describe("RemoveContainer", () => {
  it("leaves nothing, whatever the state", async () => {
    const running = await started();
    const created = await containers.create(operation(), podId, containerConfig({ metadata: { name: "created", attempt: 0 } }));
    await Promise.all([containers.remove(operation(), running.id), containers.remove(operation(), created.id)]);
    await containers.idle();
    await soon();
    expect(host.residue()).toEqual([]);
    expect(host.events.filter((event) => event.startsWith("deleted"))).toHaveLength(2);
    expect(await kindOf(Promise.resolve().then(() => containers.get(running.id)))).toBe("not-found");
  });

  it("of what is unknown is success; twice at once is one", async () => {
    await containers.remove(operation(), "unknown");
    const { id } = await started();
    await Promise.all([containers.remove(operation(), id), containers.remove(operation(), id)]);
    await containers.remove(operation(), id);
    expect(host.events.filter((event) => event.startsWith("deleted"))).toHaveLength(1);
  });

  it.each(["container.remove.cgroup", "container.remove.directories", "container.remove.record"])(
    "can be repeated after %s failed",
    async (step) => {
      const { id } = await started();
      setFailpoints(`${step}=1*error(planned)`);
      await expect(containers.remove(operation(), id)).rejects.toThrow("planned");
      expect(containers.get(id).state).toBe("exited");
      await containers.remove(operation(), id);
      await containers.idle();
      await soon();
      expect(host.residue()).toEqual([]);
    },
  );
});

describe("reads", () => {
  it("filter by id prefix, state, pod and labels exactly, newest first", async () => {
    const first = await started({ labels: { app: "a", tier: "x" } });
    const second = await containers.create(
      operation(),
      podId,
      containerConfig({ metadata: { name: "b", attempt: 0 }, labels: { app: "ab" } }),
    );
    const ids = (filter: Parameters<Containers["list"]>[0]) => containers.list(filter).map(({ id }) => id);
    const none = { id: null, state: null, sandboxId: null, labels: {} };
    expect(ids(none)).toEqual([second.id, first.id]);
    expect(ids({ ...none, id: first.id.slice(0, 12) })).toEqual([first.id]);
    expect(ids({ ...none, id: "zzz" })).toEqual([]);
    expect(ids({ ...none, state: "running" })).toEqual([first.id]);
    expect(ids({ ...none, labels: { app: "a" } })).toEqual([first.id]);
    expect(ids({ ...none, labels: { app: "a", tier: "y" } })).toEqual([]);
    expect(ids({ ...none, sandboxId: "b".repeat(64) })).toEqual([]);
  });

  it("give one object as long as nothing changes", async () => {
    const { id } = await started();
    expect(containers.get(id)).toBe(containers.get(id));
  });
});

describe("ContainerStats", () => {
  it("has figures and a rate for what runs, and none for what does not", async () => {
    const { id, startedAtNs } = await started();
    host.stats = {
      timestampNs: String(startedAtNs + 1_000_000_000n),
      cpuUsageNs: "500000000",
      memoryWorkingSetBytes: 10,
      memoryLimitBytes: 25,
      memoryUsageBytes: 12,
    };
    const first = await containers.stats(operation(), id);
    expect(first.cpu).toMatchObject({ usageCoreNs: 500_000_000n, usageNanoCores: 500_000_000n });
    expect(first.memory).toMatchObject({ workingSetBytes: 10, availableBytes: 15, usageBytes: 12 });
    host.stats = { ...host.stats, timestampNs: String(startedAtNs + 3_000_000_000n), cpuUsageNs: "700000000" };
    expect((await containers.stats(operation(), id)).cpu?.usageNanoCores).toBe(100_000_000n);
    // Too soon after the last for a rate of its own.
    host.stats = { ...host.stats, timestampNs: String(startedAtNs + 3_000_000_001n), cpuUsageNs: "700000001" };
    expect((await containers.stats(operation(), id)).cpu?.usageNanoCores).toBe(100_000_000n);
    await containers.stop(operation(), id, 0);
    expect(await containers.stats(operation(), id)).toMatchObject({ cpu: null, memory: null, swap: null });
  });

  it("measures the writable layer behind the request", async () => {
    const { id } = await started();
    expect((await containers.stats(operation(), id)).writableLayer.usedBytes).toBe(0);
    await containers.idle();
    expect((await containers.stats(operation(), id)).writableLayer).toMatchObject({ usedBytes: 4096, inodesUsed: 3, mountPoint: "/var" });
  });

  it("lists with the filter of a list, in one call to the kernel", async () => {
    await started({ labels: { a: "1" } });
    await started({ metadata: { name: "b", attempt: 0 } });
    const filter = { id: null, state: null, sandboxId: null, labels: {} };
    expect(await containers.listStats(operation(), filter)).toHaveLength(2);
    expect(await containers.listStats(operation(), { ...filter, labels: { a: "1" } })).toHaveLength(1);
    expect(await containers.listStats(operation(), { ...filter, id: "zzz" })).toEqual([]);
  });
});

describe("ReopenContainerLog", () => {
  it("asks the monitor, and is refused for what does not run or has no log", async () => {
    const { id } = await started();
    await containers.reopenLog(operation(), id);
    expect(host.monitor.reopened).toBe(1);
    await containers.stop(operation(), id, 0);
    expect(await kindOf(containers.reopenLog(operation(), id))).toBe("failed-precondition");
    const silent = await started({ metadata: { name: "silent", attempt: 0 }, logPath: "" });
    expect(silent.logPath).toBe("");
    expect(await kindOf(containers.reopenLog(operation(), silent.id))).toBe("failed-precondition");
  });
});

describe("a restarted daemon", () => {
  async function restart(): Promise<void> {
    await containers.close();
    containers = await host.recovered();
  }

  it("adopts what runs and can exec into it, stop it and remove it", async () => {
    const { id, startedAtNs } = await started();
    const created = await containers.create(operation(), podId, containerConfig({ metadata: { name: "created", attempt: 0 } }));
    await restart();
    expect(containers.get(id)).toMatchObject({ state: "running", startedAtNs });
    expect(containers.get(created.id).state).toBe("created");
    host.behaviour.exec = () => ({ stdout: "hello", exitCode: 0 });
    const { stdout } = await containers.execSync(operation(), { containerId: id, command: ["x"], timeoutMs: 0 });
    expect(Buffer.from(stdout).toString()).toBe("hello");
    await containers.start(operation(), created.id);
    await containers.stop(operation(), id, 1_000);
    expect(containers.get(id)).toMatchObject({ state: "exited", exitCode: 143 });
    for (const { id: each } of containers.list({ id: null, state: null, sandboxId: null, labels: {} }))
      await containers.remove(operation(), each);
    await containers.idle();
    await soon();
    expect(host.residue()).toEqual([]);
  });

  it("knows of a start that it had not written down", async () => {
    const { id } = await started();
    const path = join(host.config.root, "containers", `${id}.json`);
    await soon();
    expect(readFileSync(path, "utf8")).toContain('"phase":"running"');
    await restart();
    expect(containers.get(id).state).toBe("running");
  });

  it("reports what ended meanwhile, with its exit code", async () => {
    const { id } = await started();
    await containers.close();
    endInit(5, null);
    await soon();
    containers = await host.recovered();
    expect(containers.get(id)).toMatchObject({ state: "exited", exitCode: 5, reason: "Error" });
  });

  it("reports what it cannot know as Unknown, and kills what is left of it", async () => {
    const { id } = await started();
    const { init, process } = host.monitor;
    await containers.close();
    process.end(null, 9);
    await soon();
    containers = await host.recovered();
    expect(init?.alive).toBe(false);
    expect(containers.get(id)).toMatchObject({ state: "exited", exitCode: 255, reason: "Unknown" });
  });

  it("takes everything of another boot for dead", async () => {
    const { id } = await started();
    await containers.close();
    host.bootId = "boot-2";
    host.calls.length = 0;
    containers = await host.recovered();
    expect(containers.get(id)).toMatchObject({ state: "exited", reason: "Unknown" });
    expect(host.calls).not.toContain("connectMonitor");
    expect(host.leases.has(id)).toBe(true);
  });

  it("undoes what was half made, and removes what has no pod or no record", async () => {
    setFailpoints("container.create=hang");
    const creating = containers.create(operation(null), podId, containerConfig());
    creating.catch(() => undefined);
    await soon();
    // The daemon is gone without having undone anything: another takes the host over.
    const next = host.service();
    setFailpoints("");
    await next.recover(operation());
    await next.idle();
    await soon();
    expect(next.list({ id: null, state: null, sandboxId: null, labels: {} })).toEqual([]);
    expect(host.residue()).toEqual([]);
    await next.close();
  });

  it("removes what is left of a container whose record is damaged", async () => {
    const { id } = await started();
    await containers.close();
    rmSync(join(host.config.root, "containers", `${id}.json`));
    host.leases.clear();
    containers = await host.recovered();
    await containers.idle();
    await soon();
    expect(host.residue()).toEqual([]);
    expect(readdirSync(join(host.config.root, "writable"))).toEqual([".removed"]);
  });

  it("removes the containers of a pod that is gone", async () => {
    await started();
    host.podKnown = false;
    await restart();
    await containers.idle();
    await soon();
    expect(containers.list({ id: null, state: null, sandboxId: null, labels: {} })).toEqual([]);
    expect(host.residue()).toEqual([]);
  });
});
