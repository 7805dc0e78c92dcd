/** ReopenContainerLog: after a rotation by rename, the monitor goes on in a new file. */
import { DomainError } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { Operation } from "../operation/context.ts";
import { type ContainerContext, explain } from "./context.ts";
import { findContainer } from "./list.ts";

/** The monitor creates the file and nobody else does: on a failure there is none. */
export async function reopenContainerLog(ctx: ContainerContext, op: Operation, idOrPrefix: string): Promise<void> {
  const entry = findContainer(ctx, idOrPrefix);
  const { id, phase, logPath } = entry.record;
  const { container } = entry;
  if (phase !== "running" || container === null) {
    throw new DomainError("failed-precondition", `container ${shortId(id)} is ${entry.view.state}, not running`, {
      ids: { containerId: id },
    });
  }
  if (logPath === "") throw new DomainError("failed-precondition", `container ${shortId(id)} has no log`, { ids: { containerId: id } });
  try {
    await op.step("container.reopen-log", () => container.reopenLog(op));
  } catch (error) {
    throw explain(error, `log ${logPath} of container ${shortId(id)}`, { containerId: id });
  }
}
