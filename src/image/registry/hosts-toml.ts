/**
 * containerd's `certs.d/<host>/hosts.toml`, and the certificates that Docker and containers keep in such a directory:
 * `*.crt` authorities, `*.cert` with its `*.key` a client's pair.
 */
import { readdir, readFile } from "node:fs/promises";
import { isAbsolute, join } from "node:path";
import { parse } from "smol-toml";
import { DomainError, toError } from "../../base/errors.ts";
import { asObject, asString, type JsonObject, JsonShapeError, optionalObject, optionalString, stringArray } from "../json.ts";

export interface TlsFiles {
  /** PEM texts. */
  readonly authorities: readonly string[];
  readonly clients: readonly { readonly certificate: string; readonly key: string }[];
}

export interface HostEntry {
  /** With its scheme, without a trailing slash. */
  readonly url: string;
  readonly canPull: boolean;
  readonly canResolve: boolean;
  readonly skipVerify: boolean;
  /** The path of `url` stands as it is: no `/v2` is added. */
  readonly overridePath: boolean;
  readonly headers: Readonly<Record<string, string>>;
  readonly tls: TlsFiles;
}

export interface HostDirectory {
  /** In the order to be tried; null where there is no hosts.toml. */
  readonly hosts: readonly HostEntry[] | null;
  /** For the registry itself. */
  readonly tls: TlsFiles;
}

export const noTls: TlsFiles = { authorities: [], clients: [] };

/** Null where neither the host nor `_default` has a directory. */
export async function readHostDirectory(certsDirectory: string, host: string): Promise<HostDirectory | null> {
  if (!/^[A-Za-z0-9.:[\]-]+$/.test(host) || host.startsWith(".")) return null;
  // `host_port_` stands for `host:port` on file systems without colons, as containerd has it.
  for (const name of [host, host.replace(/:(\d+)$/, "_$1_"), "_default"]) {
    const directory = join(certsDirectory, name);
    const files = await readdir(directory).catch(() => null);
    if (files === null) continue;
    const tls = await readCertificates(directory, files);
    if (!files.includes("hosts.toml")) {
      if (name === "_default") return null;
      return { hosts: null, tls };
    }
    return { hosts: await readHostsToml(directory, host, tls), tls };
  }
  return null;
}

async function readHostsToml(directory: string, host: string, tls: TlsFiles): Promise<readonly HostEntry[]> {
  const path = join(directory, "hosts.toml");
  try {
    const root = parse(await readFile(path, "utf8")) as JsonObject;
    const hosts: HostEntry[] = [];
    for (const [url, value] of Object.entries(optionalObject(root["host"], "host") ?? {})) {
      hosts.push(await hostEntry(directory, url, asObject(value, `host.${url}`), tls));
    }
    const server = optionalString(root["server"], "server") || `https://${host === "docker.io" ? "registry-1.docker.io" : host}`;
    hosts.push(await hostEntry(directory, server, root, tls));
    return hosts;
  } catch (error) {
    throw new DomainError("failed-precondition", `registry host configuration ${path}: ${toError(error).message}`);
  }
}

async function hostEntry(directory: string, name: string, object: JsonObject, tls: TlsFiles): Promise<HostEntry> {
  const withScheme = /^https?:\/\//.test(name) ? name : `https://${name}`;
  let url: URL;
  try {
    url = new URL(withScheme);
  } catch {
    throw new JsonShapeError(`${name} is not a URL`);
  }
  if (url.username !== "" || url.search !== "" || url.hash !== "")
    throw new JsonShapeError(`${name} has more than a scheme, a host and a path`);
  const capabilities = object["capabilities"] === undefined ? ["pull", "resolve"] : stringArray(object["capabilities"], "capabilities");
  const skipVerify = object["skip_verify"] ?? false;
  const overridePath = object["override_path"] ?? false;
  if (typeof skipVerify !== "boolean" || typeof overridePath !== "boolean") {
    throw new JsonShapeError(`skip_verify and override_path of ${name} are true or false`);
  }
  const headers: Record<string, string> = {};
  for (const [key, value] of Object.entries(optionalObject(object["header"], "header") ?? {})) {
    const text = Array.isArray(value) ? stringArray(value, `header.${key}`).join(", ") : asString(value, `header.${key}`);
    if (/[\r\n\0]/.test(text) || !/^[A-Za-z0-9-]+$/.test(key)) throw new JsonShapeError(`header ${JSON.stringify(key)} is malformed`);
    headers[key.toLowerCase()] = text;
  }
  return {
    url: url.href.replace(/\/+$/, ""),
    canPull: capabilities.includes("pull"),
    canResolve: capabilities.includes("resolve"),
    skipVerify,
    overridePath,
    headers,
    tls: {
      authorities: [...tls.authorities, ...(await readAll(directory, strings(object["ca"], "ca")))],
      clients: [...tls.clients, ...(await readClients(directory, object["client"]))],
    },
  };
}

function strings(value: unknown, path: string): readonly string[] {
  return typeof value === "string" ? [value] : stringArray(value, path);
}

/** `"both.pem"`, `["a.pem", …]` or `[["cert", "key"], …]`. */
async function readClients(directory: string, value: unknown): Promise<TlsFiles["clients"]> {
  if (value === undefined) return [];
  const pairs = Array.isArray(value) ? (value as unknown[]) : [value];
  const out: { certificate: string; key: string }[] = [];
  for (const pair of pairs) {
    const [certificate = "", key = certificate] = strings(pair, "client");
    const [certificateText = "", keyText = ""] = await readAll(directory, [certificate, key]);
    out.push({ certificate: certificateText, key: keyText });
  }
  return out;
}

async function readAll(directory: string, names: readonly string[]): Promise<string[]> {
  return Promise.all(names.map((name) => readFile(isAbsolute(name) ? name : join(directory, name), "utf8")));
}

async function readCertificates(directory: string, files: readonly string[]): Promise<TlsFiles> {
  try {
    const authorities = await readAll(directory, files.filter((name) => name.endsWith(".crt")).sort());
    const clients: { certificate: string; key: string }[] = [];
    for (const name of files.filter((file) => file.endsWith(".cert")).sort()) {
      const key = `${name.slice(0, -".cert".length)}.key`;
      if (!files.includes(key)) throw new JsonShapeError(`${name} has no ${key} beside it`);
      const [certificate = "", keyText = ""] = await readAll(directory, [name, key]);
      clients.push({ certificate, key: keyText });
    }
    return { authorities, clients };
  } catch (error) {
    throw new DomainError("failed-precondition", `registry certificates in ${directory}: ${toError(error).message}`);
  }
}
