/** Publish and subscribe within the daemon. A subscriber that throws is reported and disturbs nobody. */
import { describeError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";

export class EventBus<E> {
  readonly #subscribers = new Set<(event: E) => void>();
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  /** Returns the function that ends the subscription. */
  subscribe(subscriber: (event: E) => void): () => void {
    this.#subscribers.add(subscriber);
    return () => this.#subscribers.delete(subscriber);
  }

  publish(event: E): void {
    for (const subscriber of this.#subscribers) {
      try {
        subscriber(event);
      } catch (error) {
        this.#log.error({ err: describeError(error) }, "an event subscriber failed");
      }
    }
  }
}
