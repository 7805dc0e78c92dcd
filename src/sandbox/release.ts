/**
 * How each thing of a sandbox is given back: by a failed create, by Stop, by Remove, by recovery. All are idempotent and
 * need nothing but the record.
 */
import { rename } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Operation } from "../operation/context.ts";
import type { SandboxContext } from "./context.ts";
import type { NetworkPod } from "./network/attachment.ts";
import type { SandboxRecord } from "./record.ts";
import type { LiveSandbox } from "./registry.ts";

const sigkill = 9;
/** A killed process that has not ended by then is left to its cgroup. */
const pauseEndMs = 2_000;
const cgroupBusyMs = 2_000;

export function networkPod({ id, config }: SandboxRecord): NetworkPod {
  const { name, namespace, uid } = config.metadata;
  return { id, name, namespace, uid };
}

/** DEL of every attachment; those that failed stay in the record, and the first failure is thrown. */
export async function releaseNetwork(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<void> {
  for (const attachment of live.record.attachments) {
    await ctx.network.detach(op, networkPod(live.record), live.record.networkNamespace, attachment);
    ctx.registry.change(live, { attachments: live.record.attachments.filter((other) => other !== attachment) });
  }
}

export async function releaseNamespace(ctx: SandboxContext, live: LiveSandbox): Promise<void> {
  const { networkNamespace } = live.record;
  if (networkNamespace !== "") await ctx.kernel.unpinNamespace({ path: networkNamespace });
}

/** SIGKILL by pidfd; as pid 1 of the pod's pid namespace it takes the pod's other processes with it. */
export async function releasePause(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<void> {
  const { pause } = live;
  if (!pause) return;
  // Its end is now expected: the watch has nothing to report.
  live.pause = null;
  pause.signal(sigkill);
  const wait = op.child("wait for the pause process", pauseEndMs);
  try {
    await wait.race(pause.exited());
  } catch (error) {
    op.throwIfAborted();
    op.log.warn({ pid: pause.pid, err: String(error) }, "the pause process does not end; its cgroup is killed");
    await ctx.kernel.killCgroup({ path: live.record.cgroupPath });
  } finally {
    wait.dispose();
    pause.close();
    ctx.registry.change(live, { pause: null });
  }
}

/** Kills what is left in it, too: a pause process that no handle is held of. */
export async function releaseCgroup(ctx: SandboxContext, live: LiveSandbox): Promise<void> {
  await ctx.kernel.removeCgroup({ path: live.record.cgroupPath, timeoutMs: cgroupBusyMs });
  await releaseCgroupParents(ctx, live.record.cgroupParent);
}

/** Below its own default parent Berth owns what a pod has emptied; any other parent is its maker's, mostly the kubelet's. */
async function releaseCgroupParents(ctx: SandboxContext, path: string): Promise<void> {
  const own = `${ctx.config.runtime.defaultCgroupParent}/`;
  for (let parent = path; parent.startsWith(own); parent = dirname(parent)) {
    if (!(await ctx.kernel.removeEmptyCgroup({ path: parent }))) return;
  }
}

export async function releaseShm(ctx: SandboxContext, live: LiveSandbox): Promise<void> {
  if (live.record.config.namespaces.ipc === "pod") await ctx.kernel.unmount({ path: ctx.paths.shm(live.record.id) });
}

/** Out of sight at once; deleted behind. Never with something mounted in it, which nobody would find there any more. */
export async function releaseDirectory(ctx: SandboxContext, live: LiveSandbox): Promise<void> {
  if (!live.record.released) await releaseShm(ctx, live);
  await discardDirectory(ctx, live.record.id);
}

export async function discardDirectory(ctx: SandboxContext, name: string): Promise<void> {
  const aside = join(ctx.paths.removed, name);
  try {
    await rename(ctx.paths.directory(name), aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  ctx.background("delete a sandbox's directory", () => ctx.kernel.removeTree({ path: aside }));
}
