/** Attach: one more client of the container's own stdio. */
import type { StreamedCommand } from "../oci/index.ts";
import type { Operation } from "../operation/context.ts";
import { type ContainerContext, explain } from "./context.ts";
import { runningContainer } from "./exec.ts";
import { findContainer } from "./list.ts";
import type { AttachRequest } from "./types.ts";

export async function attachTo(ctx: ContainerContext, op: Operation, request: AttachRequest): Promise<StreamedCommand> {
  const entry = findContainer(ctx, request.containerId);
  const container = runningContainer(entry);
  const { tty } = entry.record.config;
  const { stdin, stdout, stderr } = request;
  try {
    return await op.step("container.attach", () => container.attach(op, { stdin, stdout, stderr: stderr && !tty }));
  } catch (error) {
    throw explain(error, `attach to container ${entry.record.config.metadata.name}`, { containerId: entry.record.id });
  }
}
