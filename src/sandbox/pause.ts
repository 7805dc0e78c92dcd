/** Holding the pod's pause process: its end makes the sandbox not ready, whoever ended it. */
import { describeError } from "../base/errors.ts";
import type { ProcessHandle } from "../kernel/contract.ts";
import type { SandboxContext } from "./context.ts";
import type { LiveSandbox } from "./registry.ts";

export function watchPause(ctx: SandboxContext, live: LiveSandbox, pause: ProcessHandle): void {
  live.pause = pause;
  pause.exited().then(
    ({ exitCode, signal }) => pauseEnded(ctx, live, pause, describeEnd(exitCode, signal)),
    (error: unknown) => {
      if (live.pause === pause)
        ctx.log.error({ sandboxId: live.record.id, err: describeError(error) }, "the pause process cannot be watched");
    },
  );
}

function pauseEnded(ctx: SandboxContext, live: LiveSandbox, pause: ProcessHandle, how: string): void {
  // Ended by a Stop or an undo, which see to the rest themselves; or this daemon has let go of it.
  if (live.pause !== pause || live.gone) return;
  live.pause = null;
  live.pauseEnd = how;
  pause.close();
  if (live.record.phase === "creating") return;
  const wasReady = live.record.phase === "ready";
  ctx.registry.change(live, { pause: null, reason: wasReady ? `the pause process ended (${how})` : live.record.reason }, "pause-ended");
  ctx.registry
    .persist(live)
    .catch((error: unknown) => ctx.log.warn({ sandboxId: live.record.id, err: describeError(error) }, "the record was not written"));
  if (!wasReady) return;
  ctx.log.warn({ sandboxId: live.record.id, how }, "a pod's pause process ended: the sandbox is not ready");
  if (live.visible) ctx.events.publish({ type: "stopped", sandbox: live.view });
}

function describeEnd(exitCode: number | null, signal: number | null): string {
  if (signal !== null) return `signal ${signal}`;
  return exitCode === null ? "exit unknown" : `exit code ${exitCode}`;
}
