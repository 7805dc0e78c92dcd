/**
 * Unpacked layers: `<root>/layers/<chain id hex>/fs`, and beside it `layer.json`.
 *
 *     absent ──unpack into tmp-…──▶ tmp ──rename──▶ pending ──syncfs behind──▶ durable
 *                                                      │
 *                       boot id of another boot ───────┴──▶ removed at recovery
 *
 * A pending layer is complete for every reader; only a power cut could still take bytes from it, which is why one that was
 * not synced in the boot that made it is dropped. A layer stays while somebody holds it: an image's record, a container's
 * lease, a pull that is going to need it. What nobody holds is renamed to `trash-…` and removed behind.
 */
import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename } from "node:fs/promises";
import { join } from "node:path";
import { DomainError, describeError } from "../base/errors.ts";
import type { Digest } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import type { Kernel, UnpackResult } from "../kernel/contract.ts";
import { backgroundOperation, type Operation } from "../operation/context.ts";
import { asObject, asSize, asString } from "./json.ts";
import { SharedWork } from "./shared-work.ts";

export interface LayerInfo {
  readonly chainId: Digest;
  readonly diffId: Digest;
  /** Of the compressed blob that it came from. */
  readonly blobDigest: Digest;
  readonly blobSize: number;
  readonly bytes: number;
  readonly inodes: number;
  readonly state: "pending" | "durable";
  /** Of the boot in which it was made. */
  readonly bootId: string;
}

export interface NewLayer {
  readonly chainId: Digest;
  readonly diffId: Digest;
  readonly blobDigest: Digest;
  readonly blobSize: number;
  /** Fills an empty directory. It leaves nothing running when it throws. */
  unpack(op: Operation, target: string): Promise<UnpackResult>;
}

type LayerKernel = Pick<Kernel, "removeTree" | "syncFilesystem" | "writeFileAtomic">;

const layerFormat = 1;
const removeBudgetMs = 10 * 60_000;
const syncBudgetMs = 10 * 60_000;
const hexPattern = /^[0-9a-f]{64}$/;

export class LayerStore {
  readonly #directory: string;
  readonly #kernel: LayerKernel;
  readonly #log: Logger;
  readonly #layers = new Map<Digest, LayerInfo>();
  readonly #holds = new Map<Digest, number>();
  readonly #unpacking = new SharedWork<LayerInfo>("image.layer");
  readonly #background = new Set<Promise<unknown>>();
  /** Layers that are being moved out of the way: their place is free when the promise resolves. */
  readonly #leaving = new Map<Digest, Promise<void>>();
  #bootId = "";
  #bytes = 0;
  #inodes = 0;
  #syncing = false;

  constructor(root: string, kernel: LayerKernel, log: Logger) {
    this.#directory = join(root, "layers");
    this.#kernel = kernel;
    this.#log = log;
  }

  get usedBytes(): number {
    return this.#bytes;
  }

  get inodesUsed(): number {
    return this.#inodes;
  }

  get(chainId: Digest): LayerInfo | undefined {
    return this.#layers.get(chainId);
  }

  /** The layer's root, an overlay's lower directory. */
  directoryOf(chainId: Digest): string {
    return join(this.#pathOf(chainId), "fs");
  }

  /** Loads what is there and removes, behind, what is no layer of this boot or a durable one. Call once. */
  async open(bootId: string): Promise<void> {
    this.#bootId = bootId;
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    for (const name of await readdir(this.#directory)) {
      const path = join(this.#directory, name);
      const info = hexPattern.test(name) ? await this.#read(path, name) : null;
      if (info === null || (info.state === "pending" && info.bootId !== bootId)) {
        this.#log.info({ path }, "what is no complete layer is removed");
        await this.#discard(path);
        continue;
      }
      this.#add(info);
    }
    if ([...this.#layers.values()].some(({ state }) => state === "pending")) this.#syncBehind();
  }

  hold(chainIds: readonly Digest[]): void {
    for (const chainId of chainIds) this.#holds.set(chainId, (this.#holds.get(chainId) ?? 0) + 1);
  }

  /** The other half of `hold`. What nobody holds any more goes. */
  release(chainIds: readonly Digest[]): void {
    for (const chainId of chainIds) {
      const left = (this.#holds.get(chainId) ?? 0) - 1;
      if (left > 0) {
        this.#holds.set(chainId, left);
        continue;
      }
      this.#holds.delete(chainId);
      this.#drop(chainId);
    }
  }

  /** Removes every layer that nobody holds: after a start, when all who hold one have said so. */
  dropUnheld(): void {
    for (const chainId of [...this.#layers.keys()]) if (!this.#holds.has(chainId)) this.#drop(chainId);
  }

  /** The layer, made if it is absent. The caller holds its chain id. Concurrent callers share the work. */
  async ensure(op: Operation, layer: NewLayer): Promise<LayerInfo> {
    for (;;) {
      const present = this.#layers.get(layer.chainId);
      if (present) return present;
      const joined = this.#unpacking.has(layer.chainId);
      try {
        return await this.#unpacking.run(op, layer.chainId, (own) => this.#track(() => this.#make(own, layer)));
      } catch (error) {
        // Another pull's attempt failed for reasons of its own, its credentials perhaps: this one makes its own.
        if (!joined || op.signal.aborted) throw error;
      }
    }
  }

  /** Resolves when no removal and no sync is under way. */
  async settled(): Promise<void> {
    while (this.#background.size > 0) await Promise.allSettled(this.#background);
  }

  async close(): Promise<void> {
    await this.#unpacking.close();
    await this.settled();
  }

  // ---- making ---------------------------------------------------------------------------------------------------

  async #make(op: Operation, layer: NewLayer): Promise<LayerInfo> {
    const temporary = join(this.#directory, `tmp-${randomBytes(8).toString("hex")}`);
    const target = join(temporary, "fs");
    try {
      // One by one: Node.js tells a full disk as ENOENT when it makes several.
      await mkdir(temporary, { mode: 0o755 });
      await mkdir(target, { mode: 0o755 });
      const { bytes, inodes } = await layer.unpack(op, target);
      const info: LayerInfo = {
        chainId: layer.chainId,
        diffId: layer.diffId,
        blobDigest: layer.blobDigest,
        blobSize: layer.blobSize,
        bytes,
        inodes,
        state: "pending",
        bootId: this.#bootId,
      };
      await op.step("image.layer.commit", async () => {
        await this.#write(temporary, info, false);
        await this.#leaving.get(layer.chainId);
        await rename(temporary, this.#pathOf(layer.chainId));
      });
      this.#add(info);
      // Everybody who wanted it left while it was renamed.
      if (!this.#holds.has(layer.chainId)) this.#drop(layer.chainId);
      else this.#syncBehind();
      return info;
    } catch (error) {
      await this.#remove(temporary);
      throw error;
    }
  }

  /** One sync at a time, over all that were pending when it began; those that came meanwhile are in the next. */
  #syncBehind(): void {
    if (this.#syncing) return;
    this.#syncing = true;
    void this.#track(async () => {
      try {
        for (let pending = this.#pending(); pending.length > 0; pending = this.#pending()) {
          await this.#inBackground("image.layers.sync", syncBudgetMs, () => this.#kernel.syncFilesystem({ path: this.#directory }));
          for (const info of pending) {
            if (this.#layers.get(info.chainId) !== info) continue;
            const durable: LayerInfo = { ...info, state: "durable" };
            await this.#write(this.#pathOf(info.chainId), durable, true);
            if (this.#layers.get(info.chainId) === info) this.#layers.set(info.chainId, durable);
          }
        }
      } catch (error) {
        this.#log.warn({ err: describeError(error) }, "layers could not be synced; they stay pending until the next pull");
      } finally {
        this.#syncing = false;
      }
    });
  }

  #pending(): LayerInfo[] {
    return [...this.#layers.values()].filter(({ state }) => state === "pending");
  }

  // ---- removal --------------------------------------------------------------------------------------------------

  #drop(chainId: Digest): void {
    const info = this.#layers.get(chainId);
    if (!info) return;
    this.#layers.delete(chainId);
    this.#bytes -= info.bytes;
    this.#inodes -= info.inodes;
    const leaving = this.#track(() => this.#discard(this.#pathOf(chainId))).finally(() => {
      if (this.#leaving.get(chainId) === leaving) this.#leaving.delete(chainId);
    });
    this.#leaving.set(chainId, leaving);
  }

  /** Out of the way at once, removed as soon as may be. */
  async #discard(path: string): Promise<void> {
    const trash = join(this.#directory, `trash-${randomBytes(8).toString("hex")}`);
    try {
      await rename(path, trash);
    } catch (error) {
      this.#log.warn({ path, err: describeError(error) }, "a layer could not be moved aside; the next start removes it");
      return;
    }
    void this.#track(() => this.#remove(trash));
  }

  async #remove(path: string): Promise<void> {
    try {
      await this.#inBackground("image.layers.remove", removeBudgetMs, () => this.#kernel.removeTree({ path }));
    } catch (error) {
      this.#log.warn({ path, err: describeError(error) }, "a directory could not be removed; the next start removes it");
    }
  }

  // ---- files ----------------------------------------------------------------------------------------------------

  #add(info: LayerInfo): void {
    this.#layers.set(info.chainId, info);
    this.#bytes += info.bytes;
    this.#inodes += info.inodes;
  }

  async #write(directory: string, info: LayerInfo, durable: boolean): Promise<void> {
    const data = Buffer.from(`${JSON.stringify({ format: layerFormat, ...info })}\n`);
    await this.#kernel.writeFileAtomic({ path: join(directory, "layer.json"), data, mode: 0o600, durable });
  }

  async #read(path: string, name: string): Promise<LayerInfo | null> {
    try {
      const object = asObject(JSON.parse(await readFile(join(path, "layer.json"), "utf8")), "it");
      const chainId = asString(object["chainId"], "chainId") as Digest;
      if (object["format"] !== layerFormat || chainId !== `sha256:${name}`)
        throw new DomainError("data-loss", "of another layer or format");
      return {
        chainId,
        diffId: asString(object["diffId"], "diffId") as Digest,
        blobDigest: asString(object["blobDigest"], "blobDigest") as Digest,
        blobSize: asSize(object["blobSize"], "blobSize"),
        bytes: asSize(object["bytes"], "bytes"),
        inodes: asSize(object["inodes"], "inodes"),
        state: object["state"] === "durable" ? "durable" : "pending",
        bootId: asString(object["bootId"], "bootId"),
      };
    } catch (error) {
      this.#log.warn({ path, err: describeError(error) }, "a layer's description is damaged");
      return null;
    }
  }

  #pathOf(chainId: Digest): string {
    const hex = chainId.slice("sha256:".length);
    if (!hexPattern.test(hex)) throw new DomainError("internal", `${JSON.stringify(chainId)} is no chain id`);
    return join(this.#directory, hex);
  }

  #track<T>(work: () => Promise<T>): Promise<T> {
    const done = work().finally(() => this.#background.delete(done));
    this.#background.add(done);
    return done;
  }

  async #inBackground(name: string, budgetMs: number, work: () => Promise<void>): Promise<void> {
    const op = backgroundOperation(name, this.#log, budgetMs);
    try {
      await op.step(name, () => op.race(work()));
    } finally {
      op.dispose();
    }
  }
}
