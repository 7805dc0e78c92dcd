/**
 * The composition root: makes every domain, recovers, then serves. The order is the contract of docs/architecture.md:
 * the socket answers only when every record is loaded, and clean-up runs behind it.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { DomainError, describeError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { berthVersion } from "../base/version.ts";
import type { BerthConfig } from "../config/types.ts";
import { createContainerService } from "../container/index.ts";
import { createImageService } from "../image/index.ts";
import type { Kernel } from "../kernel/contract.ts";
import { loadKernel } from "../kernel/load.ts";
import { type MetricsEndpoint, startMetricsEndpoint } from "../metrics/endpoint.ts";
import { createMetrics } from "../metrics/operation-metrics.ts";
import { loadDefaultAppArmorProfile } from "../oci/load-apparmor.ts";
import { backgroundOperation } from "../operation/context.ts";
import { RunningOperations } from "../operation/running.ts";
import { createSandboxService, type SandboxEvent } from "../sandbox/index.ts";
import type { RuntimeFacts } from "../server/runtime-info.ts";
import { type CriServer, startCriServer } from "../server/server.ts";
import { EventBus } from "../state/event-bus.ts";
import { type StreamingService, startStreaming } from "../streaming/index.ts";
import { problems } from "./health.ts";
import { acquireLock } from "./lock.ts";

export interface Daemon {
  readonly socketPath: string;
  /** `http://host:port`, empty where metrics are off. */
  readonly metricsUrl: string;
  /** Applies what a reload can change. */
  reload(config: BerthConfig): void;
  /** Answers no new call, lets the running ones end, leaves every container as it is. */
  stop(): Promise<void>;
}

const recoverTimeoutMs = 60_000;
const appArmorTimeoutMs = 30_000;
const bindTimeoutMs = 10_000;
const drainTimeoutMs = 10_000;
const collectTimeoutMs = 10 * 60_000;

export async function startDaemon(config: BerthConfig, log: Logger): Promise<Daemon> {
  const startedAt = performance.now();
  const kernel = loadKernel();
  await Promise.all([mkdir(config.root, { recursive: true, mode: 0o700 }), mkdir(config.runRoot, { recursive: true, mode: 0o750 })]);
  const lock = await acquireLock(kernel, join(config.root, "daemon.lock"));
  // Waiting for a monitor's answer alone does not keep the event loop: the process would end in the middle of recovery.
  const alive = setInterval(() => undefined, 1_000_000);
  try {
    return await compose(config, log, kernel, startedAt, () => lock.release());
  } catch (error) {
    await lock.release();
    throw error;
  } finally {
    clearInterval(alive);
  }
}

/** The first container is to find the profile; without it the daemon serves all the same. */
async function loadAppArmor(config: BerthConfig, log: Logger, kernel: Kernel): Promise<void> {
  const op = backgroundOperation("apparmor.load", log, appArmorTimeoutMs);
  try {
    const { apparmorProfile: profile, apparmorParser: parser } = config.runtime;
    const state = await loadDefaultAppArmorProfile(op, { kernel, profile, parser });
    if (state !== "unsupported") log.info({ profile, state }, "AppArmor profile of containers");
  } catch (error) {
    log.warn({ err: describeError(error) }, "containers run without the default AppArmor profile");
  } finally {
    op.dispose();
  }
}

async function compose(
  config: BerthConfig,
  log: Logger,
  kernel: Kernel,
  startedAt: number,
  releaseLock: () => Promise<void>,
): Promise<Daemon> {
  const running = new RunningOperations();
  const metrics = createMetrics({ processMetrics: true });
  const images = createImageService({
    kernel,
    config: config.image,
    root: config.root,
    log: log.child({ domain: "image" }),
    runtimeHandlers: new Set(Object.keys(config.runtime.handlers)),
  });
  const sandboxes = createSandboxService({ kernel, config, log, events: new EventBus<SandboxEvent>(log) });
  const containers = createContainerService({ kernel, config, log: log.child({ domain: "container" }), images, sandboxes });
  sandboxes.setContainerHooks({
    stopAll: (op, id) => containers.stopAllIn(op, id),
    removeAll: (op, id) => containers.removeAllIn(op, id),
  });

  const recovery = backgroundOperation("recover", log, recoverTimeoutMs);
  const appArmor = loadAppArmor(config, log, kernel);
  try {
    await recovery.step("recover.images", () => images.recover(recovery));
    await recovery.step("recover.sandboxes", () => sandboxes.recover(recovery));
    await recovery.step("recover.containers", () => containers.recover(recovery));
  } finally {
    recovery.dispose();
    await appArmor;
  }

  let server: CriServer | null = null;
  let endpoint: MetricsEndpoint | null = null;
  let streaming: StreamingService | null = null;
  let stopping = false;
  const facts: RuntimeFacts = {
    version: berthVersion,
    cgroupDriver: config.runtime.cgroupDriver,
    defaultHandler: config.runtime.defaultHandler,
    handlers: Object.keys(config.runtime.handlers).map((name) => ({ name, recursiveReadOnlyMounts: false, userNamespaces: false })),
    features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: false, mountOptions: false },
    runtimeStatus: () =>
      stopping ? { ready: false, reason: "ShuttingDown", message: "the daemon stops" } : { ready: true, reason: "", message: "" },
    networkStatus: () => sandboxes.networkStatus(),
    verbose: () => ({
      version: berthVersion,
      kernel: kernel.features(),
      config,
      operations: running.list(),
      problems: problems(running),
      sandboxes: sandboxes.list({ id: null, state: null, labels: {} }).length,
      containers: containers.list({ id: null, state: null, sandboxId: null, labels: {} }).length,
      images: images.list().length,
      metrics: endpoint?.url ?? "",
      streaming: { url: streaming?.url ?? "", sessions: streaming?.sessions ?? 0 },
    }),
  };
  if (config.metrics.enabled) {
    endpoint = await startMetricsEndpoint({
      address: config.metrics.address,
      registry: metrics.registry,
      health: () => {
        const found = problems(running);
        return { ok: found.length === 0, problems: found };
      },
      log,
    });
  }
  const binding = backgroundOperation("serve", log, bindTimeoutMs);
  try {
    streaming = await startStreaming(binding, {
      config: config.streaming,
      log: log.child({ domain: "streaming" }),
      running,
      targets: {
        exec: (op, request) => containers.exec(op, request),
        attach: (op, request) => containers.attach(op, request),
        dial: (op, { sandboxId }, port) => sandboxes.dial(op, sandboxId, port),
      },
    });
    server = await startCriServer(binding, { api: config.api, log, running, metrics, facts, sandboxes, containers, images, streaming });
  } catch (error) {
    await streaming?.close(binding);
    await endpoint?.close();
    throw error;
  } finally {
    binding.dispose();
  }
  log.info(
    {
      version: berthVersion,
      socket: server.socketPath,
      metrics: endpoint?.url ?? "",
      streaming: streaming.url,
      startMs: Math.round(performance.now() - startedAt),
      phases: recovery.phases.toJSON(),
    },
    "serving",
  );

  const cleanUp = backgroundOperation("image.collect-garbage", log, collectTimeoutMs);
  images
    .collectGarbage(cleanUp)
    .catch((error: unknown) => log.warn({ err: describeError(error) }, "unused layers were not removed"))
    .finally(() => cleanUp.dispose());

  const serving = server;
  const streams = streaming;
  return {
    socketPath: serving.socketPath,
    metricsUrl: endpoint?.url ?? "",
    reload(next) {
      log.level = next.log.level;
      streams.reload();
      log.info({ level: next.log.level }, "configuration reloaded");
    },
    async stop() {
      stopping = true;
      const op = backgroundOperation("shutdown", log, drainTimeoutMs);
      try {
        // Streams are no calls: they end at once, while the calls that run have their time.
        await Promise.all([serving.stop(op), streams.close(op)]);
        running.cancelAll(new DomainError("unavailable", "the daemon stops"));
        const ends = await Promise.allSettled([containers.close(), sandboxes.close(), images.close(), endpoint?.close()]);
        // What Berth has made for itself goes when nothing lives in it: monitors and pods keep theirs.
        for (const path of [config.runtime.monitorCgroup, config.runtime.defaultCgroupParent]) {
          ends.push(...(await Promise.allSettled([kernel.removeEmptyCgroup({ path }).then(() => undefined)])));
        }
        for (const end of ends) {
          if (end.status === "rejected") log.warn({ err: describeError(end.reason) }, "a part did not close cleanly");
        }
      } finally {
        op.dispose();
        await releaseLock();
      }
    },
  };
}
