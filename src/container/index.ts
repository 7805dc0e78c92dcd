/**
 * Containers: what is made of a request, an image and a pod, and its life. An RPC's verb is a file here. This domain owns the
 * records of containers, `<root>/writable`, `<runRoot>/containers`, and the cgroups named after its containers' ids; it knows
 * pods and images by their services, OCI runtimes by their handlers, and no CRI type.
 */
import { readFileSync } from "node:fs";
import { monotonicMs } from "../base/clock.ts";
import { DomainError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { BerthConfig } from "../config/types.ts";
import type { ImageService } from "../image/types.ts";
import type { Kernel } from "../kernel/contract.ts";
import { HandlerRegistry, NativeHandler } from "../oci/index.ts";
import { Operation } from "../operation/context.ts";
import { JoinTable } from "../operation/join-table.ts";
import { KeyedMutex } from "../operation/keyed-mutex.ts";
import type { SandboxService } from "../sandbox/types.ts";
import { EventBus } from "../state/event-bus.ts";
import { attachTo } from "./attach.ts";
import { Background } from "./background.ts";
import { type ContainerContext, together } from "./context.ts";
import { ContainerCreator } from "./create.ts";
import { Decider } from "./decide.ts";
import type { ContainerEvent } from "./events.ts";
import { execIn } from "./exec.ts";
import { execSyncIn } from "./exec-sync.ts";
import { findContainer, listContainers } from "./list.ts";
import { containerPaths } from "./paths.ts";
import { recoverContainers } from "./recover.ts";
import { ContainerRegistry, type LiveEntry } from "./registry.ts";
import { removeEntry } from "./remove.ts";
import { reopenContainerLog } from "./reopen-log.ts";
import { startContainer } from "./start.ts";
import { ContainerStatsReader } from "./stats.ts";
import { stopEntry } from "./stop.ts";
import type { ContainerService } from "./types.ts";
import { UserResolver } from "./user-resolver.ts";
import { WritableLayers } from "./writable-layers.ts";

export type { ContainerEvent } from "./events.ts";

export interface ContainerDeps {
  readonly kernel: Kernel;
  readonly config: BerthConfig;
  readonly log: Logger;
  readonly images: ImageService;
  readonly sandboxes: SandboxService;
  /** One of its own where absent. */
  readonly events?: EventBus<ContainerEvent>;
  /** Of the running kernel; read from procfs where absent. */
  readonly bootId?: string;
}

export interface Containers extends ContainerService {
  /** Resolves when no work goes on behind the requests. */
  idle(): Promise<void>;
}

const closeMs = 10_000;

/** Nothing happens before `recover`. */
export function createContainerService(deps: ContainerDeps): Containers {
  const { kernel, config, images, sandboxes } = deps;
  const log = deps.log.child({ domain: "container" });
  const events = deps.events ?? new EventBus<ContainerEvent>(log);
  const paths = containerPaths(config);
  const behind = new Background(log);
  const background = (name: string, work: (op: Operation) => Promise<unknown>): void => behind.run(name, work);
  const registry = new ContainerRegistry({ directory: paths.records, kernel, log });
  const ctx: ContainerContext = {
    kernel,
    config,
    log,
    images,
    sandboxes,
    events,
    registry,
    handlers: new HandlerRegistry(config, new NativeHandler({ kernel, config, log })),
    decider: new Decider({ kernel, config, log, images, targetPid: (sandboxId, id) => targetPid(registry, sandboxId, id) }),
    layers: new WritableLayers({ kernel, directory: paths.writable, directoryOf: paths.writableOf, background, now: monotonicMs }),
    joins: new JoinTable({ log, createTimeoutMs: config.runtime.createTimeoutMs, unclaimedTtlMs: config.runtime.unclaimedTtlMs }),
    mutex: new KeyedMutex(),
    paths,
    bootId: deps.bootId ?? readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim(),
    background,
  };
  const creator = new ContainerCreator(ctx, new UserResolver(kernel));
  const stats = new ContainerStatsReader(ctx);
  return {
    create: (op, sandboxId, request) => creator.create(op, sandboxId, request),
    start: async (op, id) => startContainer(ctx, op, findContainer(ctx, id)),
    stop: async (op, id, graceMs) => {
      const entry = registry.resolve(id);
      if (entry) await stopEntry(ctx, op, entry, graceMs);
    },
    remove: async (op, id) => {
      const entry = registry.resolve(id);
      if (entry) await removeEntry(ctx, op, entry);
    },
    get: (id) => findContainer(ctx, id).view,
    list: (filter) => listContainers(ctx, filter),
    execSync: (op, request) => execSyncIn(ctx, op, request),
    exec: (op, request) => execIn(ctx, op, request),
    attach: (op, request) => attachTo(ctx, op, request),
    reopenLog: (op, id) => reopenContainerLog(ctx, op, id),
    stats: (op, id) => stats.one(op, id),
    listStats: (op, filter) => stats.list(op, filter),
    // The end of a pod is no wish but a fact: its containers get no grace.
    stopAllIn: (op, sandboxId) => together(registry.inSandbox(sandboxId).map((entry) => () => endEntry(ctx, op, entry))),
    removeAllIn: (op, sandboxId) => together(registry.inSandbox(sandboxId).map((entry) => () => removeWhole(ctx, op, entry))),
    recover: (op) => recoverContainers(ctx, op),
    idle: () => behind.idle(),
    close: async () => {
      const op = new Operation({ name: "close the containers", log, timeoutMs: closeMs });
      await ctx.joins.close(op);
      const ending = registry.all().flatMap(({ starting, removing }) => [starting, removing]);
      await op.race(Promise.allSettled(ending)).catch(() => log.warn("a container is still being removed; the next daemon goes on"));
      op.dispose();
      await behind.close();
      for (const entry of registry.all()) {
        const { container } = entry;
        // Let go of first: a connection that closes is no container that ended.
        entry.container = null;
        container?.close();
      }
      ctx.handlers.close();
      await registry.flush();
    },
  };
}

/** One that is still being made is cancelled and undone. */
async function endEntry(ctx: ContainerContext, op: Operation, entry: LiveEntry): Promise<void> {
  if (entry.making) {
    entry.making.cancel(new DomainError("cancelled", "its pod is stopped"));
    await op.race(entry.exited);
    return;
  }
  await stopEntry(ctx, op, entry, 0);
}

async function removeWhole(ctx: ContainerContext, op: Operation, entry: LiveEntry): Promise<void> {
  if (entry.making) await endEntry(ctx, op, entry);
  if (!entry.gone) await removeEntry(ctx, op, entry);
}

function targetPid(registry: ContainerRegistry, sandboxId: string, id: string): number | null {
  const entry = registry.resolve(id);
  if (entry === null || entry.record.sandboxId !== sandboxId || entry.record.phase !== "running") return null;
  return entry.record.init?.pid ?? null;
}
