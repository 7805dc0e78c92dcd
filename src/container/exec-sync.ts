/** ExecSync. */
import { DomainError, errorKind, toError } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { Operation } from "../operation/context.ts";
import type { ContainerContext } from "./context.ts";
import { findContainer } from "./list.ts";
import type { ExecSyncRequest, ExecSyncResult } from "./types.ts";

/** Never joins another. A terminating container can still be asked. */
export async function execSyncIn(ctx: ContainerContext, op: Operation, request: ExecSyncRequest): Promise<ExecSyncResult> {
  const entry = findContainer(ctx, request.containerId);
  const { id, phase } = entry.record;
  const { container } = entry;
  if (phase !== "running" || container === null) {
    throw new DomainError("failed-precondition", `container ${shortId(id)} is ${entry.view.state}, not running`, {
      ids: { containerId: id },
    });
  }
  try {
    return await op.step("container.exec", () => container.execSync(op, { command: request.command, timeoutMs: request.timeoutMs }));
  } catch (error) {
    const name = entry.record.config.metadata.name;
    const message = `container ${name} (${shortId(id)}): exec of ${JSON.stringify(request.command)}: ${toError(error).message}`;
    throw new DomainError(errorKind(error), message, { cause: error, ids: { containerId: id } });
  }
}
