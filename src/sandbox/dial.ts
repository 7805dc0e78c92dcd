/** PortForward: a connection to a port of the pod, made within its network namespace. */
import { DomainError, SystemError, toError } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { FdHandle } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";
import type { SandboxContext } from "./context.ts";
import { sandboxRuntime } from "./status.ts";

/** Where a program of the pod may listen for its own machine. */
const loopback = ["127.0.0.1", "::1"] as const;
/** For each address: a loopback answers at once, unless the program does not accept. */
const connectMs = 10_000;

/** Throws failed-precondition where the pod is not ready, unavailable where nobody takes the connection. */
export async function dialSandbox(ctx: SandboxContext, op: Operation, id: string, port: number): Promise<FdHandle> {
  const { view } = sandboxRuntime(ctx, id);
  const networkNamespace = view.networkNamespacePath === "" ? null : view.networkNamespacePath;
  try {
    const dialled = ctx.kernel.dialInNamespace({ networkNamespace, hosts: loopback, port, timeoutMs: connectMs });
    return await op.raceWithCleanup(dialled, (late) => late.close());
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new DomainError("unavailable", `sandbox ${shortId(view.id)}: ${toError(error).message}`, {
      cause: error,
      ids: { sandboxId: view.id },
    });
  }
}
