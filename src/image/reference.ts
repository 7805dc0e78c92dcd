/**
 * Image references: `[host[:port]/]path[:tag][@digest]`, by the grammar of distribution/reference.
 *
 * A name whose first component is no host is *short*: which registry it means is the configuration's to say
 * (`unqualified-search-registries`, aliases), docker.io where it says nothing.
 */
import { DomainError } from "../base/errors.ts";
import type { Digest } from "../base/ids.ts";

const domainComponent = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
const domain = `(?:${domainComponent}(?:\\.${domainComponent})*|\\[[a-fA-F0-9:]+\\])(?::[0-9]+)?`;
const pathComponent = "[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*";
const domainPattern = new RegExp(`^${domain}$`);
const pathPattern = new RegExp(`^${pathComponent}(?:/${pathComponent})*$`);
const tagPattern = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const digestPattern = /^sha256:[0-9a-f]{64}$/;
const maxNameLength = 255;

export const dockerHost = "docker.io";
export const defaultTag = "latest";

/** A name with its registry. At least one of `tag` and `digest` is there. */
export interface Reference {
  /** As images are named after it: `docker.io`, `localhost:5000`. */
  readonly host: string;
  /** `library/busybox`. */
  readonly path: string;
  readonly tag: string | null;
  readonly digest: Digest | null;
}

/** What a text says; `host` is null for a short name. */
export interface ParsedReference {
  readonly host: string | null;
  readonly path: string;
  readonly tag: string | null;
  readonly digest: Digest | null;
}

export function isDigest(text: string): text is Digest {
  return digestPattern.test(text);
}

/** Throws invalid-argument. */
export function parseReference(text: string): ParsedReference {
  const refuse = (why: string): never => {
    throw new DomainError("invalid-argument", `image reference ${JSON.stringify(text.slice(0, 300))}: ${why}`);
  };
  if (text === "") refuse("it is empty");
  if (/^[0-9a-f]{64}$/.test(text)) refuse("64 hex digits are an image id, not a name");
  let rest = text;
  let digest: Digest | null = null;
  const at = rest.indexOf("@");
  if (at >= 0) {
    const digestText = rest.slice(at + 1);
    rest = rest.slice(0, at);
    if (isDigest(digestText)) digest = digestText;
    else refuse("the digest is not sha256 with 64 lower-case hex digits");
  }
  let tag: string | null = null;
  const colon = rest.lastIndexOf(":");
  if (colon > rest.lastIndexOf("/")) {
    tag = rest.slice(colon + 1);
    rest = rest.slice(0, colon);
    if (!tagPattern.test(tag)) refuse("the tag is not 1 to 128 of A-Z a-z 0-9 _ . - or starts with . or -");
  }
  const slash = rest.indexOf("/");
  const first = slash < 0 ? "" : rest.slice(0, slash);
  const isHost = /[.:]/.test(first) || first === "localhost" || first !== first.toLowerCase();
  const host = isHost ? first : null;
  const path = isHost ? rest.slice(slash + 1) : rest;
  if (host !== null && !domainPattern.test(host)) refuse(`${JSON.stringify(host)} is not a host`);
  if (!pathPattern.test(path)) refuse(path === path.toLowerCase() ? "the name is malformed" : "the name must be lower-case");
  if (rest.length > maxNameLength) refuse(`the name is longer than ${maxNameLength} characters`);
  return { host: host === "index.docker.io" ? dockerHost : host, path, tag, digest };
}

/** The full reference of a parsed one in a registry: adds `library/` for Docker Hub and `:latest` where nothing is said. */
export function qualify(parsed: ParsedReference, host: string): Reference {
  const name = parsed.host ?? host;
  const path = name === dockerHost && !parsed.path.includes("/") ? `library/${parsed.path}` : parsed.path;
  const tag = parsed.tag === null && parsed.digest === null ? defaultTag : parsed.tag;
  return { host: name, path, tag, digest: parsed.digest };
}

/** `host/path`. */
export function repositoryName(reference: Reference): string {
  return `${reference.host}/${reference.path}`;
}

/** `host/path:tag`, or `host/path@digest` where there is a digest: a tag beside a digest says nothing. */
export function formatReference(reference: Reference): string {
  const name = repositoryName(reference);
  return reference.digest !== null ? `${name}@${reference.digest}` : `${name}:${reference.tag ?? defaultTag}`;
}
