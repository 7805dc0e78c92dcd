/** Undoing a sandbox that nobody has been told of, or that is only the rest of a failed create. */
import { describeError } from "../base/errors.ts";
import type { Operation } from "../operation/context.ts";
import type { SandboxContext } from "./context.ts";
import type { LiveSandbox } from "./registry.ts";
import { removeSandbox } from "./remove.ts";

/**
 * Removes it like any sandbox. False where that failed: then it is a visible not-ready sandbox whose reason says so, and
 * whoever lists it removes it. Throws when the operation ends first; the removal then goes on.
 */
export async function discardSandbox(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<boolean> {
  const { id } = live.record;
  try {
    await removeSandbox(ctx, op, live);
    return true;
  } catch (error) {
    op.throwIfAborted();
    ctx.log.warn({ sandboxId: id, err: describeError(error) }, "an unfinished sandbox could not be undone; Remove will retry it");
    if (!live.gone) await showLeftover(ctx, live, describeError(error));
    return false;
  }
}

async function showLeftover(ctx: SandboxContext, live: LiveSandbox, error: string): Promise<void> {
  const leftovers = [{ step: "remove", error }];
  const transition = live.record.phase === "creating" ? "undo-failed" : "stopped";
  ctx.registry.change(live, { claimed: true, leftovers, reason: `it was not finished and could not be undone: ${error}` }, transition);
  ctx.registry.show(live);
  await ctx.registry
    .persist(live)
    .catch((failure: unknown) => ctx.log.warn({ sandboxId: live.record.id, err: describeError(failure) }, "the record was not written"));
}
