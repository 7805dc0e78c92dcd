/** The images that are there, by id and by name, over their records. Reads never wait. */
import { join } from "node:path";
import type { Digest, ImageId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import type { Kernel } from "../kernel/contract.ts";
import { RecordStore } from "../state/record-store.ts";
import type { LayerStore } from "./layers.ts";
import { type ImageRecord, imageCodec, imageKey, type NameRecord, nameCodec, nameKey } from "./records.ts";
import type { ImageView } from "./types.ts";

const minPrefixDigits = 4;

export class Catalog {
  readonly #images: RecordStore<ImageRecord>;
  readonly #names: RecordStore<NameRecord>;
  readonly #layers: LayerStore;
  readonly #pinned: readonly RegExp[];
  /** Immutable views, made anew when the image or its names change. */
  readonly #views = new Map<ImageId, ImageView>();

  constructor(root: string, kernel: Pick<Kernel, "writeFileAtomic">, log: Logger, layers: LayerStore, pinned: readonly string[]) {
    const options = { kernel, log, durable: true };
    this.#images = new RecordStore({ ...options, directory: join(root, "images", "records"), codec: imageCodec });
    this.#names = new RecordStore({ ...options, directory: join(root, "images", "names"), codec: nameCodec });
    this.#layers = layers;
    this.#pinned = pinned.map(globPattern);
  }

  /** Loads the records; forgets images whose layers are not all there, and names of no image. Layers are loaded before. */
  async open(log: Logger): Promise<void> {
    await this.#images.load();
    await this.#names.load();
    for (const record of this.#images.values()) {
      const missing = record.layers.find(({ chainId }) => !this.#layers.get(chainId));
      if (missing) {
        log.warn(
          { image: record.id, layer: missing.chainId },
          "an image whose layers are not all there is forgotten; it has to be pulled again",
        );
        await this.#images.delete(imageKey(record.id));
        continue;
      }
      this.#layers.hold(record.layers.map(({ chainId }) => chainId));
    }
    for (const { name, imageId } of this.#names.values()) {
      if (!this.record(imageId)) await this.#names.delete(nameKey(name));
    }
    for (const record of this.#images.values()) this.#refresh(record.id);
  }

  /** Removed ones too, while containers hold them. */
  record(id: ImageId): ImageRecord | undefined {
    return this.#images.get(imageKey(id));
  }

  records(): readonly ImageRecord[] {
    return this.#images.values();
  }

  view(id: ImageId): ImageView | null {
    return this.#views.get(id) ?? null;
  }

  list(): readonly ImageView[] {
    return [...this.#views.values()];
  }

  /** By a full name, as repoTags and repoDigests have it. */
  findName(name: string): ImageView | null {
    const record = this.#names.get(nameKey(name));
    return (record && this.#views.get(record.imageId)) ?? null;
  }

  /** By id, with or without `sha256:`, or by a prefix of at least four digits that fits one image alone. */
  findId(text: string): ImageView | null {
    const digits = text.replace(/^sha256:/, "");
    if (digits.length < minPrefixDigits || !/^[0-9a-f]+$/.test(digits)) return null;
    if (digits.length === 64) return this.view(`sha256:${digits}` as ImageId);
    const found = [...this.#views.keys()].filter((id) => id.startsWith(`sha256:${digits}`));
    const [id] = found;
    return found.length === 1 && id !== undefined ? this.view(id) : null;
  }

  /** Writes the image and gives it `names`, taken from whichever image had them. Its layers are held by it from now on. */
  async commit(record: ImageRecord, names: readonly string[]): Promise<ImageView> {
    const known = this.record(record.id);
    const chainIds = record.layers.map(({ chainId }) => chainId);
    if (!known) this.#layers.hold(chainIds);
    const changed = new Set<ImageId>([record.id]);
    // A store keeps in memory what it could not write; what no start would find again must not be listed.
    const undo: (() => Promise<void>)[] = [];
    try {
      if (!known || known.removed || known.manifestDigest !== record.manifestDigest) {
        const key = imageKey(record.id);
        undo.push(() => (known ? this.#images.put(key, known) : this.#images.delete(key)));
        await this.#images.put(key, record);
      }
      for (const name of names) {
        const key = nameKey(name);
        const before = this.#names.get(key);
        if (before?.imageId === record.id) continue;
        if (before) changed.add(before.imageId);
        undo.push(() => (before ? this.#names.put(key, before) : this.#names.delete(key)));
        await this.#names.put(key, { name, imageId: record.id });
      }
    } catch (error) {
      for (const step of undo.reverse()) await step().catch(() => undefined);
      if (!known) this.#layers.release(chainIds);
      throw error;
    } finally {
      for (const id of changed) this.#refresh(id);
    }
    const view = this.#views.get(record.id);
    if (!view) throw new Error(`image ${record.id} has gone while it was written`);
    return view;
  }

  /** All names and the image; `keepHidden` leaves a hidden record for those who still hold its layers. */
  async remove(id: ImageId, keepHidden: boolean): Promise<void> {
    const record = this.record(id);
    if (!record) return;
    this.#views.delete(id);
    const names = this.#names.values().filter(({ imageId }) => imageId === id);
    await Promise.all(names.map(({ name }) => this.#names.delete(nameKey(name))));
    if (keepHidden) {
      if (!record.removed) await this.#images.put(imageKey(id), { ...record, removed: true });
      return;
    }
    await this.#images.delete(imageKey(id));
    this.#layers.release(record.layers.map(({ chainId }) => chainId));
  }

  async flush(): Promise<void> {
    await this.#names.flush();
    await this.#images.flush();
  }

  /** What a lease shows of a record, hidden or not. */
  viewOf(record: ImageRecord): ImageView {
    const names = this.#names
      .values()
      .filter(({ imageId }) => imageId === record.id)
      .map(({ name }) => name)
      .sort();
    const chainIds = record.layers.map(({ chainId }) => chainId);
    const tags = names.filter((name) => !name.includes("@"));
    const distinct = new Set<Digest>(chainIds);
    let sizeBytes = 0;
    for (const chainId of distinct) sizeBytes += this.#layers.get(chainId)?.bytes ?? 0;
    return Object.freeze({
      id: record.id,
      repoTags: tags,
      repoDigests: names.filter((name) => name.includes("@")),
      sizeBytes,
      pinned: tags.some((tag) => this.#pinned.some((pattern) => pattern.test(tag))),
      config: record.config,
      architecture: record.architecture,
      os: record.os,
      createdAt: record.createdAt,
      chainIds,
      pulledAtNs: record.pulledAtNs,
    });
  }

  #refresh(id: ImageId): void {
    const record = this.record(id);
    if (record && !record.removed) this.#views.set(id, this.viewOf(record));
    else this.#views.delete(id);
  }
}

/** `*` stands for any characters, `?` for one; the whole name must match. */
function globPattern(glob: string): RegExp {
  const source = glob
    .replace(/[.+^${}()|[\]\\]/g, "\\$&")
    .replaceAll("*", ".*")
    .replaceAll("?", ".");
  return new RegExp(`^${source}$`);
}
