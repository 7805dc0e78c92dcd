/** The bundle on disk: what any OCI runtime can be pointed at. */
import { join } from "node:path";
import { DomainError } from "../../base/errors.ts";
import type { Kernel } from "../../kernel/contract.ts";
import type { Operation } from "../../operation/context.ts";
import type { RootfsRequest } from "./handler.ts";

export const configName = "config.json";
export const rootfsName = "rootfs";

/** Writes config.json; the directory must exist. Rewriting is harmless: the file is renamed into place. */
export async function writeBundle(
  op: Operation,
  kernel: Pick<Kernel, "writeFileAtomic">,
  bundle: string,
  configJson: string,
): Promise<void> {
  await op.race(kernel.writeFileAtomic({ path: join(bundle, configName), data: Buffer.from(configJson), mode: 0o600, durable: false }));
}

/**
 * Makes the root visible at `<bundle>/rootfs`, for runtimes that are commands. The native handler never does this: its root
 * is a detached mount. Returns the function that unmounts it, which is idempotent.
 */
export async function mountBundleRootfs(
  op: Operation,
  kernel: Pick<Kernel, "makeDirectories" | "mountOverlay" | "attachMount" | "unmount">,
  request: RootfsRequest,
): Promise<() => Promise<void>> {
  const path = join(request.bundle, rootfsName);
  if (request.lowers.length === 0) throw new DomainError("internal", "a root without layers");
  await op.race(kernel.makeDirectories({ path, mode: 0o755 }));
  const { lowers, upper, work } = request;
  const mount = await op.raceWithCleanup(kernel.mountOverlay({ lowers, upper, work }), (late) => late.close());
  try {
    await op.race(kernel.attachMount({ mount, path }));
  } finally {
    mount.close();
  }
  return () => kernel.unmount({ path });
}
