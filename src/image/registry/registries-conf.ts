/**
 * containers-registries.conf(5), version 2, and its drop-ins: where a registry really is, its mirrors, which hosts may be
 * talked to without TLS, which not at all, and what a short name means. Read anew for each pull, so that a change needs no
 * restart.
 */
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { parse } from "smol-toml";
import { DomainError, toError } from "../../base/errors.ts";
import {
  asObject,
  asString,
  type JsonObject,
  JsonShapeError,
  optionalArray,
  optionalObject,
  optionalString,
  stringArray,
} from "../json.ts";

export interface MirrorEntry {
  /** `host[:port][/path]`. */
  readonly location: string;
  readonly insecure: boolean;
  readonly pullFrom: "all" | "digest-only" | "tag-only";
}

export interface RegistryEntry {
  readonly prefix: string;
  /** "" leaves the name as it is (a wildcard prefix without a location). */
  readonly location: string;
  readonly insecure: boolean;
  readonly blocked: boolean;
  readonly mirrors: readonly MirrorEntry[];
}

export interface RegistriesConf {
  readonly unqualifiedSearchRegistries: readonly string[];
  readonly aliases: Readonly<Record<string, string>>;
  readonly registries: readonly RegistryEntry[];
}

interface Draft {
  search: readonly string[];
  aliases: Record<string, string>;
  registries: Map<string, RegistryEntry>;
}

/** A missing file says nothing; a malformed one is failed-precondition, so that a typing error cannot unblock a registry. */
export async function readRegistriesConf(file: string, directory: string): Promise<RegistriesConf> {
  const draft: Draft = { search: [], aliases: Object.create(null) as Record<string, string>, registries: new Map() };
  await merge(draft, file);
  const names = await readdir(directory).catch(() => [] as string[]);
  for (const name of names.filter((entry) => entry.endsWith(".conf")).sort()) await merge(draft, join(directory, name));
  return { unqualifiedSearchRegistries: draft.search, aliases: draft.aliases, registries: [...draft.registries.values()] };
}

async function merge(draft: Draft, path: string): Promise<void> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw new DomainError("failed-precondition", `registries configuration ${path} cannot be read`, { cause: error });
  }
  try {
    const root = parse(text) as JsonObject;
    if (root["unqualified-search-registries"] !== undefined) {
      draft.search = stringArray(root["unqualified-search-registries"], "unqualified-search-registries");
    }
    for (const [name, value] of Object.entries(optionalObject(root["aliases"], "aliases") ?? {})) {
      draft.aliases[name] = asString(value, `aliases.${name}`);
    }
    optionalArray(root["registry"], "registry", 1000).forEach((value, index) => {
      const entry = registry(asObject(value, `registry[${index}]`), `registry[${index}]`);
      draft.registries.set(entry.prefix, entry);
    });
  } catch (error) {
    throw new DomainError("failed-precondition", `registries configuration ${path}: ${toError(error).message}`);
  }
}

function registry(object: JsonObject, path: string): RegistryEntry {
  const location = optionalString(object["location"], `${path}.location`);
  const prefix = optionalString(object["prefix"], `${path}.prefix`) || location;
  if (prefix === "") throw new JsonShapeError(`${path} has neither prefix nor location`);
  if (location === "" && !prefix.startsWith("*.")) throw new JsonShapeError(`${path} has no location`);
  const digestOnly = flag(object["mirror-by-digest-only"], `${path}.mirror-by-digest-only`);
  const mirrors = optionalArray(object["mirror"], `${path}.mirror`, 100).map((value, index) => {
    const at = `${path}.mirror[${index}]`;
    const mirror = asObject(value, at);
    const pullFrom = optionalString(mirror["pull-from-mirror"], `${at}.pull-from-mirror`) || (digestOnly ? "digest-only" : "all");
    if (pullFrom !== "all" && pullFrom !== "digest-only" && pullFrom !== "tag-only") {
      throw new JsonShapeError(`${at}.pull-from-mirror is not all, digest-only or tag-only`);
    }
    return {
      location: asString(mirror["location"], `${at}.location`),
      insecure: flag(mirror["insecure"], `${at}.insecure`),
      pullFrom,
    } as const;
  });
  return {
    prefix,
    location,
    insecure: flag(object["insecure"], `${path}.insecure`),
    blocked: flag(object["blocked"], `${path}.blocked`),
    mirrors,
  };
}

function flag(value: unknown, path: string): boolean {
  if (value === undefined) return false;
  if (typeof value === "boolean") return value;
  throw new JsonShapeError(`${path} is not true or false`);
}

/** The entry with the longest prefix of `host/path`, on a boundary of a component; `*.domain` matches subdomains. */
export function findRegistry(conf: RegistriesConf, name: string): RegistryEntry | null {
  let best: RegistryEntry | null = null;
  for (const entry of conf.registries) {
    if (matchesPrefix(entry.prefix, name) && (best === null || entry.prefix.length > best.prefix.length)) best = entry;
  }
  return best;
}

function matchesPrefix(prefix: string, name: string): boolean {
  if (prefix.startsWith("*.")) {
    const host = name.slice(0, name.indexOf("/")).replace(/:\d+$/, "");
    return host.endsWith(prefix.slice(1)) && host.length > prefix.length - 1;
  }
  return name === prefix || name.startsWith(`${prefix}/`);
}
