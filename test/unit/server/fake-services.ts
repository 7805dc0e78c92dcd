/** Domain services that keep everything in memory, and a server with them on a socket of its own. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import { DomainError } from "../../../src/base/errors.ts";
import type { ContainerId, ImageId, SandboxId } from "../../../src/base/ids.ts";
import { silentLogger } from "../../../src/base/log.ts";
import type {
  ContainerConfig,
  ContainerFilter,
  ContainerService,
  ContainerStatsView,
  ContainerView,
  ExecSyncRequest,
  ExecSyncResult,
} from "../../../src/container/types.ts";
import type { ImageService, ImageView, PullRequest } from "../../../src/image/types.ts";
import { createMetrics } from "../../../src/metrics/operation-metrics.ts";
import { Operation } from "../../../src/operation/context.ts";
import { RunningOperations } from "../../../src/operation/running.ts";
import type { SandboxConfig, SandboxFilter, SandboxService, SandboxView } from "../../../src/sandbox/types.ts";
import type { RuntimeFacts } from "../../../src/server/runtime-info.ts";
import { type CriServerOptions, startCriServer } from "../../../src/server/server.ts";
import { connectCri } from "../../support/cri-client.ts";

export const sandboxId = "5".repeat(64) as SandboxId;
export const containerId = "c".repeat(64) as ContainerId;
export const imageId = `sha256:${"1".repeat(64)}` as ImageId;
/** Beyond 2^53, so that a number in between would be seen. */
export const timeNs = 1_764_000_000_123_456_789n;

const matches = (labels: Readonly<Record<string, string>>, wanted: Readonly<Record<string, string>>): boolean =>
  Object.entries(wanted).every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value);

export class FakeSandboxes implements Pick<SandboxService, "run" | "stop" | "remove" | "get" | "list"> {
  readonly views = new Map<string, SandboxView>();
  /** Replaced by a test that wants `run` to take time or to fail. */
  beforeRun: (op: Operation, config: SandboxConfig) => void | Promise<void> = () => undefined;
  lists = 0;

  async run(op: Operation, config: SandboxConfig): Promise<SandboxView> {
    await this.beforeRun(op, config);
    const id = this.views.size === 0 ? sandboxId : (this.views.size.toString(16).padStart(64, "0") as SandboxId);
    const view: SandboxView = {
      id,
      config,
      state: "ready",
      createdAtNs: timeNs,
      network: { ips: ["10.88.0.5", "fd00::5"] },
      pausePid: 4711,
      phases: { "network.attach": 12.5 },
      reason: "",
      networkNamespacePath: `/var/run/netns/${id}`,
    };
    this.views.set(id, view);
    return view;
  }

  async stop(_op: Operation, id: string): Promise<void> {
    const view = this.views.get(id);
    if (view) this.views.set(id, { ...view, state: "not-ready" });
  }

  async remove(_op: Operation, id: string): Promise<void> {
    this.views.delete(id);
  }

  get(id: string): SandboxView {
    const view = this.views.get(id);
    if (!view) throw new DomainError("not-found", `sandbox ${id} does not exist`);
    return view;
  }

  list(filter: SandboxFilter): readonly SandboxView[] {
    this.lists += 1;
    return [...this.views.values()].filter(
      (view) =>
        (filter.id === null || view.id.startsWith(filter.id)) &&
        (filter.state === null || view.state === filter.state) &&
        matches(view.config.labels, filter.labels),
    );
  }
}

export class FakeContainers
  implements
    Pick<ContainerService, "create" | "start" | "stop" | "remove" | "get" | "list" | "execSync" | "reopenLog" | "stats" | "listStats">
{
  readonly views = new Map<string, ContainerView>();
  readonly stops: { id: string; graceMs: number; remainingMs: number | null }[] = [];
  readonly reopened: string[] = [];
  exec: (op: Operation, request: ExecSyncRequest) => Promise<ExecSyncResult> = async () => ({
    exitCode: 0,
    stdout: Buffer.from("hello"),
    stderr: new Uint8Array(),
  });

  async create(_op: Operation, sandbox: string, config: ContainerConfig): Promise<ContainerView> {
    const id = this.views.size === 0 ? containerId : (this.views.size.toString(16).padStart(64, "0") as ContainerId);
    const view: ContainerView = {
      id,
      sandboxId: sandbox as SandboxId,
      config,
      imageId,
      imageRef: imageId,
      state: "created",
      createdAtNs: timeNs,
      startedAtNs: 0n,
      finishedAtNs: 0n,
      exitCode: 0,
      reason: "",
      message: "",
      pid: 0,
      logPath: `/var/log/pods/x/${config.logPath}`,
      user: { uid: 1000, gid: 1001, supplementalGroups: [1001, 4_294_967_294] },
      stopSignal: "SIGTERM",
      resources: config.resources,
      phases: {},
      runtimeHandler: "native",
    };
    this.views.set(id, view);
    return view;
  }

  async start(_op: Operation, id: string): Promise<void> {
    this.views.set(id, { ...this.get(id), state: "running", startedAtNs: timeNs + 1n, pid: 99 });
  }

  async stop(op: Operation, id: string, graceMs: number): Promise<void> {
    this.stops.push({ id, graceMs, remainingMs: op.remainingMs });
    const view = this.views.get(id);
    if (view)
      this.views.set(id, {
        ...view,
        state: "exited",
        exitCode: 137,
        reason: "OOMKilled",
        finishedAtNs: timeNs + 2n,
        stopSignal: "SIGRTMIN+3",
      });
  }

  async remove(_op: Operation, id: string): Promise<void> {
    this.views.delete(id);
  }

  get(id: string): ContainerView {
    const view = this.views.get(id);
    if (!view) throw new DomainError("not-found", `container ${id} does not exist`);
    return view;
  }

  list(filter: ContainerFilter): readonly ContainerView[] {
    return [...this.views.values()].filter(
      (view) =>
        (filter.id === null || view.id.startsWith(filter.id)) &&
        (filter.state === null || view.state === filter.state) &&
        (filter.sandboxId === null || view.sandboxId === filter.sandboxId) &&
        matches(view.config.labels, filter.labels),
    );
  }

  execSync(op: Operation, request: ExecSyncRequest): Promise<ExecSyncResult> {
    return this.exec(op, request);
  }

  async reopenLog(_op: Operation, id: string): Promise<void> {
    this.reopened.push(this.get(id).id);
  }

  async stats(_op: Operation, id: string): Promise<ContainerStatsView> {
    return statsOf(this.get(id));
  }

  async listStats(_op: Operation, filter: ContainerFilter): Promise<readonly ContainerStatsView[]> {
    return this.list(filter).map(statsOf);
  }
}

function statsOf(container: ContainerView): ContainerStatsView {
  const running = container.state === "running";
  return {
    container,
    cpu: running ? { timestampNs: timeNs, usageCoreNs: 9_007_199_254_740_993n, usageNanoCores: 5n } : null,
    memory: running
      ? {
          timestampNs: timeNs,
          workingSetBytes: 1024,
          availableBytes: 0,
          usageBytes: 2048,
          rssBytes: 512,
          pageFaults: 7,
          majorPageFaults: 1,
        }
      : null,
    swap: null,
    writableLayer: { timestampNs: timeNs, mountPoint: "/var/lib/berth", usedBytes: 4096, inodesUsed: 3 },
  };
}

export class FakeImages implements Pick<ImageService, "pull" | "find" | "list" | "remove" | "usage"> {
  readonly views: ImageView[] = [];
  readonly pulls: (PullRequest & { remainingMs: number | null })[] = [];
  beforePull: (op: Operation) => void | Promise<void> = () => undefined;

  async pull(op: Operation, request: PullRequest): Promise<ImageView> {
    this.pulls.push({ ...request, remainingMs: op.remainingMs });
    await this.beforePull(op);
    const view: ImageView = {
      id: imageId,
      repoTags: ["registry.example/busybox:latest"],
      repoDigests: [`registry.example/busybox@sha256:${"d".repeat(64)}`],
      sizeBytes: 5_000_000_000,
      pinned: true,
      config: {
        user: "1002:33",
        env: ["PATH=/bin", "TOKEN=secret"],
        entrypoint: [],
        command: ["sh"],
        workingDirectory: "",
        stopSignal: null,
        volumes: [],
        labels: {},
        exposedPorts: [],
      },
      architecture: "amd64",
      os: "linux",
      createdAt: null,
      chainIds: [],
      pulledAtNs: timeNs,
    };
    this.views.push(view);
    return view;
  }

  find(reference: string): ImageView | null {
    return this.views.find(({ id, repoTags, repoDigests }) => [id, ...repoTags, ...repoDigests].includes(reference)) ?? null;
  }

  list(): readonly ImageView[] {
    return this.views;
  }

  async remove(_op: Operation, reference: string): Promise<void> {
    const found = this.find(reference);
    if (found) this.views.splice(this.views.indexOf(found), 1);
  }

  usage() {
    return { timestampNs: timeNs, mountPoint: "/var/lib/berth", usedBytes: 6_000_000_000, inodesUsed: 42 };
  }
}

export function fakeFacts(): RuntimeFacts & { network: { ready: boolean; reason: string; message: string } } {
  const network = { ready: true, reason: "", message: "" };
  return {
    network,
    version: "0.1.0-test",
    cgroupDriver: "cgroupfs",
    defaultHandler: "native",
    handlers: [
      { name: "native", recursiveReadOnlyMounts: true, userNamespaces: false },
      { name: "runc", recursiveReadOnlyMounts: false, userNamespaces: false },
    ],
    features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: false, mountOptions: false },
    runtimeStatus: () => ({ ready: true, reason: "", message: "" }),
    networkStatus: () => network,
    verbose: () => ({ config: { root: "/var/lib/berth" }, startedAtNs: timeNs }),
  };
}

/** A directory of the test's own, with a short path because a socket goes into it. */
export function temporaryDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), "berth-"));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

export function testOperation(timeoutMs = 5000): Operation {
  const op = new Operation({ name: "test", log: silentLogger(), timeoutMs });
  onTestFinished(() => op.dispose());
  return op;
}

export async function startFakeServer(api: Partial<CriServerOptions["api"]> = {}) {
  const sandboxes = new FakeSandboxes();
  const containers = new FakeContainers();
  const images = new FakeImages();
  const facts = fakeFacts();
  const streams: unknown[] = [];
  const issue = (kind: string, request: unknown): string => `http://127.0.0.1:1/${kind}/${streams.push(request)}`;
  const streaming = {
    exec: (request: unknown) => issue("exec", request),
    attach: (request: unknown) => issue("attach", request),
    portForward: (request: unknown) => issue("portforward", request),
  };
  const running = new RunningOperations();
  const metrics = createMetrics({ processMetrics: false });
  const op = testOperation();
  const server = await startCriServer(op, {
    api: {
      socket: join(temporaryDirectory(), "run", "berth.sock"),
      group: String(process.getgid?.() ?? 0),
      maxMessageBytes: 16 * 1024 * 1024,
      maxInFlightPerMethod: 100,
      defaultTimeoutMs: 120_000,
      ...api,
    },
    log: silentLogger(),
    running,
    metrics,
    facts,
    sandboxes: sandboxes as unknown as SandboxService,
    containers: containers as unknown as ContainerService,
    images: images as unknown as ImageService,
    streaming,
  });
  const client = connectCri(server.socketPath);
  onTestFinished(async () => {
    client.close();
    await server.stop(testOperation(200));
  });
  return { server, client, sandboxes, containers, images, facts, running, metrics, streams };
}
