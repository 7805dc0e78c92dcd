/**
 * The HTTP server of the streams: `GET|POST /{exec,attach,portforward}/{token}` with an upgrade to SPDY/3.1 or WebSocket.
 * It knows neither containers nor tokens: the authority says what a token is good for.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from "node:http";
import { createServer as createTlsServer, type Server as TlsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";
import { DomainError } from "../base/errors.ts";
import type { StreamKind } from "./messages.ts";
import {
  chooseSpdyCommand,
  chooseWebSocketCommand,
  headerWords,
  portForwardProtocol,
  spdyCommandNames,
  tunnelProtocol,
} from "./protocols.ts";
import { CommandRun, type CommandSource } from "./run-command.ts";
import type { StreamSession, WantedStreams } from "./session.ts";
import { PortForward } from "./spdy/port-forward.ts";
import { acceptSpdyCommand } from "./spdy/remote-command.ts";
import { readTls, type TlsFiles, versionOf } from "./tls.ts";
import { WebSocketCommandSession } from "./websocket/remote-command.ts";
import { WebSocketTunnel } from "./websocket/tunnel.ts";

/** What a token is good for. `released` must be called once, when the session is over. */
export type Claim =
  | {
      readonly kind: "exec" | "attach";
      readonly id: number;
      readonly wanted: WantedStreams;
      readonly source: CommandSource;
      released(): void;
    }
  | { readonly kind: "portforward"; readonly id: number; dial(port: number): Promise<Socket>; released(): void };

export interface StreamServerOptions {
  readonly host: string;
  readonly port: number;
  readonly tls: TlsFiles | null;
  readonly idleTimeoutMs: number;
  readonly creationTimeoutMs: number;
  /** Takes the token away: it cannot be claimed again. null: unknown, used, expired or of another kind. */
  claim(kind: StreamKind, token: string): Promise<Claim | null>;
  log(level: "debug" | "info" | "warn", fields: Record<string, unknown>, message: string): void;
}

export interface StreamServer {
  readonly host: string;
  readonly port: number;
  readonly sessions: number;
  /** Looks at the certificate now instead of at the next turn. */
  reloadTls(): Promise<void>;
  /** No new connection; every session ends with `reason`, and is cut off after `graceMs`. Idempotent. */
  stop(reason: string, graceMs: number): Promise<void>;
}

const requestTimeoutMs = 10_000;
const maxHeaderBytes = 16 * 1024;
const maxConnections = 8_192;
/** A client sends its input in messages of some KiB; one is kept whole before it is passed on. */
const maxMessageBytes = 16 << 20;
const keepAliveMs = 30_000;
const tlsLookMs = 10_000;
/** An attach must keep up with its container, as nothing waits for it: a short delay is bridged by this much. */
const attachBufferBytes = 8 << 20;
const execBufferBytes = 512 * 1024;

export async function startStreamServer(options: StreamServerOptions): Promise<StreamServer> {
  const server = new HttpStreamServer(options);
  await server.listen();
  return server;
}

interface Route {
  readonly kind: StreamKind;
  readonly token: string;
}

interface Refusal {
  readonly status: number;
  readonly text: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Something that can be ended from outside. */
interface Running {
  end(reason: string): void;
  cut(): void;
}

class HttpStreamServer implements StreamServer {
  readonly #options: StreamServerOptions;
  readonly #webSockets: WebSocketServer;
  readonly #chosen = new WeakMap<IncomingMessage, string>();
  readonly #upgraded = new Set<Duplex>();
  readonly #running = new Set<Running>();
  #server: Server | TlsServer | null = null;
  #tlsVersion = "";
  #tlsLook: NodeJS.Timeout | null = null;
  #stopping: Promise<void> | null = null;
  #idle: () => void = () => undefined;
  host = "";
  port = 0;

  constructor(options: StreamServerOptions) {
    this.#options = options;
    this.#webSockets = new WebSocketServer({
      noServer: true,
      perMessageDeflate: false,
      maxPayload: maxMessageBytes,
      clientTracking: false,
    });
    this.#webSockets.on("headers", (headers, request) => {
      const name = this.#chosen.get(request) ?? "";
      if (name !== "") headers.push(`Sec-WebSocket-Protocol: ${name}`);
    });
  }

  get sessions(): number {
    return this.#running.size;
  }

  get #isStopping(): boolean {
    return this.#stopping !== null;
  }

  async listen(): Promise<void> {
    const { host, port, tls } = this.#options;
    const limits = { requestTimeout: requestTimeoutMs, headersTimeout: requestTimeoutMs, maxHeaderSize: maxHeaderBytes };
    let server: Server | TlsServer;
    if (tls) {
      const { cert, key, ca, version } = await readTls(tls);
      this.#tlsVersion = version;
      server = createTlsServer({
        ...limits,
        cert,
        key,
        minVersion: "TLSv1.2",
        handshakeTimeout: requestTimeoutMs,
        ...(ca ? { ca, requestCert: true, rejectUnauthorized: true } : {}),
      });
      this.#tlsLook = setInterval(() => void this.reloadTls(), tlsLookMs).unref();
    } else server = createServer(limits);
    this.#server = server;
    server.maxConnections = maxConnections;
    server.keepAliveTimeout = requestTimeoutMs;
    server.on("request", (request, response) => this.#request(request, response));
    server.on("upgrade", (request, socket, head) => void this.#upgrade(request, socket, head));
    await new Promise<void>((resolve, reject) => {
      const onError = (error: Error): void => {
        this.#stopLooking();
        reject(new DomainError("unavailable", `streaming cannot listen on ${host}:${port}: ${error.message}`, { cause: error }));
      };
      server.once("error", onError);
      server.listen({ host, port }, () => {
        server.off("error", onError);
        resolve();
      });
    });
    server.on("error", (error) => this.#options.log("warn", { err: error.message }, "streaming server"));
    const bound = server.address() as AddressInfo;
    this.host = bound.address;
    this.port = bound.port;
  }

  async reloadTls(): Promise<void> {
    const { tls, log } = this.#options;
    const server = this.#server;
    if (!tls || !server || !("setSecureContext" in server) || this.#isStopping) return;
    try {
      if ((await versionOf(tls)) === this.#tlsVersion) return;
      const { cert, key, ca, version } = await readTls(tls);
      server.setSecureContext({ cert, key, minVersion: "TLSv1.2", ...(ca ? { ca } : {}) });
      this.#tlsVersion = version;
      log("info", {}, "the certificate of the streaming server is replaced");
    } catch (error) {
      log("warn", { err: (error as Error).message }, "the certificate of the streaming server is kept: the new one cannot be used");
    }
  }

  stop(reason: string, graceMs: number): Promise<void> {
    this.#stopping ??= this.#stop(reason, graceMs);
    return this.#stopping;
  }

  async #stop(reason: string, graceMs: number): Promise<void> {
    this.#stopLooking();
    const server = this.#server;
    const closed = new Promise<void>((resolve) => (server ? server.close(() => resolve()) : resolve()));
    server?.closeAllConnections();
    for (const running of [...this.#running]) running.end(reason);
    if (this.#upgraded.size > 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, graceMs);
        this.#idle = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    for (const running of [...this.#running]) running.cut();
    for (const socket of this.#upgraded) socket.destroy();
    await closed;
  }

  #stopLooking(): void {
    if (this.#tlsLook) clearInterval(this.#tlsLook);
  }

  // ---- requests ------------------------------------------------------------------------------------------------

  /** Without an upgrade there is no stream; the answers are those of one with it. */
  #request(request: IncomingMessage, response: ServerResponse): void {
    const answer = ({ status, text, headers }: Refusal): void => {
      response.writeHead(status, {
        "Content-Type": "text/plain; charset=utf-8",
        "Cache-Control": "no-store",
        Connection: "close",
        ...headers,
      });
      response.end(`${text}\n`);
    };
    this.#admit(request).then(
      (admitted) => {
        if (!("claim" in admitted)) answer(admitted);
        else {
          admitted.claim.released();
          answer({ status: 400, text: "an upgrade to SPDY/3.1 or WebSocket is required" });
        }
      },
      (error: Error) => {
        this.#options.log("warn", { err: error.message }, "a streaming request failed");
        answer({ status: 500, text: "internal error" });
      },
    );
  }

  async #admit(request: IncomingMessage): Promise<Refusal | { readonly claim: Claim }> {
    if (this.#isStopping) return { status: 503, text: "the runtime is stopping" };
    // Browsers send it; nothing that has business here does.
    if (request.headers.origin !== undefined) return { status: 403, text: "requests from web pages are refused" };
    if (request.method !== "GET" && request.method !== "POST")
      return { status: 405, text: "method not allowed", headers: { Allow: "GET, POST" } };
    const route = parseRoute(request.url ?? "");
    const claim = route && (await this.#options.claim(route.kind, route.token));
    return claim ? { claim } : { status: 404, text: "not found" };
  }

  async #upgrade(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    const { log, idleTimeoutMs } = this.#options;
    this.#upgraded.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => {
      this.#upgraded.delete(socket);
      if (this.#upgraded.size === 0) this.#idle();
    });
    const tcp = socket as Socket;
    tcp.setNoDelay(true);
    tcp.setKeepAlive(true, keepAliveMs);
    tcp.setTimeout(idleTimeoutMs, () => {
      log("info", { idleTimeoutMs }, "a stream without traffic is closed");
      socket.destroy();
    });
    let claim: Claim | null = null;
    try {
      const admitted = await this.#admit(request);
      if (!("claim" in admitted)) {
        refuse(socket, admitted);
        return;
      }
      ({ claim } = admitted);
      const refusal = socket.destroyed ? null : this.#serve(claim, request, socket, head);
      if (!refusal) return;
      refuse(socket, refusal);
    } catch (error) {
      log("warn", { err: (error as Error).message }, "a streaming request failed");
      refuse(socket, { status: 500, text: "internal error" });
    } finally {
      // What serves it now releases it.
      if (claim && !this.#served.delete(claim)) claim.released();
    }
  }

  /** Claims that a session has taken over. */
  readonly #served = new WeakSet<Claim>();

  #serve(claim: Claim, request: IncomingMessage, socket: Duplex, head: Buffer): Refusal | null {
    const protocols = headerWords(request.headers.upgrade).map((name) => name.toLowerCase());
    if (protocols.includes("spdy/3.1")) return this.#serveSpdy(claim, request, socket, head);
    if (protocols.includes("websocket")) return this.#serveWebSocket(claim, request, socket, head);
    return { status: 400, text: "an upgrade to SPDY/3.1 or WebSocket is required" };
  }

  #serveSpdy(claim: Claim, request: IncomingMessage, socket: Duplex, head: Buffer): Refusal | null {
    const offers = headerWords(request.headers["x-stream-protocol-version"]);
    if (claim.kind === "portforward") {
      if (offers.length > 0 && !offers.includes(portForwardProtocol)) return unknownProtocol(offers, [portForwardProtocol]);
      this.#served.add(claim);
      switchToSpdy(socket, offers.length > 0 ? portForwardProtocol : "");
      this.#forward(claim, socket, head);
      return null;
    }
    const chosen = chooseSpdyCommand(offers);
    if (!chosen) return unknownProtocol(offers, spdyCommandNames);
    this.#served.add(claim);
    switchToSpdy(socket, chosen.name);
    acceptSpdyCommand({
      transport: socket,
      head,
      version: chosen.protocol,
      wanted: claim.wanted,
      creationTimeoutMs: this.#options.creationTimeoutMs,
      outputLimitBytes: outputLimit(claim.kind),
    }).then(
      (session) => this.#run(claim, session),
      (error: Error) => {
        this.#options.log("info", { session: claim.id, err: error.message }, "a stream did not begin");
        claim.released();
      },
    );
    return null;
  }

  #serveWebSocket(claim: Claim, request: IncomingMessage, socket: Duplex, head: Buffer): Refusal | null {
    if (request.method !== "GET") return { status: 405, text: "WebSocket needs GET", headers: { Allow: "GET" } };
    if (!/^(8|13)$/.test(request.headers["sec-websocket-version"] ?? "")) {
      return { status: 426, text: "WebSocket version 13 is spoken here", headers: { "Sec-WebSocket-Version": "13" } };
    }
    if (!/^[+/0-9A-Za-z]{22}==$/.test(request.headers["sec-websocket-key"] ?? "")) return { status: 400, text: "no Sec-WebSocket-Key" };
    const offers = headerWords(request.headers["sec-websocket-protocol"]);
    const isForward = claim.kind === "portforward";
    if (isForward && !offers.includes(tunnelProtocol)) return unknownProtocol(offers, [tunnelProtocol]);
    const command = isForward ? null : chooseWebSocketCommand(offers);
    if (!isForward && !command) return unknownProtocol(offers, ["v5.channel.k8s.io", "v4.channel.k8s.io"]);
    // The library takes the tunnel's name for malformed, as it holds a slash; it is negotiated here instead.
    delete request.headers["sec-websocket-protocol"];
    this.#chosen.set(request, command ? command.name : tunnelProtocol);
    this.#webSockets.handleUpgrade(request, socket, head, (webSocket: WebSocket) => {
      this.#served.add(claim);
      if (claim.kind === "portforward") this.#forward(claim, new WebSocketTunnel(webSocket), Buffer.alloc(0));
      else if (command) {
        this.#run(claim, new WebSocketCommandSession(webSocket, command.protocol, claim.wanted, outputLimit(claim.kind)));
      }
    });
    return null;
  }

  // ---- sessions ------------------------------------------------------------------------------------------------

  #run(claim: Claim & { readonly kind: "exec" | "attach" }, session: StreamSession): void {
    const run = new CommandRun(session, claim.source);
    this.#running.add(run);
    void run.over.then(() => {
      this.#running.delete(run);
      claim.released();
    });
    if (this.#isStopping) run.cut();
  }

  #forward(claim: Claim & { readonly kind: "portforward" }, transport: Duplex, head: Buffer): void {
    const forward = new PortForward({
      transport,
      head,
      creationTimeoutMs: this.#options.creationTimeoutMs,
      dial: (port) => claim.dial(port),
      closed: (error) => {
        if (error) this.#options.log("info", { session: claim.id, err: error.message }, "a port-forward has ended");
        this.#running.delete(running);
        claim.released();
      },
    });
    const running = { end: () => forward.destroy(), cut: () => forward.destroy() };
    this.#running.add(running);
    if (this.#isStopping) running.cut();
  }
}

function outputLimit(kind: "exec" | "attach"): number {
  return kind === "attach" ? attachBufferBytes : execBufferBytes;
}

function parseRoute(url: string): Route | null {
  const match = /^\/(exec|attach|portforward)\/([A-Za-z0-9_-]{1,256})(?:\?.*)?$/.exec(url);
  return match ? { kind: match[1] as StreamKind, token: match[2] ?? "" } : null;
}

function unknownProtocol(offers: readonly string[], known: readonly string[]): Refusal {
  const shown = offers.slice(0, 16).map((name) => (/^[\w.+/-]{1,64}$/.test(name) ? name : "…"));
  return {
    status: 403,
    text: `no common protocol: the client offers ${shown.join(", ") || "none"}, the server ${known.join(", ")}`,
    headers: { "X-Accepted-Stream-Protocol-Versions": known.join(", ") },
  };
}

function switchToSpdy(socket: Duplex, protocol: string): void {
  const version = protocol === "" ? "" : `X-Stream-Protocol-Version: ${protocol}\r\n`;
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n${version}\r\n`);
}

function refuse(socket: Duplex, { status, text, headers = {} }: Refusal): void {
  if (socket.destroyed) return;
  const body = `${text}\n`;
  const lines = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ""}`,
    "Connection: close",
    "Content-Type: text/plain; charset=utf-8",
    "Cache-Control: no-store",
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ];
  socket.end(`${lines.join("\r\n")}\r\n\r\n${body}`);
  // What the client still sends is dropped, so that it reads the answer; and it gets only a moment for that.
  socket.resume();
  const timer = setTimeout(() => socket.destroy(), requestTimeoutMs);
  socket.on("end", () => socket.destroy());
  socket.on("close", () => clearTimeout(timer));
}
