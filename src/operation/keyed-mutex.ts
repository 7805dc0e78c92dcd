/** Serialises work on one object; waiting obeys the operation's signal. Never held across a pull or a grace period. */
import type { Operation } from "./context.ts";

export class KeyedMutex {
  readonly #tails = new Map<string, Promise<void>>();

  async run<T>(op: Operation, key: string, work: () => Promise<T>): Promise<T> {
    const previous = this.#tails.get(key) ?? Promise.resolve();
    let release: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const tail = previous.then(() => held);
    this.#tails.set(key, tail);
    try {
      await op.race(previous);
      return await work();
    } finally {
      release();
      void tail.then(() => {
        if (this.#tails.get(key) === tail) this.#tails.delete(key);
      });
    }
  }
}
