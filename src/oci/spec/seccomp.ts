/** Which seccomp profile a container gets, as the JSON text that goes into config.json. */
import { open } from "node:fs/promises";
import { isAbsolute, join, normalize } from "node:path";
import { DomainError, describeError } from "../../base/errors.ts";
import type { Operation } from "../../operation/context.ts";
import type { SpecSeccomp, SpecSeccompArg, SpecSeccompRule } from "./runtime-spec.ts";
import { type Architecture, buildDefaultSeccomp } from "./seccomp-default.ts";

const maxProfileBytes = 1 << 20;
const maxCached = 64;

export interface SeccompProfile {
  readonly type: "runtime-default" | "unconfined" | "localhost";
  readonly localhostRef: string;
}

export interface SeccompRequest {
  /** null is unconfined: a kubelet sends a profile whenever one is wanted. */
  readonly profile: SeccompProfile | null;
  readonly privileged: boolean;
  readonly capabilities: readonly string[];
}

export interface SeccompOptions {
  readonly architecture: Architecture;
  readonly supported: boolean;
  /** Path of the operator's own default profile; empty for the built-in one. */
  readonly defaultProfilePath: string;
  /** Relative names of localhost profiles are below it. */
  readonly profileRoot: string;
}

/** Texts are built once for each (profile, capabilities): making and serialising the default takes longer than a start may. */
export class SeccompProfiles {
  readonly #options: SeccompOptions;
  readonly #defaults = new Map<string, string>();

  constructor(options: SeccompOptions) {
    this.#options = options;
  }

  /** null for no filter. Throws invalid-argument for a profile that is missing, empty or malformed: it is never unconfined. */
  async resolve(op: Operation, request: SeccompRequest): Promise<string | null> {
    const { profile, privileged, capabilities } = request;
    if (privileged || profile === null || profile.type === "unconfined") return null;
    if (!this.#options.supported)
      throw new DomainError("failed-precondition", "a seccomp profile is asked for and the kernel has no seccomp");
    if (profile.type === "localhost")
      return JSON.stringify(await this.#read(op, localhostPath(profile.localhostRef, this.#options.profileRoot)));
    if (this.#options.defaultProfilePath !== "") return JSON.stringify(await this.#read(op, this.#options.defaultProfilePath));
    return this.#builtIn(capabilities);
  }

  #builtIn(capabilities: readonly string[]): string {
    const key = capabilities.join(" ");
    const cached = this.#defaults.get(key);
    if (cached !== undefined) return cached;
    if (this.#defaults.size >= maxCached) this.#defaults.clear();
    const text = JSON.stringify(buildDefaultSeccomp(this.#options.architecture, capabilities));
    this.#defaults.set(key, text);
    return text;
  }

  async #read(op: Operation, path: string): Promise<SpecSeccomp> {
    let text: string;
    try {
      text = await op.race(readProfile(path));
    } catch (error) {
      op.throwIfAborted();
      throw new DomainError("invalid-argument", `seccomp profile ${path} cannot be read: ${describeError(error)}`, { cause: error });
    }
    try {
      return parseSeccompProfile(text);
    } catch (error) {
      throw new DomainError("invalid-argument", `seccomp profile ${path}: ${describeError(error)}`, { cause: error });
    }
  }
}

/** An absolute path is the client's word (a kubelet sends its own seccomp root's); a relative one stays below the root. */
function localhostPath(reference: string, root: string): string {
  const name = reference.startsWith("localhost/") ? reference.slice("localhost/".length) : reference;
  if (name === "" || name.includes("\0")) throw new DomainError("invalid-argument", "the localhost seccomp profile has no name");
  if (isAbsolute(name)) return normalize(name);
  if (name.split("/").includes(".."))
    throw new DomainError("invalid-argument", `seccomp profile ${JSON.stringify(name)} leaves the profiles' directory`);
  return join(root, name);
}

async function readProfile(path: string): Promise<string> {
  const file = await open(path, "r");
  try {
    const status = await file.stat();
    if (!status.isFile()) throw new Error("not a regular file");
    if (status.size > maxProfileBytes) throw new Error(`larger than ${maxProfileBytes} bytes`);
    return await file.readFile("utf8");
  } finally {
    await file.close();
  }
}

const actions: ReadonlySet<string> = new Set([
  "SCMP_ACT_KILL",
  "SCMP_ACT_KILL_PROCESS",
  "SCMP_ACT_KILL_THREAD",
  "SCMP_ACT_TRAP",
  "SCMP_ACT_ERRNO",
  "SCMP_ACT_TRACE",
  "SCMP_ACT_ALLOW",
  "SCMP_ACT_LOG",
]);

const operators: ReadonlySet<string> = new Set([
  "SCMP_CMP_NE",
  "SCMP_CMP_LT",
  "SCMP_CMP_LE",
  "SCMP_CMP_EQ",
  "SCMP_CMP_GE",
  "SCMP_CMP_GT",
  "SCMP_CMP_MASKED_EQ",
]);

/**
 * A runtime-spec seccomp object out of a file. Syscall names are not checked (an older libseccomp passes over what it does
 * not know); everything that would weaken the filter when misread is. Throws Error.
 */
export function parseSeccompProfile(text: string): SpecSeccomp {
  const value: unknown = JSON.parse(text);
  const profile = object(value, "the profile");
  return {
    defaultAction: oneOf(profile["defaultAction"], actions, "defaultAction"),
    ...optionalErrno(profile["defaultErrnoRet"], "defaultErrnoRet", "defaultErrnoRet"),
    ...(profile["architectures"] === undefined ? {} : { architectures: strings(profile["architectures"], "architectures") }),
    ...(profile["flags"] === undefined ? {} : { flags: strings(profile["flags"], "flags") }),
    syscalls: array(profile["syscalls"] ?? [], "syscalls").map((rule, index) => parseRule(rule, `syscalls[${index}]`)),
  };
}

function parseRule(value: unknown, where: string): SpecSeccompRule {
  const rule = object(value, where);
  const names = rule["names"] ?? (rule["name"] === undefined ? undefined : [rule["name"]]);
  const args = array(rule["args"] ?? [], `${where}.args`).map((arg, index) => parseArg(arg, `${where}.args[${index}]`));
  return {
    names: strings(names, `${where}.names`),
    action: oneOf(rule["action"], actions, `${where}.action`),
    ...optionalErrno(rule["errnoRet"], "errnoRet", `${where}.errnoRet`),
    ...(args.length > 0 ? { args } : {}),
  };
}

function parseArg(value: unknown, where: string): SpecSeccompArg {
  const arg = object(value, where);
  return {
    index: integer(arg["index"], `${where}.index`, 5),
    value: integer(arg["value"], `${where}.value`, Number.MAX_SAFE_INTEGER),
    ...(arg["valueTwo"] === undefined ? {} : { valueTwo: integer(arg["valueTwo"], `${where}.valueTwo`, Number.MAX_SAFE_INTEGER) }),
    op: oneOf(arg["op"], operators, `${where}.op`),
  };
}

function optionalErrno<K extends "errnoRet" | "defaultErrnoRet">(value: unknown, key: K, where: string): Partial<Record<K, number>> {
  if (value === undefined || value === null) return {};
  return { [key]: integer(value, where, 4095) } as Partial<Record<K, number>>;
}

function object(value: unknown, where: string): Record<string, unknown> {
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new Error(`${where} is not an object`);
  return value as Record<string, unknown>;
}

function array(value: unknown, where: string): unknown[] {
  if (value === null) return [];
  if (!Array.isArray(value)) throw new Error(`${where} is not an array`);
  return value;
}

function strings(value: unknown, where: string): string[] {
  const list = array(value ?? undefined, where);
  if (!list.every((entry): entry is string => typeof entry === "string" && entry !== ""))
    throw new Error(`${where} is not a list of strings`);
  return list;
}

function oneOf(value: unknown, set: ReadonlySet<string>, where: string): string {
  if (typeof value !== "string" || !set.has(value)) throw new Error(`${where} is ${JSON.stringify(value)}, which Berth does not know`);
  return value;
}

function integer(value: unknown, where: string, max: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < 0 || value > max)
    throw new Error(`${where} is not an integer of 0 to ${max}`);
  return value;
}
