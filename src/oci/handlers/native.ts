/**
 * The native handler: the core compiles the bundle into a plan, a monitor forks the child that executes it and stays its
 * parent. Nothing is exec'ed for a start, a stop or an exec.
 */
import { readdir, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Configure } from "../../../build/generated/monitor/protocol.ts";
import { DomainError, describeError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { BerthConfig } from "../../config/types.ts";
import type { CgroupHandle, FdHandle, Kernel, PlanHandle, ProcessHandle } from "../../kernel/contract.ts";
import type { Operation } from "../../operation/context.ts";
import { readExitFile, toContainerExit } from "../exit-file.ts";
import { MonitorClient } from "../monitor-client.ts";
import { configName } from "./bundle.ts";
import type {
  Adoption,
  AdoptRequest,
  CreateRequest,
  Launch,
  LiveContainer,
  RootfsMount,
  RootfsRequest,
  RuntimeHandler,
} from "./handler.ts";
import { NativeContainer } from "./native-container.ts";

export const nativeHandlerName = "native";

/** The monitor is the last that the kernel should take: without it nobody sees how its container ends. */
const monitorOomScoreAdj = -998;
const discardConnectMs = 2_000;

export interface NativeHandlerOptions {
  readonly kernel: Kernel;
  readonly config: BerthConfig;
  readonly log: Logger;
}

class NativeLaunch implements Launch {
  readonly client: MonitorClient;
  readonly process: ProcessHandle;
  #handedOver = false;
  #ended = false;

  constructor(client: MonitorClient, process: ProcessHandle, log: Logger) {
    this.client = client;
    this.process = process;
    reap(process, log, () => {
      this.#ended = true;
    });
  }

  handOver(): void {
    this.#handedOver = true;
  }

  abort(): void {
    if (this.#handedOver) return;
    if (!this.#ended) this.process.signal(9);
    this.client.close();
  }
}

export class NativeHandler implements RuntimeHandler {
  readonly name = nativeHandlerName;
  readonly #kernel: Kernel;
  readonly #config: BerthConfig;
  readonly #log: Logger;
  readonly #sockets: string;
  readonly #exits: string;
  /** Said once each: what the daemon cannot grant. */
  readonly #clampedSaid = new Set<string>();
  #opened: Promise<{ cgroup: CgroupHandle; exitDirectory: FdHandle; nullDevice: FdHandle }> | null = null;

  constructor(options: NativeHandlerOptions) {
    this.#kernel = options.kernel;
    this.#config = options.config;
    this.#log = options.log;
    this.#sockets = join(options.config.runRoot, "monitors");
    this.#exits = join(options.config.runRoot, "exits");
  }

  async open(op: Operation): Promise<void> {
    await op.race(this.#resources());
  }

  /** The cgroup of all monitors and the directory of exits: made once, kept open. A failure is tried again by the next. */
  #resources(): Promise<{ cgroup: CgroupHandle; exitDirectory: FdHandle; nullDevice: FdHandle }> {
    this.#opened ??= this.#makeResources().catch((error: unknown) => {
      this.#opened = null;
      throw error;
    });
    return this.#opened;
  }

  async #makeResources(): Promise<{ cgroup: CgroupHandle; exitDirectory: FdHandle; nullDevice: FdHandle }> {
    const kernel = this.#kernel;
    await Promise.all([
      kernel.makeDirectories({ path: this.#sockets, mode: 0o700 }),
      kernel.makeDirectories({ path: this.#exits, mode: 0o700 }),
    ]);
    const [cgroup, exitDirectory] = await Promise.all([
      kernel.createCgroup({ path: this.#config.runtime.monitorCgroup, resourcesJson: null, adopt: true }),
      kernel.openTree({ path: this.#exits, clone: false, recursive: false, readOnly: false }),
    ]);
    return { cgroup, exitDirectory, nullDevice: kernel.openNull() };
  }

  async mountRootfs(op: Operation, { lowers, upper, work }: RootfsRequest): Promise<RootfsMount> {
    const handle = await op.raceWithCleanup(this.#kernel.mountOverlay({ lowers, upper, work }), (late) => late.close());
    return { handle };
  }

  async launch(op: Operation, id: string): Promise<NativeLaunch> {
    const { cgroup } = await op.race(this.#resources());
    const spawned = this.#kernel.spawnMonitor({ socketDirectory: this.#sockets, socketName: id, cgroup, oomScoreAdj: monitorOomScoreAdj });
    const { process, connection } = await op.raceWithCleanup(spawned, async (late) => {
      late.process.signal(9);
      late.connection.close();
      reap(late.process, this.#log);
      await rm(join(this.#sockets, id), { force: true });
    });
    return new NativeLaunch(new MonitorClient({ connection, containerId: id, log: this.#log }), process, this.#log);
  }

  async create(op: Operation, launch: Launch, request: CreateRequest): Promise<LiveContainer> {
    if (!(launch instanceof NativeLaunch)) throw new DomainError("internal", "a launch of another handler");
    const { id, bundle, configJson, rootfs, cgroup, pause } = request;
    const kernel = this.#kernel;
    const { exitDirectory, nullDevice } = await op.race(this.#resources());
    const closing: { close(): void }[] = [];
    const keep = <T extends { close(): void }>(handle: T): T => {
      closing.push(handle);
      return handle;
    };
    try {
      const [plan, events] = await op.raceWithCleanup(
        settleBoth(
          kernel.compileCreatePlan({ configJson, bundle, containerId: id, rootfs: rootfs.handle, cgroup, joinProcess: pause, clamp: true }),
          kernel.openCgroupEvents({ cgroup }),
        ),
        ([latePlan, lateEvents]) => {
          latePlan.close();
          lateEvents?.file.close();
        },
      );
      keep(plan);
      if (events) keep(events.file);
      this.#sayClamped(plan, id);
      const { client } = launch;
      const created = await client.request(op, "configure", this.#configuration(request, plan, events?.kind ?? null), "created", [
        plan,
        ...(request.log ? [request.log.directory] : []),
        exitDirectory,
        ...(events ? [events.file] : []),
      ]);
      const init = await op.raceWithCleanup(kernel.openProcess({ pid: created.pid, startTime: created.startTime }), (late) =>
        late?.close(),
      );
      if (init === null) throw new DomainError("internal", `the container's init (pid ${created.pid}) ended before it was started`);
      launch.handOver();
      return this.#container(client, init, cgroup, nullDevice, { id, bundle, ownPid: request.ownPid, configJson });
    } finally {
      for (const handle of closing) handle.close();
    }
  }

  async adopt(op: Operation, request: AdoptRequest): Promise<Adoption> {
    const { id, bundle, pid, startTime, ownPid } = request;
    const kernel = this.#kernel;
    const init = await op.raceWithCleanup(kernel.openProcess({ pid, startTime }), (late) => late?.close());
    const client = await this.#connect(op, id);
    const state = client === null ? null : await client.request(op, "status", {}, "state").catch(() => null);
    if (client !== null && init !== null && (state === null || state.phase === 1 || state.phase === 2)) {
      const [{ nullDevice }, cgroup] = await op.race(Promise.all([this.#resources(), kernel.openCgroup({ path: request.cgroupPath })]));
      const live = this.#container(client, init, cgroup, nullDevice, { id, bundle, ownPid, configJson: null });
      return {
        kind: "live",
        container: { live, phase: state?.phase === 1 ? "created" : "running", startedAtNs: BigInt(state?.startedAtNs ?? "0") },
      };
    }
    // Ended, or ending: the monitor tells while it is there, its file tells afterwards.
    const told = client === null ? null : await op.race(Promise.race([client.exited, client.closed.then(() => null)]));
    client?.close();
    init?.close();
    if (told) return { kind: "ended", end: { exit: toContainerExit(told), lost: false } };
    const exit = await op.race(readExitFile(this.#exits, id, this.#log));
    if (exit) return { kind: "ended", end: { exit, lost: false } };
    // Without a monitor nobody reads its output or sees its exit: what is left of it has to end.
    await op.race(kernel.killCgroup({ path: request.cgroupPath }));
    return { kind: "ended", end: { exit: unseenExit(), lost: true } };
  }

  async discard(op: Operation, id: string): Promise<void> {
    const limited = op.child("monitor.discard", discardConnectMs);
    try {
      const client = await this.#connect(limited, id);
      if (client) await this.#killMonitor(limited, client);
    } catch (error) {
      op.throwIfAborted();
      this.#log.debug({ containerId: id, err: describeError(error) }, "a monitor could not be asked to end");
    } finally {
      limited.dispose();
    }
    await this.forget(op, id);
  }

  async forget(op: Operation, id: string): Promise<void> {
    await op.race(Promise.all([rm(join(this.#sockets, id), { force: true }), rm(join(this.#exits, id), { force: true })]));
  }

  async strays(op: Operation): Promise<readonly string[]> {
    const found = await op.race(Promise.all([readdir(this.#sockets), readdir(this.#exits)]));
    return [...new Set(found.flat())];
  }

  close(): void {
    void this.#opened?.then(
      ({ cgroup, exitDirectory, nullDevice }) => {
        cgroup.close();
        exitDirectory.close();
        nullDevice.close();
      },
      () => undefined,
    );
    this.#opened = null;
  }

  #container(
    client: MonitorClient,
    init: ProcessHandle,
    cgroup: CgroupHandle,
    nullDevice: FdHandle,
    about: { readonly id: string; readonly bundle: string; readonly ownPid: boolean; readonly configJson: string | null },
  ): NativeContainer {
    return new NativeContainer({
      kernel: this.#kernel,
      log: this.#log,
      id: about.id,
      client,
      init,
      cgroup,
      nullDevice,
      ownPid: about.ownPid,
      stopTimeoutMs: this.#config.runtime.stopTimeoutMs,
      configJson: about.configJson,
      readConfig: () => readFile(join(about.bundle, configName), "utf8"),
      readExit: () => readExitFile(this.#exits, about.id, this.#log),
      reconnect: (op) => this.#connect(op, about.id),
    });
  }

  /** null where nobody listens. */
  async #connect(op: Operation, id: string): Promise<MonitorClient | null> {
    try {
      const connection = await op.raceWithCleanup(this.#kernel.connectMonitor({ socketDirectory: this.#sockets, socketName: id }), (late) =>
        late.close(),
      );
      return new MonitorClient({ connection, containerId: id, log: this.#log });
    } catch (error) {
      op.throwIfAborted();
      this.#log.debug({ containerId: id, err: describeError(error) }, "no monitor answers");
      return null;
    }
  }

  async #killMonitor(op: Operation, client: MonitorClient): Promise<void> {
    await client.request(op, "status", {}, "state").catch(() => undefined);
    const pid = client.hello?.pid ?? 0;
    const process =
      pid === 0 ? null : await op.raceWithCleanup(this.#kernel.openProcess({ pid, startTime: null }), (late) => late?.close());
    process?.signal(9);
    client.close();
    if (process) await op.race(process.exited()).finally(() => process.close());
  }

  #configuration(request: CreateRequest, plan: PlanHandle, events: "v2" | "v1" | null): Configure {
    return {
      containerId: request.id,
      planFds: plan.fdCount,
      terminal: request.terminal,
      terminalColumns: 0,
      terminalRows: 0,
      stdin: request.stdin,
      stdinOnce: request.stdinOnce,
      hasLog: request.log !== null,
      logName: request.log?.name ?? "",
      logMaxBytes: String(this.#config.runtime.logMaxBytes),
      exitName: request.id,
      oomKind: events === null ? 0 : events === "v2" ? 1 : 2,
    };
  }

  #sayClamped(plan: PlanHandle, id: string): void {
    for (const what of plan.clamped) {
      if (this.#clampedSaid.has(what)) continue;
      this.#clampedSaid.add(what);
      this.#log.warn({ containerId: id, what }, "the daemon cannot grant this and gives what it has; it is said once");
    }
  }
}

/** A monitor is the daemon's child: somebody has to wait for it. */
function reap(process: ProcessHandle, log: Logger, onEnded: () => void = () => undefined): void {
  process.exited().then(
    () => {
      onEnded();
      process.close();
    },
    (error: unknown) => log.warn({ err: describeError(error) }, "a monitor could not be waited for"),
  );
}

function unseenExit(): ReturnType<typeof toContainerExit> {
  return { exitCode: 255, signal: 0, oomKilled: false, startedAtNs: 0n, finishedAtNs: 0n, logDroppedBytes: 0n };
}

/** Both or none: where one fails, what the other gives is closed. */
async function settleBoth<A extends { close(): void }, B extends { file: FdHandle } | null>(
  first: Promise<A>,
  second: Promise<B>,
): Promise<[A, B]> {
  const [a, b] = await Promise.allSettled([first, second]);
  if (a.status === "fulfilled" && b.status === "fulfilled") return [a.value, b.value];
  if (a.status === "fulfilled") a.value.close();
  if (b.status === "fulfilled") b.value?.file.close();
  throw a.status === "rejected" ? a.reason : (b as PromiseRejectedResult).reason;
}
