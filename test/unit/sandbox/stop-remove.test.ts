import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { setFailpoints } from "../../../src/operation/failpoints.ts";
import type { SandboxEvent, Sandboxes } from "../../../src/sandbox/index.ts";
import type { SandboxView } from "../../../src/sandbox/types.ts";
import { bridgeNetwork, bridgeResult, everything, FakeHost, operation, podConfig } from "./fake-host.ts";

let host: FakeHost;
let service: Sandboxes;
let events: SandboxEvent[];
let hooks: string[];
let view: SandboxView;

beforeEach(async () => {
  host = new FakeHost();
  host.writeNetwork("10-pods.conflist", bridgeNetwork);
  events = [];
  hooks = [];
  service = host.service(events);
  service.setContainerHooks({
    stopAll: async (_op, id) => {
      hooks.push(`stop ${service.get(id).state}`);
    },
    removeAll: async () => {
      hooks.push("remove");
    },
  });
  await service.recover(operation());
  view = await service.run(operation(), podConfig());
});

afterEach(async () => {
  setFailpoints("");
  await service.close();
  host.dispose();
});

const commands = (): string[] => host.plugins.filter(({ command }) => command !== "ADD").map(({ command, type }) => `${command} ${type}`);

test("a stop ends containers, network and pause process, in a sandbox that takes no more containers", async () => {
  await service.stop(operation(), view.id);
  expect(hooks).toEqual(["stop not-ready"]);
  expect(commands()).toEqual(["DEL portmap", "DEL bridge"]);
  const del = host.plugins.at(-1);
  expect(del?.stdin["prevResult"]).toEqual(bridgeResult);
  expect(del?.env["CNI_NETNS"]).toBe(view.networkNamespacePath);
  expect(host.residue().sort()).toEqual([`directory ${view.id}`, `record ${view.id}.json`]);
  expect(service.get(view.id)).toMatchObject({ state: "not-ready", reason: "stopped", network: { ips: [] }, pausePid: 0 });
  expect(events.map(({ type }) => type)).toEqual(["ready", "stopped"]);
});

test("DEL gets the configuration and the capability arguments of ADD, whatever the file says by then", async () => {
  host.writeNetwork("10-pods.conflist", { ...bridgeNetwork, name: "other", plugins: [{ type: "bridge" }] });
  await service.stop(operation(), view.id);
  expect(commands()).toEqual(["DEL portmap", "DEL bridge"]);
  expect(host.plugins.at(-1)?.stdin).toMatchObject({ name: "pods", ipam: { type: "host-local" } });
});

test("stop and remove of the unknown and of the stopped are success", async () => {
  await service.stop(operation(), "f".repeat(64));
  await service.remove(operation(), "f".repeat(64));
  await service.stop(operation(), view.id);
  const before = host.calls.length;
  await service.stop(operation(), view.id);
  // Nothing is left to do: the second one asks the kernel nothing.
  expect(host.calls.length).toBe(before);
});

test("concurrent stops are one", async () => {
  setFailpoints("sandbox.stop.network=delay(50)");
  await Promise.all([service.stop(operation(), view.id), service.stop(operation(), view.id), service.stop(operation(), view.id)]);
  expect(hooks).toHaveLength(1);
  expect(commands()).toEqual(["DEL portmap", "DEL bridge"]);
});

test("a stop goes on when its caller has left, and the next one joins it", async () => {
  setFailpoints("sandbox.stop.network=delay(100)");
  await expect(service.stop(operation(20), view.id)).rejects.toMatchObject({ kind: "deadline-exceeded" });
  await service.stop(operation(), view.id);
  expect(hooks).toHaveLength(1);
  expect(host.alive).toEqual([]);
});

test("a failed DEL keeps record and namespace, ends the rest, and the next stop repeats it", async () => {
  host.answer = ({ type }) => (type === "bridge" ? { error: { code: 11, msg: "busy" } } : { result: null });
  await expect(service.stop(operation(), view.id)).rejects.toMatchObject({
    kind: "unavailable",
    message: expect.stringMatching(/is not stopped: CNI plugin "bridge" \(network "pods"\) DEL failed with code 11: busy/),
  });
  expect(service.get(view.id).state).toBe("not-ready");
  expect(host.alive).toEqual([]);
  expect(existsSync(view.networkNamespacePath)).toBe(true);
  host.answer = () => ({ result: null });
  await service.stop(operation(), view.id);
  expect(commands()).toEqual(["DEL portmap", "DEL bridge", "DEL portmap", "DEL bridge"]);
  expect(existsSync(view.networkNamespacePath)).toBe(false);
});

test("with the namespace gone, DEL is still called, with an empty CNI_NETNS", async () => {
  await host.kernel().unpinNamespace({ path: view.networkNamespacePath });
  await service.stop(operation(), view.id);
  expect(host.plugins.at(-1)?.env["CNI_NETNS"]).toBe("");
  expect(host.plugins.at(-1)?.stdin["prevResult"]).toEqual(bridgeResult);
});

test("a pause process that does not end is left to its cgroup", async () => {
  const pause = host.alive[0];
  if (!pause) throw new Error("no pause process");
  const { end } = pause;
  Object.assign(pause, { end: () => undefined });
  setTimeout(() => Object.assign(pause, { end }), 1_000);
  await service.stop(operation(), view.id);
  expect(host.calls).toContain("killCgroup");
  expect(host.alive).toEqual([]);
});

test.each([
  "sandbox.stop.containers",
  "sandbox.stop.network",
  "network.del.bridge",
  "sandbox.stop.namespace",
  "sandbox.stop.pause",
  "sandbox.stop.cgroup",
  "sandbox.stop.shm",
  "sandbox.stop.record",
  "sandbox.remove.containers",
  "sandbox.remove.cgroup",
  "sandbox.remove.directory",
  "sandbox.remove.record",
])("a remove that fails at %s keeps the record, and the next one leaves nothing", async (step) => {
  setFailpoints(`${step}=1*error(boom)`);
  await expect(service.remove(operation(), view.id)).rejects.toThrow(/boom/);
  expect(service.list(everything)).toHaveLength(1);
  await service.remove(operation(), view.id);
  await service.idle();
  expect(host.residue()).toEqual([]);
  expect(service.list(everything)).toEqual([]);
});

test("a remove stops, removes the containers, and tells once", async () => {
  await Promise.all([service.remove(operation(), view.id), service.remove(operation(), view.id), service.stop(operation(), view.id)]);
  await service.idle();
  expect(hooks).toEqual(["stop not-ready", "remove"]);
  expect(events.map(({ type }) => type)).toEqual(["ready", "stopped", "deleted"]);
  expect(host.residue()).toEqual([]);
  expect(() => service.get(view.id)).toThrow(expect.objectContaining({ kind: "not-found" }));
});

test("a record on disk follows every change", async () => {
  const path = join(host.config.root, "sandboxes", `${view.id}.json`);
  expect(JSON.parse(readFileSync(path, "utf8")).data).toMatchObject({ phase: "ready", released: false });
  await service.stop(operation(), view.id);
  expect(JSON.parse(readFileSync(path, "utf8")).data).toMatchObject({ phase: "not-ready", released: true, attachments: [], pause: null });
  await service.remove(operation(), view.id);
  expect(readdirSync(join(host.config.root, "sandboxes"))).toEqual([]);
});
