/**
 * Which namespaces the container makes, joins, or leaves as the host's. A joined one is written as
 * `/proc/<pid>/ns/<kind>`: any OCI runtime can read that, and the native handler joins it through the pause process's
 * pidfd, so that a recycled pid is never meant.
 */
import { DomainError } from "../../base/errors.ts";
import type { SpecNamespace } from "./runtime-spec.ts";

export type NamespaceMode = "pod" | "container" | "node" | "target";

export interface NamespaceInput {
  /** As the sandbox was made: its network and IPC modes hold for each of its containers. */
  readonly pod: { readonly network: NamespaceMode; readonly ipc: NamespaceMode; readonly pid: NamespaceMode };
  readonly pausePid: number;
  /** The container's own wish. */
  readonly pid: NamespaceMode;
  /** Init of the container whose PID namespace is wanted, for `target`. */
  readonly targetPid: number | null;
  /** A cgroup namespace of its own. */
  readonly privateCgroup: boolean;
}

export interface NamespaceDecision {
  readonly namespaces: readonly SpecNamespace[];
  /** Init has the PID namespace to itself, so that its end is the end of all. */
  readonly ownPid: boolean;
}

export function decideNamespaces(input: NamespaceInput): NamespaceDecision {
  const fromPause = (type: "network" | "ipc" | "uts" | "pid"): SpecNamespace => ({
    type,
    path: `/proc/${input.pausePid}/ns/${type === "network" ? "net" : type}`,
  });
  const namespaces: SpecNamespace[] = [{ type: "mount" }];
  if (input.pod.network !== "node") namespaces.push(fromPause("network"), fromPause("uts"));
  if (input.pod.ipc !== "node") namespaces.push(fromPause("ipc"));
  if (input.privateCgroup) namespaces.push({ type: "cgroup" });
  const pid = pidNamespace(input, () => fromPause("pid"));
  if (pid !== null) namespaces.push(pid);
  return { namespaces, ownPid: pid !== null && pid.path === undefined };
}

/** null for the host's. A pod without a PID namespace of its own never yields the host's unless it is the host's. */
function pidNamespace(input: NamespaceInput, ofPod: () => SpecNamespace): SpecNamespace | null {
  switch (input.pid) {
    case "container":
      return { type: "pid" };
    case "node":
      if (input.pod.pid !== "node") {
        throw new DomainError("invalid-argument", "the container asks for the host's PID namespace and its sandbox does not have it");
      }
      return null;
    case "target":
      if (input.targetPid === null) throw new DomainError("invalid-argument", "the container whose PID namespace is wanted does not run");
      return { type: "pid", path: `/proc/${input.targetPid}/ns/pid` };
    case "pod":
      if (input.pod.pid === "node") return null;
      return input.pod.pid === "pod" ? ofPod() : { type: "pid" };
  }
}
