/**
 * The life of a sandbox (drawn in docs/state-machines.md). Each change of a record's phase goes through this table.
 *
 *     creating ─completed→ ready ─pause-ended, stopped→ not-ready ─removed→ (gone)
 *         ├─undone→ (gone)   └─removed→ (gone)             ↺ stopped, pause-ended
 *         └─undo-failed→ not-ready
 */
import { DomainError } from "../base/errors.ts";
import type { SandboxPhase } from "./record.ts";

export type SandboxTransition = "completed" | "undo-failed" | "pause-ended" | "stopped";

const table: Readonly<Record<SandboxPhase, Partial<Record<SandboxTransition, SandboxPhase>>>> = {
  creating: { completed: "ready", "undo-failed": "not-ready" },
  ready: { "pause-ended": "not-ready", stopped: "not-ready" },
  "not-ready": { "pause-ended": "not-ready", stopped: "not-ready" },
};

/** The phase that follows; throws internal where the table has none. */
export function nextPhase(phase: SandboxPhase, transition: SandboxTransition): SandboxPhase {
  const next = table[phase][transition];
  if (next === undefined) throw new DomainError("internal", `a sandbox that is ${phase} cannot become ${transition}`);
  return next;
}
