/**
 * StopPodSandbox: the pod's containers end, then its network, its pause process and its mounts. What failed is tried again by
 * the next stop, the rest is not held up by it; concurrent stops are one.
 */
import { DomainError, describeError, errorKind } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { Operation } from "../operation/context.ts";
import type { SandboxContext } from "./context.ts";
import type { LiveSandbox } from "./registry.ts";
import { releaseCgroup, releaseNamespace, releaseNetwork, releasePause, releaseShm } from "./release.ts";

/** The stop goes on when its caller has left: the next one joins it, or finds it done. */
export async function stopSandbox(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<void> {
  live.stopping ??= detached(ctx, op, live).finally(() => {
    live.stopping = null;
  });
  await op.race(live.stopping);
}

async function detached(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<void> {
  const own = op.detached("stop sandbox", ctx.config.runtime.createTimeoutMs);
  try {
    await ctx.mutex.run(own, live.record.id, () => stopNow(ctx, own, live));
  } finally {
    own.dispose();
  }
}

/** Under the sandbox's mutex. */
export async function stopNow(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<void> {
  if (live.gone) return;
  const marked = markStopped(ctx, op, live);
  await op.step("sandbox.stop.containers", () => endContainers(ctx, op, live, marked));
  if (live.record.released) return;
  const failures: unknown[] = [];
  // A kernel call that hangs is given up with the operation; repeating it is harmless.
  const step = (name: string, work: () => Promise<void>): Promise<void> => op.step(name, () => op.race(work()));
  const attempt = async (chain: () => Promise<void>): Promise<void> => {
    await chain().catch((error: unknown) => failures.push(error));
  };
  await Promise.all([
    attempt(async () => {
      await op.step("sandbox.stop.network", () => releaseNetwork(ctx, op, live));
      await step("sandbox.stop.namespace", () => releaseNamespace(ctx, live));
    }),
    attempt(async () => {
      await step("sandbox.stop.pause", () => releasePause(ctx, op, live));
      await step("sandbox.stop.cgroup", () => releaseCgroup(ctx, live));
    }),
    attempt(() => step("sandbox.stop.shm", () => releaseShm(ctx, live))),
  ]);
  ctx.registry.change(live, { released: failures.length === 0, pause: live.pause ? live.record.pause : null });
  await attempt(() => op.step("sandbox.stop.record", () => ctx.registry.persist(live)));
  if (failures.length > 0) {
    const message = `sandbox ${shortId(live.record.id)} is not stopped: ${failures.map(describeError).join("; ")}`;
    throw new DomainError(errorKind(failures[0]), message, { cause: failures[0], ids: { sandboxId: live.record.id } });
  }
}

/** At once in memory, so that no container is made in it any more; the write goes on beside the end of the containers. */
async function markStopped(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<void> {
  if (live.record.phase === "creating") ctx.registry.change(live, {}, "undo-failed");
  if (live.record.phase !== "ready") return;
  ctx.registry.change(live, { reason: "stopped" }, "stopped");
  if (live.visible) ctx.events.publish({ type: "stopped", sandbox: live.view });
  // The stop can be repeated from the record of a ready sandbox, too: a write that failed is no reason not to stop.
  await ctx.registry.persist(live).catch((error: unknown) => op.log.warn({ err: describeError(error) }, "the record was not written"));
}

async function endContainers(ctx: SandboxContext, op: Operation, live: LiveSandbox, marked: Promise<void>): Promise<void> {
  // A hidden sandbox has never had a container.
  if (live.visible) await ctx.hooks.stopAll(op, live.record.id);
  await marked;
}
