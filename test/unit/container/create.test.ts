import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DomainError } from "../../../src/base/errors.ts";
import type { Containers } from "../../../src/container/index.ts";
import type { ContainerConfig } from "../../../src/container/types.ts";
import { seenFailpoints, setFailpoints } from "../../../src/operation/failpoints.ts";
import { containerConfig, FakeHost, imageId, operation, podId, security } from "./fake-host.ts";

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

const create = (changes: Partial<ContainerConfig> = {}) => containers.create(operation(), podId, containerConfig(changes));
const all = { id: null, state: null, sandboxId: null, labels: {} };
const kindOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "no error",
    (error: DomainError) => error.kind,
  );

const createSteps = [
  "container.intent",
  "container.image",
  "container.directories",
  "container.rootfs",
  "container.user",
  "container.spec",
  "container.cgroup",
  "container.monitor",
  "container.log",
  "container.bundle",
  "container.create",
  "container.ready",
];

describe("CreateContainer", () => {
  it("makes a container that is created, listed and leased", async () => {
    const view = await create({ labels: { a: "b" } });
    expect(view).toMatchObject({ state: "created", imageId, imageRef: imageId, exitCode: 0, reason: "", stopSignal: "SIGTERM" });
    expect(view.pid).toBeGreaterThan(0);
    expect(view.logPath).toBe(`${host.root}/logs/app/0.log`);
    expect(view.user).toEqual({ uid: 0, gid: 0, supplementalGroups: [0] });
    expect(containers.list(all)).toEqual([containers.get(view.id)]);
    expect(host.leases).toEqual(new Set([view.id]));
    expect([...host.cgroups.keys()]).toContain(`/kubepods/pod1/${view.id}`);
    expect(host.events).toEqual(["created app created"]);
    expect(Object.keys(view.phases)).toEqual(expect.arrayContaining(createSteps.filter((name) => name !== "container.ready")));
  });

  it("gives the monitor the plan of the bundle, the log's name and the pod's namespaces", async () => {
    const view = await create({ tty: true, stdin: true });
    const { configure, plan } = host.monitor;
    expect(configure).toMatchObject({
      containerId: view.id,
      terminal: true,
      stdin: true,
      hasLog: true,
      logName: "0.log",
      exitName: view.id,
      oomKind: 1,
    });
    const config = JSON.parse(plan?.args.configJson ?? "") as {
      linux: { namespaces: { type: string; path?: string }[]; seccomp: unknown };
    };
    expect(plan?.args.joinProcess?.pid).toBe(4000);
    expect(config.linux.namespaces).toContainEqual({ type: "network", path: "/proc/4000/ns/net" });
    expect(config.linux.namespaces).toContainEqual({ type: "pid" });
    expect(config.linux.seccomp).toBeDefined();
  });

  it("writes a record before it asks the kernel for anything, and one more at the end", async () => {
    host.calls.length = 0;
    await create();
    expect(host.calls[0]).toBe("writeFileAtomic");
    // Intent, bundle, created.
    expect(host.calls.filter((name) => name === "writeFileAtomic")).toHaveLength(3);
    expect(host.calls.at(-1)).toBe("writeFileAtomic");
  });

  it("keeps no handle open but the container's own", async () => {
    await create();
    const before = host.handles.size;
    await create({ metadata: { name: "other", attempt: 0 } });
    // init, cgroup, and the monitor's process, which is waited for.
    expect(host.handles.size - before).toBe(3);
  });

  it.each(createSteps)("undoes everything when %s fails, and can be called again", async (step) => {
    setFailpoints(`${step}=1*error(planned)`);
    await expect(create()).rejects.toThrow("planned");
    await containers.idle();
    expect(host.residue()).toEqual([]);
    expect(containers.list(all)).toEqual([]);
    expect(host.events).toEqual([]);
    expect(await create()).toMatchObject({ state: "created" });
  });

  it("has a failpoint for each of its steps", async () => {
    await create();
    expect(seenFailpoints()).toEqual(expect.arrayContaining(createSteps));
  });

  it.each(["createCgroup", "spawnMonitor", "mountOverlay", "compileCreatePlan"] as const)(
    "undoes everything when %s answers late, after the abort",
    async (name) => {
      host.faults.set(name, () => new Promise((resolve) => setTimeout(resolve, 150)));
      const { createTimeoutMs } = host.config.runtime;
      (host.config.runtime as { createTimeoutMs: number }).createTimeoutMs = 50;
      const service = host.service();
      await service.recover(operation());
      expect(await kindOf(service.create(operation(), podId, containerConfig()))).toBe("deadline-exceeded");
      await new Promise((resolve) => setTimeout(resolve, 250));
      await service.idle();
      expect(host.residue()).toEqual([]);
      (host.config.runtime as { createTimeoutMs: number }).createTimeoutMs = createTimeoutMs;
      await service.close();
    },
  );

  it("keeps what could not be undone as an exited container that Remove takes away", async () => {
    setFailpoints("container.create=1*error(planned)");
    host.faults.set("removeCgroup", () => Promise.reject(new Error("busy")));
    await expect(create()).rejects.toThrow("planned");
    const [view] = containers.list(all);
    expect(view).toMatchObject({ state: "exited", reason: "ContainerCannotRun" });
    expect(view?.message).toContain("busy");
    host.faults.clear();
    await containers.remove(operation(), view?.id ?? "");
    await containers.idle();
    expect(host.residue()).toEqual([]);
  });

  it("names object and step when the kernel refuses", async () => {
    host.behaviour.createFailure = { errno: 2, step: "lookup program", path: "/bin/app" };
    const error = await create().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(DomainError);
    expect((error as DomainError).kind).toBe("invalid-argument");
    expect((error as DomainError).message).toMatch(
      /container app \([0-9a-f]{12}\): container\.create: lookup program: openat2 \/bin\/app: ENOENT/,
    );
    await containers.idle();
    expect(host.residue()).toEqual([]);
  });

  it("makes a missing source of a bind mount a directory, without looking for it first", async () => {
    host.missingPaths.add("/data/a");
    host.missingPaths.add("/data/b");
    const mount = {
      readOnly: false,
      recursiveReadOnly: false,
      selinuxRelabel: false,
      propagation: "private" as const,
      uidMappings: [],
      gidMappings: [],
      image: null,
      imageSubPath: "",
      options: [],
    };
    const view = await create({
      mounts: [
        { ...mount, containerPath: "/a", hostPath: "/data/a" },
        { ...mount, containerPath: "/b", hostPath: "/data/b" },
      ],
    });
    expect(view.state).toBe("created");
    expect(host.madeDirectories).toEqual(expect.arrayContaining(["/data/a", "/data/b"]));
    expect(host.monitors.size).toBe(1);
    await containers.remove(operation(), view.id);
    await containers.idle();
    expect(host.residue()).toEqual([]);
  });

  it("refuses before anything is written what cannot be served", async () => {
    const before = host.calls.length;
    const cases: [Partial<ContainerConfig>, string][] = [
      [{ image: "nothing" }, "not-found"],
      [{ security: { ...security, privileged: true } }, "invalid-argument"],
      [{ cdiDevices: ["vendor.com/gpu=0"] }, "unimplemented"],
      [{ logPath: "../x" }, "invalid-argument"],
      [{ stopSignal: "SIGNOTHING" }, "invalid-argument"],
      [{ security: { ...security, addCapabilities: ["FLY"] } }, "invalid-argument"],
      [{ security: { ...security, namespaces: { ...security.namespaces, pid: "node" } } }, "invalid-argument"],
      [{ security: { ...security, namespaces: { ...security.namespaces, pid: "target", targetId: "c" } } }, "invalid-argument"],
      [{ security: { ...security, seccomp: { type: "localhost", localhostRef: "" } } }, "invalid-argument"],
      [{ security: { ...security, seccomp: { type: "localhost", localhostRef: "absent.json" } } }, "invalid-argument"],
      [{ security: { ...security, apparmor: { type: "localhost", localhostRef: "absent" } } }, "invalid-argument"],
      [{ security: { ...security, securityContextJson: '{"namespaceOptions":{"usernsOptions":{}}}' } }, "unimplemented"],
      [{ workingDirectory: "/a\nb" }, "invalid-argument"],
    ];
    for (const [changes, kind] of cases) expect(await kindOf(create(changes)), JSON.stringify(changes)).toBe(kind);
    expect(host.calls.slice(before)).toEqual([]);
    host.sandboxConfig = { ...host.sandboxConfig, runtimeHandler: "kata" };
    await expect(create()).rejects.toThrow("there are native, runc");
    host.sandboxConfig = { ...host.sandboxConfig, runtimeHandler: "runc" };
    expect(await kindOf(create())).toBe("unimplemented");
  });

  it("needs a pod that is ready", async () => {
    host.podReady = false;
    expect(await kindOf(create())).toBe("failed-precondition");
    expect(await kindOf(containers.create(operation(), "b".repeat(64), containerConfig()))).toBe("not-found");
  });

  it("undoes a container whose pod was stopped while it was made", async () => {
    host.faults.set("compileCreatePlan", async () => {
      host.podReady = false;
    });
    expect(await kindOf(create())).toBe("failed-precondition");
    await containers.idle();
    expect(host.residue()).toEqual([]);
  });

  it("says a full disk as such", async () => {
    const { SystemError } = await import("../../../src/base/errors.ts");
    host.faults.set("makeDirectories", () =>
      Promise.reject(new SystemError({ errno: "ENOSPC", syscall: "mkdirat", path: "/x", step: "files.mkdir" })),
    );
    expect(await kindOf(create())).toBe("resource-exhausted");
  });
});

describe("retries of CreateContainer", () => {
  it("join the running create", async () => {
    setFailpoints("container.spec=1*delay(50)");
    const [first, second] = await Promise.all([create(), create()]);
    expect(second.id).toBe(first.id);
    expect(containers.list(all)).toHaveLength(1);
  });

  it("get the result of a create whose caller has left, which is hidden until then", async () => {
    setFailpoints("container.spec=1*delay(100)");
    expect(await kindOf(containers.create(operation(30), podId, containerConfig()))).toBe("deadline-exceeded");
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(containers.list(all)).toEqual([]);
    expect(host.events).toEqual([]);
    const view = await create();
    expect(containers.list(all).map(({ id }) => id)).toEqual([view.id]);
    expect(host.monitors.size).toBe(1);
  });

  it("are undone after a while when nobody comes", async () => {
    const brief = new FakeHost({ unclaimedTtlMs: 50 });
    const service = await brief.recovered();
    setFailpoints("container.spec=1*delay(60)");
    expect(await kindOf(service.create(operation(20), podId, containerConfig()))).toBe("deadline-exceeded");
    await new Promise((resolve) => setTimeout(resolve, 250));
    await service.idle();
    expect(brief.residue()).toEqual([]);
    await service.close();
    brief.dispose();
  });

  it("with another request undo the first", async () => {
    setFailpoints("container.spec=1*delay(100)");
    const first = create();
    first.catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const second = await create({ args: ["--other"] });
    expect(await kindOf(first)).toBe("cancelled");
    expect(containers.list(all).map(({ id }) => id)).toEqual([second.id]);
  });

  it("get the same container while it was never started, and already-exists afterwards", async () => {
    const first = await create();
    expect((await create()).id).toBe(first.id);
    expect(await kindOf(create({ args: [] }))).toBe("already-exists");
    await containers.start(operation(), first.id);
    expect(await kindOf(create())).toBe("already-exists");
    expect((await create({ metadata: { name: "app", attempt: 1 } })).id).not.toBe(first.id);
  });
});

describe("the end of a pod", () => {
  it.each(["container.intent", "container.rootfs", "container.spec", "container.create"])("ends a create that is at %s", async (step) => {
    setFailpoints(`${step}=1*delay(100)`);
    const creating = create();
    creating.catch(() => undefined);
    while (host.calls.length === 0 && step !== "container.intent") await new Promise((resolve) => setTimeout(resolve, 1));
    await new Promise((resolve) => setTimeout(resolve, 30));
    await containers.stopAllIn(operation(), podId);
    expect(await kindOf(creating)).toBe("cancelled");
    await containers.removeAllIn(operation(), podId);
    await containers.idle();
    expect(host.residue()).toEqual([]);
  });

  it("ends and removes all of its containers, the unclaimed ones too", async () => {
    const running = await create();
    await containers.start(operation(), running.id);
    await create({ metadata: { name: "second", attempt: 0 } });
    setFailpoints("container.spec=1*delay(60)");
    await kindOf(containers.create(operation(20), podId, containerConfig({ metadata: { name: "third", attempt: 0 } })));
    await new Promise((resolve) => setTimeout(resolve, 120));
    host.behaviour.diesOf = new Set();
    await containers.stopAllIn(operation(), podId);
    expect(containers.list(all).map(({ state }) => state)).toEqual(["exited", "exited"]);
    await containers.removeAllIn(operation(), podId);
    await containers.idle();
    expect(host.residue()).toEqual([]);
  });
});
