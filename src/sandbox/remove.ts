/** RemovePodSandbox: stops what is not stopped, removes the containers, then everything of the pod; the record goes last. */
import type { Operation } from "../operation/context.ts";
import type { SandboxContext } from "./context.ts";
import type { LiveSandbox } from "./registry.ts";
import { releaseCgroup, releaseDirectory } from "./release.ts";
import { stopNow } from "./stop.ts";

/** As a stop, it goes on when its caller has left, and concurrent ones are one. */
export async function removeSandbox(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<void> {
  live.removing ??= detached(ctx, op, live).finally(() => {
    live.removing = null;
  });
  await op.race(live.removing);
}

async function detached(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<void> {
  const own = op.detached("remove sandbox", ctx.config.runtime.createTimeoutMs);
  try {
    await ctx.mutex.run(own, live.record.id, () => removeNow(ctx, own, live));
  } finally {
    own.dispose();
  }
}

async function removeNow(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<void> {
  if (live.gone) return;
  const { visible } = live;
  await stopNow(ctx, op, live);
  await op.step("sandbox.remove.containers", async () => {
    if (visible) await ctx.hooks.removeAll(op, live.record.id);
  });
  // Absent since the stop, unless something was started in it afterwards.
  await op.step("sandbox.remove.cgroup", () => releaseCgroup(ctx, live));
  await op.step("sandbox.remove.directory", () => releaseDirectory(ctx, live));
  await op.step("sandbox.remove.record", () => ctx.registry.drop(live));
  if (visible) ctx.events.publish({ type: "deleted", sandbox: live.view });
}
