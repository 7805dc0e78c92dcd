/** RemoveContainer: ends what has not ended, gives everything back; the record goes last. */
import type { Operation } from "../operation/context.ts";
import { type ContainerContext, together } from "./context.ts";
import type { LiveEntry } from "./registry.ts";
import { releaseCgroup, releaseDirectories } from "./release.ts";
import { stopEntry } from "./stop.ts";

/** It goes on when its caller has left, and concurrent ones are one. */
export async function removeEntry(ctx: ContainerContext, op: Operation, entry: LiveEntry): Promise<void> {
  entry.removing ??= detached(ctx, op, entry).finally(() => {
    entry.removing = null;
  });
  await op.race(entry.removing);
}

async function detached(ctx: ContainerContext, op: Operation, entry: LiveEntry): Promise<void> {
  const own = op.detached("remove container", ctx.config.runtime.createTimeoutMs);
  try {
    if (entry.record.phase !== "creating") await own.step("container.remove.stop", () => stopEntry(ctx, own, entry, 0));
    await ctx.mutex.run(own, entry.record.id, () => removeNow(ctx, own, entry));
  } finally {
    own.dispose();
  }
}

async function removeNow(ctx: ContainerContext, op: Operation, entry: LiveEntry): Promise<void> {
  if (entry.gone) return;
  const { id } = entry.record;
  const { visible } = entry;
  const handler = ctx.handlers.named(entry.record.handler);
  // Left over from a create that could not be undone, or from a daemon that died: a monitor may still be there.
  const uncertain = !entry.settled || entry.record.leftovers.length > 0;
  await together([
    () => op.step("container.remove.monitor", () => (uncertain ? handler.discard(op, id) : handler.forget(op, id))),
    () => op.step("container.remove.cgroup", () => releaseCgroup(ctx, op, entry)),
  ]);
  await op.step("container.remove.directories", () => releaseDirectories(ctx, entry));
  ctx.images.releaseLease(id);
  ctx.layers.forget(id);
  await op.step("container.remove.record", () => ctx.registry.drop(entry));
  if (visible) ctx.events.publish({ type: "deleted", container: entry.view });
}
