/**
 * Daemon start. Before the socket answers: every record is loaded and every pause process adopted or found dead, so that the
 * first list is whole. Behind: what was half done is undone, what is nobody's is removed.
 */
import { mkdir } from "node:fs/promises";
import { describeError } from "../base/errors.ts";
import type { Operation } from "../operation/context.ts";
import { forEachBounded } from "./bounded.ts";
import type { SandboxContext } from "./context.ts";
import { watchPause } from "./pause.ts";
import type { LiveSandbox } from "./registry.ts";
import { sweep } from "./sweep.ts";

const adoptAtOnce = 16;
/** A plugin whose STATUS hangs must not hold up the start: until it answers, the network is not ready. */
const networkWaitMs = 2_000;

export async function recoverSandboxes(ctx: SandboxContext, op: Operation): Promise<void> {
  const { paths, registry } = ctx;
  await mkdir(paths.removed, { recursive: true, mode: 0o700 });
  await mkdir(paths.namespaces, { recursive: true, mode: 0o755 });
  const damaged = await op.step("sandbox.recover.load", () => registry.load());
  const patience = op.child("read the network's configuration", networkWaitMs);
  await patience
    .race(ctx.network.start())
    .catch((error: unknown) => ctx.log.warn({ err: describeError(error) }, "the network is not known yet"));
  patience.dispose();
  await op.step("sandbox.recover.adopt", () => forEachBounded(registry.all(), adoptAtOnce, (live) => adopt(ctx, live)));
  ctx.background("clean up after a former daemon", (own) => sweep(ctx, own, damaged));
}

async function adopt(ctx: SandboxContext, live: LiveSandbox): Promise<void> {
  const { registry, kernel } = ctx;
  const { record } = live;
  // Half made, or made for nobody: hidden until the clean-up has undone it.
  if (record.phase === "creating" || !record.claimed) return;
  registry.show(live);
  const sameBoot = record.bootId === ctx.bootId;
  if (record.pause && sameBoot) {
    const pause = await kernel.openProcess({ pid: record.pause.pid, startTime: record.pause.startTime });
    if (pause) {
      watchPause(ctx, live, pause);
      return;
    }
  }
  if (record.phase !== "ready" && record.pause === null) return;
  const lost = sameBoot ? "the pause process ended while the daemon was away" : "the node was restarted";
  registry.change(live, { pause: null, reason: record.phase === "ready" ? lost : record.reason }, "pause-ended");
  await registry
    .persist(live)
    .catch((error: unknown) => ctx.log.warn({ sandboxId: record.id, err: describeError(error) }, "the record was not written"));
}
