import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { setFailpoints } from "../../../src/operation/failpoints.ts";
import type { SandboxEvent, Sandboxes } from "../../../src/sandbox/index.ts";
import { bridgeNetwork, everything, FakeHost, hostNetwork, operation, podConfig } from "./fake-host.ts";

let host: FakeHost;
let service: Sandboxes;
let events: SandboxEvent[];

beforeEach(async () => {
  await start({});
});

afterEach(async () => {
  setFailpoints("");
  await service.close();
  host.dispose();
});

async function start(runtime: ConstructorParameters<typeof FakeHost>[0]): Promise<void> {
  if (service) await service.close();
  host?.dispose();
  host = new FakeHost(runtime);
  host.writeNetwork("10-pods.conflist", bridgeNetwork);
  events = [];
  service = host.service(events);
  await service.recover(operation());
  await service.idle();
}

describe("a pod with a network of its own", () => {
  test("is ready with its addresses, its namespaces and its files", async () => {
    const view = await service.run(operation(), podConfig());
    expect(view).toMatchObject({ state: "ready", reason: "", network: { ips: ["10.1.0.5", "fd00::5"] } });
    expect(view.networkNamespacePath).toBe(join(host.config.network.namespaceDirectory, `berth-${view.id}`));
    const [pause] = host.alive;
    expect(view.pausePid).toBe(pause?.pid);
    expect(pause?.args).toMatchObject({
      namespaces: { net: true, ipc: true, uts: true, pid: false },
      hostname: "web",
      loopback: true,
      sysctls: { "net.ipv4.ip_unprivileged_port_start": "0" },
      oomScoreAdj: -998,
    });
    expect(pause?.cgroup).toBe(`/kubepods/poduid-1/${view.id}`);
    const { files, cgroupParent } = service.runtime(view.id);
    expect(cgroupParent).toBe("/kubepods/poduid-1");
    expect(readFileSync(files.hosts ?? "", "utf8")).toMatch(/^10\.1\.0\.5\tweb\nfd00::5\tweb\n/m);
    expect(readFileSync(files.hostname, "utf8")).toBe("web\n");
    expect([...host.mounts]).toEqual([files.shm]);
    expect(service.list(everything)).toEqual([view]);
    expect(events).toEqual([{ type: "ready", sandbox: view }]);
  });

  test("keeps labels and annotations byte by byte and names its phases", async () => {
    const labels = { "a/b": " é\u0000", "": "" };
    const view = await service.run(operation(), podConfig({ labels }));
    expect(service.get(view.id).config.labels).toEqual(labels);
    expect(Object.keys(view.phases)).toEqual(
      expect.arrayContaining(["sandbox.intent", "sandbox.pause", "sandbox.network", "network.add.bridge"]),
    );
  });

  test("writes the request's DNS", async () => {
    const dns = { servers: ["10.96.0.10"], searches: ["a.svc", "b"], options: ["ndots:5"] };
    const view = await service.run(operation(), podConfig({ dns }));
    expect(readFileSync(service.runtime(view.id).files.resolvConf, "utf8")).toBe(
      "nameserver 10.96.0.10\nsearch a.svc b\noptions ndots:5\n",
    );
  });

  test("has its intent and its attachment on disk before anything else, and the result before it is used", async () => {
    const records = join(host.config.root, "sandboxes");
    const read = (): Record<string, unknown> => JSON.parse(readFileSync(join(records, readdirSync(records)[0] ?? ""), "utf8")).data;
    let atCgroup: Record<string, unknown> = {};
    host.faults.set("createCgroup", async () => {
      atCgroup = read();
    });
    await service.run(operation(), podConfig());
    expect(atCgroup).toMatchObject({ phase: "creating", attachments: [{ network: "pods", result: null }] });
    expect(read()).toMatchObject({ phase: "ready", claimed: true, attachments: [{ result: { cniVersion: "1.0.0" } }] });
  });

  test("hands each plugin what the specification says", async () => {
    const portMappings = [
      { protocol: "tcp" as const, containerPort: 80, hostPort: 8080, hostIp: "" },
      { protocol: "tcp" as const, containerPort: 81, hostPort: 0, hostIp: "" },
    ];
    const view = await service.run(operation(), podConfig({ portMappings }));
    const [bridge, portmap] = host.plugins;
    expect(bridge?.env).toEqual({
      CNI_COMMAND: "ADD",
      CNI_CONTAINERID: view.id,
      CNI_NETNS: view.networkNamespacePath,
      CNI_IFNAME: "eth0",
      CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=${view.id};K8S_POD_UID=uid-1`,
      CNI_PATH: host.pluginDirectory,
      PATH: expect.stringContaining("/usr/sbin"),
    });
    expect(bridge?.stdin).toMatchObject({ cniVersion: "1.0.0", name: "pods", type: "bridge", bridge: "berth0" });
    expect(bridge?.stdin).not.toHaveProperty("prevResult");
    expect(bridge?.stdin).not.toHaveProperty("runtimeConfig");
    expect(portmap?.stdin).toMatchObject({ prevResult: { cniVersion: "1.0.0" } });
    expect(portmap?.stdin).not.toHaveProperty("capabilities");
    expect(portmap?.stdin["runtimeConfig"]).toEqual({ portMappings: [{ hostPort: 8080, containerPort: 80, protocol: "tcp", hostIP: "" }] });
  });
});

describe("a pod with the host's network", () => {
  test("needs no CNI, and has the host's names", async () => {
    const view = await service.run(operation(), podConfig({ namespaces: hostNetwork }));
    expect(view).toMatchObject({ state: "ready", network: { ips: [] }, networkNamespacePath: "" });
    expect(host.alive[0]?.args).toMatchObject({ namespaces: { net: false, uts: false }, hostname: null, sysctls: {}, loopback: false });
    expect(host.plugins).toEqual([]);
    expect(readFileSync(service.runtime(view.id).files.hosts ?? "", "utf8")).toBe(readFileSync("/etc/hosts", "utf8"));
  });

  test("takes two record writes and no call too many", async () => {
    await service.run(operation(), podConfig({ namespaces: hostNetwork }));
    const counts: Record<string, number> = {};
    for (const name of host.calls) counts[name] = (counts[name] ?? 0) + 1;
    expect(counts).toEqual({
      makeDirectories: 1,
      // Intent, ready, and the three files.
      writeFileAtomic: 5,
      mountTmpfs: 1,
      createCgroup: 1,
      startPause: 1,
    });
  });

  test("has no /dev/shm with the host's IPC, and pid 1 is the pause process where the pod shares its processes", async () => {
    const view = await service.run(operation(), podConfig({ namespaces: { ...hostNetwork, ipc: "node", pid: "pod" } }));
    expect(service.runtime(view.id).files.shm).toBeNull();
    expect(host.mounts.size).toBe(0);
    expect(host.alive[0]?.args.namespaces).toEqual({ net: false, ipc: false, uts: false, pid: true });
  });
});

describe("a failure", () => {
  const steps = [
    "sandbox.intent",
    "sandbox.directory",
    "sandbox.files",
    "sandbox.shm",
    "sandbox.cgroup",
    "sandbox.pause",
    "sandbox.namespace",
    "sandbox.network",
    "network.add.bridge",
    "network.add.portmap",
    "sandbox.hosts",
    "sandbox.ready",
  ];
  test.each(steps)("at %s leaves nothing, and the next try succeeds", async (step) => {
    setFailpoints(`${step}=1*error(boom)`);
    await expect(service.run(operation(), podConfig())).rejects.toThrow(/boom/);
    await service.idle();
    expect(host.residue()).toEqual([]);
    expect(service.list(everything)).toEqual([]);
    expect(events).toEqual([]);
    const view = await service.run(operation(), podConfig());
    expect(view.state).toBe("ready");
  });

  test("of a plugin is undone with DEL of all, in reverse", async () => {
    host.answer = ({ command, type }) =>
      command === "ADD" && type === "portmap" ? { error: { code: 7, msg: "no such port" } } : { result: {} };
    await expect(service.run(operation(), podConfig())).rejects.toThrow(
      /pod default\/web .*CNI plugin "portmap" \(network "pods"\) ADD failed with code 7: no such port/,
    );
    expect(host.plugins.map(({ command, type }) => `${command} ${type}`)).toEqual([
      "ADD bridge",
      "ADD portmap",
      "DEL portmap",
      "DEL bridge",
    ]);
    // The namespace is still there for DEL.
    expect(host.plugins[2]?.env["CNI_NETNS"]).toContain("berth-");
    await service.idle();
    expect(host.residue()).toEqual([]);
  });

  test("names the pod, the step and what the kernel said", async () => {
    host.fail("startPause", 1, "EPERM");
    await expect(service.run(operation(), podConfig())).rejects.toMatchObject({
      kind: "internal",
      message: expect.stringMatching(/^pod default\/web \([0-9a-f]{12}\): sandbox\.pause: startPause: fake: EPERM$/),
    });
  });

  test("of a full disk is resource-exhausted", async () => {
    host.fail("writeFileAtomic", 1, "ENOSPC");
    await expect(service.run(operation(), podConfig())).rejects.toMatchObject({ kind: "resource-exhausted" });
    await service.idle();
    expect(host.residue()).toEqual([]);
  });

  test("that cannot be undone is a visible not-ready sandbox, which Remove takes down", async () => {
    setFailpoints("sandbox.namespace=1*error(boom)");
    host.fail("removeCgroup", 1, "EBUSY");
    await expect(service.run(operation(), podConfig())).rejects.toThrow(/boom/);
    const [view] = service.list(everything);
    expect(view).toMatchObject({ state: "not-ready", reason: expect.stringMatching(/could not be undone: sandbox\.cgroup: .*EBUSY/) });
    await service.remove(operation(), view?.id ?? "");
    await service.idle();
    expect(host.residue()).toEqual([]);
  });

  test("that could not be undone does not stand in the way of the next try under the name", async () => {
    setFailpoints("sandbox.pause=1*error(boom)");
    host.fail("removeCgroup", 1, "EBUSY");
    await expect(service.run(operation(), podConfig())).rejects.toThrow(/boom/);
    const view = await service.run(operation(), podConfig());
    expect(service.list(everything)).toEqual([view]);
    expect(host.cgroups.size).toBe(1);
  });

  test("of the pause process before the pod is ready is a failed create", async () => {
    host.answer = () => {
      for (const process of host.alive) process.end(9);
      return { result: {} };
    };
    await expect(service.run(operation(), podConfig())).rejects.toThrow(/pause process ended meanwhile \(signal 9\)/);
    await service.idle();
    expect(host.residue()).toEqual([]);
  });
});

describe("what is mounted", () => {
  test("is never hidden in a directory that is put aside", async () => {
    setFailpoints("sandbox.cgroup=1*delay(50);sandbox.pause=1*error(boom)");
    host.fail("unmount", 2, "EBUSY");
    await expect(service.run(operation(), podConfig())).rejects.toThrow(/boom/);
    const [view] = service.list(everything);
    expect(view?.reason).toMatch(/sandbox\.shm: .*EBUSY; sandbox\.directory: .*EBUSY/);
    expect([...host.mounts]).toEqual([join(host.config.runRoot, "sandboxes", view?.id ?? "", "shm")]);
    await service.remove(operation(), view?.id ?? "");
    await service.idle();
    expect(host.residue()).toEqual([]);
  });
});

describe("a hanging kernel call", () => {
  test("ends with the create's deadline, and its late result is given back", async () => {
    await start({ createTimeoutMs: 100 });
    let release: () => void = () => undefined;
    host.faults.set("startPause", () => new Promise((resolve) => (release = resolve)));
    await expect(service.run(operation(), podConfig())).rejects.toMatchObject({ kind: "deadline-exceeded" });
    host.faults.clear();
    release();
    await expect.poll(() => host.processes.size).toBe(1);
    await service.idle();
    await expect.poll(() => host.residue()).toEqual([]);
  });
});

describe("a retry", () => {
  test("joins the running create", async () => {
    setFailpoints("sandbox.pause=delay(100)");
    const views = await Promise.all([service.run(operation(), podConfig()), service.run(operation(), podConfig())]);
    expect(views[0]).toBe(views[1]);
    expect(host.processes.size).toBe(1);
  });

  test("claims what was finished when its caller had left; until then nobody sees it", async () => {
    setFailpoints("sandbox.pause=delay(100)");
    await expect(service.run(operation(20), podConfig())).rejects.toMatchObject({ kind: "deadline-exceeded" });
    await expect
      .poll(() => existsSync(join(host.config.root, "sandboxes")) && readdirSync(join(host.config.root, "sandboxes")).length)
      .toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(host.alive).toHaveLength(1);
    expect(service.list(everything)).toEqual([]);
    expect(events).toEqual([]);
    const view = await service.run(operation(), podConfig());
    expect(host.processes.size).toBe(1);
    expect(service.list(everything)).toEqual([view]);
    expect(events.map(({ type }) => type)).toEqual(["ready"]);
  });

  test("that never comes lets the result be undone", async () => {
    await start({ unclaimedTtlMs: 50 });
    setFailpoints("sandbox.pause=delay(50)");
    await expect(service.run(operation(20), podConfig())).rejects.toMatchObject({ kind: "deadline-exceeded" });
    await expect.poll(() => host.processes.size).toBe(1);
    await expect.poll(() => host.residue(), { timeout: 2_000 }).toEqual([]);
    expect(events).toEqual([]);
  });

  test("that never comes, where the undo fails, leaves a sandbox that can be seen and removed", async () => {
    await start({ unclaimedTtlMs: 30 });
    setFailpoints("sandbox.pause=delay(50)");
    await expect(service.run(operation(20), podConfig())).rejects.toMatchObject({ kind: "deadline-exceeded" });
    host.fail("unmount", 1, "EBUSY");
    await expect.poll(() => service.list(everything).map(({ state }) => state)).toEqual(["not-ready"]);
    const [view] = service.list(everything);
    expect(view?.reason).toMatch(/was not finished and could not be undone: .*EBUSY/);
    await service.remove(operation(), view?.id ?? "");
    await service.idle();
    expect(host.residue()).toEqual([]);
  });

  test("with another request undoes the first and then runs", async () => {
    setFailpoints("sandbox.pause=1*hang");
    const first = service.run(operation(), podConfig());
    first.catch(() => undefined);
    await expect.poll(() => host.cgroups.size).toBe(1);
    const view = await service.run(operation(), podConfig({ hostname: "other" }));
    await expect(first).rejects.toMatchObject({ kind: "cancelled" });
    expect(service.list(everything)).toEqual([view]);
    expect(view.config.hostname).toBe("other");
    await service.idle();
    expect(host.residue().filter((line) => !line.includes(view.id))).toEqual([`process ${view.pausePid}`]);
  });

  test("of a claimed create whose answer was lost gets the same sandbox", async () => {
    const view = await service.run(operation(), podConfig());
    expect(await service.run(operation(), podConfig())).toBe(view);
  });

  test("of another request under a name that stands is refused with the sandbox's id", async () => {
    const view = await service.run(operation(), podConfig());
    await expect(service.run(operation(), podConfig({ hostname: "other" }))).rejects.toMatchObject({
      kind: "already-exists",
      message: expect.stringContaining(view.id.slice(0, 12)),
    });
    const next = await service.run(operation(), podConfig({ metadata: { ...podConfig().metadata, attempt: 1 } }));
    expect(next.id).not.toBe(view.id);
  });
});

describe("the pause process's end", () => {
  test("makes the sandbox not ready, without an address", async () => {
    const view = await service.run(operation(), podConfig());
    host.alive[0]?.end(9);
    await expect.poll(() => service.get(view.id).state).toBe("not-ready");
    expect(service.get(view.id)).toMatchObject({ reason: "the pause process ended (signal 9)", network: { ips: [] }, pausePid: 0 });
    expect(() => service.runtime(view.id)).toThrow(/is not ready: the pause process ended/);
    expect(events.map(({ type }) => type)).toEqual(["ready", "stopped"]);
    await service.remove(operation(), view.id);
    await service.idle();
    expect(host.residue()).toEqual([]);
  });
});

describe("get and list", () => {
  test("take prefixes, states and labels; all must hold", async () => {
    const one = await service.run(operation(), podConfig());
    const two = await service.run(operation(), podConfig({ metadata: { ...podConfig().metadata, uid: "uid-2" }, labels: { app: "db" } }));
    await service.stop(operation(), two.id);
    expect(service.get(one.id.slice(0, 20))).toBe(one);
    expect(() => service.get("feed")).toThrow(expect.objectContaining({ kind: "not-found" }));
    const ids = (filter: Partial<typeof everything>): string[] => service.list({ ...everything, ...filter }).map(({ id }) => id);
    expect(ids({ labels: { app: "db" } as never })).toEqual([two.id]);
    expect(ids({ state: "ready" as never })).toEqual([one.id]);
    expect(ids({ id: one.id.slice(0, 20) as never, state: "not-ready" as never })).toEqual([]);
    expect(ids({ labels: { toString: "x" } as never })).toEqual([]);
  });
});
