/**
 * Creates that a retry may join. The kubelet repeats a create with the same name and attempt after its deadline;
 * the first operation is then still running or has finished without anybody to tell.
 *
 * - running, same request: the retry waits for the same result.
 * - running, other request: the running one is cancelled and undone, then the new one runs.
 * - finished, unclaimed (its caller had left): hidden from reads; a retry with the same request claims it; after
 *   `unclaimedTtlMs` it is disposed of.
 * - finished and claimed: the table forgets it; the domain's own records decide about names.
 */
import { createHash } from "node:crypto";
import { DomainError, describeError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { Operation } from "./context.ts";

export interface JoinWork<T> {
  /** Runs detached from its callers: only `op.signal` of its own ends it. It undoes itself when it throws. */
  create(op: Operation): Promise<T>;
  /** Makes the finished result visible to reads. */
  claim(result: T): void;
  /** Nobody came for the result. */
  dispose(op: Operation, result: T): Promise<void>;
}

interface Entry<T> {
  readonly requestHash: string;
  readonly op: Operation;
  readonly work: JoinWork<T>;
  readonly result: Promise<T>;
  waiters: number;
  timer: NodeJS.Timeout | null;
}

export interface JoinTableOptions {
  readonly log: Logger;
  /** Longest time a create may take, whoever waits. */
  readonly createTimeoutMs: number;
  readonly unclaimedTtlMs: number;
}

export class JoinTable<T> {
  readonly #entries = new Map<string, Entry<T>>();
  readonly #options: JoinTableOptions;

  constructor(options: JoinTableOptions) {
    this.#options = options;
  }

  /** SHA-256 over a canonical JSON of the request, so that the order of map keys does not matter. */
  static hash(request: unknown): string {
    return createHash("sha256").update(canonicalJson(request)).digest("hex");
  }

  async join(op: Operation, key: string, requestHash: string, work: JoinWork<T>): Promise<T> {
    for (;;) {
      op.throwIfAborted();
      const existing = this.#entries.get(key);
      if (!existing) break;
      if (existing.requestHash === requestHash) return this.#await(op, key, existing);
      await this.#evict(op, key, existing);
    }
    const own = new Operation({ name: op.name, log: op.log, timeoutMs: this.#options.createTimeoutMs, ids: op.ids }, op.phases);
    const entry: Entry<T> = { requestHash, op: own, work, result: work.create(own), waiters: 0, timer: null };
    this.#entries.set(key, entry);
    entry.result.then(
      () => own.dispose(),
      () => {
        own.dispose();
        if (this.#entries.get(key) === entry) this.#entries.delete(key);
      },
    );
    return this.#await(op, key, entry);
  }

  /** True while a create of this key runs or waits to be claimed. */
  has(key: string): boolean {
    return this.#entries.has(key);
  }

  /** Cancels what runs, disposes of what is unclaimed; for shutdown. */
  async close(op: Operation): Promise<void> {
    await Promise.allSettled([...this.#entries].map(([key, entry]) => this.#evict(op, key, entry)));
  }

  async #await(op: Operation, key: string, entry: Entry<T>): Promise<T> {
    entry.waiters += 1;
    if (entry.timer) clearTimeout(entry.timer);
    entry.timer = null;
    try {
      const result = await op.race(entry.result);
      if (this.#entries.get(key) === entry) {
        this.#entries.delete(key);
        entry.work.claim(result);
      }
      return result;
    } finally {
      entry.waiters -= 1;
      if (entry.waiters === 0 && this.#entries.get(key) === entry) this.#expireLater(key, entry);
    }
  }

  /** The last waiter has left: the result may be fetched for a while once it is there. */
  #expireLater(key: string, entry: Entry<T>): void {
    entry.result.then(
      () => {
        if (entry.waiters > 0 || entry.timer || this.#entries.get(key) !== entry) return;
        entry.timer = setTimeout(() => {
          void this.#disposeUnclaimed(key, entry);
        }, this.#options.unclaimedTtlMs);
        entry.timer.unref();
      },
      () => undefined,
    );
  }

  async #evict(op: Operation, key: string, entry: Entry<T>): Promise<void> {
    entry.op.cancel(new DomainError("cancelled", `${entry.op.name}: another request came under the same name`));
    const finished = entry.result.then(
      () => this.#disposeUnclaimed(key, entry),
      () => undefined,
    );
    await op.race(finished);
  }

  async #disposeUnclaimed(key: string, entry: Entry<T>): Promise<void> {
    if (this.#entries.get(key) !== entry) return;
    this.#entries.delete(key);
    if (entry.timer) clearTimeout(entry.timer);
    const op = entry.op.detached(`dispose ${entry.op.name}`, this.#options.createTimeoutMs);
    try {
      await entry.work.dispose(op, await entry.result);
      this.#options.log.info({ key }, "a finished create that nobody claimed was undone");
    } catch (error) {
      this.#options.log.warn({ key, err: describeError(error) }, "an unclaimed create could not be undone");
    } finally {
      op.dispose();
    }
  }
}

export function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) => {
    if (typeof inner === "bigint") return inner.toString();
    if (inner === null || typeof inner !== "object" || Array.isArray(inner)) return inner;
    return Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)));
  });
}
