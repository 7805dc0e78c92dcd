/**
 * The clean-up behind a daemon's start. Everything of a sandbox is named after its id, so what belongs to no record is
 * found by name alone. A pod that is made meanwhile has its record before anything else, and is safe from this.
 */
import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { describeError } from "../base/errors.ts";
import { isObjectId, type SandboxId, shortId } from "../base/ids.ts";
import type { Operation } from "../operation/context.ts";
import { forEachBounded } from "./bounded.ts";
import { cgroupLeafPath, cgroupParentPath } from "./cgroup-path.ts";
import type { SandboxContext } from "./context.ts";
import { discardSandbox } from "./discard.ts";
import { namespacePrefix } from "./paths.ts";
import type { LiveSandbox } from "./registry.ts";
import { discardDirectory } from "./release.ts";

const undoAtOnce = 4;

/** `damaged` are the ids of records that could not be read. */
export async function sweep(ctx: SandboxContext, op: Operation, damaged: readonly string[]): Promise<void> {
  // Taken before the first request: a create of this daemon is hidden, too, and none of these.
  const unfinished = ctx.registry.all().filter((live) => !live.visible);
  await forEachBounded(unfinished, undoAtOnce, (live) => undoUnfinished(ctx, op, live));
  await forEachBounded(await orphans(ctx, damaged), undoAtOnce, (id) => removeOrphan(ctx, op, id));
  const held = ctx.registry.all().flatMap(({ record }) => record.attachments.map((attachment) => ({ id: record.id, attachment })));
  await ctx.network.collectGarbage(op, held);
  for (const name of await names(ctx.paths.removed)) await ctx.kernel.removeTree({ path: join(ctx.paths.removed, name) });
}

async function undoUnfinished(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<void> {
  const { id, phase } = live.record;
  if (await discardSandbox(ctx, op, live)) ctx.log.info({ sandboxId: id, phase }, "an unfinished sandbox was undone");
}

/** Ids that directories, namespaces or damaged records have and no sandbox has. */
async function orphans(ctx: SandboxContext, damaged: readonly string[]): Promise<string[]> {
  const directories = await names(ctx.paths.directories);
  const namespaces = (await names(ctx.paths.namespaces)).filter((name) => name.startsWith(namespacePrefix));
  const ids = new Set([...damaged, ...directories, ...namespaces.map((name) => name.slice(namespacePrefix.length))]);
  return [...ids].filter((id) => isObjectId(id) && !ctx.registry.find(id));
}

async function removeOrphan(ctx: SandboxContext, op: Operation, id: string): Promise<void> {
  op.throwIfAborted();
  const { kernel, paths } = ctx;
  try {
    await removeOrphanCgroups(ctx, id);
    const path = paths.networkNamespace(id);
    if (await inUse(path)) {
      ctx.log.warn({ sandboxId: id, path }, "a network namespace belongs to no sandbox, but processes are in it: it is left alone");
    } else if (await identity(path)) {
      await ctx.network
        .detachUnknown(op, id as SandboxId, path)
        .catch((error: unknown) =>
          ctx.log.warn({ sandboxId: id, err: describeError(error) }, "the network of a forgotten pod was not given back"),
        );
      await kernel.unpinNamespace({ path });
    }
    await kernel.unmount({ path: paths.shm(id) });
    await discardDirectory(ctx, id);
    ctx.log.info({ sandboxId: id }, `what was left of a sandbox without a record (${shortId(id)}) was removed`);
  } catch (error) {
    op.throwIfAborted();
    ctx.log.warn({ sandboxId: id, err: describeError(error) }, "what was left of a sandbox without a record could not be removed");
  }
}

/** Leaves of that id below the parents that are known; containers' leaves have other ids. */
async function removeOrphanCgroups(ctx: SandboxContext, id: string): Promise<void> {
  const { cgroupDriver, defaultCgroupParent } = ctx.config.runtime;
  const parents = new Set([
    cgroupParentPath(cgroupDriver, "", defaultCgroupParent),
    ...ctx.registry.all().map(({ record }) => record.cgroupParent),
  ]);
  for (const parent of parents) {
    const path = cgroupLeafPath(cgroupDriver, parent, id);
    const children = await ctx.kernel.listCgroups({ path: parent }).catch(() => []);
    if (children.some((name) => path.endsWith(`/${name}`))) await ctx.kernel.removeCgroup({ path, timeoutMs: 2_000 });
  }
}

/**
 * Whether a process lives in the namespace: then it is another daemon's, whatever it is called. For orphans in the
 * background alone, because it looks at every process.
 */
async function inUse(path: string): Promise<boolean> {
  const wanted = await identity(path);
  if (wanted === null) return false;
  for (const name of await names("/proc")) {
    if (/^\d+$/.test(name) && (await identity(`/proc/${name}/ns/net`)) === wanted) return true;
  }
  return false;
}

async function identity(path: string): Promise<string | null> {
  return stat(path).then(
    ({ dev, ino }) => `${dev}:${ino}`,
    () => null,
  );
}

/** Absent is empty. */
async function names(directory: string): Promise<string[]> {
  return readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
}
