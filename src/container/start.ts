/** StartContainer: lets the created child execve. */
import { DomainError, describeError, errorKind } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { Operation } from "../operation/context.ts";
import { type ContainerContext, explain, persistBehind } from "./context.ts";
import type { LiveEntry } from "./registry.ts";

/** Goes on when its caller has left: the next Status tells. A retry meanwhile joins it. */
export async function startContainer(ctx: ContainerContext, op: Operation, entry: LiveEntry): Promise<void> {
  entry.starting ??= detached(ctx, op, entry).finally(() => {
    entry.starting = null;
  });
  await op.race(entry.starting);
}

async function detached(ctx: ContainerContext, op: Operation, entry: LiveEntry): Promise<void> {
  const own = op.detached("start container", ctx.config.runtime.createTimeoutMs);
  try {
    await ctx.mutex.run(own, entry.record.id, () => startNow(ctx, own, entry));
  } finally {
    own.dispose();
  }
}

async function startNow(ctx: ContainerContext, op: Operation, entry: LiveEntry): Promise<void> {
  const { id, config, phase } = entry.record;
  const name = `container ${config.metadata.name} (${shortId(id)})`;
  const { container } = entry;
  if (phase !== "created" || container === null || entry.stopping || entry.removing) {
    throw new DomainError("failed-precondition", `${name} is ${entry.view.state}, not created`, { ids: { containerId: id } });
  }
  // The pod's namespaces must still be somebody's.
  ctx.sandboxes.runtime(entry.record.sandboxId);
  let startedAtNs: bigint;
  try {
    startedAtNs = (await op.step("container.start", () => container.start(op))).startedAtNs;
  } catch (error) {
    await failed(ctx, op, entry, error);
    const kind = errorKind(error) === "internal" ? "failed-precondition" : errorKind(error);
    throw new DomainError(kind, explain(error, `${name}: container.start`, {}).message, { cause: error, ids: { containerId: id } });
  }
  // A short-lived command may have ended by now, and its end has been told with its start.
  if (entry.record.phase !== "created") return;
  ctx.registry.change(entry, { startedAtNs: startedAtNs.toString(), phases: { ...entry.record.phases, ...op.phases.toJSON() } }, "started");
  entry.startTold = true;
  // Behind: a restart learns of the start from the monitor.
  persistBehind(ctx, entry);
  if (entry.visible) ctx.events.publish({ type: "started", container: entry.view });
}

/** What did not start will not be started again: it ends, with the reason why. */
async function failed(ctx: ContainerContext, op: Operation, entry: LiveEntry, error: unknown): Promise<void> {
  entry.startFailure ??= describeError(error);
  await op.race(ctx.kernel.killCgroup({ path: entry.record.cgroupPath })).catch((killError: unknown) => {
    ctx.log.warn({ containerId: entry.record.id, err: describeError(killError) }, "a container that did not start was not killed");
  });
}
