/** Directories that no record names: left by a create that a crash cut short, or by a record that was lost. */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { describeError } from "../base/errors.ts";
import { isObjectId } from "../base/ids.ts";
import type { Operation } from "../operation/context.ts";
import type { ContainerContext } from "./context.ts";
import { moveAside } from "./release.ts";

const cgroupMs = 10_000;

export async function sweepContainers(ctx: ContainerContext, op: Operation): Promise<void> {
  const { paths, kernel, registry } = ctx;
  for (const directory of [paths.removedWritable, paths.removedBundles]) {
    for (const name of await names(directory)) await op.race(kernel.removeTree({ path: join(directory, name) }));
  }
  const strays = new Set([...(await names(paths.writable)), ...(await names(paths.bundles)), ...(await ctx.handlers.strays(op))]);
  for (const id of strays) {
    if (!isObjectId(id) || registry.find(id) !== null) continue;
    try {
      await removeStray(ctx, op, id);
      ctx.log.info({ containerId: id }, "what was no container's was removed");
    } catch (error) {
      op.throwIfAborted();
      ctx.log.warn({ containerId: id, err: describeError(error) }, "what is no container's could not be removed");
    }
  }
}

async function removeStray(ctx: ContainerContext, op: Operation, id: string): Promise<void> {
  const { paths, kernel } = ctx;
  await ctx.handlers.discard(op, id);
  const cgroupPath = await bundleCgroup(join(paths.bundle(id), "config.json"));
  // Only a leaf of this very id: the file is ours, and yet it is only a file.
  if (cgroupPath?.includes(id)) await op.race(kernel.removeCgroup({ path: cgroupPath, timeoutMs: cgroupMs }));
  await moveAside(ctx, paths.writableOf(id), paths.removedWritable, id);
  await moveAside(ctx, paths.bundle(id), paths.removedBundles, id);
  ctx.images.releaseLease(id);
}

async function bundleCgroup(path: string): Promise<string | null> {
  try {
    const config = JSON.parse(await readFile(path, "utf8")) as { linux?: { cgroupsPath?: unknown } };
    const cgroupPath = config.linux?.cgroupsPath;
    return typeof cgroupPath === "string" && cgroupPath.startsWith("/") ? cgroupPath : null;
  } catch {
    return null;
  }
}

function names(directory: string): Promise<string[]> {
  return readdir(directory).catch(() => []);
}
