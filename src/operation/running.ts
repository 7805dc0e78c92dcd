/** The operations that run now, for `berth status`, verbose info and the watchdog of stuck ones. */
import { monotonicMs } from "../base/clock.ts";
import type { Operation } from "./context.ts";

export interface RunningOperation {
  readonly id: string;
  readonly name: string;
  readonly step: string | null;
  readonly ageMs: number;
  readonly remainingMs: number | null;
  readonly ids: Readonly<Record<string, string>>;
  readonly phases: Readonly<Record<string, number>>;
}

export class RunningOperations {
  readonly #operations = new Set<Operation>();

  /** Returns the function that takes it off the list. */
  add(op: Operation): () => void {
    this.#operations.add(op);
    return () => {
      this.#operations.delete(op);
    };
  }

  get size(): number {
    return this.#operations.size;
  }

  /** Oldest first. */
  list(): RunningOperation[] {
    return [...this.#operations].map((op) => ({
      id: op.id,
      name: op.name,
      step: op.currentStep,
      ageMs: monotonicMs() - op.startedAtMs,
      remainingMs: op.remainingMs,
      ids: op.ids,
      phases: op.phases.toJSON(),
    }));
  }

  /** Ends all with this reason; for shutdown. */
  cancelAll(reason: Error): void {
    for (const op of this.#operations) op.cancel(reason);
  }
}
