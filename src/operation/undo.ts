/**
 * Undo steps of a create. `step(name, do, undo)` runs `do` as a named step of the operation and
 * remembers `undo`. `rollback` runs the undos in reverse, each with a budget of its own and never on
 * the caller's signal, goes on after a failure, and returns what could not be undone so that the
 * record keeps it and Remove retries it.
 *
 * `undo` must be idempotent and must work with nothing but the object's record: it also runs when
 * `do` failed half-way.
 */
import type { Operation } from "./context.ts";

export interface UndoLeftover {
  readonly step: string;
  readonly error: string;
}

type UndoFunction = (op: Operation) => void | Promise<void>;

const undoBudgetMs = 30_000;

export class UndoLog {
  readonly #op: Operation;
  readonly #budgetMs: number;
  #entries: { name: string; undo: UndoFunction }[] = [];

  constructor(op: Operation, budgetMs: number = undoBudgetMs) {
    this.#op = op;
    this.#budgetMs = budgetMs;
  }

  /** The undo is registered before `work` starts: a half-done step is undone too. */
  async step<T>(name: string, work: () => T | Promise<T>, undo: UndoFunction): Promise<T> {
    this.#op.throwIfAborted();
    this.#entries.push({ name, undo });
    return this.#op.step(name, work);
  }

  /** The operation has succeeded: nothing is undone any more. */
  commit(): void {
    this.#entries = [];
  }

  async rollback(): Promise<UndoLeftover[]> {
    const leftovers: UndoLeftover[] = [];
    for (const { name, undo } of this.#entries.reverse()) {
      const op = this.#op.detached(`undo ${name}`, this.#budgetMs);
      try {
        await op.race(Promise.resolve(undo(op)));
      } catch (error) {
        leftovers.push({ step: name, error: String(error instanceof Error ? error.message : error) });
        this.#op.log.warn({ step: name, err: String(error) }, "a step could not be undone; Remove will retry it");
      } finally {
        op.dispose();
      }
    }
    this.#entries = [];
    return leftovers;
  }
}
