/** ExecSync. */
import type { Operation } from "../operation/context.ts";
import type { ContainerContext } from "./context.ts";
import { explainExecIn, runningContainer } from "./exec.ts";
import { findContainer } from "./list.ts";
import type { ExecSyncRequest, ExecSyncResult } from "./types.ts";

/** Never joins another. A terminating container can still be asked. */
export async function execSyncIn(ctx: ContainerContext, op: Operation, request: ExecSyncRequest): Promise<ExecSyncResult> {
  const entry = findContainer(ctx, request.containerId);
  const container = runningContainer(entry);
  try {
    return await op.step("container.exec", () => container.execSync(op, { command: request.command, timeoutMs: request.timeoutMs }));
  } catch (error) {
    throw explainExecIn(entry, request.command, error);
  }
}
