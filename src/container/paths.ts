/** Where a container's things stand; all follow from its id. */
import { join } from "node:path";
import type { BerthConfig } from "../config/types.ts";

export interface ContainerPaths {
  readonly records: string;
  /** One directory for each container, with what it writes over its image. */
  readonly writable: string;
  readonly bundles: string;
  /** Directories of removed containers, until they are deleted; on the file system of what is moved there. */
  readonly removedWritable: string;
  readonly removedBundles: string;
  writableOf(id: string): string;
  bundle(id: string): string;
  /** Upper and work directory; a create that has to start over takes the next attempt's. */
  layer(id: string, attempt: number): { readonly upper: string; readonly work: string };
}

export function containerPaths(config: BerthConfig): ContainerPaths {
  const writable = join(config.root, "writable");
  const bundles = join(config.runRoot, "containers");
  return {
    records: join(config.root, "containers"),
    writable,
    bundles,
    removedWritable: join(writable, ".removed"),
    removedBundles: join(bundles, ".removed"),
    writableOf: (id) => join(writable, id),
    bundle: (id) => join(bundles, id),
    layer: (id, attempt) => ({ upper: join(writable, id, String(attempt), "upper"), work: join(writable, id, String(attempt), "work") }),
  };
}
