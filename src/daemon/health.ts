/** What the daemon says about itself: the health endpoint and the RuntimeReady condition. */
import type { RunningOperation, RunningOperations } from "../operation/running.ts";

/** An operation that is this much older than its deadline is stuck in something that cannot be cancelled. */
const stuckAfterDeadlineMs = 30_000;

export function stuckOperations(running: RunningOperations): RunningOperation[] {
  return running.list().filter((op) => op.remainingMs === 0 && op.ageMs > stuckAfterDeadlineMs);
}

export function problems(running: RunningOperations): string[] {
  return stuckOperations(running).map(
    (op) => `${op.name} ${op.id} has been in step ${op.step ?? "none"} for ${Math.round(op.ageMs / 1000)} s, past its deadline`,
  );
}
