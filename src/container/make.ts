/**
 * The making of one container, from its intent to its created record; `create.ts` decides who asks for it. It reads as the
 * list of its steps; their names are the failpoints and the phases. What does not depend on each other goes side by side:
 * the root with what is read from it, the cgroup, the monitor, the log.
 */
import { posix } from "node:path";
import { nowNs } from "../base/clock.ts";
import { DomainError, describeError, SystemError } from "../base/errors.ts";
import { newContainerId, shortId } from "../base/ids.ts";
import type { CgroupHandle } from "../kernel/contract.ts";
import { type Launch, type LogTarget, type RootfsMount, type RuntimeHandler, writeBundle } from "../oci/index.ts";
import { buildSpec, serializeSpec } from "../oci/spec/build.ts";
import { buildEnvironment } from "../oci/spec/environment.ts";
import type { ResolvedUser } from "../oci/spec/user.ts";
import { backgroundOperation, type Operation } from "../operation/context.ts";
import { UndoLog } from "../operation/undo.ts";
import { cgroupLeafPath } from "../sandbox/index.ts";
import { type ContainerContext, explain, together } from "./context.ts";
import type { Decision } from "./decide.ts";
import { watchContainer } from "./ended.ts";
import type { LiveEntry } from "./registry.ts";
import { releaseCgroup, releaseDirectories } from "./release.ts";
import type { ContainerConfig } from "./types.ts";
import type { UserResolver } from "./user-resolver.ts";

const lateUndoMs = 30_000;

export interface MakeRequest {
  readonly config: ContainerConfig;
  readonly requestHash: string;
  readonly decision: Decision;
  readonly handler: RuntimeHandler;
  readonly users: UserResolver;
  /** Whether somebody waits for the result when it is there. */
  wanted(): boolean;
}

/** A created container, still hidden. When it throws, everything is undone, or what could not be is a visible exited container. */
export async function makeContainer(ctx: ContainerContext, op: Operation, request: MakeRequest): Promise<LiveEntry> {
  const entry = await intend(ctx, op, request);
  const undo = new UndoLog(op);
  const making = new Making(ctx, op, undo, entry, request);
  try {
    await together([() => making.root(), () => making.cgroup(), () => making.launch(), () => making.log()]);
    await making.create();
    await op.step("container.ready", () => complete(ctx, op, entry, request));
    undo.commit();
    return entry;
  } catch (error) {
    await undoMake(ctx, undo, entry);
    const { name } = request.config.metadata;
    throw explain(error, `container ${name} (${shortId(entry.record.id)})`, {
      containerId: entry.record.id,
      sandboxId: entry.record.sandboxId,
    });
  } finally {
    entry.making = null;
    making.release();
  }
}

/** The record comes before everything that it names. */
async function intend(ctx: ContainerContext, op: Operation, request: MakeRequest): Promise<LiveEntry> {
  const { config, requestHash, decision, handler } = request;
  const { pod, image } = decision;
  const id = newContainerId();
  op.ids["containerId"] = id;
  op.ids["sandboxId"] = pod.view.id;
  const entry = ctx.registry.add({
    id,
    sandboxId: pod.view.id,
    config,
    requestHash,
    phase: "creating",
    claimed: false,
    createdAtNs: nowNs().toString(),
    startedAtNs: "0",
    finishedAtNs: "0",
    bootId: ctx.bootId,
    imageId: image.id,
    chainIds: image.chainIds,
    handler: handler.name,
    runtimeHandler: pod.view.config.runtimeHandler,
    cgroupPath: cgroupLeafPath(ctx.config.runtime.cgroupDriver, pod.cgroupParent, id),
    ownPid: decision.ownPid,
    logPath: decision.logPath,
    user: { uid: 0, gid: 0, supplementalGroups: [] },
    stopSignal: decision.stopSignal,
    init: null,
    exitCode: 0,
    reason: "",
    message: "",
    phases: {},
    leftovers: [],
  });
  // From its first moment on: the end of the pod finds it by this.
  entry.making = op;
  try {
    await op.step("container.intent", () => ctx.registry.persist(entry));
    return entry;
  } catch (error) {
    await ctx.registry.drop(entry).catch(() => undefined);
    throw explain(error, `container.intent: the record of container ${config.metadata.name}`, {});
  }
}

class Making {
  readonly #ctx: ContainerContext;
  readonly #op: Operation;
  readonly #undo: UndoLog;
  readonly #entry: LiveEntry;
  readonly #request: MakeRequest;
  readonly #bundle: string;
  #rootfs: RootfsMount | null = null;
  #configJson = "";
  #cgroup: CgroupHandle | null = null;
  #launch: Launch | null = null;
  #log: LogTarget | null = null;
  #lowers: readonly string[] = [];
  #attempt = 0;

  constructor(ctx: ContainerContext, op: Operation, undo: UndoLog, entry: LiveEntry, request: MakeRequest) {
    this.#ctx = ctx;
    this.#op = op;
    this.#undo = undo;
    this.#entry = entry;
    this.#request = request;
    this.#bundle = ctx.paths.bundle(entry.record.id);
  }

  /** The root file system, and config.json, which needs its /etc/passwd. */
  async root(): Promise<void> {
    const ctx = this.#ctx;
    const { id } = this.#entry.record;
    const { image } = this.#request.decision;
    const lease = await this.#undo.step(
      "container.image",
      () => ctx.images.lease(image, id),
      () => ctx.images.releaseLease(id),
    );
    this.#lowers = lease.lowerDirectories;
    await this.#acquire(
      "container.directories",
      () => together([() => this.#layerDirectories(), () => ctx.kernel.makeDirectories({ path: this.#bundle, mode: 0o700 })]),
      () => releaseDirectories(ctx, this.#entry),
    );
    await this.#mountRoot();
    const user = await this.#named("container.user", () => this.#user());
    await this.#named("container.spec", () => this.#spec(user));
  }

  async cgroup(): Promise<void> {
    const { kernel } = this.#ctx;
    const { cgroupPath } = this.#entry.record;
    const { resources } = this.#request.decision;
    this.#cgroup = await this.#acquire(
      "container.cgroup",
      () => kernel.createCgroup({ path: cgroupPath, resourcesJson: JSON.stringify(resources), adopt: false }),
      (op) => releaseCgroup(this.#ctx, op, this.#entry),
      (late) => late.close(),
    );
  }

  /** The monitor depends on nothing: it is up by the time that it is needed. */
  async launch(): Promise<void> {
    const { handler } = this.#request;
    const { id } = this.#entry.record;
    this.#launch = await this.#acquire(
      "container.monitor",
      () => handler.launch(this.#op, id),
      async (op) => {
        this.#launch?.abort();
        this.#entry.container?.close();
        await handler.discard(op, id);
      },
    );
  }

  /** The directory of the log, which the kubelet has made as a rule. */
  async log(): Promise<void> {
    const { logPath } = this.#entry.record;
    if (logPath === "") return;
    const { kernel } = this.#ctx;
    const path = posix.dirname(logPath);
    const open = (): ReturnType<typeof kernel.openTree> => kernel.openTree({ path, clone: false, recursive: false, readOnly: false });
    const directory = await this.#acquire(
      "container.log",
      () =>
        open().catch(async (error: unknown) => {
          if (!(error instanceof SystemError) || error.errno !== "ENOENT") throw error;
          await kernel.makeDirectories({ path, mode: 0o755 });
          return open();
        }),
      () => undefined,
      (late) => late.close(),
    );
    this.#log = { directory, name: posix.basename(logPath) };
  }

  /** The monitor's child executes the plan up to its start barrier; the bundle is written meanwhile. */
  async create(): Promise<void> {
    await together([
      () => this.#named("container.bundle", () => writeBundle(this.#op, this.#ctx.kernel, this.#bundle, this.#configJson)),
      () => this.#create(),
    ]);
  }

  /** Undone first: nothing of the container runs when the rest is taken away. */
  async #create(): Promise<void> {
    const { kernel } = this.#ctx;
    const { cgroupPath } = this.#entry.record;
    const kill = async (): Promise<void> => {
      this.#launch?.abort();
      await kernel.killCgroup({ path: cgroupPath });
    };
    try {
      await this.#undo.step("container.create", () => this.#createWithSources(), kill);
    } catch (error) {
      throw explain(error, "container.create", {});
    }
  }

  /** Handles that the container has copies of by now. */
  release(): void {
    this.#rootfs?.handle.close();
    this.#log?.directory.close();
    if (this.#entry.container === null) this.#cgroup?.close();
  }

  /**
   * A missing source of a bind mount becomes an empty directory, as clients expect. The daemon does not look for it: a hung
   * volume would hang the daemon. The container's own child has looked, and is made anew.
   */
  async #createWithSources(): Promise<void> {
    const ctx = this.#ctx;
    const { bindSources } = this.#request.decision;
    for (let left = bindSources.size; ; left -= 1) {
      try {
        await this.#createOnce();
        return;
      } catch (error) {
        const missing = missingSource(error, bindSources);
        if (missing === null || left <= 0) throw blame(error);
        this.#op.throwIfAborted();
        ctx.log.info(
          { containerId: this.#entry.record.id, path: missing },
          "the source of a bind mount is missing and is made as a directory",
        );
        await this.#op.race(ctx.kernel.makeDirectories({ path: missing, mode: 0o755 }));
        await this.#startOver();
      }
    }
  }

  async #createOnce(): Promise<void> {
    const ctx = this.#ctx;
    const { handler, decision, config } = this.#request;
    const { id } = this.#entry.record;
    if (!this.#launch || !this.#rootfs || !this.#cgroup) throw new DomainError("internal", "a container is made before its parts");
    const container = await handler.create(this.#op, this.#launch, {
      id,
      bundle: this.#bundle,
      configJson: this.#configJson,
      rootfs: this.#rootfs,
      cgroup: this.#cgroup,
      pause: decision.pod.pause,
      terminal: config.tty,
      stdin: config.stdin,
      stdinOnce: config.stdinOnce,
      log: this.#log,
      ownPid: decision.ownPid,
    });
    ctx.registry.change(this.#entry, { init: { pid: container.init.pid, startTime: container.init.startTime } });
    watchContainer(ctx, this.#entry, container);
  }

  /** A failed child has taken its monitor and its root with it. */
  async #startOver(): Promise<void> {
    const { handler } = this.#request;
    const { id } = this.#entry.record;
    this.#launch?.abort();
    await handler.discard(this.#op, id);
    this.#rootfs?.handle.close();
    this.#rootfs = null;
    this.#attempt += 1;
    await this.#layerDirectories();
    await this.#mountRoot();
    this.#launch = await handler.launch(this.#op, id);
  }

  #layerDirectories(): Promise<void> {
    const { kernel, paths } = this.#ctx;
    const { upper, work } = paths.layer(this.#entry.record.id, this.#attempt);
    return together([
      () => kernel.makeDirectories({ path: upper, mode: 0o755 }),
      () => kernel.makeDirectories({ path: work, mode: 0o755 }),
    ]);
  }

  async #mountRoot(): Promise<void> {
    const { upper, work } = this.#ctx.paths.layer(this.#entry.record.id, this.#attempt);
    this.#rootfs = await this.#acquire(
      "container.rootfs",
      () => this.#request.handler.mountRootfs(this.#op, { bundle: this.#bundle, lowers: this.#lowers, upper, work }),
      () => this.#rootfs?.handle.close(),
      (late) => late.handle.close(),
    );
  }

  #user(): Promise<ResolvedUser> {
    if (!this.#rootfs) throw new DomainError("internal", "the user is looked up before the root is there");
    const { users, decision } = this.#request;
    return users.resolve(this.#op, decision.image.id, decision.userRequest, this.#rootfs.handle);
  }

  #spec(user: ResolvedUser): void {
    const ctx = this.#ctx;
    const { config, decision } = this.#request;
    const { pod, image } = decision;
    const { env, dropped } = buildEnvironment({
      image: image.config.env,
      requested: config.env,
      home: user.home,
      hostname: pod.view.config.hostname,
      tty: config.tty,
    });
    if (dropped.length > 0)
      this.#op.log.warn({ image: image.id, count: dropped.length }, "entries of the image's environment are no variables and are left out");
    const spec = buildSpec({
      args: decision.args,
      env,
      cwd: decision.cwd,
      terminal: config.tty,
      user,
      capabilities: decision.capabilities,
      rlimits: [],
      noNewPrivileges: config.security.noNewPrivileges,
      // Always said: the child would have its monitor's otherwise.
      oomScoreAdj: config.resources?.oomScoreAdj ?? 0,
      apparmorProfile: decision.apparmorProfile,
      readOnlyRootfs: config.security.readOnlyRootfs,
      mounts: decision.mounts,
      namespaces: decision.namespaces,
      cgroupsPath: this.#entry.record.cgroupPath,
      resources: decision.resources,
      devices: decision.devices.map(({ device }) => device),
      maskedPaths: decision.maskedPaths,
      readonlyPaths: decision.readonlyPaths,
      annotations: identity(this.#entry, pod.view.config.metadata),
    });
    this.#configJson = serializeSpec(spec, decision.seccompJson);
    ctx.registry.change(this.#entry, { user: { uid: user.uid, gid: user.gid, supplementalGroups: user.groups } });
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

  /** A step with nothing to undo. */
  async #named<T>(name: string, work: () => T | Promise<T>): Promise<T> {
    try {
      return await this.#op.step(name, work);
    } catch (error) {
      throw explain(error, name, {});
    }
  }
}

/** Who the container is, for handlers and hooks that look; the pod's own annotations are not passed on. */
function identity(
  entry: LiveEntry,
  pod: { readonly name: string; readonly namespace: string; readonly uid: string },
): Record<string, string> {
  const { record } = entry;
  return {
    "io.kubernetes.cri.container-type": "container",
    "io.kubernetes.cri.container-name": record.config.metadata.name,
    "io.kubernetes.cri.sandbox-id": record.sandboxId,
    "io.kubernetes.cri.sandbox-name": pod.name,
    "io.kubernetes.cri.sandbox-namespace": pod.namespace,
    "io.kubernetes.cri.sandbox-uid": pod.uid,
  };
}

/** The child's report holds so much of a path. */
const reportedPathLength = 255;

function missingSource(error: unknown, sources: ReadonlySet<string>): string | null {
  if (!(error instanceof SystemError) || error.errno !== "ENOENT") return null;
  const { path } = error;
  if (sources.has(path)) return path;
  if (path.length < reportedPathLength) return null;
  return [...sources].find((source) => source.startsWith(path)) ?? null;
}

/** Errors of the request's own doing: its command, its directory, its mounts. Everything else keeps its kind. */
function blame(error: unknown): unknown {
  if (!(error instanceof SystemError)) return error;
  const own = ["ENOENT", "EACCES", "ENOEXEC", "ENOTDIR", "EISDIR", "ELOOP", "EINVAL", "ENAMETOOLONG", "E2BIG", "EROFS"];
  return own.includes(error.errno) ? new DomainError("invalid-argument", error.message, { cause: error }) : error;
}

/** One write: everything that a restart needs to adopt it. */
async function complete(ctx: ContainerContext, op: Operation, entry: LiveEntry, request: MakeRequest): Promise<void> {
  if (entry.endedEarly)
    throw new DomainError("internal", `container.ready: its init ended meanwhile (exit code ${entry.endedEarly.exit.exitCode})`);
  // A stop of the pod that began before the record stood has not seen this container.
  ctx.sandboxes.runtime(entry.record.sandboxId);
  ctx.registry.change(entry, { claimed: request.wanted(), phases: op.phases.toJSON() }, "completed");
  await ctx.registry.persist(entry);
}

async function undoMake(ctx: ContainerContext, undo: UndoLog, entry: LiveEntry): Promise<void> {
  const { container } = entry;
  // Let go of first: its end is no news to anybody.
  entry.container = null;
  const leftovers = await undo.rollback();
  container?.close();
  if (leftovers.length === 0) {
    try {
      await ctx.registry.drop(entry);
      return;
    } catch (error) {
      leftovers.push({ step: "container.intent", error: describeError(error) });
    }
  }
  const message = `its creation failed and could not be undone: ${leftovers.map(({ step, error }) => `${step}: ${error}`).join("; ")}`;
  const changes = { leftovers, claimed: true, reason: "ContainerCannotRun", message, exitCode: 255, finishedAtNs: nowNs().toString() };
  // Visible, so that whoever lists it removes it; a restart would retry, too.
  const failed = entry.record.phase === "creating" ? "undo-failed" : "ended";
  ctx.registry.change(entry, changes, entry.record.phase === "exited" ? null : failed);
  ctx.registry.show(entry);
  await ctx.registry.persist(entry).catch((error: unknown) => {
    ctx.log.warn({ containerId: entry.record.id, err: describeError(error) }, "the record was not written");
  });
}
