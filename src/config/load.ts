/** Builds the configuration: defaults, then the main file, then its drop-ins by name, then `--set` flags. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "smol-toml";
import * as v from "valibot";
import { DomainError, toError } from "../base/errors.ts";
import { type OptionSpec, optionSpecs, optionsByKey } from "./schema.ts";
import type { BerthConfig } from "./types.ts";

export const defaultConfigPath = "/etc/berth/berth.toml";

export interface ConfigSources {
  /** Main file. `required` is false for the default path, which may be absent. */
  readonly path: string;
  readonly required: boolean;
  /** `key=value` with TOML values; a bare word is a string. */
  readonly sets: readonly string[];
}

export interface LoadedConfig {
  readonly config: BerthConfig;
  /** Key → where its value comes from: `default`, a file's path, or `--set`. */
  readonly origins: ReadonlyMap<string, string>;
  readonly files: readonly string[];
}

/** Drop-ins of `/etc/berth/berth.toml` are `/etc/berth/berth.conf.d/*.toml`. */
export function dropInDirectory(path: string): string {
  return `${path.replace(/\.toml$/, "")}.conf.d`;
}

export function loadConfig(sources: ConfigSources): LoadedConfig {
  const values = new Map<string, unknown>(optionSpecs.map((spec) => [spec.key, spec.fallback]));
  const origins = new Map<string, string>(optionSpecs.map((spec) => [spec.key, "default"]));
  const files: string[] = [];
  const apply = (key: string, value: unknown, origin: string): void => {
    values.set(key, checkOption(requireSpec(key, origin), value, origin));
    origins.set(key, origin);
  };
  for (const path of [sources.path, ...dropIns(sources.path)]) {
    const text = readConfigFile(path, path !== sources.path || sources.required);
    if (text === null) continue;
    files.push(path);
    for (const [key, value] of flatten(parseToml(text, path), path)) apply(key, value, path);
  }
  for (const set of sources.sets) {
    const at = set.indexOf("=");
    if (at <= 0) throw new DomainError("invalid-argument", `--set ${JSON.stringify(set)} is not key=value`);
    apply(set.slice(0, at).trim(), parseSetValue(set.slice(at + 1)), "--set");
  }
  const config = assemble(values);
  checkTogether(config);
  return { config, origins, files };
}

function readConfigFile(path: string, required: boolean): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === "ENOENT" && !required) return null;
    throw new DomainError("invalid-argument", `configuration file ${path} cannot be read: ${code ?? toError(error).message}`, {
      cause: error,
    });
  }
}

function dropIns(path: string): string[] {
  const directory = dropInDirectory(path);
  try {
    return readdirSync(directory)
      .filter((name) => name.endsWith(".toml"))
      .sort()
      .map((name) => join(directory, name));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw new DomainError("invalid-argument", `drop-in directory ${directory} cannot be read`, { cause: error });
  }
}

function parseToml(text: string, path: string): Record<string, unknown> {
  try {
    return parse(text) as Record<string, unknown>;
  } catch (error) {
    throw new DomainError("invalid-argument", `${path} is not valid TOML: ${toError(error).message.split("\n")[0] ?? ""}`, {
      cause: error,
    });
  }
}

/** Tables become dotted keys, except where the whole table is one option's value. */
function* flatten(table: Record<string, unknown>, path: string, prefix = ""): Generator<[string, unknown]> {
  for (const [name, value] of Object.entries(table)) {
    const key = prefix + name;
    if (optionsByKey.has(key)) yield [key, value];
    else if (isTable(value)) yield* flatten(value, path, `${key}.`);
    else requireSpec(key, path);
  }
}

function isTable(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);
}

function requireSpec(key: string, origin: string): OptionSpec {
  const spec = optionsByKey.get(key);
  if (spec) return spec;
  const near = nearest(key);
  throw new DomainError("invalid-argument", `${origin}: unknown option ${key}${near === null ? "" : `; did you mean ${near}?`}`);
}

function checkOption(spec: OptionSpec, value: unknown, origin: string): unknown {
  const result = v.safeParse(spec.schema, value);
  if (result.success) return result.output;
  const issue = result.issues[0];
  const path = v.getDotPath(issue);
  throw new DomainError(
    "invalid-argument",
    `${origin}: ${spec.key}${path ? `.${path}` : ""}: ${issue.message} (got ${JSON.stringify(issue.input)})`,
  );
}

function parseSetValue(text: string): unknown {
  try {
    return parse(`value = ${text}`)["value"];
  } catch {
    return text;
  }
}

/** Options that make sense only together. */
function checkTogether(config: BerthConfig): void {
  const { runtime } = config;
  if (!(runtime.defaultHandler in runtime.handlers)) {
    throw new DomainError(
      "invalid-argument",
      `runtime.default_handler ${JSON.stringify(runtime.defaultHandler)} is not in runtime.handlers`,
    );
  }
  for (const [name, handler] of Object.entries(runtime.handlers)) {
    if (handler.type === "command" && handler.path === "") {
      throw new DomainError("invalid-argument", `runtime.handlers.${name}: a command handler needs a path`);
    }
  }
  if (runtime.monitorCgroup === runtime.defaultCgroupParent || runtime.monitorCgroup.startsWith(`${runtime.defaultCgroupParent}/`)) {
    throw new DomainError("invalid-argument", "runtime.monitor_cgroup must not be below runtime.default_cgroup_parent");
  }
  const { tlsCertificate, tlsKey, tlsClientCa } = config.streaming;
  if ((tlsCertificate === "") !== (tlsKey === "") || (tlsClientCa !== "" && tlsKey === "")) {
    throw new DomainError(
      "invalid-argument",
      "streaming.tls_certificate and streaming.tls_key go together, streaming.tls_client_ca needs both",
    );
  }
  if (config.root === config.runRoot) throw new DomainError("invalid-argument", "root and run_root must differ");
}

function assemble(values: ReadonlyMap<string, unknown>): BerthConfig {
  const result: Record<string, unknown> = {};
  for (const [key, value] of values) {
    const path = key.split(".").map(camelCase);
    const last = path.pop() ?? "";
    let table = result;
    for (const name of path) {
      table[name] ??= {};
      table = table[name] as Record<string, unknown>;
    }
    table[last] = key === "runtime.handlers" ? { native: { type: "native", path: "", root: "" }, ...(value as object) } : value;
  }
  return deepFreeze(result) as unknown as BerthConfig;
}

function camelCase(name: string): string {
  return name.replace(/_([a-z])/g, (_match, letter: string) => letter.toUpperCase());
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) deepFreeze(inner);
  }
  return value;
}

function nearest(key: string): string | null {
  let best: { key: string; distance: number } | null = null;
  for (const spec of optionSpecs) {
    const distance = editDistance(key, spec.key);
    if (distance <= 4 && (best === null || distance < best.distance)) best = { key: spec.key, distance };
  }
  return best?.key ?? null;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const substitute = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(substitute, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
