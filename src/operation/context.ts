/**
 * The context of one operation: what it is called, how long it may take, who can cancel it, where its
 * time goes. It is the first parameter of everything that can wait. No code below calls `setTimeout`
 * or `Promise.race` by itself: it uses `wait`, `race` and `raceWithCleanup`.
 */
import { randomUUID } from "node:crypto";
import { monotonicMs } from "../base/clock.ts";
import { DomainError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import { hitFailpoint } from "./failpoints.ts";
import { PhaseTimings } from "./phases.ts";

export interface OperationOptions {
  readonly name: string;
  readonly log: Logger;
  /** Aborted by the caller: a cancelled RPC, a shutdown. */
  readonly signal?: AbortSignal;
  /** Milliseconds from now; null waits for ever and is for pulls and streams alone. */
  readonly timeoutMs: number | null;
  /** Ids for logs and for `berth status`: `{sandboxId: …}`. */
  readonly ids?: Readonly<Record<string, string>>;
}

export class Operation {
  /** 12 hex digits; randomUUID keeps random bytes in store, so that a call costs no system call. */
  readonly id: string = randomUUID().slice(-12);
  readonly name: string;
  readonly log: Logger;
  readonly ids: Record<string, string>;
  readonly phases: PhaseTimings;
  readonly startedAtMs: number = monotonicMs();
  /** On the monotonic clock (`monotonicMs()`), null for none. */
  readonly deadlineAtMs: number | null;
  readonly #controller = new AbortController();
  readonly #timer: NodeJS.Timeout | null;
  readonly #unlink: () => void;
  #step: string | null = null;

  constructor(options: OperationOptions, phases: PhaseTimings = new PhaseTimings()) {
    this.name = options.name;
    this.ids = { ...options.ids };
    this.log = options.log.child({ op: this.id, operation: options.name, ...options.ids });
    this.phases = phases;
    const parent = options.signal;
    const onAbort = (): void => this.cancel(abortError(this.name, parent?.reason));
    if (parent?.aborted) onAbort();
    else parent?.addEventListener("abort", onAbort, { once: true });
    this.#unlink = () => parent?.removeEventListener("abort", onAbort);
    this.deadlineAtMs = options.timeoutMs === null ? null : this.startedAtMs + options.timeoutMs;
    this.#timer =
      options.timeoutMs === null
        ? null
        : setTimeout(() => this.cancel(this.#deadlineError(options.timeoutMs ?? 0)), Math.min(options.timeoutMs, 2 ** 31 - 1));
    this.#timer?.unref();
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** The step that runs now, for `berth status` and error messages. */
  get currentStep(): string | null {
    return this.#step;
  }

  /** Milliseconds left, at least 0; null for no deadline. */
  get remainingMs(): number | null {
    return this.deadlineAtMs === null ? null : Math.max(0, this.deadlineAtMs - monotonicMs());
  }

  cancel(reason: Error): void {
    if (!this.#controller.signal.aborted) this.#controller.abort(reason);
  }

  /** Ends the timer and the link to the parent. Idempotent. */
  dispose(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#unlink();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  throwIfAborted(): void {
    if (this.signal.aborted) throw this.signal.reason;
  }

  /**
   * Runs one named step: checks the signal, hits the failpoint of that name, records how long it took.
   * An error keeps its kind; the step is put in front of a message that does not name it yet.
   */
  async step<T>(name: string, work: () => T | Promise<T>): Promise<T> {
    this.throwIfAborted();
    const outer = this.#step;
    this.#step = name;
    const end = this.phases.begin(name);
    try {
      await hitFailpoint(name, this.signal);
      return await work();
    } finally {
      end();
      this.#step = outer;
    }
  }

  /** Rejects with the abort reason as soon as the signal fires; `work` goes on unobserved, so it must own nothing. */
  race<T>(work: Promise<T>): Promise<T> {
    return this.raceWithCleanup(work, () => undefined);
  }

  /** As `race`, but a result that arrives after the abort is handed to `cleanup`. */
  raceWithCleanup<T>(work: Promise<T>, cleanup: (late: T) => void | Promise<void>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      let settled = false;
      const onAbort = (): void => {
        settled = true;
        reject(this.signal.reason);
      };
      if (this.signal.aborted) onAbort();
      else this.signal.addEventListener("abort", onAbort, { once: true });
      work.then(
        (value) => {
          this.signal.removeEventListener("abort", onAbort);
          if (!settled) resolve(value);
          else
            Promise.resolve(cleanup(value)).catch((error: unknown) =>
              this.log.warn({ err: String(error) }, "clean-up of a late result failed"),
            );
        },
        (error: unknown) => {
          this.signal.removeEventListener("abort", onAbort);
          if (!settled) reject(error as Error);
        },
      );
    });
  }

  /** Sleeps; rejects with the abort reason. */
  wait(durationMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.signal.aborted) {
        reject(this.signal.reason as Error);
        return;
      }
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(this.signal.reason as Error);
      };
      const timer = setTimeout(() => {
        this.signal.removeEventListener("abort", onAbort);
        resolve();
      }, durationMs);
      this.signal.addEventListener("abort", onAbort, { once: true });
    });
  }

  /** A child with its own, never longer, deadline; it shares the phases. Dispose it. */
  child(name: string, timeoutMs: number | null): Operation {
    const left = this.remainingMs;
    const bounded = timeoutMs === null ? left : left === null ? timeoutMs : Math.min(timeoutMs, left);
    return new Operation({ name, log: this.log, signal: this.signal, timeoutMs: bounded, ids: this.ids }, this.phases);
  }

  /**
   * An operation that the caller's deadline and cancellation do not reach: for undo, for work that goes
   * on after its caller has left. It has a deadline of its own and shares the phases.
   */
  detached(name: string, timeoutMs: number | null): Operation {
    return new Operation({ name, log: this.log, timeoutMs, ids: this.ids }, this.phases);
  }

  #deadlineError(timeoutMs: number): DomainError {
    const at = this.#step === null ? "" : ` in step ${this.#step}`;
    return new DomainError("deadline-exceeded", `${this.name} did not finish within ${Math.round(timeoutMs)} ms${at}`, { ids: this.ids });
  }
}

function abortError(name: string, reason: unknown): Error {
  if (reason instanceof DomainError) return reason;
  return new DomainError("cancelled", `${name} was cancelled by its caller`, { cause: reason });
}

/** An operation for work that no caller asked for: recovery, clean-up, periodic tasks. */
export function backgroundOperation(name: string, log: Logger, timeoutMs: number | null): Operation {
  return new Operation({ name, log, timeoutMs });
}
