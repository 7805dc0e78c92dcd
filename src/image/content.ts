/** Manifests, indexes and configurations by digest: `<root>/content/sha256/<hex>`, verified each time they are read. */
import { mkdir, readdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { DomainError } from "../base/errors.ts";
import type { Digest } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import type { Kernel } from "../kernel/contract.ts";
import { digestOf, maxDocumentBytes } from "./manifest.ts";

export class ContentStore {
  readonly #directory: string;
  readonly #kernel: Pick<Kernel, "writeFileAtomic">;
  readonly #log: Logger;

  constructor(root: string, kernel: Pick<Kernel, "writeFileAtomic">, log: Logger) {
    this.#directory = join(root, "content", "sha256");
    this.#kernel = kernel;
    this.#log = log;
  }

  async open(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
  }

  /** Null where absent. A file whose bytes are not those of its name is removed and counts as absent. */
  async read(digest: Digest): Promise<Buffer | null> {
    const path = this.#path(digest);
    const size = await stat(path).then(
      (status) => status.size,
      () => null,
    );
    if (size === null) return null;
    if (size <= maxDocumentBytes) {
      const bytes = await readFile(path);
      if (digestOf(bytes) === digest) return bytes;
    }
    this.#log.error({ path }, "a stored document is not what its name says; it is removed");
    await rm(path, { force: true });
    return null;
  }

  /** The bytes are what `digest` says: the caller has verified it. */
  async write(digest: Digest, bytes: Uint8Array): Promise<void> {
    const path = this.#path(digest);
    const present = await stat(path).then(
      (status) => status.size === bytes.length,
      () => false,
    );
    if (!present) await this.#kernel.writeFileAtomic({ path, data: bytes, mode: 0o600, durable: true });
  }

  /** Removes what `needed`, asked for each at the last moment, does not want. */
  async removeUnless(needed: (digest: Digest) => boolean): Promise<void> {
    for (const name of await readdir(this.#directory).catch(() => [] as string[])) {
      if (!needed(`sha256:${name}` as Digest)) await rm(join(this.#directory, name), { force: true });
    }
  }

  async remove(digest: Digest): Promise<void> {
    await rm(this.#path(digest), { force: true });
  }

  #path(digest: Digest): string {
    const hex = digest.slice("sha256:".length);
    if (!/^[0-9a-f]{64}$/.test(hex)) throw new DomainError("internal", `${JSON.stringify(digest)} is no digest`);
    return join(this.#directory, hex);
  }
}
