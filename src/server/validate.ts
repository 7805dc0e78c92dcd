/**
 * Checks of request fields. Each throws invalid-argument naming the field; values are quoted as JSON and cut, so
 * that a hostile one can neither forge a log line nor fill it.
 *
 * Names, uids, namespaces and log paths become parts of host paths and of cgroup names: their alphabet is closed.
 */
import { DomainError } from "../base/errors.ts";

export function invalid(field: string, why: string): DomainError {
  return new DomainError("invalid-argument", `${field} ${why}`);
}

export function quote(text: string): string {
  return JSON.stringify(text.length > 128 ? `${text.slice(0, 128)}…` : text);
}

/** A message that must be there. */
export function required<T>(value: T | null, field: string): T {
  if (value === null) throw invalid(field, "is missing");
  return value;
}

export function nonEmpty(text: string, field: string): string {
  if (text === "") throw invalid(field, "is empty");
  return text;
}

/** Ids are looked up, never made into paths; what cannot be one is refused before it reaches a log. */
export function checkId(text: string, field: string): string {
  return matching(nonEmpty(text, field), /^[A-Za-z0-9][A-Za-z0-9._:-]{0,255}$/, field, "is not an id");
}

/** Name, namespace or uid of a pod, name of a container. */
export function checkName(text: string, field: string): string {
  return matching(
    nonEmpty(text, field),
    /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}$/,
    field,
    "must be up to 253 letters, digits, '-', '_' and '.', not starting with '-' or '.'",
  );
}

/** RFC 1123 with underscores, as long as the kernel's UTS field. */
export function checkHostname(text: string, field: string): string {
  return text === "" ? text : matching(text, /^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,63})$/, field, "is not a host name of up to 64 characters");
}

/** Empty, or relative without `..`. */
export function checkLogPath(text: string, field: string): string {
  if (text === "") return text;
  matching(text, /^[A-Za-z0-9_.][A-Za-z0-9_./+@=~-]{0,1023}$/, field, "must be a relative path of letters, digits and '_./+@=~-'");
  return withoutDots(text, field);
}

/** Empty, or absolute without `..`. */
export function checkLogDirectory(text: string, field: string): string {
  if (text === "") return text;
  matching(text, /^\/[A-Za-z0-9_./+@=~:-]{0,2047}$/, field, "must be an absolute path of letters, digits and '_./+@=~:-'");
  return withoutDots(text, field);
}

/** Empty, an absolute path or a systemd slice (which may hold `\x2d`). */
export function checkCgroupParent(text: string, field: string): string {
  if (text === "") return text;
  matching(text, /^[A-Za-z0-9_.:@\\/-]{1,1024}$/, field, "must be a cgroup path or a slice");
  return withoutDots(text, field);
}

export function checkAbsolutePath(text: string, field: string): string {
  if (!text.startsWith("/")) throw invalid(field, `is not an absolute path: ${quote(text)}`);
  if (text.includes("\0")) throw invalid(field, "contains a NUL byte");
  return text;
}

/** One word of resolv.conf: a space or a line break would start another one. */
export function checkWord(text: string, field: string): string {
  return matching(text, /^[^\s\u0000-\u001f\u007f#;]{1,255}$/, field, "is not a single word");
}

export function checkNoNul(text: string, field: string): string {
  if (text.includes("\0")) throw invalid(field, "contains a NUL byte");
  return text;
}

export function checkRange(value: number, minimum: number, maximum: number, field: string): number {
  if (value < minimum || value > maximum) throw invalid(field, `is ${value}, not between ${minimum} and ${maximum}`);
  return value;
}

function matching(text: string, pattern: RegExp, field: string, why: string): string {
  if (!pattern.test(text)) throw invalid(field, `${why}: ${quote(text)}`);
  return text;
}

function withoutDots(text: string, field: string): string {
  if (text.split("/").includes("..")) throw invalid(field, `leaves its directory: ${quote(text)}`);
  return text;
}
