/** PodSandboxStatus, and what a container's creation needs of its pod. Never waits. */
import { DomainError } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { SandboxContext } from "./context.ts";
import type { LiveSandbox } from "./registry.ts";
import type { SandboxRuntime, SandboxView } from "./types.ts";

export function getSandbox(ctx: SandboxContext, id: string): SandboxView {
  return find(ctx, id).view;
}

/** Throws failed-precondition where the sandbox is not ready. */
export function sandboxRuntime(ctx: SandboxContext, id: string): SandboxRuntime {
  const live = find(ctx, id);
  const { view, pause, record } = live;
  if (view.state !== "ready" || !pause) {
    throw new DomainError("failed-precondition", `sandbox ${shortId(record.id)} is not ready: ${view.reason}`, {
      ids: { sandboxId: record.id },
    });
  }
  const { paths } = ctx;
  return {
    view,
    pause,
    files: {
      hosts: paths.hosts(record.id),
      resolvConf: paths.resolvConf(record.id),
      hostname: paths.hostname(record.id),
      shm: record.config.namespaces.ipc === "pod" ? paths.shm(record.id) : null,
    },
    cgroupParent: record.cgroupParent,
    podCgroup: null,
  };
}

function find(ctx: SandboxContext, id: string): LiveSandbox {
  const live = ctx.registry.resolve(id);
  if (!live) throw new DomainError("not-found", `there is no sandbox ${JSON.stringify(id)}`, { ids: { sandboxId: id } });
  return live;
}
