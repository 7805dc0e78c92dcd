/**
 * One pull's conversation with a registry and its mirrors (distribution-spec: pulling). It keeps the tokens that it was
 * given until the pull is over, and nothing longer: the next pull proves its credentials again.
 */
import { createHash, type Hash } from "node:crypto";
import { DomainError, describeError, type ErrorKind, toError } from "../../base/errors.ts";
import type { Digest } from "../../base/ids.ts";
import type { Operation } from "../../operation/context.ts";
import { asObject, optionalArray, optionalObject, optionalString } from "../json.ts";
import { type Descriptor, digestOf, maxDocumentBytes } from "../manifest.ts";
import { manifestAccept } from "../media-types.ts";
import { formatReference, isDigest, type Reference } from "../reference.ts";
import { parseChallenges } from "./challenge.ts";
import type { Credential, CredentialSource } from "./credentials.ts";
import type { Endpoint } from "./endpoints.ts";
import { type Headers, type HttpClient, type HttpResponse, ProtocolError, readBody, TransportError } from "./http.ts";

const maxErrorBytes = 8 * 1024;
const maxTokenBytes = 256 * 1024;
/** Attempts at one endpoint that bring no further byte; fewer where each may take the whole progress timeout. */
const maxAttempts = 4;
const maxStalledAttempts = 2;
/** Connections that were there and went away. One that cannot be made at all is not tried again: the caller will. */
const droppedCodes = new Set(["ECONNRESET", "EPIPE", "ETIMEDOUT", "STALLED"]);
const firstBackoffMs = 200;
const maxRetryAfterMs = 5_000;

export interface ManifestAnswer {
  readonly bytes: Buffer;
  /** Without parameters; "" where the registry said nothing. */
  readonly contentType: string;
  readonly digest: Digest;
  /** The host that answered. */
  readonly host: string;
}

/** An error that one more attempt at the same endpoint may mend. */
class RetryableError extends DomainError {
  readonly afterMs: number | null;
  readonly attempts: number;

  constructor(kind: ErrorKind, message: string, options: ErrorOptions, afterMs: number | null, attempts: number = maxAttempts) {
    super(kind, message, options);
    this.afterMs = afterMs;
    this.attempts = attempts;
  }
}

interface ErrorOptions {
  readonly cause?: unknown;
  readonly ids: Readonly<Record<string, string>>;
}

export class RegistryClient {
  readonly #http: HttpClient;
  readonly #reference: Reference;
  readonly #endpoints: readonly Endpoint[];
  readonly #credentials: CredentialSource;
  readonly #authorizations = new Map<Endpoint, string>();
  readonly #schemes = new Map<Endpoint, "https" | "http">();

  constructor(http: HttpClient, reference: Reference, endpoints: readonly Endpoint[], credentials: CredentialSource) {
    this.#http = http;
    this.#reference = reference;
    this.#endpoints = endpoints;
    this.#credentials = credentials;
  }

  /** By the reference's tag or digest, or by another digest of the same repository (an index's entry). Verified. */
  async manifest(op: Operation, digest: Digest | null = this.#reference.digest): Promise<ManifestAnswer> {
    const name = digest ?? this.#reference.tag ?? "";
    const what = `manifest ${name}`;
    const able = this.#endpoints.filter((endpoint) => (digest === null ? endpoint.canResolve : endpoint.canPull || endpoint.canResolve));
    return this.#firstOf(op, what, able, (endpoint) =>
      this.#retried(op, async () => {
        const response = await this.#get(op, endpoint, `manifests/${name}`, { accept: manifestAccept }, what);
        const bytes = await this.#guard(op, endpoint, what, () => readBody(response, maxDocumentBytes));
        const actual = digestOf(bytes);
        const announced = response.header("docker-content-digest");
        if (digest !== null && actual !== digest) throw this.#error("data-loss", endpoint, what, `the bytes received are ${actual}`);
        if (isDigest(announced) && announced !== actual) {
          throw this.#error("data-loss", endpoint, what, `the registry announced ${announced}, the bytes received are ${actual}`);
        }
        const contentType = response.header("content-type").split(";", 1)[0]?.trim().toLowerCase() ?? "";
        return { bytes, contentType, digest: actual, host: endpoint.host };
      }),
    );
  }

  /** A small blob, whole and verified. */
  async blob(op: Operation, descriptor: Descriptor): Promise<Buffer> {
    const parts: Buffer[] = [];
    for await (const chunk of this.download(op, descriptor)) parts.push(chunk);
    return Buffer.concat(parts);
  }

  /**
   * The bytes of a blob in order, counted and hashed on the way: it ends normally only where size and digest were right,
   * and throws data-loss otherwise, after the bytes were handed out. A connection that drops is taken up again where it was, if need
   * be at the next endpoint.
   */
  async *download(op: Operation, descriptor: Descriptor): AsyncGenerator<Buffer> {
    const what = `blob ${descriptor.digest}`;
    const progress = { received: 0, hash: createHash("sha256") };
    const able = this.#endpoints.filter((endpoint) => endpoint.canPull);
    const failures: DomainError[] = [];
    for (const endpoint of able) {
      let attempts = 0;
      for (;;) {
        const before = progress.received;
        try {
          yield* this.#downloadFrom(op, endpoint, descriptor, progress);
          this.#verify(endpoint, descriptor, progress);
          return;
        } catch (error) {
          const failure = this.#asError(op, endpoint, what, error);
          attempts = progress.received > before ? 1 : attempts + 1;
          if (failure instanceof RetryableError && attempts < failure.attempts) {
            await op.wait(backoffMs(failure, attempts));
            continue;
          }
          // Bytes that were handed out cannot be taken back: another endpoint could not mend them.
          if (failure.kind === "data-loss" && progress.received > 0) throw failure;
          failures.push(failure);
          break;
        }
      }
    }
    throw this.#joinFailures(what, failures);
  }

  async *#downloadFrom(
    op: Operation,
    endpoint: Endpoint,
    descriptor: Descriptor,
    progress: { received: number; hash: Hash },
  ): AsyncGenerator<Buffer> {
    const what = `blob ${descriptor.digest}`;
    const offset = progress.received;
    if (offset === descriptor.size && offset > 0) return;
    const headers: Headers = offset > 0 ? { range: `bytes=${offset}-` } : {};
    const response = await this.#get(op, endpoint, `blobs/${descriptor.digest}`, headers, what);
    const partial = response.status === 206;
    if (partial && offset === 0) throw this.#error("data-loss", endpoint, what, "a part was sent where all was asked for");
    if (partial && !response.header("content-range").startsWith(`bytes ${offset}-`)) {
      response.discard();
      throw this.#error("data-loss", endpoint, what, `another part was sent than the one from byte ${offset}`);
    }
    // A registry without ranges sends all again: what is known already is read over.
    let skip = partial ? 0 : offset;
    const length = response.header("content-length");
    if (length !== "" && Number(length) !== descriptor.size - (partial ? offset : 0)) {
      response.discard();
      throw this.#error(
        "data-loss",
        endpoint,
        what,
        `it has ${length} bytes from byte ${partial ? offset : 0}, its manifest says ${descriptor.size} in all`,
      );
    }
    for await (const chunk of response.chunks()) {
      const fresh = skip >= chunk.length ? chunk.subarray(0, 0) : chunk.subarray(skip);
      skip -= chunk.length - fresh.length;
      if (fresh.length === 0) continue;
      progress.received += fresh.length;
      if (progress.received > descriptor.size) {
        throw this.#error("data-loss", endpoint, what, `it has more than the ${descriptor.size} bytes that its manifest says`);
      }
      progress.hash.update(fresh);
      yield fresh;
    }
  }

  #verify(endpoint: Endpoint, descriptor: Descriptor, progress: { received: number; hash: Hash }): void {
    const what = `blob ${descriptor.digest}`;
    if (progress.received !== descriptor.size) {
      throw this.#error("data-loss", endpoint, what, `it has ${progress.received} bytes, its manifest says ${descriptor.size}`);
    }
    const actual = `sha256:${progress.hash.digest("hex")}`;
    if (actual !== descriptor.digest) throw this.#error("data-loss", endpoint, what, `the bytes received are ${actual}`);
  }

  // ---- endpoints and attempts -----------------------------------------------------------------------------------

  async #firstOf<T>(op: Operation, what: string, endpoints: readonly Endpoint[], ask: (endpoint: Endpoint) => Promise<T>): Promise<T> {
    const failures: DomainError[] = [];
    for (const endpoint of endpoints) {
      try {
        return await ask(endpoint);
      } catch (error) {
        failures.push(this.#asError(op, endpoint, what, error));
      }
    }
    throw this.#joinFailures(what, failures);
  }

  /** The registry's own answer decides; what the mirrors before it said is told beside it. */
  #joinFailures(what: string, failures: readonly DomainError[]): DomainError {
    const last = failures.at(-1);
    const image = formatReference(this.#reference);
    if (!last)
      return new DomainError("failed-precondition", `image ${image}: ${what}: no configured host may be asked for it`, { ids: { image } });
    if (failures.length === 1) return last;
    const before = failures.slice(0, -1).map((failure) => failure.message);
    return new DomainError(last.kind, `${last.message} (before it: ${before.join("; ")})`, { cause: last.cause, ids: last.ids });
  }

  async #retried<T>(op: Operation, ask: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await ask();
      } catch (error) {
        if (!(error instanceof RetryableError) || attempt >= error.attempts) throw error;
        await op.wait(backoffMs(error, attempt));
      }
    }
  }

  async #guard<T>(op: Operation, endpoint: Endpoint, what: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw this.#asError(op, endpoint, what, error);
    }
  }

  // ---- one request ----------------------------------------------------------------------------------------------

  /** A GET below the repository that was answered 200 or 206. */
  async #get(op: Operation, endpoint: Endpoint, path: string, headers: Headers, what: string): Promise<HttpResponse> {
    let response = await this.#send(op, endpoint, path, headers, what);
    if (response.status === 401) {
      response.discard();
      await this.#authorize(op, endpoint, response, what);
      response = await this.#send(op, endpoint, path, headers, what);
    }
    if (response.status === 200 || response.status === 206) return response;
    throw await this.#refusal(endpoint, response, what);
  }

  async #send(op: Operation, endpoint: Endpoint, path: string, headers: Headers, what: string): Promise<HttpResponse> {
    const authorization = this.#authorizations.get(endpoint);
    const known = this.#schemes.get(endpoint);
    const schemes = known === undefined ? endpoint.schemes : [known];
    let failure: unknown;
    for (const scheme of schemes) {
      try {
        const response = await this.#http.send(op, {
          method: "GET",
          url: new URL(`${scheme}://${endpoint.base}/${endpoint.repository}/${path}`),
          headers: { ...endpoint.headers, ...headers, ...(authorization === undefined ? {} : { authorization }) },
          verifyTls: endpoint.verifyTls,
          tls: endpoint.tls,
        });
        this.#schemes.set(endpoint, scheme);
        return response;
      } catch (error) {
        failure = error;
        if (!(error instanceof TransportError)) break;
      }
    }
    throw this.#asError(op, endpoint, what, failure);
  }

  async #refusal(endpoint: Endpoint, response: HttpResponse, what: string): Promise<DomainError> {
    const { status } = response;
    const retryAfter = response.header("retry-after");
    const said = await readBody(response, maxErrorBytes)
      .then(errorText)
      .catch(() => "");
    const detail = `status ${status}${said === "" ? "" : `: ${said}`}`;
    const kind = kindOfStatus(status);
    if (status === 429 || status >= 500) {
      const afterMs = /^\d{1,6}$/.test(retryAfter) ? Number(retryAfter) * 1000 : null;
      const message = this.#message(endpoint, what, detail);
      if (afterMs !== null && afterMs > maxRetryAfterMs) return new DomainError(kind, message, { ids: this.#ids(endpoint) });
      return new RetryableError(kind, message, { ids: this.#ids(endpoint) }, afterMs);
    }
    return this.#error(kind, endpoint, what, detail);
  }

  // ---- authentication -------------------------------------------------------------------------------------------

  async #authorize(op: Operation, endpoint: Endpoint, response: HttpResponse, what: string): Promise<void> {
    const challenges = parseChallenges(response.header("www-authenticate"));
    const credential = await this.#credentials.find(op, endpoint.host, endpoint.repository, !endpoint.isMirror);
    const bearer = challenges.find((challenge) => challenge.scheme === "bearer");
    const basic = challenges.find((challenge) => challenge.scheme === "basic");
    if (credential.kind === "bearer") {
      if (this.#authorizations.has(endpoint)) throw this.#error("unauthenticated", endpoint, what, "the registry token was refused");
      this.#authorizations.set(endpoint, `Bearer ${credential.token}`);
      return;
    }
    if (bearer) {
      const token = await this.#fetchToken(op, endpoint, bearer.parameters, credential, what);
      this.#authorizations.set(endpoint, `Bearer ${token}`);
      return;
    }
    if (basic && credential.kind === "basic") {
      // To the origin that was asked, never to one that it redirected to.
      const origin = new URL(`${this.#schemes.get(endpoint) ?? "https"}://${endpoint.base}`).origin;
      if (response.url.origin !== origin)
        throw this.#error("unauthenticated", endpoint, what, `${response.url.host}, to which it redirects, wants credentials`);
      const authorization = `Basic ${Buffer.from(`${credential.username}:${credential.password}`).toString("base64")}`;
      if (this.#authorizations.get(endpoint) === authorization)
        throw this.#error("unauthenticated", endpoint, what, "user and password were refused");
      this.#authorizations.set(endpoint, authorization);
      return;
    }
    const wanted = challenges.map((challenge) => challenge.scheme).join(", ") || "nothing known";
    const has = credential.kind === "anonymous" ? "there are no credentials for it" : "the credentials are of another kind";
    throw this.#error("unauthenticated", endpoint, what, `it asks for ${wanted}, and ${has}`);
  }

  /** distribution: token.md (GET) and oauth.md (POST, for refresh tokens). */
  async #fetchToken(
    op: Operation,
    endpoint: Endpoint,
    parameters: ReadonlyMap<string, string>,
    credential: Credential,
    what: string,
  ): Promise<string> {
    const realm = this.#realm(endpoint, parameters.get("realm") ?? "", what);
    const service = parameters.get("service") ?? "";
    const scope = parameters.get("scope") ?? `repository:${endpoint.repository}:pull`;
    const step = `token for ${what}`;
    const options = {
      verifyTls: endpoint.verifyTls,
      tls: realm.host === endpoint.host ? endpoint.tls : { authorities: endpoint.tls.authorities, clients: [] },
    };
    const answer = await this.#retried(op, () =>
      this.#guard(op, endpoint, step, async () => {
        const response =
          credential.kind === "identity"
            ? await this.#http.send(op, {
                ...options,
                method: "POST",
                url: realm,
                headers: { "content-type": "application/x-www-form-urlencoded", accept: "application/json" },
                body: new URLSearchParams({
                  grant_type: "refresh_token",
                  service,
                  scope,
                  client_id: "berth",
                  refresh_token: credential.token,
                }).toString(),
              })
            : await this.#http.send(op, {
                ...options,
                method: "GET",
                url: tokenUrl(realm, service, scope),
                headers: tokenHeaders(credential),
              });
        if (response.status === 200) return readBody(response, maxTokenBytes);
        const refusal = await this.#refusal(endpoint, response, step);
        // A token service says 400 or 403 to a wrong password as well.
        if (response.status >= 400 && response.status < 500 && response.status !== 429) {
          throw this.#error("unauthenticated", endpoint, step, `${realm.host} refused: ${refusal.message}`);
        }
        throw refusal;
      }),
    );
    try {
      const object = asObject(JSON.parse(answer.toString("utf8")), "the answer");
      const token = optionalString(object["token"], "token") || optionalString(object["access_token"], "access_token");
      if (/^[\x21-\x7e]+$/.test(token)) return token;
    } catch {
      // Its text may hold the token.
    }
    throw this.#error("unauthenticated", endpoint, step, `${realm.host} sent no token`);
  }

  #realm(endpoint: Endpoint, text: string, what: string): URL {
    let realm: URL;
    try {
      realm = new URL(text);
    } catch {
      throw this.#error("unauthenticated", endpoint, what, "its token service has no valid address");
    }
    const secure = (this.#schemes.get(endpoint) ?? "https") === "https";
    if (realm.protocol !== "https:" && !(realm.protocol === "http:" && !secure)) {
      throw this.#error("unauthenticated", endpoint, what, `its token service ${realm.host} is not reached by https`);
    }
    // Cloud metadata services answer there.
    if (/^(169\.254\.|\[fe80:|\[fd00:ec2:)/i.test(realm.hostname)) {
      throw this.#error("permission-denied", endpoint, what, `its token service ${realm.host} is a link-local address`);
    }
    realm.username = "";
    realm.password = "";
    return realm;
  }

  // ---- errors ---------------------------------------------------------------------------------------------------

  #message(endpoint: Endpoint, what: string, detail: string): string {
    return `image ${formatReference(this.#reference)}: ${what} from ${endpoint.host}: ${detail}`;
  }

  #ids(endpoint: Endpoint): Record<string, string> {
    return { image: formatReference(this.#reference), host: endpoint.host };
  }

  #error(kind: ErrorKind, endpoint: Endpoint, what: string, detail: string): DomainError {
    return new DomainError(kind, this.#message(endpoint, what, detail), { ids: this.#ids(endpoint) });
  }

  #asError(op: Operation, endpoint: Endpoint, what: string, error: unknown): DomainError {
    if (op.signal.aborted) throw toError(op.signal.reason);
    if (error instanceof DomainError) return error;
    const options = { cause: error, ids: this.#ids(endpoint) };
    const message = this.#message(endpoint, what, describeError(error));
    if (error instanceof TransportError) {
      if (!droppedCodes.has(error.code)) return new DomainError("registry-unavailable", message, options);
      return new RetryableError(
        "registry-unavailable",
        message,
        options,
        null,
        error.code === "STALLED" ? maxStalledAttempts : maxAttempts,
      );
    }
    if (error instanceof ProtocolError) return new DomainError("data-loss", message, options);
    return new DomainError("internal", message, options);
  }
}

function backoffMs(error: RetryableError, attempt: number): number {
  return error.afterMs ?? firstBackoffMs * 2 ** (attempt - 1);
}

function kindOfStatus(status: number): ErrorKind {
  if (status === 401) return "unauthenticated";
  if (status === 403) return "permission-denied";
  if (status === 404) return "not-found";
  if (status === 429 || status >= 500) return "registry-unavailable";
  return "failed-precondition";
}

/** `errors[].code` and `.message` of a registry's answer (distribution-spec: error codes), fit for a log line. */
function errorText(body: Buffer): string {
  const text = body.toString("utf8");
  let parts: string[];
  try {
    const object = asObject(JSON.parse(text), "it");
    parts = optionalArray(object["errors"], "errors", 10).map((item) => {
      const entry = optionalObject(item, "error") ?? {};
      return [optionalString(entry["code"], "code"), optionalString(entry["message"], "message")].filter((part) => part !== "").join(" ");
    });
    if (parts.length === 0) parts = [optionalString(object["details"], "details") || optionalString(object["message"], "message")];
  } catch {
    parts = [];
  }
  return parts
    .join(", ")
    .replace(/[^\x20-\x7e]+/g, " ")
    .slice(0, 300);
}

function tokenUrl(realm: URL, service: string, scope: string): URL {
  const url = new URL(realm);
  if (service !== "") url.searchParams.set("service", service);
  for (const part of scope.split(" ")) url.searchParams.append("scope", part);
  return url;
}

function tokenHeaders(credential: Credential): Headers {
  const accept = { accept: "application/json" };
  if (credential.kind !== "basic") return accept;
  return { ...accept, authorization: `Basic ${Buffer.from(`${credential.username}:${credential.password}`).toString("base64")}` };
}
