/**
 * A simulated node for a file of tests: directories, a CNI network, a daemon, a CRI client.
 *
 *     const node = useNode("pods");
 *     test("a pod has an address", async () => {
 *       const pod = await node.runPod();
 *       …
 *     });
 *
 * After every test all pods are removed and the host is compared with what it was when the node was ready: mounts, network
 * namespaces, interfaces, NAT rules, cgroups, processes, files, and the daemon's open descriptors. The daemon has to answer, and no
 * operation may be left running.
 *
 * `BERTH_TEST_SERVER=containerd` runs the same tests against Debian's containerd: it shows whether a test asks for what a CRI server
 * really does. What only Berth promises is not compared then.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, afterEach, beforeAll, expect, inject } from "vitest";
import {
  type ContainerConfigInput,
  ContainerState,
  type ContainerStatus,
  type LinuxContainerSecurityContextInput,
  type NamespaceOptionInput,
  type PodSandboxConfigInput,
  type PodSandboxStatus,
} from "../../api/cri/service-definition.ts";
import { startContainerd } from "./containerd.ts";
import { type CriClient, connectCri, type ServiceError, status } from "./cri-client.ts";
import { makeDirectories, type NodeDirectories, type RunningDaemon, removeDirectories, startDaemon, writeBridgeConfig } from "./daemon.ts";
import { stretched } from "./patience.ts";
import { captureHostState, descriptorsOf, findResidue, type HostState, type ResidueScope, waitForNoResidue } from "./residue.ts";
import { containerConfig, podConfig } from "./workloads.ts";

/** Whether the tests run against Debian's containerd, to prove the tests. */
export const againstPeer = process.env["BERTH_TEST_SERVER"] === "containerd";

export interface NodeOptions {
  /** `key=value` for `--set`. */
  readonly sets?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Hosts to speak plain HTTP with, beside the shared registry. */
  readonly insecureRegistries?: readonly string[];
  /** False leaves the shared image unpulled. */
  readonly pull?: boolean;
  /** False for no CNI configuration. */
  readonly network?: boolean;
  /** Before the daemon starts. */
  readonly prepare?: (directories: NodeDirectories) => void | Promise<void>;
}

export interface Output {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

export interface LogLine {
  readonly time: string;
  readonly stream: string;
  readonly tag: string;
  readonly text: string;
}

/** Before everything else of a file of tests; its members are there once the tests run. */
export function useNode(label: string, options: NodeOptions = {}): TestNode {
  const node = new TestNode(label, options);
  beforeAll(() => node.start());
  afterEach(async (context) => {
    if (context.task.result?.state === "fail") node.tellLog();
    await node.expectClean();
  });
  afterAll(() => node.close());
  return node;
}

export class TestNode {
  readonly #label: string;
  readonly #options: NodeOptions;
  #directories: NodeDirectories | null = null;
  #daemon: RunningDaemon | null = null;
  #peer: { readonly pid: number; stop(): Promise<void> } | null = null;
  #cri: CriClient | null = null;
  #before: HostState | null = null;
  #ready: HostState | null = null;
  #descriptors: readonly string[] = [];
  #logOffset = 0;
  /** Ids of pods and containers, which their cgroups carry. */
  readonly #ids = new Set<string>();
  #image = "";

  constructor(label: string, options: NodeOptions) {
    this.#label = label;
    this.#options = options;
  }

  get directories(): NodeDirectories {
    return there(this.#directories);
  }
  get daemon(): RunningDaemon {
    return there(this.#daemon);
  }
  get cri(): CriClient {
    return there(this.#cri);
  }
  get runtime(): CriClient["runtime"] {
    return this.cri.runtime;
  }
  get images(): CriClient["images"] {
    return this.cri.images;
  }
  /** Process id of the server. */
  get pid(): number {
    return this.#peer?.pid ?? this.daemon.pid;
  }
  /** Reference of the shared image. */
  get reference(): string {
    return `${inject("registryHost")}/berth/busybox:1.35`;
  }
  /** Id of the pulled shared image. */
  get image(): string {
    if (this.#image === "") throw new Error("the image is not pulled");
    return this.#image;
  }

  async start(): Promise<void> {
    this.#directories = makeDirectories(this.#label);
    const { directories } = this;
    this.#before = captureHostState(this.#watched, this.#scope);
    if (this.#options.network !== false) writeBridgeConfig(directories, "10.251.0.0/16", this.#bridge);
    await this.#options.prepare?.(directories);
    await this.startServer();
    if (this.#options.network !== false) await this.networkReady();
    if (this.#options.pull !== false) {
      const { imageRef } = await this.images.PullImage({ image: { image: this.reference } });
      this.#image = imageRef;
      await this.#warmUp();
    }
    // Connects the client.
    await this.runtime.Version({});
    await this.settle();
  }

  /** Starts, or starts again, the server on this node's directories. */
  async startServer(changes: { readonly sets?: readonly string[]; readonly env?: Readonly<Record<string, string>> } = {}): Promise<void> {
    const { directories } = this;
    if (againstPeer) {
      const registryHost = inject("registryHost");
      const peer = await startContainerd({
        directory: directories.base,
        registryHost,
        pauseImage: `${registryHost}/berth/pause:3.9`,
        cniConfig: directories.cniConfig,
      });
      this.#peer = { pid: peer.process.pid ?? 0, stop: () => peer.stop() };
      this.#connect(peer.socket);
      return;
    }
    this.#daemon = await startDaemon({
      directories,
      insecureRegistries: [inject("registryHost"), ...(this.#options.insecureRegistries ?? [])],
      sets: [...(this.#options.sets ?? []), ...(changes.sets ?? [])],
      env: { ...this.#options.env, ...changes.env },
    });
    this.#connect(directories.socket);
  }

  /** Ends the daemon by SIGTERM or SIGKILL and starts it again. */
  async restart(how: "SIGTERM" | "SIGKILL", meanwhile: () => void | Promise<void> = () => undefined): Promise<void> {
    if (how === "SIGTERM") expect(await this.daemon.stop()).toBe(0);
    else await this.daemon.kill();
    await meanwhile();
    await this.startServer();
  }

  /** Takes the present state as what the host has to come back to. */
  async settle(): Promise<void> {
    // What goes on behind a pull or a removal comes to rest.
    let last = "";
    for (let quiet = 0; quiet < 3; ) {
      this.#ready = captureHostState(this.#watched, this.#scope);
      this.#descriptors = againstPeer ? [] : normalizedDescriptors(this.pid);
      const text = JSON.stringify([this.#ready, this.#descriptors]);
      quiet = text === last ? quiet + 1 : 0;
      last = text;
      await sleep(30);
    }
    this.#logOffset = this.#daemon?.log().length ?? 0;
  }

  async networkReady(): Promise<void> {
    await until("the network is ready", async () => {
      const { status: state } = await this.runtime.Status({});
      return state?.conditions.find(({ type }) => type === "NetworkReady")?.status ?? false;
    });
  }

  // --- pods and containers ---

  podConfig(changes: PodSandboxConfigInput = {}, namespaces?: NamespaceOptionInput): PodSandboxConfigInput {
    return podConfig(this.directories, changes, namespaces);
  }

  async runPod(changes: PodSandboxConfigInput = {}, namespaces?: NamespaceOptionInput, runtimeHandler = ""): Promise<Pod> {
    const config = this.podConfig(changes, namespaces);
    const { podSandboxId } = await this.runtime.RunPodSandbox({ config, runtimeHandler });
    this.#ids.add(podSandboxId);
    return new Pod(this, podSandboxId, config);
  }

  /** Remembers an id whose cgroups have to be gone after the test. */
  remember(id: string): void {
    this.#ids.add(id);
  }

  /** The running operations that `Status` lists, without itself. */
  async operations(): Promise<readonly { readonly name: string; readonly step: string | null }[]> {
    const { info } = await this.runtime.Status({ verbose: true });
    const { operations } = JSON.parse(info["info"] ?? "{}") as { operations?: { name: string; step: string | null }[] };
    return (operations ?? []).filter(({ name }) => name !== "Status");
  }

  /** Stops and removes all there is. */
  async empty(): Promise<void> {
    const { items } = await this.runtime.ListPodSandbox({});
    for (const { id } of items) this.#ids.add(id);
    await Promise.all(
      items.map(async ({ id: podSandboxId }) => {
        await this.runtime.StopPodSandbox({ podSandboxId });
        await this.runtime.RemovePodSandbox({ podSandboxId });
      }),
    );
    const { containers } = await this.runtime.ListContainers({});
    for (const { id: containerId } of containers) await this.runtime.RemoveContainer({ containerId });
  }

  /** What stands in the way of another test: removes all, then names whatever is left. */
  async expectClean(): Promise<void> {
    if (this.#cri === null) return;
    try {
      const { exitCode, signalCode } = this.#daemon?.process ?? { exitCode: null, signalCode: null };
      if (exitCode !== null || signalCode !== null) throw new Error(`the daemon ended during the test: ${exitCode ?? signalCode}`);
      await this.empty();
      this.removeLogs();
      const left = await this.residue();
      expect(left, "left behind by the test").toEqual([]);
      if (againstPeer) return;
      await this.runtime.Version({});
      await until(
        "no operation runs",
        async () => (await this.operations()).length === 0,
        () => this.operations(),
      );
      await until(
        "the daemon's descriptors are closed",
        () => this.#extraDescriptors().length === 0,
        () => [this.#extraDescriptors(), socketsOf(this.pid)],
      );
    } catch (error) {
      this.tellLog();
      await this.#startOver();
      throw error;
    }
  }

  /** What the host has more than when the node was ready. */
  async residue(timeoutMs = 5000): Promise<string[]> {
    const options = {
      directories: this.#watched,
      scope: this.#scope,
      // A daemon that was started again is another process than the one before.
      allow: [
        ...leftOnPurpose,
        new RegExp(`^processes: ${this.pid} `),
        ...(againstPeer ? [/^files: /, /^cgroups: \S+\/poduid-[\d-]+$/] : []),
      ],
    };
    return (await waitForNoResidue(there(this.#ready), options, timeoutMs)).slice(0, 30);
  }

  /** Entries by which the host differs from when the node was ready, at this moment. */
  residueNow(): string[] {
    return findResidue(there(this.#ready), captureHostState(this.#watched, this.#scope), leftOnPurpose);
  }

  /** As the kubelet does with the logs of removed pods. */
  removeLogs(): void {
    for (const name of readdirSync(this.directories.logs)) rmSync(join(this.directories.logs, name), { recursive: true, force: true });
  }

  tellLog(): void {
    const log = this.#daemon?.log().slice(this.#logOffset) ?? "";
    this.#logOffset = this.#daemon?.log().length ?? 0;
    const lines = log.split("\n").slice(-25);
    process.stderr.write(`--- the daemon's log ---\n${lines.map((line) => line.slice(0, 600)).join("\n")}\n`);
  }

  /** Lines of the daemon's log since the node was ready, parsed. */
  logRecords(): Record<string, unknown>[] {
    return this.daemon
      .log()
      .split("\n")
      .filter((line) => line.startsWith("{"))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  async close(): Promise<void> {
    if (this.#directories === null) return;
    let left: string[] = [];
    try {
      if (this.#cri) await this.empty();
      if (this.#daemon) await this.daemon.stop();
      await this.#peer?.stop();
      this.#cri?.close();
      const options = {
        directories: [],
        scope: this.#scope,
        allow: [...leftOnPurpose, /^interfaces: /, /^cgroups: \S+\/berth-test-\d+-\d+(-monitors)?$/],
      };
      left = await waitForNoResidue({ ...there(this.#before), files: [] }, options);
    } finally {
      await this.#clearAway();
    }
    if (!againstPeer) expect(left, "left behind by the stopped daemon").toEqual([]);
  }

  // --- inside ---

  get #bridge(): string {
    return `tb${process.pid}`;
  }

  get #watched(): string[] {
    const { root, runRoot, namespaces, cniData } = this.directories;
    return [root, runRoot, namespaces, cniData, "/var/run/netns", "/var/lib/cni"];
  }

  get #scope(): ResidueScope {
    const { base, cgroupParent } = this.directories;
    return { base, cgroups: [cgroupParent.slice(1), ...this.#ids] };
  }

  #connect(socket: string): void {
    this.#cri?.close();
    this.#cri = connectCri(socket);
  }

  /** What is opened at the first use stays open: the bridge, the workers, the cached files. */
  async #warmUp(): Promise<void> {
    const pod = await this.runPod({}, this.#options.network === false ? { network: 2, pid: 1, ipc: 0 } : undefined);
    const container = await pod.runContainer(["sleep", "1000"]);
    await container.exec(["true"]);
    await this.runtime.ListContainerStats({});
    await this.empty();
    this.removeLogs();
  }

  #extraDescriptors(): string[] {
    const known = [...this.#descriptors];
    return normalizedDescriptors(this.pid).filter((target) => {
      const index = known.indexOf(target);
      if (index >= 0) known.splice(index, 1);
      return index < 0;
    });
  }

  /** A failed test must not fail those after it. */
  async #startOver(): Promise<void> {
    if (againstPeer) return this.settle();
    await this.daemon.kill();
    this.#endLeftProcesses();
    for (const path of this.#mounts()) tryCommand("umount", ["-l", path]);
    for (const name of ["sandboxes", "containers"]) rmSync(join(this.directories.root, name), { recursive: true, force: true });
    for (const name of readdirSync(this.directories.runRoot))
      rmSync(join(this.directories.runRoot, name), { recursive: true, force: true });
    await this.startServer();
    if (this.#image !== "") {
      this.#image = (await this.images.PullImage({ image: { image: this.reference } })).imageRef;
      if (this.#options.network !== false) await this.networkReady();
      await this.#warmUp().catch(() => undefined);
    }
    await this.settle();
  }

  async #clearAway(): Promise<void> {
    const { directories } = this;
    await this.#daemon?.kill();
    this.#endLeftProcesses();
    for (const path of this.#mounts()) tryCommand("umount", ["-l", path]);
    tryCommand("ip", ["link", "delete", this.#bridge]);
    const own = (word: string): string[] => this.#cgroups().filter((path) => path.includes(word));
    await until("the cgroups are removed", () => {
      for (const path of own(directories.cgroupParent).sort((a, b) => b.length - a.length)) tryCommand("rmdir", [path]);
      return own(directories.cgroupParent).length === 0;
    }).catch(() => undefined);
    removeDirectories(directories);
    this.#directories = null;
  }

  #mounts(): string[] {
    return readFileSync("/proc/self/mountinfo", "utf8")
      .split("\n")
      .map((line) => line.split(" ")[4] ?? "")
      .filter((path) => path.startsWith(`${this.directories.base}/`))
      .reverse();
  }

  #cgroups(): string[] {
    return captureHostState([], this.#scope).cgroups.slice();
  }

  #endLeftProcesses(): void {
    const { cgroupParent } = this.directories;
    for (const name of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
      try {
        if (readFileSync(`/proc/${name}/cgroup`, "utf8").includes(cgroupParent)) process.kill(Number(name), "SIGKILL");
      } catch {
        // It ended meanwhile.
      }
    }
  }
}

export class Pod {
  readonly node: TestNode;
  readonly id: string;
  readonly config: PodSandboxConfigInput;
  #counter = 0;

  constructor(node: TestNode, id: string, config: PodSandboxConfigInput) {
    this.node = node;
    this.id = id;
    this.config = config;
  }

  async status(): Promise<PodSandboxStatus> {
    const { status: state } = await this.node.runtime.PodSandboxStatus({ podSandboxId: this.id });
    return there(state);
  }

  async ip(): Promise<string> {
    return (await this.status()).network?.ip ?? "";
  }

  async info(): Promise<Record<string, unknown>> {
    const { info } = await this.node.runtime.PodSandboxStatus({ podSandboxId: this.id, verbose: true });
    return JSON.parse(info["info"] ?? "{}") as Record<string, unknown>;
  }

  containerConfig(
    command: readonly string[],
    changes: ContainerConfigInput = {},
    security: LinuxContainerSecurityContextInput = {},
  ): ContainerConfigInput {
    this.#counter += 1;
    const namespaceOptions = this.config.linux?.securityContext?.namespaceOptions ?? {};
    const name = changes.metadata?.name ?? `c${this.#counter}`;
    const config = containerConfig(name, this.node.image, command, changes, { namespaceOptions, ...security });
    if (againstPeer) mkdirSync(join(this.config.logDirectory ?? "", dirname(config.logPath ?? "")), { recursive: true });
    return config;
  }

  async createContainer(
    command: readonly string[],
    changes: ContainerConfigInput = {},
    security: LinuxContainerSecurityContextInput = {},
  ): Promise<Container> {
    const config = this.containerConfig(command, changes, security);
    const { containerId } = await this.node.runtime.CreateContainer({ podSandboxId: this.id, config, sandboxConfig: this.config });
    this.node.remember(containerId);
    return new Container(this.node, containerId);
  }

  /** Created and started. */
  async runContainer(
    command: readonly string[],
    changes: ContainerConfigInput = {},
    security: LinuxContainerSecurityContextInput = {},
  ): Promise<Container> {
    const container = await this.createContainer(command, changes, security);
    await container.start();
    return container;
  }

  /** A shell script as a container of its own: its output and exit code, when it has ended. */
  async script(text: string, changes: ContainerConfigInput = {}, security: LinuxContainerSecurityContextInput = {}): Promise<Output> {
    const container = await this.runContainer(["sh", "-c", text], changes, security);
    const state = await container.exited();
    return { ...(await container.output()), exitCode: state.exitCode };
  }

  async stop(): Promise<void> {
    await this.node.runtime.StopPodSandbox({ podSandboxId: this.id });
  }

  async remove(): Promise<void> {
    await this.node.runtime.RemovePodSandbox({ podSandboxId: this.id });
  }
}

export class Container {
  readonly node: TestNode;
  readonly id: string;

  constructor(node: TestNode, id: string) {
    this.node = node;
    this.id = id;
  }

  async status(): Promise<ContainerStatus> {
    const { status: state } = await this.node.runtime.ContainerStatus({ containerId: this.id });
    return there(state);
  }

  async info(): Promise<Record<string, unknown>> {
    const { info } = await this.node.runtime.ContainerStatus({ containerId: this.id, verbose: true });
    return JSON.parse(info["info"] ?? "{}") as Record<string, unknown>;
  }

  async pid(): Promise<number> {
    return Number((await this.info())["pid"]);
  }

  async start(): Promise<void> {
    await this.node.runtime.StartContainer({ containerId: this.id });
  }

  async stop(seconds = 0): Promise<void> {
    await this.node.runtime.StopContainer({ containerId: this.id, timeout: seconds });
  }

  async remove(): Promise<void> {
    await this.node.runtime.RemoveContainer({ containerId: this.id });
  }

  /** Its status once it has ended. */
  async exited(timeoutMs = 20_000): Promise<ContainerStatus> {
    let last = await this.status();
    await until(
      `container ${this.id.slice(0, 12)} ends`,
      async () => {
        last = await this.status();
        return last.state === ContainerState.CONTAINER_EXITED;
      },
      () => ({ state: last.state, log: this.log() }),
      timeoutMs,
    );
    return last;
  }

  async exec(cmd: readonly string[], timeout = 20): Promise<Output> {
    const result = await this.node.runtime.ExecSync({ containerId: this.id, cmd, timeout });
    return { stdout: Buffer.from(result.stdout).toString(), stderr: Buffer.from(result.stderr).toString(), exitCode: result.exitCode };
  }

  /** Standard output of a command that has to succeed. */
  async run(...cmd: readonly string[]): Promise<string> {
    const result = await this.exec(cmd);
    if (result.exitCode !== 0) throw new Error(`${cmd.join(" ")} ended with ${result.exitCode}: ${result.stdout}${result.stderr}`);
    return result.stdout;
  }

  async sh(text: string): Promise<string> {
    return this.run("sh", "-c", text);
  }

  async logPath(): Promise<string> {
    return (await this.status()).logPath;
  }

  async log(): Promise<LogLine[]> {
    return parseLog(readFileSync(await this.logPath(), "utf8"));
  }

  /** What the log says was written, line ends included. */
  async output(): Promise<{ readonly stdout: string; readonly stderr: string }> {
    const lines = await this.log();
    const joined = (stream: string): string =>
      lines
        .filter((line) => line.stream === stream)
        .map(({ tag, text }) => (tag === "F" ? `${text}\n` : text))
        .join("");
    return { stdout: joined("stdout"), stderr: joined("stderr") };
  }

  /** Waits for a line of the log. */
  async logged(pattern: RegExp): Promise<LogLine> {
    let found: LogLine | undefined;
    await until(
      `the log has ${pattern}`,
      async () => {
        found = (await this.log()).find(({ text }) => pattern.test(text));
        return found !== undefined;
      },
      () => this.log(),
    );
    return there(found ?? null);
  }
}

export function parseLog(text: string): LogLine[] {
  return text
    .split("\n")
    .slice(0, -1)
    .map((line) => {
      const match = /^(\S+) (stdout|stderr) (\S+) (.*)$/s.exec(line);
      if (!match) throw new Error(`not a line of a CRI log: ${JSON.stringify(line.slice(0, 200))}`);
      const [, time = "", stream = "", tag = "", rest = ""] = match;
      return { time, stream, tag, text: rest };
    });
}

/** The error of a call that has to fail with this code, or one of these. */
export async function failure(
  call: Promise<unknown>,
  code: status | readonly status[],
  ...texts: readonly (string | RegExp)[]
): Promise<ServiceError> {
  const names = [code].flat().map((one) => status[one]);
  let error: ServiceError | null = null;
  try {
    await call;
  } catch (thrown) {
    error = thrown as ServiceError;
  }
  if (error === null) throw new Error(`the call succeeded; expected ${names.join(" or ")}`);
  expect(`${status[error.code]}: ${error.details}`).toMatch(new RegExp(`^(${names.join("|")}): `));
  for (const text of texts) {
    if (typeof text === "string") expect(error.details).toContain(text);
    else expect(error.details).toMatch(text);
  }
  return error;
}

/** Waits until the condition holds; past the time it throws, with what `describe` says. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  describe: () => unknown = () => "",
  timeoutMs = 10_000,
): Promise<void> {
  const end = performance.now() + stretched(timeoutMs);
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`waited ${timeoutMs} ms in vain until ${what}: ${JSON.stringify(await describe())}`);
    await sleep(15);
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** A directory of the test's own, removed after the test by `cleanUp`. */
export function scratch(): { readonly path: string; cleanUp(): void } {
  const path = mkdtempSync(join(tmpdir(), "berth-scratch-"));
  return { path, cleanUp: () => rmSync(path, { recursive: true, force: true }) };
}

export function there<T>(value: T | null | undefined): T {
  if (value === null || value === undefined) throw new Error("it is not there");
  return value;
}

/** What the CNI plugins keep between pods. */
const leftOnPurpose: readonly RegExp[] = [/last_reserved_ip\.\d+$/, /^files: \S+\/cni\/data\/[a-z]+(\/lock)?$/];

function normalizedDescriptors(pid: number): string[] {
  return descriptorsOf(pid)
    .filter((target) => target !== "gone")
    .map((target) => target.replace(/^(socket|pipe):\[\d+\]$/, "$1").replace(/ \(deleted\)$/, ""))
    .sort();
}

/** For messages alone. */
function socketsOf(pid: number): string[] {
  try {
    const lines = execFileSync("ss", ["-H", "-O", "-a", "-p"], { encoding: "utf8" }).split("\n");
    return lines.filter((line) => line.includes(`pid=${pid},`)).map((line) => line.replaceAll(/\s+/g, " "));
  } catch {
    return [];
  }
}

function tryCommand(program: string, args: readonly string[]): void {
  try {
    execFileSync(program, args, { stdio: "ignore" });
  } catch {
    // It was not there.
  }
}
