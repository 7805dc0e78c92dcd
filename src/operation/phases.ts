/** Where an operation's time went: step name → milliseconds, in the order of first use. */
import { monotonicMs } from "../base/clock.ts";

export interface Phase {
  readonly name: string;
  readonly durationMs: number;
  /** False while the step still runs. */
  readonly finished: boolean;
}

export class PhaseTimings {
  readonly #entries: { name: string; startedAtMs: number; durationMs: number | null }[] = [];

  /** Starts a phase; call the result once to end it. */
  begin(name: string): () => number {
    const entry: { name: string; startedAtMs: number; durationMs: number | null } = { name, startedAtMs: monotonicMs(), durationMs: null };
    this.#entries.push(entry);
    return () => {
      entry.durationMs ??= monotonicMs() - entry.startedAtMs;
      return entry.durationMs;
    };
  }

  list(): Phase[] {
    const now = monotonicMs();
    return this.#entries.map(({ name, startedAtMs, durationMs }) => ({
      name,
      durationMs: durationMs ?? now - startedAtMs,
      finished: durationMs !== null,
    }));
  }

  /** `{step: milliseconds}`; a step that ran twice is summed. */
  toJSON(): Record<string, number> {
    const sums: Record<string, number> = {};
    for (const { name, durationMs } of this.list()) sums[name] = Math.round(((sums[name] ?? 0) + durationMs) * 1000) / 1000;
    return sums;
  }
}
