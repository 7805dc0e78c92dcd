/**
 * After a restart: every record is loaded and every end that happened meanwhile is known before the first request is served;
 * clean-up goes on behind. What runs is adopted, what died is reported with its exit code, what was half done is undone,
 * what is nobody's is removed.
 */
import { describeError } from "../base/errors.ts";
import { isObjectId } from "../base/ids.ts";
import type { Operation } from "../operation/context.ts";
import { type ContainerContext, eachBounded, persistBehind, together } from "./context.ts";
import { containerEnded, watchContainer } from "./ended.ts";
import type { LiveEntry } from "./registry.ts";
import { removeEntry } from "./remove.ts";
import { sweepContainers } from "./sweep.ts";

const concurrency = 16;
/** A monitor that does not answer in this time must not hold up the rest; it is asked again behind. */
const adoptMs = 3_000;
const adoptAgainMs = 30_000;

export async function recoverContainers(ctx: ContainerContext, op: Operation): Promise<void> {
  const { kernel, paths, registry } = ctx;
  await op.step("container.recover.directories", () =>
    op.race(together([paths.removedWritable, paths.removedBundles].map((path) => () => kernel.makeDirectories({ path, mode: 0o700 })))),
  );
  await op.step("container.recover.handlers", () => together([() => ctx.handlers.open(op), () => ctx.layers.open(op)]));
  const damaged = await op.step("container.recover.records", () => registry.load());
  for (const id of damaged) ctx.log.error({ containerId: id }, "a container's record is damaged: what is left of the container is removed");
  await op.step("container.recover.adopt", () => eachBounded(registry.all(), concurrency, (entry) => recoverEntry(ctx, op, entry)));
  ctx.background("remove what is no container's", (own) => sweepContainers(ctx, own));
}

async function recoverEntry(ctx: ContainerContext, op: Operation, entry: LiveEntry): Promise<void> {
  const { record } = entry;
  if (record.phase === "creating" || !record.claimed || !hasSandbox(ctx, record.sandboxId)) {
    ctx.background("undo a container that was half made", (own) => removeEntry(ctx, own, entry));
    return;
  }
  ctx.registry.show(entry);
  if (ctx.images.restoreLease(record.id, record.imageId, record.chainIds) === null) {
    ctx.log.warn({ containerId: record.id, image: record.imageId }, "the layers of a container's image are gone");
  }
  if (record.phase === "exited") return;
  if (record.bootId !== ctx.bootId) {
    containerEnded(ctx, entry, { exit: unseen, lost: true });
    return;
  }
  try {
    await adopt(ctx, op, entry, adoptMs);
  } catch (error) {
    op.throwIfAborted();
    ctx.log.error({ containerId: record.id, err: describeError(error) }, "a container could not be adopted; it is tried again");
    if (entry.record.phase !== "unknown") ctx.registry.change(entry, {}, "lost-sight");
    ctx.background("adopt a container", (own) => adoptOrEnd(ctx, own, entry));
  }
}

async function adopt(ctx: ContainerContext, op: Operation, entry: LiveEntry, timeoutMs: number): Promise<void> {
  const { id, init, cgroupPath, ownPid } = entry.record;
  const handler = ctx.handlers.named(entry.record.handler);
  const own = op.child("adopt container", timeoutMs);
  try {
    const adoption = await handler.adopt(own, {
      id,
      bundle: ctx.paths.bundle(id),
      cgroupPath,
      pid: init?.pid ?? 0,
      startTime: init?.startTime ?? "",
      ownPid,
    });
    if (adoption.kind === "ended") {
      entry.settled = true;
      containerEnded(ctx, entry, adoption.end);
      return;
    }
    const { live, phase, startedAtNs } = adoption.container;
    if (phase === "running" && entry.record.phase !== "running") {
      const changes = { startedAtNs: startedAtNs.toString() };
      ctx.registry.change(entry, changes, entry.record.phase === "unknown" ? "found" : "started");
      entry.startTold = true;
      persistBehind(ctx, entry);
    }
    watchContainer(ctx, entry, live);
  } finally {
    own.dispose();
  }
}

/** A container that nobody can watch or control is no use to its owner: it is ended, and says so. */
async function adoptOrEnd(ctx: ContainerContext, op: Operation, entry: LiveEntry): Promise<void> {
  try {
    await adopt(ctx, op, entry, adoptAgainMs);
  } catch (error) {
    op.throwIfAborted();
    if (entry.gone || entry.container !== null) return;
    ctx.log.error({ containerId: entry.record.id, err: describeError(error) }, "a container could not be adopted and is ended");
    await op.race(ctx.kernel.killCgroup({ path: entry.record.cgroupPath }));
    containerEnded(ctx, entry, { exit: unseen, lost: true });
  }
}

const unseen = { exitCode: 255, signal: 0, oomKilled: false, startedAtNs: 0n, finishedAtNs: 0n, logDroppedBytes: 0n };

function hasSandbox(ctx: ContainerContext, sandboxId: string): boolean {
  if (!isObjectId(sandboxId)) return false;
  try {
    ctx.sandboxes.get(sandboxId);
    return true;
  } catch {
    return false;
  }
}
