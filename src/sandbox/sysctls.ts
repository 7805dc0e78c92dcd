/**
 * Which sysctls a pod may set: those of namespaces that it has of its own. Anything else would change the host
 * (CVE-2022-0532). They travel as a map, never as one packed text (CVE-2022-0811).
 */
import { DomainError } from "../base/errors.ts";

export interface OwnNamespaces {
  readonly net: boolean;
  readonly ipc: boolean;
  readonly uts: boolean;
}

type Owner = keyof OwnNamespaces;

const ipcKeys = new Set([
  "kernel.msgmax",
  "kernel.msgmnb",
  "kernel.msgmni",
  "kernel.sem",
  "kernel.shmall",
  "kernel.shmmax",
  "kernel.shmmni",
  "kernel.shm_rmid_forced",
]);

/** Normalised and validated: the request's, over those defaults that the pod's own namespaces have. */
export function podSysctls(
  requested: Readonly<Record<string, string>>,
  defaults: Readonly<Record<string, string>>,
  own: OwnNamespaces,
): Record<string, string> {
  const result: Record<string, string> = {};
  for (const [name, value] of Object.entries(defaults)) {
    const key = normalizeSysctl(name);
    const owner = ownerOf(key);
    if (owner !== null && own[owner]) result[key] = checkedValue(key, value);
  }
  const seen = new Set<string>();
  for (const [name, value] of Object.entries(requested)) {
    const key = normalizeSysctl(name);
    const owner = ownerOf(key);
    if (owner === null) throw invalid(key, "it belongs to no namespace of a pod");
    if (!own[owner]) throw invalid(key, `the pod shares the host's ${owner} namespace`);
    if (seen.has(key)) throw invalid(key, "it is given twice");
    seen.add(key);
    result[key] = checkedValue(key, value);
  }
  return result;
}

/**
 * The form with dots. Either separator is taken; as in sysctl(8) the first one decides, and the other one stands for
 * itself: `net/ipv4/conf/eth0.5/forwarding` is `net.ipv4.conf.eth0/5.forwarding`.
 */
export function normalizeSysctl(name: string): string {
  const first = /[./]/.exec(name)?.[0];
  const key = first === "/" ? name.replace(/[./]/g, (separator) => (separator === "/" ? "." : "/")) : name;
  const words = key.split(".");
  const sound = words.length > 1 && key.length <= 256 && words.every((word) => /^[A-Za-z0-9_@:/-]+$/.test(word) && !/^\/+$/.test(word));
  if (!sound) throw new DomainError("invalid-argument", `sysctl ${JSON.stringify(name)} is not a sysctl's name`);
  return key;
}

/** The kind of namespace that the key belongs to; null where it is the host's or the kernel's. */
function ownerOf(key: string): Owner | null {
  if (key.startsWith("net.")) return "net";
  if (key.startsWith("fs.mqueue.") || ipcKeys.has(key)) return "ipc";
  return key === "kernel.domainname" ? "uts" : null;
}

function checkedValue(key: string, value: string): string {
  if (/[\x00-\x1f\x7f]/.test(value)) throw invalid(key, "its value has control characters");
  if (value.length > 4096) throw invalid(key, "its value is too long");
  return value;
}

function invalid(key: string, why: string): DomainError {
  return new DomainError("invalid-argument", `sysctl ${JSON.stringify(key)} cannot be set: ${why}`);
}
