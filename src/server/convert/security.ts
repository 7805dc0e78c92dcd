/** Namespaces, security profiles and user ids of sandboxes and containers. */
import {
  type Int64,
  type Int64Value,
  type NamespaceOption,
  ProfileType,
  SupplementalGroupsPolicy,
  NamespaceMode as WireMode,
  type SecurityProfile as WireProfile,
} from "../../../api/cri/service-definition.ts";
import type { NamespaceMode, SecurityProfile } from "../../sandbox/types.ts";
import { invalid, quote } from "../validate.ts";
import { bigIntFromInt64, numberFromInt64 } from "./int64.ts";

export interface Namespaces {
  readonly network: NamespaceMode;
  readonly pid: NamespaceMode;
  readonly ipc: NamespaceMode;
  readonly targetId: string;
}

/** Without options: the pod's own namespaces. */
export function namespacesFromRequest(options: NamespaceOption | null, field: string): Namespaces {
  if (options === null) return { network: "pod", pid: "pod", ipc: "pod", targetId: "" };
  // Ignoring the wish would run with the host's root what its author wanted confined.
  if (options.usernsOptions !== null && options.usernsOptions.mode !== WireMode.NODE) {
    throw invalid(`${field}.userns_options`, "asks for a user namespace, which this runtime does not offer");
  }
  const pid = modeFromWire(options.pid, ["pod", "container", "node", "target"], `${field}.pid`);
  if (pid === "target" && options.targetId === "") throw invalid(`${field}.target_id`, "is empty while pid is TARGET");
  return {
    network: modeFromWire(options.network, ["pod", "node"], `${field}.network`),
    pid,
    ipc: modeFromWire(options.ipc, ["pod", "node"], `${field}.ipc`),
    targetId: options.targetId,
  };
}

export function modeToWire(mode: NamespaceMode): number {
  switch (mode) {
    case "pod":
      return WireMode.POD;
    case "container":
      return WireMode.CONTAINER;
    case "node":
      return WireMode.NODE;
    case "target":
      return WireMode.TARGET;
  }
}

function modeFromWire(value: number, allowed: readonly NamespaceMode[], field: string): NamespaceMode {
  const mode = (["pod", "container", "node", "target"] as const)[value];
  if (mode === undefined || !allowed.includes(mode)) throw invalid(field, `must be one of ${allowed.join(", ").toUpperCase()}`);
  return mode;
}

/** `runtime/default`, `unconfined` and `localhost/<ref>` are the deprecated text form; the typed field wins. */
export function profileFromRequest(typed: WireProfile | null, deprecated: string, field: string): SecurityProfile | null {
  if (typed !== null) return checkProfile(typed.profileType, typed.localhostRef, field);
  if (deprecated === "") return null;
  if (deprecated === "runtime/default" || deprecated === "docker/default") return checkProfile(ProfileType.RuntimeDefault, "", field);
  if (deprecated === "unconfined") return checkProfile(ProfileType.Unconfined, "", field);
  if (deprecated.startsWith("localhost/")) return checkProfile(ProfileType.Localhost, deprecated.slice("localhost/".length), field);
  throw invalid(field, `has an unknown form: ${quote(deprecated)}`);
}

function checkProfile(type: number, localhostRef: string, field: string): SecurityProfile {
  switch (type) {
    case ProfileType.RuntimeDefault:
      return { type: "runtime-default", localhostRef: "" };
    case ProfileType.Unconfined:
      return { type: "unconfined", localhostRef: "" };
    case ProfileType.Localhost:
      // Fails closed: a profile without a name must not end as no profile.
      if (localhostRef === "") throw invalid(`${field}.localhost_ref`, "is empty while the profile is Localhost");
      return { type: "localhost", localhostRef };
    default:
      throw invalid(`${field}.profile_type`, `is unknown: ${type}`);
  }
}

export function groupsPolicyFromRequest(value: number, field: string): "merge" | "strict" {
  if (value === SupplementalGroupsPolicy.Merge) return "merge";
  if (value === SupplementalGroupsPolicy.Strict) return "strict";
  throw invalid(field, `is unknown: ${value}`);
}

/** A uid or gid: a u32 less its last value, which the kernel reads as "unchanged". */
export function idFromRequest(value: Int64, field: string): number {
  const id = numberFromInt64(value, field);
  if (id < 0 || id > 0xffff_fffe) throw invalid(field, `is not a user or group id: ${id}`);
  return id;
}

export function optionalIdFromRequest(value: Int64Value | null, field: string): number | null {
  return value === null ? null : idFromRequest(value.value, field);
}

const enumsByKey: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  network: WireMode,
  pid: WireMode,
  ipc: WireMode,
  mode: WireMode,
  profileType: ProfileType,
  supplementalGroupsPolicy: SupplementalGroupsPolicy,
};

/**
 * A decoded security context as protobufjs writes JSON: camelCase keys, enum values by name, 64-bit integers as decimal text;
 * what the request left out, or set to its default, is left out.
 */
export function securityContextJson(context: object | null): string | null {
  return context === null ? null : JSON.stringify(plain("", context));
}

function plain(key: string, value: unknown): unknown {
  if (typeof value === "number") {
    const name = Object.entries(enumsByKey[key] ?? {}).find(([, number]) => number === value)?.[0];
    return name ?? value;
  }
  if (value === null || typeof value !== "object") return value;
  if (Array.isArray(value)) return value.map((item) => plain(key, item));
  if (isInt64(value)) return bigIntFromInt64(value).toString();
  const entries = Object.entries(value).filter(([, inner]) => inner !== null && !(Array.isArray(inner) && inner.length === 0));
  return Object.fromEntries(entries.map(([name, inner]) => [name, plain(name, inner)]));
}

function isInt64(value: object): value is Int64 {
  return "low" in value && "high" in value && "unsigned" in value;
}
