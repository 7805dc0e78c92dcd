/** Giving back what a container holds, each with nothing but its record; all are idempotent. */
import { randomBytes } from "node:crypto";
import { rename } from "node:fs/promises";
import { join } from "node:path";
import type { Operation } from "../operation/context.ts";
import { type ContainerContext, together } from "./context.ts";
import type { LiveEntry } from "./registry.ts";

const cgroupMs = 10_000;

/** Whatever still runs in it is killed. */
export async function releaseCgroup(ctx: ContainerContext, op: Operation, entry: LiveEntry): Promise<void> {
  await op.race(ctx.kernel.removeCgroup({ path: entry.record.cgroupPath, timeoutMs: cgroupMs }));
}

/** Both directories are gone from their places when it resolves; their contents are deleted behind. */
export async function releaseDirectories(ctx: ContainerContext, entry: LiveEntry): Promise<void> {
  const { paths } = ctx;
  const { id } = entry.record;
  await together([
    () => moveAside(ctx, paths.writableOf(id), paths.removedWritable, id),
    () => moveAside(ctx, paths.bundle(id), paths.removedBundles, id),
  ]);
}

export async function moveAside(ctx: ContainerContext, path: string, aside: string, id: string): Promise<void> {
  const target = join(aside, `${id}-${randomBytes(4).toString("hex")}`);
  try {
    await rename(path, target);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  ctx.background("delete a removed container's directory", () => ctx.kernel.removeTree({ path: target }));
}
