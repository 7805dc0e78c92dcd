/** Where a sandbox's things stand; all follow from its id. */
import { join } from "node:path";
import type { BerthConfig } from "../config/types.ts";

/** Before the id in the name of a pinned network namespace. */
export const namespacePrefix = "berth-";

export interface SandboxPaths {
  readonly records: string;
  /** One directory for each sandbox, named after its id. */
  readonly directories: string;
  /** Directories of removed sandboxes, until they are deleted. */
  readonly removed: string;
  readonly namespaces: string;
  directory(id: string): string;
  hosts(id: string): string;
  resolvConf(id: string): string;
  hostname(id: string): string;
  shm(id: string): string;
  networkNamespace(id: string): string;
}

export function sandboxPaths(config: BerthConfig): SandboxPaths {
  const directories = join(config.runRoot, "sandboxes");
  const directory = (id: string): string => join(directories, id);
  const namespaces = config.network.namespaceDirectory;
  return {
    records: join(config.root, "sandboxes"),
    directories,
    removed: join(directories, ".removed"),
    namespaces,
    directory,
    hosts: (id) => join(directory(id), "hosts"),
    resolvConf: (id) => join(directory(id), "resolv.conf"),
    hostname: (id) => join(directory(id), "hostname"),
    shm: (id) => join(directory(id), "shm"),
    networkNamespace: (id) => join(namespaces, namespacePrefix + id),
  };
}
