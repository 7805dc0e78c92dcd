/**
 * Credentials for a registry: those of the call, or what `auth.json` (containers-auth.json(5), Docker's config.json) has:
 * `auths` by name, `credHelpers` by host, `credsStore` for all. They live in memory for the length of a pull, and no message
 * or log line has them.
 */
import { readFile } from "node:fs/promises";
import { DomainError, toError } from "../../base/errors.ts";
import type { Kernel } from "../../kernel/contract.ts";
import type { Operation } from "../../operation/context.ts";
import { asObject, asString, type JsonObject, optionalObject, optionalString } from "../json.ts";
import { dockerHost, type Reference } from "../reference.ts";
import type { RegistryAuth } from "../types.ts";

export type Credential =
  | { readonly kind: "anonymous" }
  | { readonly kind: "basic"; readonly username: string; readonly password: string }
  /** OAuth2 refresh token, exchanged at the registry's token service. */
  | { readonly kind: "identity"; readonly username: string; readonly token: string }
  /** Sent as it is. */
  | { readonly kind: "bearer"; readonly token: string };

export const anonymous: Credential = { kind: "anonymous" };

export interface CredentialSource {
  /** For a host that is asked for a repository; `isRequested` where it is the host of the reference itself. */
  find(op: Operation, host: string, repository: string, isRequested: boolean): Promise<Credential>;
}

const helperDirectories = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/libexec/docker/cli-plugins"];
const helperTimeoutMs = 30_000;

export function createCredentialSource(
  kernel: Pick<Kernel, "runProgram">,
  authFile: string,
  auth: RegistryAuth | null,
  reference: Reference,
): CredentialSource {
  return {
    async find(op, host, repository, isRequested) {
      const given = auth === null ? null : fromCall(auth);
      // Never to another host than the one that they are for.
      if (auth !== null && given !== null && servesHost(auth, reference.host, host, isRequested)) return given;
      if (given !== null && isRequested) return anonymous;
      return (await fromFile(op, kernel, authFile, host, repository)) ?? anonymous;
    },
  };
}

function servesHost(auth: RegistryAuth, referenceHost: string, host: string, isRequested: boolean): boolean {
  if (auth.serverAddress === "") return isRequested;
  const address = serverHost(auth.serverAddress);
  return address === canonicalHost(host) || (isRequested && address === canonicalHost(referenceHost));
}

/** Null where all fields are empty: an AuthConfig that says nothing. */
export function fromCall(auth: RegistryAuth): Credential | null {
  if (auth.registryToken !== "") return { kind: "bearer", token: auth.registryToken };
  if (auth.identityToken !== "") return { kind: "identity", username: auth.username, token: auth.identityToken };
  if (auth.username !== "" || auth.password !== "") return { kind: "basic", username: auth.username, password: auth.password };
  if (auth.auth !== "") return decodeAuth(auth.auth, "the credentials of the request");
  return null;
}

function decodeAuth(text: string, where: string): Credential {
  const decoded = Buffer.from(text, "base64").toString("utf8").replace(/\0+$/, "");
  const colon = decoded.indexOf(":");
  if (colon < 1) throw new DomainError("invalid-argument", `${where} are not base64 of user:password`);
  return { kind: "basic", username: decoded.slice(0, colon), password: decoded.slice(colon + 1) };
}

function serverHost(address: string): string {
  return canonicalHost(address.replace(/^https?:\/\//, "").split("/", 1)[0] ?? "");
}

function canonicalHost(host: string): string {
  return host === "index.docker.io" || host === "registry-1.docker.io" ? dockerHost : host;
}

// ---- auth.json --------------------------------------------------------------------------------------------------

async function fromFile(
  op: Operation,
  kernel: Pick<Kernel, "runProgram">,
  authFile: string,
  host: string,
  repository: string,
): Promise<Credential | null> {
  const root = await readAuthFile(authFile);
  if (root === null) return null;
  const canonical = canonicalHost(host);
  try {
    const helpers = optionalObject(root["credHelpers"], "credHelpers") ?? {};
    const helper = helpers[canonical] ?? helpers[host];
    if (helper !== undefined) return await askHelper(op, kernel, asString(helper, `credHelpers.${host}`), canonical);
    const found = lookUp(optionalObject(root["auths"], "auths") ?? {}, canonical, repository);
    if (found !== null) return found;
    const store = optionalString(root["credsStore"], "credsStore");
    if (store !== "") return await askHelper(op, kernel, store, canonical === dockerHost ? "https://index.docker.io/v1/" : canonical);
  } catch (error) {
    if (error instanceof DomainError) throw error;
    throw new DomainError("failed-precondition", `credentials file ${authFile}: ${toError(error).message}`);
  }
  return null;
}

async function readAuthFile(authFile: string): Promise<JsonObject | null> {
  if (authFile === "") return null;
  let text: string;
  try {
    text = await readFile(authFile, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw new DomainError("failed-precondition", `credentials file ${authFile} cannot be read`, { cause: error });
  }
  try {
    return asObject(JSON.parse(text), "it");
  } catch {
    // The parser's message would quote the file.
    throw new DomainError("failed-precondition", `credentials file ${authFile} is not a JSON object`);
  }
}

/** The most specific name first: `host/a/b`, `host/a`, `host`, then the forms that older clients wrote. */
function lookUp(auths: JsonObject, host: string, repository: string): Credential | null {
  const names: string[] = [];
  for (let name = `${host}/${repository}`; ; name = name.slice(0, name.lastIndexOf("/"))) {
    names.push(name);
    if (!name.includes("/")) break;
  }
  names.push(`https://${host}`, `https://${host}/`, `https://${host}/v1/`, `https://${host}/v2/`, `http://${host}`);
  if (host === dockerHost)
    names.push("index.docker.io", "https://index.docker.io/v1/", "https://index.docker.io/v1", "registry-1.docker.io");
  for (const name of names) {
    const value = auths[name];
    if (value === undefined) continue;
    const entry = asObject(value, `auths[${JSON.stringify(name)}]`);
    const identity = optionalString(entry["identitytoken"], "identitytoken");
    const registry = optionalString(entry["registrytoken"], "registrytoken");
    const auth = optionalString(entry["auth"], "auth");
    const basic = auth === "" ? null : decodeAuth(auth, `the credentials for ${name} in the credentials file`);
    if (registry !== "") return { kind: "bearer", token: registry };
    if (identity !== "") return { kind: "identity", username: basic?.kind === "basic" ? basic.username : "", token: identity };
    if (basic) return basic;
    const username = optionalString(entry["username"], "username");
    if (username !== "") return { kind: "basic", username, password: optionalString(entry["password"], "password") };
  }
  return null;
}

/** `docker-credential-<name> get`: the server on standard input, JSON on standard output. Null where it knows nothing. */
async function askHelper(op: Operation, kernel: Pick<Kernel, "runProgram">, name: string, server: string): Promise<Credential | null> {
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(name))
    throw new DomainError("failed-precondition", `credential helper name ${JSON.stringify(name)} is malformed`);
  const program = `docker-credential-${name}`;
  for (const directory of helperDirectories) {
    const path = `${directory}/${program}`;
    const run = kernel.runProgram({
      path,
      args: [program, "get"],
      env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
      cwd: "/",
      stdin: Buffer.from(server),
      maxOutputBytes: 64 * 1024,
      timeoutMs: helperTimeoutMs,
    });
    const stop = (): void => run.kill();
    op.signal.addEventListener("abort", stop, { once: true });
    try {
      const result = await op.race(run.result);
      const output = Buffer.from(result.stdout).toString("utf8");
      if (result.exitCode !== 0) {
        if (/credentials not found/i.test(output)) return null;
        // What it printed may quote a secret.
        const how = result.timedOut ? "did not answer in time" : `exited with ${result.exitCode ?? `signal ${result.signal ?? 0}`}`;
        throw new DomainError("failed-precondition", `credential helper ${path} ${how} for ${server}`);
      }
      return parseHelperOutput(output, path);
    } catch (error) {
      if ((error as { errno?: unknown }).errno === "ENOENT") continue;
      throw error;
    } finally {
      op.signal.removeEventListener("abort", stop);
    }
  }
  throw new DomainError("failed-precondition", `credential helper ${program} is not in ${helperDirectories.join(", ")}`);
}

function parseHelperOutput(output: string, path: string): Credential | null {
  let object: JsonObject;
  try {
    object = asObject(JSON.parse(output), "it");
    const username = asString(object["Username"], "Username");
    const secret = asString(object["Secret"], "Secret");
    if (username === "" && secret === "") return null;
    return username === "<token>" ? { kind: "identity", username: "", token: secret } : { kind: "basic", username, password: secret };
  } catch {
    throw new DomainError("failed-precondition", `credential helper ${path} printed something else than its credentials`);
  }
}
