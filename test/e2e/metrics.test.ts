/** /metrics and /healthz. */
import { expect, test } from "vitest";
import { status } from "../support/cri-client.ts";
import { failure, useNode } from "../support/node.ts";
import { hostNetwork } from "../support/workloads.ts";

const node = useNode("metrics");

async function metrics(): Promise<Map<string, number>> {
  const response = await fetch(`${node.daemon.metricsAddress}/metrics`);
  expect(response.status).toBe(200);
  expect(response.headers.get("content-type")).toMatch(/^text\/plain; version=0\.0\.4/);
  const lines = (await response.text()).split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    lines.map((line) => {
      const at = line.lastIndexOf(" ");
      return [line.slice(0, at), Number(line.slice(at + 1))];
    }),
  );
}

test("operations are counted, with their errors, durations and phases", async () => {
  const before = await metrics();
  const pod = await node.runPod();
  await failure(node.runtime.PodSandboxStatus({ podSandboxId: "0".repeat(64) }), status.NOT_FOUND);
  await pod.remove();
  const after = await metrics();
  const grown = (key: string): number => (after.get(key) ?? 0) - (before.get(key) ?? 0);
  expect(grown('berth_operations_total{operation="RunPodSandbox"}')).toBe(1);
  expect(grown('berth_operations_total{operation="PodSandboxStatus"}')).toBe(1);
  expect(grown('berth_operations_errors_total{operation="PodSandboxStatus",code="NOT_FOUND"}')).toBe(1);
  expect(grown('berth_operation_duration_seconds_count{operation="RunPodSandbox"}')).toBe(1);
  for (const phase of ["sandbox.intent", "sandbox.cgroup", "sandbox.pause", "sandbox.network", "sandbox.ready"]) {
    expect(grown(`berth_phase_duration_seconds_count{operation="RunPodSandbox",phase="${phase}"}`), phase).toBe(1);
  }
  expect(after.get('berth_operations_in_flight{operation="RunPodSandbox"}')).toBe(0);
});

test("the process is described", async () => {
  const all = await metrics();
  expect(all.get("process_open_fds")).toBeGreaterThan(5);
  expect(all.get("process_resident_memory_bytes")).toBeGreaterThan(10 << 20);
  expect([...all.keys()].some((key) => key.startsWith("process_cpu_seconds_total"))).toBe(true);
  expect([...all.keys()].some((key) => key.startsWith("nodejs_eventloop_lag_seconds"))).toBe(true);
});

test("names of pods do not become series", async () => {
  for (let i = 0; i < 5; i += 1) await (await node.runPod({ metadata: { name: `unique-${i}` } }, hostNetwork)).remove();
  expect([...(await metrics()).keys()].filter((key) => key.includes("unique-"))).toEqual([]);
});

test("healthz is ok; other paths and methods are refused", async () => {
  const url = node.daemon.metricsAddress;
  expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  const health = await fetch(`${url}/healthz`);
  expect([health.status, await health.text()]).toEqual([200, "ok\n"]);
  expect((await fetch(`${url}/`)).status).toBe(404);
  expect((await fetch(`${url}/metrics`, { method: "POST" })).status).toBe(405);
});

test("Status tells conditions, handlers, features, and verbosely the rest", async () => {
  const state = await node.runtime.Status({ verbose: true });
  expect(state.status?.conditions.map(({ type, status: ok }) => [type, ok])).toEqual([
    ["RuntimeReady", true],
    ["NetworkReady", true],
  ]);
  expect(state.runtimeHandlers.map(({ name }) => name)).toEqual(["", "native"]);
  expect(state.features).toMatchObject({ supplementalGroupsPolicy: true });
  const info = JSON.parse(state.info["info"] ?? "{}") as Record<string, unknown>;
  for (const key of ["version", "kernel", "config", "operations", "problems", "sandboxes", "containers", "images"])
    expect(info).toHaveProperty(key);
  expect((await node.runtime.Status({})).info).toEqual({});
  expect(await node.runtime.Version({ version: "0.1.0" })).toMatchObject({
    version: "0.1.0",
    runtimeName: "berth",
    runtimeApiVersion: "v1",
  });
  expect((await node.runtime.RuntimeConfig({})).linux?.cgroupDriver).toBe(1);
});

test("what a pod's creation spent its time on is in its verbose status", async () => {
  const pod = await node.runPod();
  const { createPhasesMs } = (await pod.info()) as { createPhasesMs: Record<string, number> };
  expect(Object.keys(createPhasesMs)).toEqual(expect.arrayContaining(["sandbox.pause", "sandbox.network", "network.add.bridge"]));
  expect(Object.values(createPhasesMs).every((ms) => ms >= 0)).toBe(true);
});
