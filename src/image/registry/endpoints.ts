/**
 * The endpoints to ask for a reference, best first: mirrors, then the registry. A host that has a hosts.toml is what that
 * says; any other is what registries.conf says; without either it is `https://<host>`. Plain HTTP and unverified TLS happen
 * by configured name alone, never because of an address.
 */
import { DomainError } from "../../base/errors.ts";
import { dockerHost, type Reference, repositoryName } from "../reference.ts";
import { type HostDirectory, type HostEntry, noTls, readHostDirectory, type TlsFiles } from "./hosts-toml.ts";
import { findRegistry, type RegistriesConf } from "./registries-conf.ts";

export interface Endpoint {
  /** `scheme://host[:port]` and the path before `/<repository>/manifests/…`: normally `/v2`. */
  readonly base: string;
  /** Tried in this order; the second only where the first does not speak TLS. */
  readonly schemes: readonly ("https" | "http")[];
  /** `host[:port]`, for credentials and messages. */
  readonly host: string;
  /** Path of the repository there. */
  readonly repository: string;
  readonly verifyTls: boolean;
  readonly tls: TlsFiles;
  readonly headers: Readonly<Record<string, string>>;
  /** May tell what a tag means; one that may not is asked by digest alone. */
  readonly canResolve: boolean;
  readonly canPull: boolean;
  readonly isMirror: boolean;
}

/** Throws permission-denied for a blocked registry. */
export async function findEndpoints(conf: RegistriesConf, certsDirectory: string, reference: Reference): Promise<readonly Endpoint[]> {
  const name = repositoryName(reference);
  const entry = findRegistry(conf, name);
  if (entry?.blocked) throw new DomainError("permission-denied", `image ${name}: its registry is blocked by the registries configuration`);
  const directory = await readHostDirectory(certsDirectory, reference.host);
  if (directory?.hosts) return directory.hosts.map((host, index, all) => fromHost(host, reference, index < all.length - 1));

  const endpoints: Endpoint[] = [];
  for (const mirror of entry?.mirrors ?? []) {
    if (mirror.pullFrom === "digest-only" && reference.digest === null) continue;
    if (mirror.pullFrom === "tag-only" && reference.digest !== null) continue;
    endpoints.push(await fromLocation(certsDirectory, rewrite(name, entry?.prefix ?? "", mirror.location), mirror.insecure, true));
  }
  const location = entry === null || entry.location === "" ? name : rewrite(name, entry.prefix, entry.location);
  endpoints.push(await fromLocation(certsDirectory, location, entry?.insecure ?? false, false, location === name ? directory : null));
  return endpoints;
}

/** `prefix/rest` becomes `location/rest`; a wildcard prefix keeps the path. */
function rewrite(name: string, prefix: string, location: string): string {
  if (prefix.startsWith("*.")) return location + name.slice(name.indexOf("/"));
  return location + name.slice(prefix.length);
}

async function fromLocation(
  certsDirectory: string,
  location: string,
  insecure: boolean,
  isMirror: boolean,
  known: HostDirectory | null = null,
): Promise<Endpoint> {
  const slash = location.indexOf("/");
  const host = slash < 0 ? location : location.slice(0, slash);
  const repository = slash < 0 ? "" : location.slice(slash + 1);
  if (repository === "" || !/^[A-Za-z0-9.:[\]-]+$/.test(host)) {
    throw new DomainError(
      "failed-precondition",
      `the registries configuration maps to ${JSON.stringify(location)}, which is no repository`,
    );
  }
  const directory = known ?? (await readHostDirectory(certsDirectory, host));
  return {
    base: `${apiHost(host)}/v2`,
    schemes: insecure ? ["https", "http"] : ["https"],
    host,
    repository,
    verifyTls: !insecure,
    tls: directory?.tls ?? noTls,
    headers: {},
    canResolve: true,
    canPull: true,
    isMirror,
  };
}

function fromHost(entry: HostEntry, reference: Reference, isMirror: boolean): Endpoint {
  const url = new URL(entry.url);
  const path = url.pathname.replace(/\/+$/, "");
  const withVersion = entry.overridePath || path.endsWith("/v2") ? path : `${path}/v2`;
  return {
    base: url.host + withVersion,
    schemes: [url.protocol === "http:" ? "http" : "https"],
    host: url.host,
    repository: reference.path,
    verifyTls: !entry.skipVerify,
    tls: entry.tls,
    headers: entry.headers,
    canResolve: entry.canResolve,
    canPull: entry.canPull,
    isMirror,
  };
}

function apiHost(host: string): string {
  return host === dockerHost ? "registry-1.docker.io" : host;
}
