/** Containers: states, ends, stops. What they look like from inside is in container-inside.test.ts. */
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ContainerState, Signal } from "../../api/cri/service-definition.ts";
import { cgroupDirectory, cgroupOf, cgroupV2 } from "../support/cgroups.ts";
import { status, toBigInt } from "../support/cri-client.ts";
import { againstPeer, failure, sleep, until, useNode } from "../support/node.ts";
import { hostNetwork } from "../support/workloads.ts";

const node = useNode("containers");
const unknownId = "0123456789abcdef".repeat(4);

const listIds = async (filter: Parameters<typeof node.runtime.ListContainers>[0] = {}): Promise<string[]> =>
  (await node.runtime.ListContainers(filter)).containers.map(({ id }) => id).sort();

describe("a container's life", () => {
  test("goes through its states, with all required fields", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const before = BigInt(Date.now() - 1) * 1_000_000n;
    const container = await pod.createContainer(["sleep", "1000"], { metadata: { name: "main", attempt: 2 } });
    expect(container.id).toMatch(/^[0-9a-f]{64}$/);
    const created = await container.status();
    expect(created).toMatchObject({ id: container.id, metadata: { name: "main", attempt: 2 }, state: ContainerState.CONTAINER_CREATED });
    expect(toBigInt(created.createdAt)).toBeGreaterThan(before);
    expect(toBigInt(created.startedAt)).toBe(0n);
    expect(toBigInt(created.finishedAt)).toBe(0n);
    expect(created.imageRef).not.toBe("");
    expect(created.image?.image).not.toBe("");
    expect(created.logPath).toBe(`${pod.config.logDirectory}/main/0.log`);
    if (!againstPeer) expect([created.imageRef, created.imageId]).toEqual([node.image, node.image]);

    await container.start();
    const running = await container.status();
    expect(running.state).toBe(ContainerState.CONTAINER_RUNNING);
    expect(toBigInt(running.startedAt)).toBeGreaterThanOrEqual(toBigInt(created.createdAt));

    await container.stop(0);
    const ended = await container.status();
    expect(ended.state).toBe(ContainerState.CONTAINER_EXITED);
    expect(ended.exitCode).toBe(137);
    expect(ended.reason).toBe("Error");
    expect(toBigInt(ended.finishedAt)).toBeGreaterThanOrEqual(toBigInt(ended.startedAt));
    expect(toBigInt(ended.finishedAt)).toBeLessThanOrEqual(BigInt(Date.now() + 1) * 1_000_000n);

    await container.remove();
    await failure(container.status(), status.NOT_FOUND, container.id.slice(0, 12));
    await container.remove();
    await container.stop(0);
  });

  test("is listed with what its status says", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const odd = { "a b": "c\nd", unicode: "漢字\u{1F6A2}", empty: "" };
    const container = await pod.createContainer(["true"], { labels: odd, annotations: odd });
    const state = await container.status();
    expect(state.labels).toEqual(odd);
    expect(state.annotations).toEqual(odd);
    const { containers } = await node.runtime.ListContainers({});
    expect(containers).toHaveLength(1);
    const [item] = containers;
    expect(item).toMatchObject({ id: container.id, podSandboxId: pod.id, metadata: state.metadata, state: state.state });
    expect(item?.labels).toEqual(odd);
    expect(item?.annotations).toEqual(odd);
    expect(item?.imageRef).toBe(state.imageRef);
    expect(item?.createdAt).toEqual(state.createdAt);
  });

  test("filters are exact and combine", async () => {
    const [first, second] = [await node.runPod({}, hostNetwork), await node.runPod({}, hostNetwork)];
    const one = await first.runContainer(["sleep", "100"], { labels: { app: "a" } });
    const two = await first.createContainer(["sleep", "100"], { labels: { app: "ab" } });
    const three = await second.runContainer(["true"], { labels: { app: "a", x: "" } });
    await three.exited();
    const all = [one.id, two.id, three.id].sort();
    expect(await listIds()).toEqual(all);
    expect(await listIds({ filter: { id: one.id } })).toEqual([one.id]);
    expect(await listIds({ filter: { id: one.id.slice(0, 16) } })).toEqual([one.id]);
    expect(await listIds({ filter: { id: unknownId } })).toEqual([]);
    expect(await listIds({ filter: { podSandboxId: first.id } })).toEqual([one.id, two.id].sort());
    expect(await listIds({ filter: { labelSelector: { app: "a" } } })).toEqual([one.id, three.id].sort());
    expect(await listIds({ filter: { labelSelector: { app: "a", x: "" } } })).toEqual([three.id]);
    expect(await listIds({ filter: { state: { state: ContainerState.CONTAINER_CREATED } } })).toEqual([two.id]);
    expect(await listIds({ filter: { state: { state: ContainerState.CONTAINER_EXITED } } })).toEqual([three.id]);
    expect(await listIds({ filter: { state: { state: ContainerState.CONTAINER_RUNNING }, podSandboxId: second.id } })).toEqual([]);
  });

  test("of one that was never started ends with its removal", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.createContainer(["sleep", "1000"]);
    await container.stop(0);
    await container.remove();
    expect(await listIds()).toEqual([]);
  });

  test("cannot be started twice, nor after its end, nor without being there", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "1000"]);
    if (!againstPeer) await failure(container.start(), status.FAILED_PRECONDITION, container.id.slice(0, 12));
    else await expect(container.start()).rejects.toThrow();
    await container.stop(0);
    if (!againstPeer) await failure(container.start(), status.FAILED_PRECONDITION, container.id.slice(0, 12));
    await failure(node.runtime.StartContainer({ containerId: unknownId }), status.NOT_FOUND);
    await failure(node.runtime.ContainerStatus({ containerId: unknownId }), status.NOT_FOUND);
  });

  test("is removed while it runs", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "1000"]);
    await container.remove();
    await failure(container.status(), status.NOT_FOUND);
  });

  test("a retried create gives the same container, another request of the name is refused", async () => {
    if (againstPeer) return;
    const pod = await node.runPod({}, hostNetwork);
    const config = pod.containerConfig(["sleep", "1000"], { metadata: { name: "one" } });
    const request = { podSandboxId: pod.id, config, sandboxConfig: pod.config };
    const answers = await Promise.all([1, 2, 3].map(() => node.runtime.CreateContainer(request)));
    expect(new Set(answers.map(({ containerId }) => containerId)).size).toBe(1);
    await failure(node.runtime.CreateContainer({ ...request, config: { ...config, command: ["true"] } }), status.ALREADY_EXISTS, "one");
    const next = { ...config, metadata: { name: "one", attempt: 1 } };
    const { containerId } = await node.runtime.CreateContainer({ ...request, config: next });
    expect(containerId).not.toBe(answers[0]?.containerId);
  });
});

describe("how a container ended", () => {
  test.each([
    ["exit 0", 0, "Completed"],
    ["exit 3", 3, "Error"],
    ["exit 255", 255, "Error"],
    ["kill -TERM $$; sleep 10", 143, "Error"],
    ["kill -KILL $$; sleep 10", 137, "Error"],
    ["kill -SEGV $$; sleep 10", 139, "Error"],
  ])("%s is %i, %s", async (script, exitCode, reason) => {
    const pod = await node.runPod({}, { ...hostNetwork, pid: 0 });
    const container = await pod.runContainer(["sh", "-c", script]);
    expect(await container.exited()).toMatchObject({ exitCode, reason });
  });

  test("by the kernel for want of memory is OOMKilled", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "x=a; while :; do x=$x$x; done"], {
      linux: { resources: { memoryLimitInBytes: 32 << 20 } },
    });
    expect(await container.exited()).toMatchObject({ exitCode: 137, reason: "OOMKilled" });
  });

  test("children of its pid 1 end with it", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "sleep 1717 & sleep 1718 & sleep 0.1; exit 5"]);
    expect(await container.exited()).toMatchObject({ exitCode: 5 });
    expect(commands()).not.toContain("sleep 1717");
  });

  test("the finish is told at once", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "0.3"]);
    const state = await container.exited();
    const lateMs = Date.now() - Number(toBigInt(state.finishedAt) / 1_000_000n);
    expect(lateMs).toBeLessThan(againstPeer ? 2000 : 250);
    const ranMs = Number((toBigInt(state.finishedAt) - toBigInt(state.startedAt)) / 1_000_000n);
    expect(ranMs).toBeGreaterThan(200);
    expect(ranMs).toBeLessThan(1500);
  });
});

describe("StopContainer", () => {
  test("lets a process that handles SIGTERM end itself within its grace", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"]);
    await container.logged(/ready/);
    const started = performance.now();
    await container.stop(20);
    expect(performance.now() - started).toBeLessThan(5000);
    expect(await container.status()).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 7 });
    expect((await container.output()).stdout).toBe("ready\nbye\n");
  });

  test("kills what does not end within its grace, and not before", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
    await container.logged(/ready/);
    const started = performance.now();
    await container.stop(1);
    const took = performance.now() - started;
    expect(took).toBeGreaterThan(950);
    expect(took).toBeLessThan(3000);
    expect(await container.status()).toMatchObject({ exitCode: 137, reason: "Error" });
  });

  test("with a shorter grace shortens one that is under way", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
    await container.logged(/ready/);
    const started = performance.now();
    const long = container.stop(60);
    await sleep(100);
    await container.stop(0);
    await long;
    expect(performance.now() - started).toBeLessThan(5000);
  });

  test("with a longer grace does not lengthen one that is under way", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
    await container.logged(/ready/);
    const started = performance.now();
    await Promise.all([container.stop(1), sleep(50).then(() => container.stop(60))]);
    expect(performance.now() - started).toBeLessThan(5000);
  });

  test("that its caller abandons goes on", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
    await container.logged(/ready/);
    const call = node.runtime.StopContainer({ containerId: container.id, timeout: 1 }, { timeoutMs: 200 });
    await failure(call, status.DEADLINE_EXCEEDED);
    if (againstPeer) return container.stop(0);
    expect(await container.exited(5000)).toMatchObject({ exitCode: 137 });
  });

  test("uses the stop signal of the request", async () => {
    if (againstPeer) return;
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done"], {
      stopSignal: Signal.SIGNAL_SIGUSR1,
    });
    await container.logged(/ready/);
    await container.stop(20);
    expect(await container.status()).toMatchObject({ exitCode: 9, stopSignal: Signal.SIGNAL_SIGUSR1 });
  });

  test("ends what else runs in a shared PID namespace in the container's cgroup", async () => {
    const pod = await node.runPod({}, { ...hostNetwork, pid: 0 });
    const container = await pod.runContainer(["sh", "-c", "sleep 1719 & echo ready; trap 'exit 0' TERM; while :; do sleep 0.05; done"]);
    await container.logged(/ready/);
    await container.stop(5);
    await until("the child is gone", () => !commands().includes("sleep 1719"), commands);
  });

  test("while the container is frozen still kills it", async () => {
    if (againstPeer) return;
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "1000"]);
    const freezer = cgroupOf(await container.pid(), "freezer");
    if (cgroupV2) writeFileSync(`${freezer}/cgroup.freeze`, "1");
    else writeFileSync(`${freezer}/freezer.state`, "FROZEN");
    await container.stop(0);
    expect(await container.status()).toMatchObject({ exitCode: 137 });
  });
});

describe("resources", () => {
  const limits = {
    memoryLimitInBytes: 64 << 20,
    cpuPeriod: 50_000,
    cpuQuota: 25_000,
    cpuShares: 512,
    cpusetCpus: "0",
    cpusetMems: "0",
  };

  test("are in the files of the container's cgroup, and it is in that cgroup", async () => {
    if (againstPeer) return;
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "1000"], { linux: { resources: limits } });
    const pid = await container.pid();
    const read = (controller: string, file: string): string => readFileSync(`${cgroupOf(pid, controller)}/${file}`, "utf8").trim();
    const parent = pod.config.linux?.cgroupParent ?? "";
    for (const controller of ["cpu", "memory", "pids", "cpuset", "devices", "freezer"]) {
      expect(cgroupOf(pid, controller), controller).toBe(cgroupDirectory(controller, `${parent}/${container.id}`));
    }
    if (cgroupV2) {
      expect(read("memory", "memory.max")).toBe(String(64 << 20));
      expect(read("cpu", "cpu.max")).toBe("25000 50000");
      expect(read("cpu", "cpu.weight")).toBe("59");
    } else {
      expect(read("memory", "memory.limit_in_bytes")).toBe(String(64 << 20));
      expect(read("cpu", "cpu.cfs_period_us")).toBe("50000");
      expect(read("cpu", "cpu.cfs_quota_us")).toBe("25000");
      expect(read("cpu", "cpu.shares")).toBe("512");
    }
    expect(read("cpuset", "cpuset.cpus")).toBe("0");
    expect(read("cpuset", "cpuset.mems")).toBe("0");
    expect(await container.run("grep", "Cpus_allowed_list", "/proc/self/status")).toMatch(/\s0$/m);
  });

  test("are what the status says", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.createContainer(["true"], { linux: { resources: limits } });
    const { linux } = (await container.status()).resources ?? {};
    if (againstPeer) return;
    expect({
      memory: toBigInt(linux?.memoryLimitInBytes ?? zero),
      quota: toBigInt(linux?.cpuQuota ?? zero),
      period: toBigInt(linux?.cpuPeriod ?? zero),
      shares: toBigInt(linux?.cpuShares ?? zero),
      cpus: linux?.cpusetCpus,
    }).toEqual({ memory: BigInt(64 << 20), quota: 25_000n, period: 50_000n, shares: 512n, cpus: "0" });
  });

  test("oom_score_adj is set, or clamped to what the daemon may set", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const raised = await pod.runContainer(["cat", "/proc/self/oom_score_adj"], { linux: { resources: { oomScoreAdj: 777 } } });
    await raised.exited();
    expect((await raised.output()).stdout).toBe("777\n");
    const lowered = await pod.runContainer(["cat", "/proc/self/oom_score_adj"], { linux: { resources: { oomScoreAdj: -500 } } });
    expect(await lowered.exited()).toMatchObject({ exitCode: 0 });
    expect(Number((await lowered.output()).stdout)).toBeLessThanOrEqual(0);
  });
});

describe("statistics", () => {
  test("of a running container: processor time and memory grow with use", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo done; sleep 100"]);
    await container.logged(/done/);
    const { stats } = await node.runtime.ContainerStats({ containerId: container.id });
    expect(stats?.attributes?.id).toBe(container.id);
    expect(stats?.attributes?.labels).toEqual((await container.status()).labels);
    expect(toBigInt(stats?.cpu?.usageCoreNanoSeconds?.value ?? zero)).toBeGreaterThan(20_000_000n);
    expect(toBigInt(stats?.memory?.workingSetBytes?.value ?? zero)).toBeGreaterThan(10_000n);
    expect(toBigInt(stats?.memory?.usageBytes?.value ?? zero)).toBeGreaterThan(10_000n);
    expect(stats?.writableLayer?.fsId?.mountpoint).toMatch(/^\//);
    const list = await node.runtime.ListContainerStats({ filter: { podSandboxId: pod.id } });
    expect(list.stats.map(({ attributes }) => attributes?.id)).toEqual([container.id]);
    expect((await node.runtime.ListContainerStats({ filter: { labelSelector: { no: "such" } } })).stats).toEqual([]);
  });

  test("of an unknown container are NOT_FOUND, of an ended one no error", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["true"]);
    await container.exited();
    await node.runtime.ListContainerStats({});
    await failure(node.runtime.ContainerStats({ containerId: unknownId }), status.NOT_FOUND);
  });

  test("the writable layer's use grows with what is written", async () => {
    if (againstPeer) return;
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "100"]);
    const used = async (): Promise<bigint> => {
      const { stats } = await node.runtime.ContainerStats({ containerId: container.id });
      return toBigInt(stats?.writableLayer?.usedBytes?.value ?? zero);
    };
    const before = await used();
    await container.sh("dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null");
    await until("the use has grown", async () => (await used()) >= before + BigInt(8 << 20), used, 20_000);
  });
});

const zero = { low: 0, high: 0, unsigned: true };

/** Command lines of all processes of the host. */
function commands(): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      } catch {
        return "";
      }
    });
}
