/**
 * One JSON file for each object, renamed into place; a map in memory answers every read.
 *
 *     {"format":1,"kind":"sandbox","version":3,"checksum":"<sha256 of data>","data":{…}}
 *
 * `kind` and `version` are the domain's: `decode` gets the version that stands in the file and knows how to read
 * it and its predecessor. A file that is torn, foreign or has another checksum is no record: it is moved aside to
 * `<name>.damaged` (the newest is kept) and reported, so that a bad file costs one object, never the start.
 */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { DomainError, describeError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { Kernel } from "../kernel/contract.ts";

export interface RecordCodec<T> {
  /** Part of the envelope: `sandbox`, `container`, `image`, … */
  readonly kind: string;
  /** Written; every version up to it can be read. */
  readonly version: number;
  /** Plain JSON: no BigInt, no undefined. */
  encode(value: T): unknown;
  /** Throws where the data are not what the version promises. */
  decode(data: unknown, version: number): T;
}

export interface RecordStoreOptions<T> {
  readonly directory: string;
  readonly codec: RecordCodec<T>;
  readonly kernel: Pick<Kernel, "writeFileAtomic">;
  readonly log: Logger;
  /** fsync of file and directory with each put. */
  readonly durable: boolean;
}

const envelopeFormat = 1;
const suffix = ".json";

export class RecordStore<T> {
  readonly #options: RecordStoreOptions<T>;
  readonly #records = new Map<string, T>();
  /** Writes of one key follow each other; the map always shows the newest. */
  readonly #writes = new Map<string, Promise<void>>();

  constructor(options: RecordStoreOptions<T>) {
    this.#options = options;
  }

  /** Reads all records; returns the keys of the damaged ones. Call once, before anything else. */
  async load(): Promise<string[]> {
    const { directory, log } = this.#options;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const damaged: string[] = [];
    const names = await readdir(directory);
    await Promise.all(
      names.map(async (name) => {
        const path = join(directory, name);
        if (!name.endsWith(suffix)) {
          if (!name.endsWith(".damaged")) await rm(path, { force: true, recursive: true });
          return;
        }
        const key = name.slice(0, -suffix.length);
        try {
          this.#records.set(key, this.#parse(await readFile(path, "utf8")));
        } catch (error) {
          log.error({ path, err: describeError(error) }, "a record is damaged; it is moved aside");
          damaged.push(key);
          await rename(path, `${path}.damaged`).catch(() => undefined);
        }
      }),
    );
    return damaged;
  }

  get(key: string): T | undefined {
    return this.#records.get(key);
  }

  has(key: string): boolean {
    return this.#records.has(key);
  }

  keys(): string[] {
    return [...this.#records.keys()];
  }

  values(): T[] {
    return [...this.#records.values()];
  }

  get size(): number {
    return this.#records.size;
  }

  /** Visible to reads at once; resolves when the file is in place. On failure the map keeps the value and the error is thrown. */
  async put(key: string, value: T): Promise<void> {
    assertKey(key);
    this.#records.set(key, value);
    const { codec, directory, kernel, durable } = this.#options;
    await this.#serialise(key, async () => {
      const text = serializeEnvelope(codec, value);
      await kernel.writeFileAtomic({ path: join(directory, key + suffix), data: Buffer.from(text), mode: 0o600, durable });
    });
  }

  /** Absent is success. */
  async delete(key: string): Promise<void> {
    assertKey(key);
    this.#records.delete(key);
    await this.#serialise(key, () => rm(join(this.#options.directory, key + suffix), { force: true }));
  }

  /** Resolves when no write is under way. */
  async flush(): Promise<void> {
    await Promise.allSettled(this.#writes.values());
  }

  async #serialise(key: string, work: () => Promise<void>): Promise<void> {
    const previous = this.#writes.get(key) ?? Promise.resolve();
    const current = previous.catch(() => undefined).then(work);
    this.#writes.set(key, current);
    try {
      await current;
    } finally {
      if (this.#writes.get(key) === current) this.#writes.delete(key);
    }
  }

  #parse(text: string): T {
    const { codec } = this.#options;
    const envelope = JSON.parse(text) as { format?: unknown; kind?: unknown; version?: unknown; checksum?: unknown; data?: unknown };
    if (envelope.format !== envelopeFormat) throw new DomainError("data-loss", `unknown envelope format ${String(envelope.format)}`);
    if (envelope.kind !== codec.kind) throw new DomainError("data-loss", `a record of kind ${String(envelope.kind)}, not ${codec.kind}`);
    if (typeof envelope.version !== "number" || envelope.version > codec.version) {
      throw new DomainError("data-loss", `version ${String(envelope.version)} is newer than ${codec.version}`);
    }
    if (checksum(JSON.stringify(envelope.data)) !== envelope.checksum) throw new DomainError("data-loss", "the checksum differs");
    return codec.decode(envelope.data, envelope.version);
  }
}

function serializeEnvelope<T>(codec: RecordCodec<T>, value: T): string {
  const data = JSON.stringify(codec.encode(value));
  return `{"format":${envelopeFormat},"kind":${JSON.stringify(codec.kind)},"version":${codec.version},"checksum":"${checksum(data)}","data":${data}}\n`;
}

function checksum(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

function assertKey(key: string): void {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/.test(key)) throw new DomainError("internal", `${JSON.stringify(key)} cannot be a record's key`);
}
