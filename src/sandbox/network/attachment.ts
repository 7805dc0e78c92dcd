/**
 * One attachment of a pod to a network, as it stands in the pod's record: everything that DEL needs, whatever has
 * happened to the configuration file since. Planned before ADD (`result` null), complete after it.
 */
import type { SandboxId } from "../../base/ids.ts";
import type { NetworkPlugin } from "./config.ts";
import type { JsonObject } from "./json.ts";

export interface NetworkAttachment {
  readonly network: string;
  readonly cniVersion: string;
  readonly plugins: readonly NetworkPlugin[];
  readonly interfaceName: string;
  /** Capability arguments by name; a plugin gets those that it declares. */
  readonly capabilityArgs: JsonObject;
  /** Of the last plugin's ADD; null until then. */
  readonly result: JsonObject | null;
}

/** Whose attachment it is: what plugins learn about the pod. */
export interface NetworkPod {
  readonly id: SandboxId;
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
}
