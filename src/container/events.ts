/** What the container domain tells the rest of the daemon. A hidden container has no events. */
import type { ContainerView } from "./types.ts";

export interface ContainerEvent {
  /** `created` once it is visible, `started`, `stopped` once it has exited, `deleted` once its record is gone. */
  readonly type: "created" | "started" | "stopped" | "deleted";
  readonly container: ContainerView;
}
