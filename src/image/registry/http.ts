/**
 * HTTP to registries over node:http and node:https: keep-alive connections, redirects by rule, and a limit for the time
 * without progress instead of one for the whole, because nobody knows how large a layer is.
 */
import http from "node:http";
import https from "node:https";
import { rootCertificates } from "node:tls";
import { toError } from "../../base/errors.ts";
import type { Operation } from "../../operation/context.ts";
import type { TlsFiles } from "./hosts-toml.ts";

export type Headers = Readonly<Record<string, string>>;

export interface HttpRequest {
  readonly method: "GET" | "HEAD" | "POST";
  readonly url: URL;
  readonly headers: Headers;
  readonly body?: string;
  readonly verifyTls: boolean;
  readonly tls: TlsFiles;
}

export interface HttpResponse {
  readonly status: number;
  readonly url: URL;
  header(name: string): string;
  /** Chunks of the body as they come. To be read to the end, or `discard`ed. */
  chunks(): AsyncGenerator<Buffer>;
  discard(): void;
}

/** The connection failed, or went silent: nothing that the registry has said. */
export class TransportError extends Error {
  readonly code: string;

  constructor(message: string, code: string, cause?: unknown) {
    super(message, { cause });
    this.name = "TransportError";
    this.code = code;
  }
}

/** An answer that may not be followed or read. */
export class ProtocolError extends Error {}

const maxRedirects = 10;
const redirectStatuses = new Set([301, 302, 303, 307, 308]);

export class HttpClient {
  readonly #progressTimeoutMs: number;
  readonly #agents = new Map<string, http.Agent>();

  constructor(progressTimeoutMs: number) {
    this.#progressTimeoutMs = progressTimeoutMs;
  }

  /**
   * Follows at most ten redirects, never from https to http. Authorization, and every header that configuration adds, goes
   * to the first origin alone. Rejects with TransportError, ProtocolError, or the operation's reason.
   */
  async send(op: Operation, request: HttpRequest): Promise<HttpResponse> {
    let { url, headers } = request;
    for (let hops = 0; ; hops += 1) {
      const response = await this.#sendOnce(op, { ...request, url, headers });
      const location = response.header("location");
      if (!redirectStatuses.has(response.status) || location === "" || request.method === "POST") return response;
      response.discard();
      if (hops >= maxRedirects) throw new ProtocolError(`more than ${maxRedirects} redirects`);
      const next = parseUrl(location, url);
      if (next === null || (next.protocol !== "https:" && next.protocol !== "http:"))
        throw new ProtocolError("a redirect to something else than http");
      if (url.protocol === "https:" && next.protocol === "http:") throw new ProtocolError(`a redirect from https to http (${next.host})`);
      next.username = "";
      next.password = "";
      if (next.origin !== url.origin) headers = crossOriginHeaders(headers);
      url = next;
    }
  }

  close(): void {
    for (const agent of this.#agents.values()) agent.destroy();
    this.#agents.clear();
  }

  #sendOnce(op: Operation, request: HttpRequest): Promise<HttpResponse> {
    op.throwIfAborted();
    const secure = request.url.protocol === "https:";
    const { promise, resolve, reject } = withResolvers<HttpResponse>();
    // Silence counts only while somebody waits: a reader that holds back because its disk is slow is no stalled registry.
    const state = { waiting: true, expired: false };
    const outgoing = (secure ? https : http).request(request.url, {
      method: request.method,
      agent: this.#agent(request, secure),
      headers: { "user-agent": "berth/0.1.0", "accept-encoding": "identity", ...request.headers },
      signal: op.signal,
      timeout: this.#progressTimeoutMs,
    });
    const fail = (error: unknown): Error => {
      if (op.signal.aborted) return toError(op.signal.reason);
      if (error instanceof TransportError) return error;
      const { code = "", message } = toError(error) as NodeJS.ErrnoException;
      return new TransportError(code === "" || message.includes(code) ? message : `${message} (${code})`, code, error);
    };
    outgoing.on("timeout", () => {
      if (state.waiting) outgoing.destroy(new TransportError(`no progress for ${this.#progressTimeoutMs} ms`, "STALLED"));
      else state.expired = true;
    });
    outgoing.on("error", (error) => reject(fail(error)));
    outgoing.on("response", (incoming) => {
      // Without a listener, an error between two reads would end the process; the next read reports it.
      incoming.on("error", () => undefined);
      state.waiting = false;
      resolve({
        status: incoming.statusCode ?? 0,
        url: request.url,
        header: (name) => {
          const value = incoming.headers[name];
          return Array.isArray(value) ? value.join(", ") : (value ?? "");
        },
        chunks: () => this.#chunks(incoming, state, fail),
        discard: () => incoming.destroy(),
      });
    });
    outgoing.end(request.body);
    return promise;
  }

  async *#chunks(
    incoming: http.IncomingMessage,
    state: { waiting: boolean; expired: boolean },
    fail: (error: unknown) => Error,
  ): AsyncGenerator<Buffer> {
    const iterator = incoming[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
    try {
      for (;;) {
        state.waiting = true;
        if (state.expired) {
          state.expired = false;
          incoming.socket.setTimeout(this.#progressTimeoutMs);
        }
        const { done, value } = await iterator.next();
        state.waiting = false;
        if (done) break;
        yield value;
      }
      if (!incoming.complete) throw new TransportError("the connection ended before the answer did", "ECONNRESET");
    } catch (error) {
      throw fail(error);
    } finally {
      if (!incoming.complete) incoming.destroy();
    }
  }

  #agent(request: HttpRequest, secure: boolean): http.Agent {
    const key = secure ? JSON.stringify([request.verifyTls, request.tls]) : "plain";
    let agent = this.#agents.get(key);
    if (!agent) {
      const common = { keepAlive: true, maxSockets: 32, maxFreeSockets: 8 };
      const { authorities, clients } = request.tls;
      agent = secure
        ? new https.Agent({
            ...common,
            rejectUnauthorized: request.verifyTls,
            minVersion: "TLSv1.2",
            ...(authorities.length > 0 ? { ca: [...rootCertificates, ...authorities] } : {}),
            ...(clients.length > 0 ? { cert: clients.map((pair) => pair.certificate), key: clients.map((pair) => pair.key) } : {}),
          })
        : new http.Agent(common);
      this.#agents.set(key, agent);
    }
    return agent;
  }
}

/** Reads a body of at most `maxBytes`; a longer one is a ProtocolError. */
export async function readBody(response: HttpResponse, maxBytes: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const chunk of response.chunks()) {
    size += chunk.length;
    if (size > maxBytes) throw new ProtocolError(`an answer of more than ${maxBytes} bytes`);
    parts.push(chunk);
  }
  return Buffer.concat(parts);
}

function crossOriginHeaders(headers: Headers): Headers {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name === "accept" || name === "range"));
}

function parseUrl(text: string, base: URL): URL | null {
  try {
    return new URL(text, base);
  } catch {
    return null;
  }
}

function withResolvers<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (error: Error) => void } {
  let resolve: (value: T) => void = () => undefined;
  let reject: (error: Error) => void = () => undefined;
  const promise = new Promise<T>((onValue, onError) => {
    resolve = onValue;
    reject = onError;
  });
  return { promise, resolve, reject };
}
