import { existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { setFailpoints } from "../../../src/operation/failpoints.ts";
import type { SandboxEvent, Sandboxes } from "../../../src/sandbox/index.ts";
import { bridgeNetwork, everything, FakeHost, operation, podConfig } from "./fake-host.ts";

let host: FakeHost;
let service: Sandboxes;

beforeEach(async () => {
  host = new FakeHost();
  host.writeNetwork("10-pods.conflist", bridgeNetwork);
  service = await started();
});

afterEach(async () => {
  setFailpoints("");
  await service.close();
  host.dispose();
});

async function started(events: SandboxEvent[] = []): Promise<Sandboxes> {
  const next = host.service(events);
  await next.recover(operation());
  return next;
}

const other = (uid: string): ReturnType<typeof podConfig> => podConfig({ metadata: { ...podConfig().metadata, uid } });
const recordPath = (id: string): string => join(host.config.root, "sandboxes", `${id}.json`);

test("a running pod is adopted with all that is known of it, and watched again", async () => {
  const before = await service.run(operation(), podConfig());
  await service.close();
  const events: SandboxEvent[] = [];
  service = await started(events);
  expect(service.get(before.id)).toEqual(before);
  expect(service.runtime(before.id).pause.pid).toBe(before.pausePid);
  host.alive[0]?.end(15);
  await expect.poll(() => service.get(before.id).state).toBe("not-ready");
  expect(events.map(({ type }) => type)).toEqual(["stopped"]);
});

test("the first list after the start is whole: what died meanwhile is not ready", async () => {
  const dead = await service.run(operation(), podConfig());
  const alive = await service.run(operation(), other("uid-2"));
  const stopped = await service.run(operation(), other("uid-3"));
  await service.stop(operation(), stopped.id);
  await service.close();
  host.alive[0]?.end(9);
  service = await started();
  const states = Object.fromEntries(service.list(everything).map(({ id, state, reason }) => [id, [state, reason]]));
  expect(states).toEqual({
    [dead.id]: ["not-ready", "the pause process ended while the daemon was away"],
    [alive.id]: ["ready", ""],
    [stopped.id]: ["not-ready", "stopped"],
  });
});

test("after a reboot no process is mistaken for a pod's, and Remove gives back the addresses", async () => {
  const view = await service.run(operation(), podConfig());
  await service.close();
  const pause = host.alive[0];
  host.reboot();
  // The same pid and start time, in another boot.
  if (pause) pause.alive = true;
  service = await started();
  expect(service.get(view.id)).toMatchObject({ state: "not-ready", reason: "the node was restarted", network: { ips: [] } });
  if (pause) pause.alive = false;
  host.plugins.length = 0;
  await service.remove(operation(), view.id);
  await service.idle();
  expect(host.plugins.map(({ command, type, env }) => [command, type, env["CNI_NETNS"]])).toEqual([
    ["DEL", "portmap", ""],
    ["DEL", "bridge", ""],
  ]);
  expect(host.residue()).toEqual([]);
});

test("a half made pod is never seen and undone behind", async () => {
  setFailpoints("sandbox.hosts=hang");
  const running = service.run(operation(), podConfig());
  running.catch(() => undefined);
  await expect.poll(() => host.plugins.length).toBe(2);
  // The daemon dies here: a second one starts on the same host.
  const crashed = service;
  service = await started();
  expect(service.list(everything)).toEqual([]);
  await service.idle();
  expect(host.residue()).toEqual([]);
  expect(host.plugins.slice(2).map(({ command }) => command)).toEqual(["DEL", "DEL"]);
  await crashed.close();
});

test("what was finished for nobody is undone by a restart", async () => {
  setFailpoints("sandbox.pause=delay(50)");
  await expect(service.run(operation(10), podConfig())).rejects.toMatchObject({ kind: "deadline-exceeded" });
  const records = join(host.config.root, "sandboxes");
  await expect
    .poll(() => readdirSync(records).map((name) => JSON.parse(readFileSync(join(records, name), "utf8")).data.phase))
    .toEqual(["ready"]);
  const crashed = service;
  service = await started();
  await service.idle();
  expect(host.residue()).toEqual([]);
  expect(service.list(everything)).toEqual([]);
  await crashed.close();
});

test("a retry right after the restart does not wait for a name", async () => {
  setFailpoints("sandbox.hosts=1*hang");
  service.run(operation(), podConfig()).catch(() => undefined);
  await expect.poll(() => host.plugins.length).toBe(2);
  const crashed = service;
  service = await started();
  const view = await service.run(operation(), podConfig());
  await service.idle();
  expect(service.list(everything)).toEqual([view]);
  expect(host.alive.map(({ pid }) => pid)).toEqual([view.pausePid]);
  await crashed.close();
});

test("what is nobody's is removed; what is not ours, or has processes in it, stays", async () => {
  const view = await service.run(operation(), podConfig());
  await service.close();
  const orphan = "a".repeat(64);
  const foreign = "b".repeat(64);
  mkdirSync(join(host.config.runRoot, "sandboxes", orphan, "shm"), { recursive: true });
  host.mounts.add(join(host.config.runRoot, "sandboxes", orphan, "shm"));
  host.cgroups.add(`/kubepods/poduid-1/${orphan}`);
  host.cgroups.add(`/kubepods/poduid-1/${"c".repeat(64)}`);
  const { namespaceDirectory } = host.config.network;
  writeFileSync(join(namespaceDirectory, `berth-${orphan}`), "");
  symlinkSync("/proc/self/ns/net", join(namespaceDirectory, `berth-${foreign}`));
  writeFileSync(join(namespaceDirectory, "cni-1234"), "");
  service = await started();
  await service.idle();
  expect(service.get(view.id).state).toBe("ready");
  expect(host.residue().filter((line) => !line.includes(view.id) && !line.startsWith("process"))).toEqual([
    // A container's: it has no directory and no namespace of a sandbox.
    `cgroup /kubepods/poduid-1/${"c".repeat(64)}`,
    `netns berth-${foreign}`,
    "netns cni-1234",
  ]);
});

test("a damaged record costs its own pod, which is taken down", async () => {
  const broken = await service.run(operation(), podConfig());
  const sound = await service.run(operation(), other("uid-2"));
  await service.close();
  writeFileSync(recordPath(broken.id), "{ torn");
  // In a test the namespace's processes are this one's; a pod's are gone once its cgroup is.
  await host.kernel().unpinNamespace({ path: broken.networkNamespacePath });
  writeFileSync(broken.networkNamespacePath, "");
  service = await started();
  expect(service.list(everything).map(({ id }) => id)).toEqual([sound.id]);
  await service.idle();
  expect(host.alive.map(({ pid }) => pid)).toEqual([sound.pausePid]);
  expect(host.plugins.at(-1)).toMatchObject({ command: "DEL", env: { CNI_CONTAINERID: broken.id } });
  expect(host.residue().filter((line) => line.includes(broken.id))).toEqual([`record ${broken.id}.json.damaged`]);
});

test("what cannot be undone becomes a not-ready sandbox that Remove takes down", async () => {
  setFailpoints("sandbox.hosts=1*hang");
  service.run(operation(), podConfig()).catch(() => undefined);
  await expect.poll(() => host.plugins.length).toBe(2);
  host.answer = () => ({ error: { code: 7, msg: "stuck" } });
  const crashed = service;
  service = await started();
  await service.idle();
  const [view] = service.list(everything);
  expect(view).toMatchObject({ state: "not-ready", reason: expect.stringContaining("stuck") });
  host.answer = () => ({ result: null });
  await service.remove(operation(), view?.id ?? "");
  await service.idle();
  expect(host.residue()).toEqual([]);
  await crashed.close();
});

test("GC names the attachments that are held, where the network's version has it", async () => {
  host.writeNetwork("10-pods.conflist", { ...bridgeNetwork, cniVersion: "1.1.0" });
  await service.close();
  service = await started();
  const view = await service.run(operation(), podConfig());
  await service.close();
  host.plugins.length = 0;
  service = await started();
  await service.idle();
  const collected = host.plugins.filter(({ command }) => command === "GC");
  expect(collected.map(({ type }) => type)).toEqual(["bridge", "portmap"]);
  expect(collected[0]?.stdin["cni.dev/valid-attachments"]).toEqual([{ containerID: view.id, ifname: "eth0" }]);
});

test("directories that a former daemon had put aside are deleted", async () => {
  await service.close();
  mkdirSync(join(host.config.runRoot, "sandboxes", ".removed", "d".repeat(64)), { recursive: true });
  service = await started();
  await service.idle();
  expect(existsSync(join(host.config.runRoot, "sandboxes", ".removed", "d".repeat(64)))).toBe(false);
});
