/**
 * A host in memory for the container domain: cgroups, mounts, monitors and their containers. Monitors speak the real
 * protocol's frames. It outlives a service, as a host outlives its daemon. Files are real, below one temporary directory.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { decode, encode, type Message, type MessageName, type Messages } from "../../../build/generated/monitor/protocol.ts";
import { DomainError, SystemError } from "../../../src/base/errors.ts";
import type { ImageId, SandboxId } from "../../../src/base/ids.ts";
import { silentLogger } from "../../../src/base/log.ts";
import type { BerthConfig } from "../../../src/config/types.ts";
import { type ContainerEvent, type Containers, createContainerService } from "../../../src/container/index.ts";
import type { ContainerConfig, ContainerSecurity } from "../../../src/container/types.ts";
import type { ImageService, ImageView } from "../../../src/image/types.ts";
import type {
  CgroupHandle,
  CgroupStats,
  CreatePlanArgs,
  ExecPlanArgs,
  FdHandle,
  Kernel,
  KernelFeatures,
  MonitorConnection,
  PipeCollector,
  PlanHandle,
  ProcessHandle,
} from "../../../src/kernel/contract.ts";
import { Operation } from "../../../src/operation/context.ts";
import type { SandboxConfig, SandboxRuntime, SandboxService, SandboxView } from "../../../src/sandbox/types.ts";
import { EventBus } from "../../../src/state/event-bus.ts";

export const podId = "a".repeat(64) as SandboxId;
export const imageId = `sha256:${"1".repeat(64)}` as ImageId;
const pausePid = 4000;

/** What a container's process does, told by a test. */
export interface Behaviour {
  /** Errno and path that the create fails with; null succeeds. */
  createFailure: { errno: number; step: string; path: string } | null;
  startFailure: { errno: number; step: string; path: string } | null;
  /** Signals that end it. */
  diesOf: ReadonlySet<number>;
  /** What an exec does: output and exit code; `hang` runs until it is killed. */
  exec: (argv: readonly string[]) => { stdout?: string; stderr?: string; exitCode: number; leavesChild?: boolean } | "hang" | "missing";
}

interface FakeProcess {
  readonly pid: number;
  readonly startTime: string;
  alive: boolean;
  readonly end: (exitCode: number | null, signal: number | null) => void;
  readonly ended: Promise<{ exitCode: number | null; signal: number | null }>;
}

export class FakeMonitor {
  readonly process: FakeProcess;
  readonly name: string;
  readonly host: FakeHost;
  readonly connections = new Set<FakeConnection>();
  readonly execs = new Map<number, { kill(): void }>();
  phase = 0;
  init: FakeProcess | null = null;
  cgroup = "";
  startedAtNs = 0n;
  plan: FakePlan | null = null;
  configure: Messages["configure"] | null = null;
  reopened = 0;
  /** The container ends without the monitor saying so. */
  silent = false;

  constructor(host: FakeHost, name: string) {
    this.host = host;
    this.name = name;
    this.process = host.newProcess();
    void this.process.ended.then(() => this.#closeAll());
  }

  receive(connection: FakeConnection, message: Message, handles: readonly unknown[]): void {
    const reply = <N extends MessageName>(name: N, body: Messages[N], requestId = message.requestId): void =>
      connection.deliver(encode(name, requestId, body));
    const failed = (failure: { errno: number; step: string; path: string }): void =>
      reply("failed", { errno: failure.errno, step: failure.step, syscall: "openat2", path: failure.path, detail: "" });
    const { behaviour } = this.host;
    switch (message.name) {
      case "configure": {
        this.configure = message.body;
        this.plan = handles[0] as FakePlan;
        const sources = (JSON.parse(this.plan.args.configJson) as { mounts: { type: string; source: string; destination: string }[] })
          .mounts;
        const missing = sources.find(({ type, source }) => type === "bind" && this.host.missingPaths.has(source));
        const failure = missing ? { errno: 2, step: `open ${missing.destination}`, path: missing.source } : behaviour.createFailure;
        if (failure) {
          failed(failure);
          this.process.end(1, null);
          return;
        }
        this.cgroup = this.plan.args.cgroup?.path ?? "";
        this.init = this.host.newProcess();
        this.host.inits.set(this.init.pid, this);
        void this.init.ended.then(({ exitCode, signal }) => this.initEnded(exitCode, signal));
        this.phase = 1;
        reply("created", { pid: this.init.pid, startTime: this.init.startTime });
        return;
      }
      case "start":
        if (behaviour.startFailure) {
          failed(behaviour.startFailure);
          this.init?.end(127, null);
          return;
        }
        this.phase = 2;
        this.startedAtNs = BigInt(Date.now()) * 1_000_000n;
        reply("started", { startedAtNs: this.startedAtNs.toString() });
        return;
      case "status":
        reply("state", {
          phase: this.phase,
          pid: this.init?.pid ?? 0,
          startTime: this.init?.startTime ?? "0",
          startedAtNs: this.startedAtNs.toString(),
          runningExecs: this.execs.size,
          attachedClients: 0,
          logBytes: "0",
          logDroppedBytes: "0",
        });
        return;
      case "reopenLog":
        this.reopened += 1;
        reply("ok", {});
        return;
      case "exec": {
        const plan = handles[0] as FakePlan;
        const argv = (JSON.parse(plan.exec?.processJson ?? "{}") as { args: string[] }).args;
        this.host.execPlans.push(plan);
        const [, , stdout, stderr] = handles as [unknown, unknown, FakePipeEnd, FakePipeEnd];
        const what = behaviour.exec(argv);
        if (what === "missing") {
          failed({ errno: 2, step: "lookup", path: argv[0] ?? "" });
          return;
        }
        reply("execStarted", { pid: 77 });
        const { requestId } = message;
        const finish = (exitCode: number, signal: number, leavesChild: boolean): void => {
          this.execs.delete(requestId);
          if (!leavesChild) for (const pipe of [stdout, stderr]) pipe.hangUp();
          reply("execExited", { exitCode, signal }, requestId);
        };
        if (what === "hang") {
          this.execs.set(requestId, { kill: () => finish(137, 9, false) });
          return;
        }
        stdout.write(what.stdout ?? "");
        stderr.write(what.stderr ?? "");
        queueMicrotask(() => finish(what.exitCode, 0, what.leavesChild ?? false));
        return;
      }
      case "killExec":
        this.execs.get(message.body.execId)?.kill();
        reply("ok", {});
        return;
      default:
        failed({ errno: 38, step: "monitor.request", path: "" });
    }
  }

  initEnded(exitCode: number | null, signal: number | null): void {
    if (!this.process.alive || this.silent) return;
    this.phase = 3;
    const frame = encode("exited", 0, {
      exitCode: exitCode ?? 128 + (signal ?? 0),
      signal: signal ?? 0,
      oomKilled: this.host.oomKilled,
      startedAtNs: this.startedAtNs.toString(),
      finishedAtNs: (BigInt(Date.now()) * 1_000_000n).toString(),
      logDroppedBytes: "0",
    });
    mkdirSync(join(this.host.config.runRoot, "exits"), { recursive: true });
    this.host.writeNow(join(this.host.config.runRoot, "exits", this.name), frame);
    for (const connection of this.connections) connection.deliver(frame);
    rmSync(join(this.host.config.runRoot, "monitors", this.name), { force: true });
    setImmediate(() => this.process.end(0, null));
  }

  #closeAll(): void {
    this.host.monitors.delete(this.name);
    for (const connection of [...this.connections]) connection.end();
  }
}

class FakeConnection implements MonitorConnection {
  readonly #monitor: FakeMonitor;
  #frames: (frame: Uint8Array, handles: readonly FdHandle[]) => void = () => undefined;
  #closed: () => void = () => undefined;
  #open = true;

  constructor(monitor: FakeMonitor) {
    this.#monitor = monitor;
    monitor.connections.add(this);
    setImmediate(() =>
      this.deliver(encode("hello", 0, { protocolVersion: 1, planVersion: 1, containerId: monitor.name, pid: monitor.process.pid })),
    );
  }

  send(frame: Uint8Array, handles: readonly (FdHandle | PlanHandle)[]): boolean {
    if (!this.#open) throw new SystemError({ errno: "EPIPE", syscall: "sendmsg", path: "", step: "monitor.send" });
    for (const handle of handles) {
      if ("number" in handle && handle.number < 0) throw new Error("a closed handle is sent");
    }
    if (this.#monitor.host.fullSends > 0) {
      this.#monitor.host.fullSends -= 1;
      return false;
    }
    const message = decode(frame);
    setImmediate(() => {
      if (this.#open) this.#monitor.receive(this, message, handles);
    });
    return true;
  }

  onFrame(callback: (frame: Uint8Array, handles: readonly FdHandle[]) => void): void {
    this.#frames = callback;
  }

  onClose(callback: () => void): void {
    this.#closed = callback;
  }

  deliver(frame: Uint8Array): void {
    if (this.#open) this.#frames(frame, []);
  }

  end(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#monitor.connections.delete(this);
    this.#closed();
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#monitor.connections.delete(this);
    // A monitor that nobody has configured has nothing to live for.
    if (this.#monitor.phase === 0) this.#monitor.process.end(0, null);
  }
}

class FakePlan implements PlanHandle {
  readonly bytes = 1;
  readonly fdCount = 0;
  readonly clamped: readonly string[] = [];
  readonly args: CreatePlanArgs;
  readonly exec: ExecPlanArgs | null;
  readonly #host: FakeHost;

  constructor(host: FakeHost, args: CreatePlanArgs | null, exec: ExecPlanArgs | null) {
    this.#host = host;
    this.args = args as CreatePlanArgs;
    this.exec = exec;
    host.handles.add(this);
  }

  close(): void {
    this.#host.handles.delete(this);
  }
}

class FakePipeEnd implements FdHandle {
  number = 9;
  readonly #onData: (text: string) => void;
  readonly #onEnd: () => void;

  constructor(onData: (text: string) => void, onEnd: () => void) {
    this.#onData = onData;
    this.#onEnd = onEnd;
  }

  write(text: string): void {
    this.#onData(text);
  }

  hangUp(): void {
    this.#onEnd();
  }

  release(): number {
    const { number } = this;
    this.close();
    return number;
  }

  close(): void {
    this.number = -1;
  }
}

export class FakeHost {
  readonly root = mkdtempSync(join(tmpdir(), "berth-container-"));
  readonly cgroups = new Map<string, string | null>();
  readonly processes = new Map<number, FakeProcess>();
  readonly inits = new Map<number, FakeMonitor>();
  readonly monitors = new Map<string, FakeMonitor>();
  /** Open handles of every kind. */
  readonly handles = new Set<unknown>();
  readonly leases = new Set<string>();
  readonly calls: string[] = [];
  readonly execPlans: FakePlan[] = [];
  readonly missingPaths = new Set<string>();
  readonly madeDirectories: string[] = [];
  /** Name of a kernel function → what its next calls do first. */
  readonly faults = new Map<keyof Kernel, () => Promise<void>>();
  readonly accountFiles = new Map<string, string>([
    ["/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"],
    ["/etc/group", "root:x:0:\nuser:x:1000:\nextra:x:50000:user\n"],
  ]);
  stats: Partial<CgroupStats> = {};
  oomKilled = false;
  fullSends = 0;
  podReady = true;
  podKnown = true;
  bootId = "boot-1";
  sandboxConfig: SandboxConfig;
  image: ImageView;
  features: KernelFeatures;
  readonly config: BerthConfig;
  readonly behaviour: Behaviour = {
    createFailure: null,
    startFailure: null,
    diesOf: new Set([15]),
    exec: () => ({ exitCode: 0 }),
  };
  readonly events: string[] = [];
  #nextPid = 5000;

  constructor(runtime: Partial<BerthConfig["runtime"]> = {}) {
    this.config = testConfig(this.root, runtime);
    this.sandboxConfig = testSandbox(join(this.root, "logs"));
    this.image = testImage();
    this.features = testFeatures();
    mkdirSync(join(this.root, "logs"), { recursive: true });
  }

  // -- services

  service(): Containers {
    const events = new EventBus<ContainerEvent>(silentLogger());
    events.subscribe(({ type, container }) => this.events.push(`${type} ${container.config.metadata.name} ${container.state}`));
    return createContainerService({
      kernel: this.kernel,
      config: this.config,
      log: silentLogger(),
      images: this.images,
      sandboxes: this.sandboxes,
      events,
      bootId: this.bootId,
    });
  }

  async recovered(): Promise<Containers> {
    const service = this.service();
    await service.recover(operation());
    return service;
  }

  readonly images = {
    find: (reference: string) => (reference === this.image.id || this.image.repoTags.includes(reference) ? this.image : null),
    lease: (image: ImageView, owner: string) => {
      this.leases.add(owner);
      return { image, lowerDirectories: ["/layers/b", "/layers/a"] };
    },
    restoreLease: (owner: string) => {
      this.leases.add(owner);
      return { image: this.image, lowerDirectories: ["/layers/b", "/layers/a"] };
    },
    releaseLease: (owner: string) => {
      this.leases.delete(owner);
    },
  } as unknown as ImageService;

  readonly sandboxes = {
    get: (id: string): SandboxView => {
      if (id !== podId || !this.podKnown) throw new DomainError("not-found", `sandbox ${id}`);
      return this.podView();
    },
    runtime: (id: string): SandboxRuntime => {
      if (id !== podId) throw new DomainError("not-found", `sandbox ${id}`);
      if (!this.podReady) throw new DomainError("failed-precondition", "the sandbox is not ready");
      return {
        view: this.podView(),
        pause: { pid: pausePid, startTime: "1", signal: () => true, exited: () => new Promise(() => undefined), close: () => undefined },
        files: { hosts: "/run/pod/hosts", resolvConf: "/run/pod/resolv.conf", hostname: "/run/pod/hostname", shm: "/run/pod/shm" },
        cgroupParent: "/kubepods/pod1",
        podCgroup: null,
      };
    },
  } as unknown as SandboxService;

  podView(): SandboxView {
    return {
      id: podId,
      config: this.sandboxConfig,
      state: this.podReady ? "ready" : "not-ready",
      createdAtNs: 1n,
      network: { ips: [] },
      pausePid,
      phases: {},
      reason: "",
      networkNamespacePath: "",
    };
  }

  // -- the kernel

  newProcess(): FakeProcess {
    let end: (exitCode: number | null, signal: number | null) => void = () => undefined;
    const pid = this.#nextPid++;
    const ended = new Promise<{ exitCode: number | null; signal: number | null }>((resolve) => {
      end = (exitCode, signal) => {
        process.alive = false;
        this.processes.delete(pid);
        resolve({ exitCode, signal });
      };
    });
    const process: FakeProcess = { pid, startTime: String(pid * 10), alive: true, end: (...how) => end(...how), ended };
    this.processes.set(pid, process);
    return process;
  }

  handleOf(process: FakeProcess): ProcessHandle {
    const handle: ProcessHandle = {
      pid: process.pid,
      startTime: process.startTime,
      signal: (number) => {
        if (!this.handles.has(handle)) throw new Error("ProcessHandle is closed");
        if (!process.alive) return false;
        const isInit = this.inits.has(process.pid);
        if (number === 9 || (isInit && this.behaviour.diesOf.has(number))) process.end(null, number);
        return true;
      },
      exited: () => process.ended,
      close: () => {
        this.handles.delete(handle);
      },
    };
    this.handles.add(handle);
    return handle;
  }

  fd(): FdHandle {
    let number = 8;
    const handle: FdHandle = {
      get number() {
        return number;
      },
      release: () => {
        handle.close();
        return 8;
      },
      close: () => {
        number = -1;
        this.handles.delete(handle);
      },
    };
    this.handles.add(handle);
    return handle;
  }

  cgroupHandle(path: string): CgroupHandle {
    const handle: CgroupHandle = { path, close: () => void this.handles.delete(handle) };
    this.handles.add(handle);
    return handle;
  }

  killIn(path: string): void {
    for (const monitor of this.inits.values()) if (monitor.cgroup === path && monitor.init?.alive) monitor.init.end(null, 9);
  }

  /** The monitor of the one container there is. */
  get monitor(): FakeMonitor {
    const [first] = this.monitors.values();
    if (!first) throw new Error("there is no monitor");
    return first;
  }

  writeNow(path: string, data: Uint8Array): void {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, data);
  }

  async #call<T>(name: keyof Kernel, work: () => T | Promise<T>): Promise<T> {
    this.calls.push(name);
    await this.faults.get(name)?.();
    return work();
  }

  readonly kernel = {
    features: () => this.features,
    listMounts: async () => [{ id: 1, parentId: 0, device: "0:1", root: "/", mountPoint: "/", type: "ext4", source: "x", shared: false }],
    writeFileAtomic: ({ path, data }: { path: string; data: Uint8Array }) =>
      this.#call("writeFileAtomic", async () => {
        await mkdir(dirname(path), { recursive: true });
        await writeFile(`${path}.tmp`, data);
        await rename(`${path}.tmp`, path);
      }),
    removeTree: ({ path }: { path: string }) => this.#call("removeTree", () => rm(path, { recursive: true, force: true })),
    makeDirectories: ({ path }: { path: string }) =>
      this.#call("makeDirectories", async () => {
        this.missingPaths.delete(path);
        this.madeDirectories.push(path);
        if (path.startsWith(this.root)) await mkdir(path, { recursive: true });
      }),
    filesystemUsage: async () => ({
      totalBytes: 1,
      freeBytes: 1,
      totalInodes: 1,
      freeInodes: 1,
      device: "0:1",
      mountPoint: "/var",
      type: "ext4",
    }),
    treeUsage: async () => ({ bytes: 4096, inodes: 3 }),
    readInRoot: ({ path }: { path: string }) =>
      this.#call("readInRoot", () => {
        const text = this.accountFiles.get(path);
        return text === undefined ? null : Buffer.from(text);
      }),
    mountOverlay: () => this.#call("mountOverlay", () => this.fd()),
    openTree: ({ path }: { path: string }) =>
      this.#call("openTree", () => {
        if (!existsSync(path)) throw new SystemError({ errno: "ENOENT", syscall: "open_tree", path, step: "open" });
        return this.fd();
      }),
    openProcess: async ({ pid, startTime }: { pid: number; startTime: string | null }) => {
      const process = this.processes.get(pid);
      return process && (startTime === null || process.startTime === startTime) ? this.handleOf(process) : null;
    },
    createCgroup: ({ path, resourcesJson, adopt }: { path: string; resourcesJson: string | null; adopt: boolean }) =>
      this.#call("createCgroup", () => {
        if (this.cgroups.has(path) && !adopt) throw new SystemError({ errno: "EEXIST", syscall: "mkdir", path, step: "cgroup.create" });
        this.cgroups.set(path, resourcesJson);
        return this.cgroupHandle(path);
      }),
    openCgroup: async ({ path }: { path: string }) => this.cgroupHandle(path),
    openCgroupEvents: async () => ({ kind: "v2" as const, file: this.fd() }),
    cgroupStats: async ({ cgroups }: { cgroups: readonly CgroupHandle[] }) => cgroups.map(() => ({ ...emptyStats, ...this.stats })),
    killCgroup: ({ path }: { path: string }) => this.#call("killCgroup", () => this.killIn(path)),
    removeCgroup: ({ path }: { path: string }) =>
      this.#call("removeCgroup", () => {
        this.killIn(path);
        this.cgroups.delete(path);
      }),
    compileCreatePlan: (args: CreatePlanArgs) => this.#call("compileCreatePlan", () => new FakePlan(this, args, null)),
    compileExecPlan: (args: ExecPlanArgs) => this.#call("compileExecPlan", () => new FakePlan(this, null, args)),
    spawnMonitor: ({ socketDirectory, socketName }: { socketDirectory: string; socketName: string }) =>
      this.#call("spawnMonitor", () => {
        const monitor = new FakeMonitor(this, socketName);
        this.monitors.set(socketName, monitor);
        this.writeNow(join(socketDirectory, socketName), Buffer.from("socket"));
        return { process: this.handleOf(monitor.process), connection: new FakeConnection(monitor) };
      }),
    connectMonitor: ({ socketName }: { socketName: string }) =>
      this.#call("connectMonitor", () => {
        const monitor = this.monitors.get(socketName);
        if (!monitor) throw new SystemError({ errno: "ECONNREFUSED", syscall: "connect", path: socketName, step: "monitor.connect" });
        return new FakeConnection(monitor);
      }),
    collectPipe: (): PipeCollector => {
      let text = "";
      let finish: () => void = () => undefined;
      const result = new Promise<{ data: Uint8Array; truncated: boolean }>((resolve) => {
        finish = () => resolve({ data: Buffer.from(text), truncated: false });
      });
      return {
        writeEnd: new FakePipeEnd(
          (more) => {
            text += more;
          },
          () => finish(),
        ),
        result,
        stop: () => finish(),
      };
    },
    openNull: () => this.fd(),
  } as unknown as Kernel;

  // -- what is left

  /** Everything that belongs to containers; empty where nothing is left. */
  residue(): string[] {
    const files = (directory: string): string[] => {
      const path = join(this.root, directory);
      return existsSync(path) ? readdirSync(path, { recursive: true }).map((name) => `${directory}/${String(name)}`) : [];
    };
    const own = (name: string): boolean => !name.endsWith(".removed");
    return [
      ...[...this.cgroups.keys()].filter((path) => path !== this.config.runtime.monitorCgroup).map((path) => `cgroup ${path}`),
      ...[...this.processes.keys()].map((pid) => `process ${pid}`),
      ...[...this.leases].map((owner) => `lease ${owner}`),
      ...files("root/containers"),
      ...files("root/writable").filter(own),
      ...files("run/containers").filter(own),
      ...files("run/exits"),
      ...files("run/monitors"),
    ];
  }

  dispose(): void {
    rmSync(this.root, { recursive: true, force: true });
  }
}

export function operation(timeoutMs: number | null = 5_000): Operation {
  return new Operation({ name: "test", log: silentLogger(), timeoutMs });
}

export const security: ContainerSecurity = {
  privileged: false,
  addCapabilities: [],
  dropCapabilities: [],
  addAmbientCapabilities: [],
  namespaces: { network: "pod", pid: "container", ipc: "pod", targetId: "" },
  runAsUser: null,
  runAsGroup: null,
  runAsUsername: "",
  readOnlyRootfs: false,
  supplementalGroups: [],
  supplementalGroupsPolicy: "merge",
  noNewPrivileges: false,
  maskedPaths: [],
  readOnlyPaths: [],
  seccomp: { type: "runtime-default", localhostRef: "" },
  apparmor: null,
  securityContextJson: "{}",
};

export function containerConfig(changes: Partial<ContainerConfig> = {}): ContainerConfig {
  return {
    metadata: { name: "app", attempt: 0 },
    image: imageId,
    userSpecifiedImage: "",
    command: ["/bin/app"],
    args: ["--serve"],
    workingDirectory: "",
    env: [],
    mounts: [],
    devices: [],
    cdiDevices: [],
    labels: {},
    annotations: {},
    logPath: "app/0.log",
    stdin: false,
    stdinOnce: false,
    tty: false,
    resources: null,
    security,
    stopSignal: "",
    ...changes,
  };
}

function testSandbox(logDirectory: string): SandboxConfig {
  return {
    metadata: { name: "pod", uid: "uid", namespace: "default", attempt: 0 },
    hostname: "pod",
    logDirectory,
    dns: null,
    portMappings: [],
    labels: {},
    annotations: { "io.example/secret": "not for the bundle" },
    cgroupParent: "/kubepods/pod1",
    sysctls: {},
    namespaces: { network: "pod", pid: "container", ipc: "pod", targetId: "" },
    privileged: false,
    seccomp: null,
    apparmor: null,
    overhead: null,
    resources: null,
    runtimeHandler: "",
    securityContextJson: null,
  };
}

function testImage(): ImageView {
  return {
    id: imageId,
    repoTags: ["docker.io/library/busybox:latest"],
    repoDigests: [],
    sizeBytes: 1,
    pinned: false,
    config: {
      user: "",
      env: ["FROM_IMAGE=1"],
      entrypoint: ["/entry"],
      command: ["default"],
      workingDirectory: "/work",
      stopSignal: null,
      volumes: [],
      labels: {},
      exposedPorts: [],
    },
    architecture: "amd64",
    os: "linux",
    createdAt: null,
    chainIds: [],
    pulledAtNs: 1n,
  };
}

function testFeatures(): KernelFeatures {
  return {
    cgroup: { mode: "v2", mounts: {}, controllers: ["cpu", "memory", "pids", "cpuset", "hugetlb"] },
    release: "6.1.0",
    architecture: "amd64",
    cloneIntoCgroup: true,
    overlayLowerdirPlus: true,
    idmappedMounts: true,
    recursiveReadOnly: true,
    seccomp: true,
    appArmor: false,
    seLinux: false,
    timeNamespace: true,
    userNamespace: true,
    cgroupNamespace: true,
    psi: true,
    capabilities: [
      "CAP_CHOWN",
      "CAP_DAC_OVERRIDE",
      "CAP_FSETID",
      "CAP_FOWNER",
      "CAP_SETGID",
      "CAP_SETUID",
      "CAP_SETPCAP",
      "CAP_NET_BIND_SERVICE",
      "CAP_KILL",
      "CAP_NET_ADMIN",
      "CAP_NET_RAW",
      "CAP_SYS_ADMIN",
    ],
  };
}

export const defaultCapabilities: readonly string[] = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_FSETID",
  "CAP_FOWNER",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETPCAP",
  "CAP_NET_BIND_SERVICE",
  "CAP_KILL",
];

function testConfig(root: string, runtime: Partial<BerthConfig["runtime"]>): BerthConfig {
  return {
    root: join(root, "root"),
    runRoot: join(root, "run"),
    runtime: {
      cgroupDriver: "cgroupfs",
      defaultCgroupParent: "/berth",
      monitorCgroup: "/berth-monitors",
      defaultHandler: "native",
      handlers: { native: { type: "native", path: "", root: "" }, runc: { type: "command", path: "/usr/sbin/runc", root: "/run/runc" } },
      defaultCapabilities,
      defaultSysctls: {},
      pidsLimit: 0,
      shmSizeBytes: 1 << 26,
      seccompProfile: "",
      seccompProfileRoot: join(root, "seccomp"),
      apparmorProfile: "",
      createTimeoutMs: 5_000,
      unclaimedTtlMs: 60_000,
      logMaxBytes: 0,
      stopTimeoutMs: 200,
      ...runtime,
    },
  } as unknown as BerthConfig;
}

const emptyStats: CgroupStats = {
  timestampNs: "0",
  cpuUsageNs: null,
  cpuUserNs: null,
  cpuSystemNs: null,
  cpuPeriods: null,
  cpuThrottledPeriods: null,
  cpuThrottledNs: null,
  memoryUsageBytes: null,
  memoryWorkingSetBytes: null,
  memoryRssBytes: null,
  memoryCacheBytes: null,
  memoryMappedFileBytes: null,
  memoryKernelBytes: null,
  memoryMaxUsageBytes: null,
  memoryLimitBytes: null,
  memoryFailCount: null,
  memoryPageFaults: null,
  memoryMajorPageFaults: null,
  swapUsageBytes: null,
  swapLimitBytes: null,
  oomKills: null,
  processCount: null,
  threadCount: null,
  pidsLimit: null,
  psi: { cpu: null, memory: null, io: null },
  io: [],
  hugetlb: [],
};
