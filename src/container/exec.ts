/** Exec with live stdio, and what both kinds of exec share. A terminating container can still be asked. */
import { DomainError, errorKind, toError } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { LiveContainer, StreamedCommand } from "../oci/index.ts";
import type { Operation } from "../operation/context.ts";
import type { ContainerContext } from "./context.ts";
import { findContainer } from "./list.ts";
import type { LiveEntry } from "./registry.ts";
import type { ExecStreamRequest } from "./types.ts";

export async function execIn(ctx: ContainerContext, op: Operation, request: ExecStreamRequest): Promise<StreamedCommand> {
  const entry = findContainer(ctx, request.containerId);
  const container = runningContainer(entry);
  try {
    return await op.step("container.exec", () => container.execStream(op, request));
  } catch (error) {
    throw explainExecIn(entry, request.command, error);
  }
}

/** Throws failed-precondition. */
export function runningContainer({ record, container, view }: LiveEntry): LiveContainer {
  if (record.phase === "running" && container !== null) return container;
  throw new DomainError("failed-precondition", `container ${shortId(record.id)} is ${view.state}, not running`, {
    ids: { containerId: record.id },
  });
}

export function explainExecIn({ record }: LiveEntry, command: readonly string[], error: unknown): DomainError {
  const { id, config } = record;
  const message = `container ${config.metadata.name} (${shortId(id)}): exec of ${JSON.stringify(command)}: ${toError(error).message}`;
  return new DomainError(errorKind(error), message, { cause: error, ids: { containerId: id } });
}
