/**
 * Pods: their namespaces, files, cgroup, network and life. An RPC's verb is a file here. This domain owns the records of
 * sandboxes, `<runRoot>/sandboxes`, and what is called `berth-<id>` among the pinned network namespaces; it knows containers
 * by two hooks alone, and no CRI type.
 */
import { readFileSync } from "node:fs";
import { DomainError, describeError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { BerthConfig } from "../config/types.ts";
import type { Kernel } from "../kernel/contract.ts";
import { Operation } from "../operation/context.ts";
import { JoinTable } from "../operation/join-table.ts";
import { KeyedMutex } from "../operation/keyed-mutex.ts";
import type { EventBus } from "../state/event-bus.ts";
import type { SandboxContext } from "./context.ts";
import { dialSandbox } from "./dial.ts";
import type { SandboxEvent } from "./events.ts";
import { listSandboxes } from "./list.ts";
import { PodNetwork } from "./network/index.ts";
import { sandboxPaths } from "./paths.ts";
import { recoverSandboxes } from "./recover.ts";
import { SandboxRegistry } from "./registry.ts";
import { removeSandbox } from "./remove.ts";
import { SandboxRunner } from "./run.ts";
import { getSandbox, sandboxRuntime } from "./status.ts";
import { stopSandbox } from "./stop.ts";
import type { SandboxService } from "./types.ts";

export { cgroupLeafPath } from "./cgroup-path.ts";
export type { SandboxEvent } from "./events.ts";

export interface SandboxDeps {
  readonly kernel: Kernel;
  readonly config: BerthConfig;
  readonly log: Logger;
  readonly events: EventBus<SandboxEvent>;
  /** Of the running kernel; read from procfs where absent. */
  readonly bootId?: string;
}

export interface Sandboxes extends SandboxService {
  /** Resolves when no work goes on behind the requests. */
  idle(): Promise<void>;
}

const closeMs = 10_000;

/** Nothing happens before `recover`. */
export function createSandboxService(deps: SandboxDeps): Sandboxes {
  const { kernel, config, events } = deps;
  const log = deps.log.child({ domain: "sandbox" });
  const paths = sandboxPaths(config);
  const behind = new Background(log);
  const registry = new SandboxRegistry({ directory: paths.records, kernel, log });
  const ctx: SandboxContext = {
    kernel,
    config,
    log,
    events,
    registry,
    network: new PodNetwork({ kernel, config: config.network, log }),
    joins: new JoinTable({ log, createTimeoutMs: config.runtime.createTimeoutMs, unclaimedTtlMs: config.runtime.unclaimedTtlMs }),
    mutex: new KeyedMutex(),
    paths,
    bootId: deps.bootId ?? readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim(),
    hooks: { stopAll: async () => undefined, removeAll: async () => undefined },
    background: (name, work) => behind.run(name, work),
  };
  const runner = new SandboxRunner(ctx);
  return {
    run: (op, request) => runner.run(op, request),
    stop: async (op, id) => {
      const live = registry.resolve(id);
      if (live) await stopSandbox(ctx, op, live);
    },
    remove: async (op, id) => {
      const live = registry.resolve(id);
      if (live) await removeSandbox(ctx, op, live);
    },
    get: (id) => getSandbox(ctx, id),
    list: (filter) => listSandboxes(ctx, filter),
    runtime: (id) => sandboxRuntime(ctx, id),
    dial: (op, id, port) => dialSandbox(ctx, op, id, port),
    recover: (op) => recoverSandboxes(ctx, op),
    setContainerHooks: (hooks) => {
      ctx.hooks = hooks;
    },
    networkStatus: () => ctx.network.readiness(),
    idle: () => behind.idle(),
    close: async () => {
      ctx.network.close();
      const op = new Operation({ name: "close the sandboxes", log, timeoutMs: closeMs });
      await ctx.joins.close(op);
      const ending = registry.all().flatMap(({ stopping, removing }) => [stopping, removing]);
      await op.race(Promise.allSettled(ending)).catch(() => log.warn("a sandbox is still being stopped; the next daemon goes on"));
      op.dispose();
      await behind.close();
      for (const live of registry.all()) {
        const { pause } = live;
        // Let go of first: a handle that closes is no pod that ended.
        live.pause = null;
        pause?.close();
      }
      await registry.flush();
    },
  };
}

/** Work that no request waits for. */
class Background {
  readonly #log: Logger;
  readonly #controller = new AbortController();
  readonly #running = new Set<Promise<void>>();

  constructor(log: Logger) {
    this.#log = log;
  }

  run(name: string, work: (op: Operation) => Promise<unknown>): void {
    const op = new Operation({ name, log: this.#log, signal: this.#controller.signal, timeoutMs: null });
    const running = work(op)
      .catch((error: unknown) => {
        if (!op.signal.aborted) this.#log.warn({ work: name, err: describeError(error) }, "work in the background failed");
      })
      .then(() => {
        op.dispose();
        this.#running.delete(running);
      });
    this.#running.add(running);
  }

  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  async close(): Promise<void> {
    this.#controller.abort(new DomainError("cancelled", "the daemon shuts down"));
    await this.idle();
  }
}
