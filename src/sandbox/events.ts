/** What the sandbox domain tells the rest of the daemon. A hidden sandbox has no events. */
import type { SandboxView } from "./types.ts";

export interface SandboxEvent {
  /** `ready` once it is visible, `stopped` once it is not ready, `deleted` once its record is gone. */
  readonly type: "ready" | "stopped" | "deleted";
  readonly sandbox: SandboxView;
}
