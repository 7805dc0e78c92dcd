/** Work that no request waits for: logged when it fails, cancelled and awaited when the daemon ends. */
import { DomainError, describeError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { Operation } from "../operation/context.ts";

export class Background {
  readonly #log: Logger;
  readonly #controller = new AbortController();
  readonly #running = new Set<Promise<void>>();

  constructor(log: Logger) {
    this.#log = log;
  }

  run(name: string, work: (op: Operation) => Promise<unknown>): void {
    const op = new Operation({ name, log: this.#log, signal: this.#controller.signal, timeoutMs: null });
    const running = work(op)
      .catch((error: unknown) => {
        if (!op.signal.aborted) this.#log.warn({ work: name, err: describeError(error) }, "work in the background failed");
      })
      .then(() => {
        op.dispose();
        this.#running.delete(running);
      });
    this.#running.add(running);
  }

  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
  }

  async close(): Promise<void> {
    this.#controller.abort(new DomainError("cancelled", "the daemon shuts down"));
    await this.idle();
  }
}
