/**
 * The making of one sandbox, from its intent to its ready record; `run.ts` decides who asks for it. It reads as the list
 * of its steps; their names are the failpoints and the phases. Two chains go side by side: files, and processes.
 */
import { nowNs } from "../base/clock.ts";
import { DomainError, describeError, errorKind, SystemError, toError } from "../base/errors.ts";
import { newSandboxId, shortId } from "../base/ids.ts";
import { backgroundOperation, type Operation } from "../operation/context.ts";
import { UndoLog } from "../operation/undo.ts";
import { cgroupLeafPath } from "./cgroup-path.ts";
import type { SandboxContext } from "./context.ts";
import { hostHostsContent, podHostsContent, resolvConfContent, writePodFile } from "./files.ts";
import { podAddresses } from "./network/result.ts";
import { watchPause } from "./pause.ts";
import type { LiveSandbox } from "./registry.ts";
import { networkPod, releaseCgroup, releaseDirectory, releaseNamespace, releaseNetwork, releasePause, releaseShm } from "./release.ts";
import type { SandboxConfig } from "./types.ts";
import type { SandboxPlan } from "./validate.ts";

/** The pause process is the last that the kernel should take, after what the daemon itself is. */
const pauseOomScoreAdj = -998;
const shmMode = 0o1777;
const lateUndoMs = 30_000;

export interface CreateRequest {
  readonly config: SandboxConfig;
  readonly requestHash: string;
  readonly plan: SandboxPlan;
  /** Whether somebody waits for the result when it is there. */
  wanted(): boolean;
}

/** A ready sandbox, still hidden. When it throws, everything is undone, or what could not be is a visible not-ready sandbox. */
export async function createSandbox(ctx: SandboxContext, op: Operation, request: CreateRequest): Promise<LiveSandbox> {
  const { config } = request;
  const live = await intend(ctx, op, request);
  const undo = new UndoLog(op);
  const make = new Making(ctx, op, undo, live, request.plan);
  try {
    await together([() => make.files(), () => make.processes()]);
    await make.hosts();
    await op.step("sandbox.ready", () => complete(ctx, op, live, request));
    undo.commit();
    return live;
  } catch (error) {
    await undoCreate(ctx, undo, live);
    const { namespace, name } = config.metadata;
    throw explain(error, `pod ${namespace}/${name} (${shortId(live.record.id)})`, { sandboxId: live.record.id });
  }
}

/** The record comes before everything that it names. */
async function intend(ctx: SandboxContext, op: Operation, request: CreateRequest): Promise<LiveSandbox> {
  const { config, plan, requestHash } = request;
  const { runtime } = ctx.config;
  const id = newSandboxId();
  const cgroupPath = cgroupLeafPath(runtime.cgroupDriver, plan.cgroupParent, id);
  const attachments = plan.own.net ? [await op.step("sandbox.plan", () => ctx.network.plan(op, config, cgroupPath))] : [];
  op.ids["sandboxId"] = id;
  const live = ctx.registry.add({
    id,
    config,
    requestHash,
    phase: "creating",
    claimed: false,
    createdAtNs: nowNs().toString(),
    bootId: ctx.bootId,
    cgroupParent: plan.cgroupParent,
    cgroupPath,
    hostname: plan.hostname(id),
    pause: null,
    networkNamespace: plan.own.net ? ctx.paths.networkNamespace(id) : "",
    attachments,
    ips: [],
    phases: {},
    reason: "",
    leftovers: [],
    released: false,
  });
  try {
    await op.step("sandbox.intent", () => ctx.registry.persist(live));
    return live;
  } catch (error) {
    await ctx.registry.drop(live).catch(() => undefined);
    throw explain(error, `sandbox.intent: the record of pod ${config.metadata.namespace}/${config.metadata.name}`, {});
  }
}

class Making {
  readonly #ctx: SandboxContext;
  readonly #op: Operation;
  readonly #undo: UndoLog;
  readonly #live: LiveSandbox;
  readonly #plan: SandboxPlan;

  constructor(ctx: SandboxContext, op: Operation, undo: UndoLog, live: LiveSandbox, plan: SandboxPlan) {
    this.#ctx = ctx;
    this.#op = op;
    this.#undo = undo;
    this.#live = live;
    this.#plan = plan;
  }

  /** The directory with the pod's files and its /dev/shm. */
  async files(): Promise<void> {
    const ctx = this.#ctx;
    const { kernel, paths } = ctx;
    const { id, config, hostname } = this.#live.record;
    const path = this.#plan.own.ipc ? paths.shm(id) : paths.directory(id);
    await this.#acquire(
      "sandbox.directory",
      () => kernel.makeDirectories({ path, mode: 0o700 }),
      () => releaseDirectory(ctx, this.#live),
    );
    const shm = async (): Promise<void> => {
      if (!this.#plan.own.ipc) return;
      const { shmSizeBytes } = ctx.config.runtime;
      await this.#acquire(
        "sandbox.shm",
        () => kernel.mountTmpfs({ path: paths.shm(id), sizeBytes: shmSizeBytes, mode: shmMode }),
        () => releaseShm(ctx, this.#live),
      );
    };
    const contents = async (): Promise<void> => {
      const resolvConf = resolvConfContent(config.dns).then((content) => writePodFile(kernel, paths.resolvConf(id), content));
      const others = [resolvConf, writePodFile(kernel, paths.hostname(id), `${hostname}\n`)];
      if (!this.#plan.own.net) others.push(hostHostsContent().then((content) => writePodFile(kernel, paths.hosts(id), content)));
      await together(others.map((file) => () => file));
    };
    await together([() => this.#acquire("sandbox.files", contents, () => undefined), shm]);
  }

  /** Cgroup, pause process with the pod's namespaces, network. */
  async processes(): Promise<void> {
    const ctx = this.#ctx;
    const { kernel } = ctx;
    const live = this.#live;
    const { own } = this.#plan;
    const { cgroupPath, networkNamespace } = live.record;
    const cgroup = await this.#acquire(
      "sandbox.cgroup",
      () => kernel.createCgroup({ path: cgroupPath, resourcesJson: null, adopt: false }),
      () => releaseCgroup(ctx, live),
      (late) => late.close(),
    );
    const pause = await this.#acquire(
      "sandbox.pause",
      () =>
        kernel
          .startPause({
            namespaces: { net: own.net, ipc: own.ipc, uts: own.uts, pid: own.pid },
            hostname: own.uts ? live.record.hostname : null,
            sysctls: this.#plan.sysctls,
            cgroup,
            oomScoreAdj: pauseOomScoreAdj,
            loopback: own.net,
          })
          // It serves the start alone: open it would hold fds in every hierarchy for the pod's whole life.
          .finally(() => cgroup.close()),
      (op) => releasePause(ctx, op, live),
      (late) => {
        late.signal(9);
        late.close();
      },
    );
    watchPause(ctx, live, pause);
    ctx.registry.change(live, { pause: { pid: pause.pid, startTime: pause.startTime } });
    if (!own.net) return;
    await this.#acquire(
      "sandbox.namespace",
      () => kernel.pinNamespace({ process: pause, kind: "net", path: networkNamespace }),
      () => releaseNamespace(ctx, live),
    );
    try {
      await this.#undo.step(
        "sandbox.network",
        () => this.#attach(),
        (op) => releaseNetwork(ctx, op, live),
      );
    } catch (error) {
      throw explain(error, "sandbox.network", {});
    }
  }

  /** With the pod's own network its addresses are in the file, so it comes last. */
  async hosts(): Promise<void> {
    if (!this.#plan.own.net) return;
    const { id, hostname, ips } = this.#live.record;
    await this.#op.step("sandbox.hosts", () => writePodFile(this.#ctx.kernel, this.#ctx.paths.hosts(id), podHostsContent(hostname, ips)));
  }

  async #attach(): Promise<void> {
    const { record } = this.#live;
    const attachments = [];
    for (const planned of record.attachments) {
      attachments.push(await this.#ctx.network.attach(this.#op, networkPod(record), record.networkNamespace, planned));
    }
    const ips = attachments.flatMap(({ result }) => (result === null ? [] : podAddresses(result)));
    this.#ctx.registry.change(this.#live, { attachments, ips });
  }

  /** An undo step around a call that cannot be cancelled: a result that comes after the abort is given back, and undone once more. */
  async #acquire<T>(
    name: string,
    work: () => Promise<T>,
    undo: (op: Operation) => void | Promise<void>,
    discard: (late: T) => void = () => undefined,
  ): Promise<T> {
    const late = async (result: T): Promise<void> => {
      discard(result);
      const op = backgroundOperation(`undo late ${name}`, this.#op.log, lateUndoMs);
      await Promise.resolve(undo(op)).finally(() => op.dispose());
    };
    try {
      return await this.#undo.step(name, () => this.#op.raceWithCleanup(work(), late), undo);
    } catch (error) {
      throw explain(error, name, {});
    }
  }
}

/** One write: what ADD gave is on disk before anybody uses it. */
async function complete(ctx: SandboxContext, op: Operation, live: LiveSandbox, request: CreateRequest): Promise<void> {
  if (live.pauseEnd !== null) throw new DomainError("internal", `sandbox.ready: the pause process ended meanwhile (${live.pauseEnd})`);
  ctx.registry.change(live, { claimed: request.wanted(), phases: op.phases.toJSON() }, "completed");
  await ctx.registry.persist(live);
}

async function undoCreate(ctx: SandboxContext, undo: UndoLog, live: LiveSandbox): Promise<void> {
  const leftovers = await undo.rollback();
  if (leftovers.length === 0) {
    try {
      await ctx.registry.drop(live);
      return;
    } catch (error) {
      leftovers.push({ step: "sandbox.intent", error: describeError(error) });
    }
  }
  const reason = `its creation failed and could not be undone: ${leftovers.map(({ step, error }) => `${step}: ${error}`).join("; ")}`;
  // Visible, so that whoever lists it removes it; a restart would retry, too.
  ctx.registry.change(live, { leftovers, reason, claimed: true }, live.record.phase === "creating" ? "undo-failed" : "stopped");
  ctx.registry.show(live);
  await ctx.registry
    .persist(live)
    .catch((error: unknown) => ctx.log.warn({ sandboxId: live.record.id, err: describeError(error) }, "the record was not written"));
}

/** Starts all, waits for all, then throws what failed first: an undo must not overtake a step that still runs. */
async function together(chains: readonly (() => Promise<void>)[]): Promise<void> {
  const failures: unknown[] = [];
  await Promise.all(chains.map((chain) => chain().catch((error: unknown) => failures.push(error))));
  if (failures.length > 0) throw failures[0];
}

/** The same error with what it is about in front; a full disk keeps its own kind. */
function explain(error: unknown, what: string, ids: Readonly<Record<string, string>>): DomainError {
  const full = error instanceof SystemError && (error.errno === "ENOSPC" || error.errno === "EDQUOT");
  const known = error instanceof DomainError ? error.ids : {};
  return new DomainError(full ? "resource-exhausted" : errorKind(error), `${what}: ${toError(error).message}`, {
    cause: error,
    ids: { ...known, ...ids },
  });
}
