/**
 * A host in memory for the sandbox domain: what the kernel would hold is listed, every call can be made to fail, plugins are
 * functions. It outlives a service, as a host outlives its daemon. Files are real, below one temporary directory.
 */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { mkdir, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SystemError } from "../../../src/base/errors.ts";
import { silentLogger } from "../../../src/base/log.ts";
import type { BerthConfig } from "../../../src/config/types.ts";
import type { Kernel, PauseArgs, ProcessHandle, ProgramArgs } from "../../../src/kernel/contract.ts";
import { Operation } from "../../../src/operation/context.ts";
import { createSandboxService, type SandboxEvent, type Sandboxes } from "../../../src/sandbox/index.ts";
import type { JsonObject } from "../../../src/sandbox/network/json.ts";
import type { SandboxConfig } from "../../../src/sandbox/types.ts";
import { EventBus } from "../../../src/state/event-bus.ts";

export interface PluginCall {
  readonly command: string;
  readonly type: string;
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: JsonObject;
}

export type PluginAnswer =
  | { readonly result: JsonObject | null }
  | { readonly error: JsonObject; readonly exitCode?: number }
  | { readonly stdout: string; readonly stderr?: string; readonly exitCode: number }
  | "hang"
  | "flood";

interface FakeProcess {
  readonly pid: number;
  readonly startTime: string;
  readonly args: PauseArgs;
  readonly cgroup: string;
  alive: boolean;
  readonly end: (signal: number) => void;
  readonly ended: Promise<{ exitCode: number | null; signal: number | null }>;
}

export const bridgeResult: JsonObject = {
  cniVersion: "1.0.0",
  interfaces: [
    { name: "berth0", mac: "00:00:00:00:00:01" },
    { name: "veth1", mac: "00:00:00:00:00:02" },
    { name: "eth0", mac: "00:00:00:00:00:03", sandbox: "/run/netns/x" },
  ],
  ips: [
    { address: "10.1.0.5/16", gateway: "10.1.0.1", interface: 2 },
    { address: "fd00::5/64", interface: 2 },
  ],
};

export class FakeHost {
  readonly root = mkdtempSync(join(tmpdir(), "berth-sandbox-"));
  readonly processes = new Map<number, FakeProcess>();
  readonly cgroups = new Set<string>();
  readonly mounts = new Set<string>();
  readonly calls: string[] = [];
  readonly plugins: PluginCall[] = [];
  /** Name of a kernel function → what its next calls do. */
  readonly faults = new Map<keyof Kernel, () => Promise<void>>();
  answer: (call: PluginCall) => PluginAnswer = ({ command }) => (command === "ADD" ? { result: bridgeResult } : { result: null });
  bootId = "boot-1";
  #nextPid = 1000;

  readonly config: BerthConfig;

  constructor(runtime: Partial<BerthConfig["runtime"]> = {}) {
    this.config = testConfig(this.root, runtime);
    mkdirSync(this.config.network.configDirectory, { recursive: true });
    mkdirSync(this.pluginDirectory, { recursive: true });
    for (const type of ["bridge", "portmap", "host-local"]) this.installPlugin(type);
  }

  get pluginDirectory(): string {
    return this.config.network.pluginDirectories[0] ?? "";
  }

  installPlugin(type: string): void {
    const path = join(this.pluginDirectory, type);
    writeFileSync(path, "");
    chmodSync(path, 0o755);
  }

  writeNetwork(name: string, content: unknown): void {
    writeFileSync(join(this.config.network.configDirectory, name), typeof content === "string" ? content : JSON.stringify(content));
  }

  fail(name: keyof Kernel, times = Number.POSITIVE_INFINITY, errno = "EIO"): void {
    let left = times;
    this.faults.set(name, async () => {
      if (left-- > 0) throw new SystemError({ errno, syscall: "fake", path: "", step: name });
    });
  }

  get alive(): FakeProcess[] {
    return [...this.processes.values()].filter(({ alive }) => alive);
  }

  /** Everything that a sandbox could leave behind. */
  residue(): string[] {
    const names = (path: string): string[] => (existsSync(path) ? readdirSync(path) : []);
    return [
      ...this.alive.map(({ pid }) => `process ${pid}`),
      ...[...this.cgroups].map((path) => `cgroup ${path}`),
      ...[...this.mounts].map((path) => `mount ${path}`),
      ...names(this.config.network.namespaceDirectory).map((name) => `netns ${name}`),
      ...names(join(this.config.runRoot, "sandboxes"))
        .filter((name) => name !== ".removed")
        .map((name) => `directory ${name}`),
      ...names(join(this.config.runRoot, "sandboxes", ".removed")).map((name) => `removed directory ${name}`),
      ...names(join(this.config.root, "sandboxes")).map((name) => `record ${name}`),
    ];
  }

  /** Power off, power on: processes, mounts, namespaces and the volatile directory are gone. */
  reboot(): void {
    for (const process of this.alive) process.end(9);
    this.cgroups.clear();
    this.mounts.clear();
    rmSync(this.config.network.namespaceDirectory, { recursive: true, force: true });
    rmSync(this.config.runRoot, { recursive: true, force: true });
    this.bootId = "boot-2";
  }

  dispose(): void {
    rmSync(this.root, { recursive: true, force: true });
  }

  service(events: SandboxEvent[] = []): Sandboxes {
    const log = silentLogger();
    const bus = new EventBus<SandboxEvent>(log);
    bus.subscribe((event) => events.push(event));
    return createSandboxService({ kernel: this.kernel(), config: this.config, log, events: bus, bootId: this.bootId });
  }

  kernel(): Kernel {
    const fakes: Partial<Kernel> = {
      writeFileAtomic: async ({ path, data, mode }) => {
        await writeFile(`${path}.tmp`, data, { mode });
        await rename(`${path}.tmp`, path);
      },
      makeDirectories: async ({ path, mode }) => {
        await mkdir(path, { recursive: true, mode });
      },
      removeTree: async ({ path }) => rm(path, { recursive: true, force: true }),
      mountTmpfs: async ({ path }) => {
        if (!existsSync(path)) throw new SystemError({ errno: "ENOENT", syscall: "mount", path, step: "mountTmpfs" });
        this.mounts.add(path);
      },
      unmount: async ({ path }) => {
        this.mounts.delete(path);
      },
      createCgroup: async ({ path, adopt }) => {
        if (this.cgroups.has(path) && !adopt) throw new SystemError({ errno: "EEXIST", syscall: "mkdir", path, step: "createCgroup" });
        this.cgroups.add(path);
        return { path, close: () => undefined };
      },
      killCgroup: async ({ path }) => this.#killIn(path),
      removeCgroup: async ({ path }) => {
        this.#killIn(path);
        this.cgroups.delete(path);
      },
      removeEmptyCgroup: async ({ path }) => {
        if ([...this.cgroups].some((child) => child.startsWith(`${path}/`))) return false;
        this.cgroups.delete(path);
        return true;
      },
      listCgroups: async ({ path }) =>
        [...this.cgroups].filter((child) => child.startsWith(`${path}/`)).map((child) => child.slice(path.length + 1)),
      startPause: async (args) => this.#handle(this.#spawn(args)),
      openProcess: async ({ pid, startTime }) => {
        const process = this.processes.get(pid);
        return process?.alive && (startTime === null || process.startTime === startTime) ? this.#handle(process) : null;
      },
      pinNamespace: async ({ path }) => {
        // statfs(2) of the link's target says nsfs, as a real pin does.
        rmSync(path, { force: true });
        symlinkSync("/proc/self/ns/net", path);
      },
      unpinNamespace: async ({ path }) => rm(path, { force: true }),
      runProgram: (args) => this.#runPlugin(args),
    };
    return new Proxy({} as Kernel, {
      get: (_target, name: keyof Kernel) => {
        const fake = fakes[name] as ((...args: unknown[]) => unknown) | undefined;
        if (!fake) throw new Error(`the fake kernel has no ${name}`);
        if (name === "runProgram") return fake;
        return async (...args: unknown[]) => {
          this.calls.push(name);
          await this.faults.get(name)?.();
          return fake(...args);
        };
      },
    });
  }

  #spawn(args: PauseArgs): FakeProcess {
    this.#nextPid += 1;
    let resolve: (end: { exitCode: number | null; signal: number | null }) => void = () => undefined;
    const ended = new Promise<{ exitCode: number | null; signal: number | null }>((done) => {
      resolve = done;
    });
    const process: FakeProcess = {
      pid: this.#nextPid,
      startTime: `${this.#nextPid}00`,
      args,
      cgroup: args.cgroup?.path ?? "",
      alive: true,
      ended,
      end: (signal) => {
        process.alive = false;
        resolve({ exitCode: null, signal });
      },
    };
    this.processes.set(process.pid, process);
    return process;
  }

  #handle(process: FakeProcess): ProcessHandle {
    return {
      pid: process.pid,
      startTime: process.startTime,
      signal: (number) => {
        const was = process.alive;
        process.end(number);
        return was;
      },
      exited: () => process.ended,
      close: () => undefined,
    };
  }

  #killIn(path: string): void {
    for (const process of this.alive) if (process.cgroup === path) process.end(9);
  }

  #runPlugin(args: ProgramArgs): ReturnType<Kernel["runProgram"]> {
    const env = Object.fromEntries(args.env.map((entry) => [entry.slice(0, entry.indexOf("=")), entry.slice(entry.indexOf("=") + 1)]));
    const call: PluginCall = {
      command: env["CNI_COMMAND"] ?? "",
      type: args.path.slice(args.path.lastIndexOf("/") + 1),
      env,
      stdin: JSON.parse(Buffer.from(args.stdin).toString()) as JsonObject,
    };
    this.plugins.push(call);
    this.calls.push(`plugin ${call.type} ${call.command}`);
    const answer = this.answer(call);
    const ended = { exitCode: 0, signal: null, stdout: Buffer.alloc(0), stderr: Buffer.alloc(0), timedOut: false, outputExceeded: false };
    const killed = { ...ended, exitCode: null, signal: 9 };
    if (answer === "flood") return { result: Promise.resolve({ ...killed, outputExceeded: true }), kill: () => undefined };
    if (answer === "hang") {
      let kill: () => void = () => undefined;
      const result = new Promise<typeof killed>((resolve) => {
        kill = () => resolve(killed);
        setTimeout(() => resolve({ ...killed, timedOut: true }), args.timeoutMs).unref();
      });
      return { result, kill: () => kill() };
    }
    if ("stdout" in answer) {
      const { exitCode, stdout, stderr = "" } = answer;
      return {
        result: Promise.resolve({ ...ended, exitCode, stdout: Buffer.from(stdout), stderr: Buffer.from(stderr) }),
        kill: () => undefined,
      };
    }
    const output = "error" in answer ? answer.error : answer.result;
    const exitCode = "error" in answer ? (answer.exitCode ?? 1) : 0;
    const stdout = Buffer.from(output === null ? "" : JSON.stringify(output));
    return { result: Promise.resolve({ ...ended, exitCode, stdout }), kill: () => undefined };
  }
}

export function operation(timeoutMs: number | null = 5_000, signal?: AbortSignal): Operation {
  return new Operation({ name: "RunPodSandbox", log: silentLogger(), timeoutMs, ...(signal ? { signal } : {}) });
}

export const bridgeNetwork = {
  cniVersion: "1.0.0",
  name: "pods",
  plugins: [
    { type: "bridge", bridge: "berth0", ipam: { type: "host-local", ranges: [[{ subnet: "10.1.0.0/16" }]] } },
    { type: "portmap", capabilities: { portMappings: true } },
  ],
};

export function podConfig(changes: Partial<SandboxConfig> = {}): SandboxConfig {
  return {
    metadata: { name: "web", namespace: "default", uid: "uid-1", attempt: 0 },
    hostname: "web",
    logDirectory: "/var/log/pods/default_web_uid-1",
    dns: null,
    portMappings: [],
    labels: { app: "web" },
    annotations: { note: "kept" },
    cgroupParent: "/kubepods/poduid-1",
    sysctls: {},
    namespaces: { network: "pod", pid: "container", ipc: "pod", targetId: "" },
    privileged: false,
    seccomp: null,
    apparmor: null,
    overhead: null,
    resources: null,
    runtimeHandler: "",
    securityContextJson: null,
    ...changes,
  };
}

export const hostNetwork: SandboxConfig["namespaces"] = { network: "node", pid: "container", ipc: "pod", targetId: "" };

export const everything = { id: null, state: null, labels: {} };

function testConfig(root: string, runtime: Partial<BerthConfig["runtime"]>): BerthConfig {
  const network: BerthConfig["network"] = {
    configDirectory: join(root, "net.d"),
    pluginDirectories: [join(root, "cni")],
    namespaceDirectory: join(root, "netns"),
    cacheDirectory: join(root, "cache"),
    pluginTimeoutMs: 2_000,
    maxPluginOutputBytes: 1 << 20,
  };
  const runtimeConfig: Partial<BerthConfig["runtime"]> = {
    cgroupDriver: "cgroupfs",
    defaultCgroupParent: "/berth",
    defaultHandler: "native",
    handlers: { runc: { type: "command", path: "/usr/sbin/runc", root: "/run/runc" } },
    defaultSysctls: { "net.ipv4.ip_unprivileged_port_start": "0" },
    shmSizeBytes: 64 << 20,
    createTimeoutMs: 3_000,
    unclaimedTtlMs: 60_000,
    ...runtime,
  };
  // The sandbox domain reads these parts alone.
  return { root: join(root, "lib"), runRoot: join(root, "run"), runtime: runtimeConfig, network } as BerthConfig;
}
