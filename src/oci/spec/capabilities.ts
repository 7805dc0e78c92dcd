/** Capability sets: the request's add and drop lists over the configured default. */
import { DomainError } from "../../base/errors.ts";
import type { SpecCapabilities } from "./runtime-spec.ts";

/** capabilities(7), by number. */
export const allCapabilities: readonly string[] = [
  "CAP_CHOWN",
  "CAP_DAC_OVERRIDE",
  "CAP_DAC_READ_SEARCH",
  "CAP_FOWNER",
  "CAP_FSETID",
  "CAP_KILL",
  "CAP_SETGID",
  "CAP_SETUID",
  "CAP_SETPCAP",
  "CAP_LINUX_IMMUTABLE",
  "CAP_NET_BIND_SERVICE",
  "CAP_NET_BROADCAST",
  "CAP_NET_ADMIN",
  "CAP_NET_RAW",
  "CAP_IPC_LOCK",
  "CAP_IPC_OWNER",
  "CAP_SYS_MODULE",
  "CAP_SYS_RAWIO",
  "CAP_SYS_CHROOT",
  "CAP_SYS_PTRACE",
  "CAP_SYS_PACCT",
  "CAP_SYS_ADMIN",
  "CAP_SYS_BOOT",
  "CAP_SYS_NICE",
  "CAP_SYS_RESOURCE",
  "CAP_SYS_TIME",
  "CAP_SYS_TTY_CONFIG",
  "CAP_MKNOD",
  "CAP_LEASE",
  "CAP_AUDIT_WRITE",
  "CAP_AUDIT_CONTROL",
  "CAP_SETFCAP",
  "CAP_MAC_OVERRIDE",
  "CAP_MAC_ADMIN",
  "CAP_SYSLOG",
  "CAP_WAKE_ALARM",
  "CAP_BLOCK_SUSPEND",
  "CAP_AUDIT_READ",
  "CAP_PERFMON",
  "CAP_BPF",
  "CAP_CHECKPOINT_RESTORE",
];

const known: ReadonlySet<string> = new Set(allCapabilities);

export interface CapabilityRequest {
  /** What a container gets that asks for nothing. */
  readonly defaults: readonly string[];
  readonly add: readonly string[];
  readonly drop: readonly string[];
  readonly ambient: readonly string[];
  readonly privileged: boolean;
  /** What the daemon has itself and so can grant. */
  readonly grantable: readonly string[];
}

export interface CapabilityDecision {
  readonly capabilities: SpecCapabilities;
  /** Asked for, by name or as a default, but not the daemon's to give. */
  readonly withheld: readonly string[];
}

/**
 * Order: `ALL` of add, `ALL` of drop, single additions, single drops; a privileged container gets all of them whatever
 * the lists say. Inheritable and ambient stay empty unless the request names ambient capabilities (which are then
 * permitted too), so that a file with inheritable bits gives nobody anything.
 */
export function decideCapabilities(request: CapabilityRequest): CapabilityDecision {
  const add = request.add.map((name) => normalizeCapability(name));
  const drop = request.drop.map((name) => normalizeCapability(name));
  const ambient = request.ambient.map((name) => normalizeCapability(name)).filter((name) => name !== "ALL");
  const wanted = request.privileged ? new Set(allCapabilities) : select(request.defaults, add, drop);
  for (const name of ambient) wanted.add(name);

  const grantable = new Set(request.grantable);
  const named = new Set([...request.defaults, ...add, ...ambient]);
  const granted = allCapabilities.filter((name) => wanted.has(name) && grantable.has(name));
  const withheld = allCapabilities.filter((name) => wanted.has(name) && !grantable.has(name) && named.has(name));
  const grantedAmbient = granted.filter((name) => ambient.includes(name));
  return {
    capabilities: {
      bounding: granted,
      effective: granted,
      permitted: granted,
      inheritable: grantedAmbient,
      ambient: grantedAmbient,
    },
    withheld,
  };
}

function select(defaults: readonly string[], add: readonly string[], drop: readonly string[]): Set<string> {
  let set = new Set(defaults.map((name) => normalizeCapability(name)));
  if (add.includes("ALL")) set = new Set(allCapabilities);
  if (drop.includes("ALL")) set = new Set();
  for (const name of add) if (name !== "ALL") set.add(name);
  for (const name of drop) set.delete(name);
  return set;
}

/** `net_admin`, `CAP_NET_ADMIN` → `CAP_NET_ADMIN`; `all` → `ALL`. Throws invalid-argument for an unknown name. */
export function normalizeCapability(name: string): string {
  const upper = name.toUpperCase();
  if (upper === "ALL" || upper === "CAP_ALL") return "ALL";
  const full = upper.startsWith("CAP_") ? upper : `CAP_${upper}`;
  if (!known.has(full)) throw new DomainError("invalid-argument", `unknown capability ${JSON.stringify(name)}`);
  return full;
}
