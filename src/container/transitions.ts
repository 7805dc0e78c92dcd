/**
 * The life of a container (drawn in docs/state-machines.md). Each change of a record's phase goes through this table.
 *
 *     creating ─completed→ created ─started→ running ─ended→ exited ─removed→ (gone)
 *         ├─undone→ (gone)    ├─ended→ exited   │
 *         └─undo-failed→ exited                 │
 *                             └──lost-sight──→ unknown ─found→ running, ended→ exited
 */
import { DomainError } from "../base/errors.ts";

export type ContainerPhase = "creating" | "created" | "running" | "exited" | "unknown";
export type ContainerTransition = "completed" | "undo-failed" | "started" | "ended" | "lost-sight" | "found";

const table: Readonly<Record<ContainerPhase, Partial<Record<ContainerTransition, ContainerPhase>>>> = {
  creating: { completed: "created", "undo-failed": "exited" },
  created: { started: "running", ended: "exited", "lost-sight": "unknown" },
  running: { ended: "exited", "lost-sight": "unknown" },
  unknown: { found: "running", ended: "exited" },
  exited: {},
};

/** The phase that follows; throws internal where the table has none. */
export function nextPhase(phase: ContainerPhase, transition: ContainerTransition): ContainerPhase {
  const next = table[phase][transition];
  if (next === undefined) throw new DomainError("internal", `a container that is ${phase} cannot become ${transition}`);
  return next;
}
