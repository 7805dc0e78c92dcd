/** The daemon goes away, comes back, and containers notice nothing. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ContainerState, PodSandboxState } from "../../api/cri/service-definition.ts";
import { status, toBigInt } from "../support/cri-client.ts";
import { startDaemon } from "../support/daemon.ts";
import { type Container, failure, sleep, until, useNode } from "../support/node.ts";
import { hostNetwork } from "../support/workloads.ts";

const node = useNode("restart");

describe.each(["SIGTERM", "SIGKILL"] as const)("after %s", (signal) => {
  test("pods and containers are there with all that they were", async () => {
    const pod = await node.runPod({ labels: { a: "b" }, annotations: { "odd\n": "\u{1F6A2}" } });
    const container = await pod.runContainer(["sleep", "1000"], { labels: { c: "d" } });
    const created = await pod.createContainer(["echo", "started later"]);
    const ended = await pod.runContainer(["sh", "-c", "exit 7"]);
    await ended.exited();
    const all = async (): Promise<unknown> => [
      await pod.status(),
      await container.status(),
      await created.status(),
      await ended.status(),
      (await node.runtime.ListPodSandbox({})).items,
      (await node.runtime.ListContainers({})).containers.toSorted((a, b) => a.id.localeCompare(b.id)),
      (await node.images.ListImages({})).images,
    ];
    const before = await all();
    const pid = await container.pid();
    await node.restart(signal);
    expect(await all()).toEqual(before);
    expect(await container.pid()).toBe(pid);
    expect(statSync(`/proc/${pid}`).isDirectory()).toBe(true);

    expect(await container.run("echo", "well")).toBe("well\n");
    await created.start();
    expect(await created.exited()).toMatchObject({ exitCode: 0 });
    expect((await created.output()).stdout).toBe("started later\n");
    const { stats } = await node.runtime.ContainerStats({ containerId: container.id });
    expect(toBigInt(stats?.memory?.usageBytes?.value ?? { low: 0, high: 0, unsigned: true })).toBeGreaterThan(0n);
    await container.stop(0);
    expect(await container.status()).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 137 });
    const again = await pod.runContainer(["true"]);
    expect(await again.exited()).toMatchObject({ exitCode: 0, reason: "Completed" });
  });

  test("no line of a log is lost", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); sleep 0.01; done"]);
    await container.logged(/line 20$/);
    await node.restart(signal, () => sleep(300));
    expect(await container.exited()).toMatchObject({ exitCode: 0 });
    expect((await container.log()).map(({ text }) => text)).toEqual(Array.from({ length: 300 }, (_, i) => `line ${i}`));
  });

  test("what ended meanwhile is told with code, reason and time", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const [one, two, three] = [
      await pod.runContainer(["sh", "-c", "sleep 0.6; exit 3"]),
      await pod.runContainer(["sh", "-c", "sleep 0.6; kill -9 $$"]),
      await pod.runContainer(["sh", "-c", "sleep 0.6; x=a; while :; do x=$x$x; done"], {
        linux: { resources: { memoryLimitInBytes: 32 << 20 } },
      }),
    ];
    const started = Date.now();
    let away = 0;
    await node.restart(signal, async () => {
      await sleep(1800);
      away = Date.now();
    });
    expect(await one.status()).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 3, reason: "Error" });
    expect(await three.status()).toMatchObject({ state: ContainerState.CONTAINER_EXITED, exitCode: 137, reason: "OOMKilled" });
    for (const container of [one, three]) {
      const finished = Number(toBigInt((await container.status()).finishedAt) / 1_000_000n);
      expect(finished).toBeGreaterThan(started);
      expect(finished).toBeLessThan(away);
    }
    // Pid 1 of its own namespace is not killed by itself.
    await two.stop(0);
    expect((await two.status()).state).toBe(ContainerState.CONTAINER_EXITED);
  });

  test("stop and remove leave nothing", async () => {
    const pod = await node.runPod();
    const container = await pod.runContainer(["sh", "-c", "sleep 1717 & sleep 1718"]);
    await node.restart(signal);
    await container.stop(0);
    await container.remove();
    await pod.stop();
    await pod.remove();
    expect((await node.runtime.ListPodSandbox({})).items).toEqual([]);
  });

  test("names are still taken and free as before", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const other = await node.runPod({}, hostNetwork);
    await other.remove();
    await node.restart(signal);
    expect((await node.runtime.RunPodSandbox({ config: pod.config })).podSandboxId).toBe(pod.id);
    expect((await node.runtime.RunPodSandbox({ config: other.config })).podSandboxId).not.toBe(other.id);
  });
});

test("five restarts in a row, with a container that writes all the time", async () => {
  const pod = await node.runPod({}, hostNetwork);
  const container = await pod.runContainer(["sh", "-c", "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); sleep 0.01; done"]);
  for (const signal of ["SIGKILL", "SIGTERM", "SIGKILL", "SIGKILL", "SIGTERM"] as const) await node.restart(signal);
  await container.exited();
  expect((await container.log()).map(({ text }) => text)).toEqual(Array.from({ length: 500 }, (_, i) => `line ${i}`));
});

test("a stop under way when the daemon dies can be repeated", async () => {
  const pod = await node.runPod({}, hostNetwork);
  const container = await pod.runContainer(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
  await container.logged(/ready/);
  const stop = container.stop(60).catch(() => undefined);
  await sleep(100);
  await node.restart("SIGKILL");
  await stop;
  expect((await container.status()).state).toBe(ContainerState.CONTAINER_RUNNING);
  await container.stop(0);
  expect((await container.status()).exitCode).toBe(137);
});

test("SIGTERM lets a running call end and refuses new ones", async () => {
  const pod = await node.runPod({}, hostNetwork);
  const container = await pod.runContainer(["sleep", "1000"]);
  const exec = container.exec(["sh", "-c", "sleep 1; echo finished"]);
  await sleep(300);
  const code = node.daemon.stop();
  expect(await exec).toMatchObject({ stdout: "finished\n" });
  expect(await code).toBe(0);
  await expect(node.runtime.Version({}, { timeoutMs: 500 })).rejects.toThrow();
  expect(statSync(node.directories.socket, { throwIfNoEntry: false })).toBeUndefined();
  await node.startServer();
  expect((await container.status()).state).toBe(ContainerState.CONTAINER_RUNNING);
});

test("a second daemon on the same roots is refused and disturbs nothing", async () => {
  const pod = await node.runPod({}, hostNetwork);
  await expect(startDaemon({ directories: node.directories })).rejects.toThrow(/another daemon/);
  expect((await pod.status()).state).toBe(PodSandboxState.SANDBOX_READY);
});

describe("what was half done when the daemon was killed is undone at the next start", () => {
  const sandboxSteps = [
    "sandbox.intent",
    "sandbox.directory",
    "sandbox.shm",
    "sandbox.files",
    "sandbox.cgroup",
    "sandbox.pause",
    "sandbox.namespace",
    "sandbox.network",
    "network.add.bridge",
    "network.add.portmap",
    "sandbox.hosts",
    "sandbox.ready",
  ];
  test.each(sandboxSteps)("RunPodSandbox in %s", async (step) => {
    await node.daemon.stop();
    await node.startServer({ env: { BERTH_FAILPOINTS: `${step}=kill` } });
    await node.networkReady();
    const config = node.podConfig({ portMappings: [{ protocol: 0, containerPort: 80, hostPort: 18099 }] });
    await expect(node.runtime.RunPodSandbox({ config }, { timeoutMs: 10_000 })).rejects.toThrow();
    await until("the daemon is dead", () => node.daemon.process.signalCode === "SIGKILL");
    await node.startServer();
    expect((await node.runtime.ListPodSandbox({})).items).toEqual([]);
    await node.networkReady();
    expect(await node.residue()).toEqual([]);
    const { podSandboxId } = await node.runtime.RunPodSandbox({ config });
    expect((await node.runtime.PodSandboxStatus({ podSandboxId })).status?.state).toBe(PodSandboxState.SANDBOX_READY);
  });

  test("CreateContainer and StartContainer, whichever step", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const steps = (await stepsOf(await pod.runContainer(["true"]))).filter((name) => name.startsWith("container."));
    expect(steps.length).toBeGreaterThan(3);
    for (const step of steps) {
      await node.daemon.stop();
      await node.startServer({ env: { BERTH_FAILPOINTS: `${step}=kill` } });
      const attempt = async (): Promise<void> => {
        const container = await pod.createContainer(["sleep", "1000"], { metadata: { name: "victim" } });
        await container.start();
        await container.stop(0);
        await container.remove();
      };
      await expect(attempt(), step).rejects.toThrow();
      await until(
        `the daemon is dead in ${step}`,
        () => node.daemon.process.signalCode === "SIGKILL",
        () => node.operations(),
      );
      await node.startServer();
      for (const { id: containerId, metadata } of (await node.runtime.ListContainers({})).containers) {
        if (metadata?.name !== "victim") continue;
        // It had been made: it can be stopped and removed as any other.
        await node.runtime.StopContainer({ containerId, timeout: 0 });
        await node.runtime.RemoveContainer({ containerId });
      }
      expect((await pod.status()).state, step).toBe(PodSandboxState.SANDBOX_READY);
      const again = await pod.runContainer(["true"], { metadata: { name: "victim" } });
      expect(await again.exited(), step).toMatchObject({ exitCode: 0 });
      await again.remove();
    }
  }, 180_000);

  /** The steps that this daemon has been through, by its metrics. */
  async function stepsOf(container: Container): Promise<string[]> {
    await container.exited();
    const text = await (await fetch(`${node.daemon.metricsAddress}/metrics`)).text();
    const names = [
      ...text.matchAll(/berth_phase_duration_seconds_count\{operation="(?:CreateContainer|StartContainer)",phase="([^"]+)"\}/g),
    ];
    return [...new Set(names.map((match) => match[1] ?? ""))].sort();
  }
});

describe("what a reboot leaves", () => {
  test("pods are not ready, containers have ended, all can be removed and nothing is left", async () => {
    const pod = await node.runPod();
    const container = await pod.runContainer(["sleep", "1000"]);
    const created = await pod.createContainer(["sleep", "1000"]);
    await node.restart("SIGKILL", async () => {
      // Not even the monitors survive a reboot.
      for (const pid of processesOfRun()) {
        try {
          process.kill(pid, "SIGKILL");
        } catch {
          // It ended with another one.
        }
      }
      await until("all is dead", () => processesOfRun().length === 0);
    });
    expect((await pod.status()).state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    expect((await container.status()).state).toBe(ContainerState.CONTAINER_EXITED);
    expect((await container.status()).exitCode).not.toBe(0);
    expect((await created.status()).state).not.toBe(ContainerState.CONTAINER_RUNNING);
    await failure(container.exec(["true"]), status.FAILED_PRECONDITION);
    await pod.remove();
  });

  test("a monitor alone that was killed: its container is ended and told", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "1719"]);
    const stat = readFileSync(`/proc/${await container.pid()}/stat`, "utf8");
    process.kill(Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]), "SIGKILL");
    const state = await container.exited();
    expect(state.exitCode).not.toBe(0);
    await container.remove();
  });
});

/** Monitors, pauses and containers of this node, not its daemon. */
function processesOfRun(): number[] {
  const { cgroupParent } = node.directories;
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/cgroup`, "utf8").includes(cgroupParent) && readFileSync(`/proc/${name}/cmdline`, "utf8") !== "";
      } catch {
        return false;
      }
    })
    .map(Number);
}
