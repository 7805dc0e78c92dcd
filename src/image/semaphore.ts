/** At most `limit` at a time, first come first served; waiting obeys the operation's signal. */
import type { Operation } from "../operation/context.ts";

export class Semaphore {
  #free: number;
  readonly #queue: (() => void)[] = [];

  constructor(limit: number) {
    this.#free = Math.max(1, limit);
  }

  async run<T>(op: Operation, work: () => Promise<T>): Promise<T> {
    await this.#acquire(op);
    try {
      return await work();
    } finally {
      this.#release();
    }
  }

  async #acquire(op: Operation): Promise<void> {
    op.throwIfAborted();
    if (this.#free > 0) {
      this.#free -= 1;
      return;
    }
    let granted = false;
    let grant: () => void = () => undefined;
    const turn = new Promise<void>((resolve) => {
      grant = () => {
        granted = true;
        resolve();
      };
    });
    this.#queue.push(grant);
    try {
      await op.race(turn);
    } catch (error) {
      const index = this.#queue.indexOf(grant);
      if (index >= 0) this.#queue.splice(index, 1);
      if (granted) this.#release();
      throw error;
    }
  }

  #release(): void {
    const next = this.#queue.shift();
    if (next) next();
    else this.#free += 1;
  }
}
