/**
 * How much each container has written over its image. Walked behind the requests, one tree at a time, and never more than a
 * tenth of the time: a request gets what the last walk found.
 */
import { nowNs } from "../base/clock.ts";
import type { Kernel } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";

const minIntervalMs = 10_000;
/** A walk that took this long is repeated no sooner than ten times as long after. */
const dutyFactor = 10;

export interface LayerUsage {
  readonly timestampNs: bigint;
  readonly mountPoint: string;
  readonly usedBytes: number;
  readonly inodesUsed: number;
}

interface Measured {
  usage: LayerUsage;
  nextAtMs: number;
  queued: boolean;
}

export interface WritableLayersOptions {
  readonly kernel: Pick<Kernel, "treeUsage" | "filesystemUsage">;
  /** Directory of all writable layers. */
  readonly directory: string;
  readonly directoryOf: (id: string) => string;
  readonly background: (name: string, work: (op: Operation) => Promise<unknown>) => void;
  /** Milliseconds on a clock that only goes forward. */
  readonly now: () => number;
}

export class WritableLayers {
  readonly #options: WritableLayersOptions;
  readonly #measured = new Map<string, Measured>();
  #queue: string[] = [];
  #walking = false;
  #mountPoint = "";

  constructor(options: WritableLayersOptions) {
    this.#options = options;
    this.#mountPoint = options.directory;
  }

  /** Once, when the directory exists: the mount point that the figures are about. */
  async open(op: Operation): Promise<void> {
    const { kernel, directory } = this.#options;
    this.#mountPoint = (await op.race(kernel.filesystemUsage({ path: directory }))).mountPoint;
  }

  /** What is known now; asks for a walk where that has become old. */
  usage(id: string, since: bigint): LayerUsage {
    const known = this.#measured.get(id) ?? this.#unknown(id, since);
    if (!known.queued && this.#options.now() >= known.nextAtMs) {
      known.queued = true;
      this.#queue.push(id);
      this.#walk();
    }
    return known.usage;
  }

  forget(id: string): void {
    this.#measured.delete(id);
    this.#queue = this.#queue.filter((queued) => queued !== id);
  }

  #unknown(id: string, since: bigint): Measured {
    const measured: Measured = {
      usage: { timestampNs: since, mountPoint: this.#mountPoint, usedBytes: 0, inodesUsed: 0 },
      nextAtMs: Number.NEGATIVE_INFINITY,
      queued: false,
    };
    this.#measured.set(id, measured);
    return measured;
  }

  #walk(): void {
    if (this.#walking) return;
    this.#walking = true;
    this.#options.background("measure writable layers", async (op) => {
      try {
        for (let id = this.#queue.shift(); id !== undefined; id = this.#queue.shift()) await this.#measure(op, id);
      } finally {
        this.#walking = false;
      }
    });
  }

  async #measure(op: Operation, id: string): Promise<void> {
    const { kernel, directoryOf, now } = this.#options;
    const startedAtMs = now();
    const found = await op.race(kernel.treeUsage({ path: directoryOf(id) })).catch(() => null);
    op.throwIfAborted();
    const measured = this.#measured.get(id);
    if (!measured) return;
    measured.queued = false;
    measured.nextAtMs = now() + Math.max(minIntervalMs, dutyFactor * (now() - startedAtMs));
    if (found) measured.usage = { timestampNs: nowNs(), mountPoint: this.#mountPoint, usedBytes: found.bytes, inodesUsed: found.inodes };
  }
}
