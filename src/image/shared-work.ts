/**
 * Work that several callers wait for: the first one's call starts it, later ones join by key, and it is cancelled when the
 * last of them has left. Nobody waits longer than its own operation allows.
 */
import { DomainError } from "../base/errors.ts";
import type { Operation } from "../operation/context.ts";

interface Entry<T> {
  readonly op: Operation;
  readonly result: Promise<T>;
  waiters: number;
}

export class SharedWork<T> {
  readonly #entries = new Map<string, Entry<T>>();
  readonly #name: string;

  constructor(name: string) {
    this.#name = name;
  }

  has(key: string): boolean {
    return this.#entries.has(key);
  }

  async run(op: Operation, key: string, work: (op: Operation) => Promise<T>): Promise<T> {
    op.throwIfAborted();
    const entry = this.#entries.get(key) ?? this.#start(op, key, work);
    entry.waiters += 1;
    try {
      return await op.race(entry.result);
    } finally {
      entry.waiters -= 1;
      if (entry.waiters === 0 && this.#entries.get(key) === entry) {
        // Whoever asks from now on starts anew instead of joining what is being torn down.
        this.#entries.delete(key);
        entry.op.cancel(new DomainError("cancelled", `${this.#name} was cancelled: nobody waits for it any more`));
      }
    }
  }

  /** Cancels all and waits until they are done. */
  async close(): Promise<void> {
    const entries = [...this.#entries.values()];
    for (const { op } of entries) op.cancel(new DomainError("cancelled", `${this.#name} was cancelled by the shutdown`));
    await Promise.allSettled(entries.map(({ result }) => result));
  }

  #start(op: Operation, key: string, work: (op: Operation) => Promise<T>): Entry<T> {
    const own = op.detached(this.#name, null);
    const result = work(own).finally(() => {
      own.dispose();
      if (this.#entries.get(key) === entry) this.#entries.delete(key);
    });
    const entry: Entry<T> = { op: own, result, waiters: 0 };
    // When all have left, nobody else looks at how it ended.
    result.catch(() => undefined);
    this.#entries.set(key, entry);
    return entry;
  }
}
