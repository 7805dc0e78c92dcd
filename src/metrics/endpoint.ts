/** HTTP on a loopback address: `/metrics` for Prometheus, `/healthz` for supervisors. No other path, no other method. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, isIP } from "node:net";
import type { Registry } from "prom-client";
import { DomainError, describeError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";

export interface Health {
  readonly ok: boolean;
  /** One line for each thing that is wrong; empty where all is well. */
  readonly problems: readonly string[];
}

export interface MetricsEndpointOptions {
  /** `host:port`, the host a loopback address, `localhost` or `[::1]`; port 0 takes a free one. */
  readonly address: string;
  readonly registry: Registry;
  readonly health: () => Health;
  readonly log: Logger;
}

export interface MetricsEndpoint {
  /** `http://host:port` as it really is. */
  readonly url: string;
  /** Ends the open connections too. Idempotent. */
  close(): Promise<void>;
}

const maxConnections = 64;
const requestTimeoutMs = 10_000;

/** Throws invalid-argument for an address that is not loopback, unavailable where it cannot be bound. */
export async function startMetricsEndpoint(options: MetricsEndpointOptions): Promise<MetricsEndpoint> {
  const { host, port } = parseLoopbackAddress(options.address);
  const server = createServer({ requestTimeout: requestTimeoutMs, headersTimeout: requestTimeoutMs / 2 }, (request, response) => {
    answer(options, request, response).catch((error: unknown) => {
      options.log.warn({ err: describeError(error), path: request.url }, "a metrics request failed");
      if (response.headersSent) response.destroy();
      else send(response, 500, "internal error\n");
    });
  });
  server.maxConnections = maxConnections;
  await listen(server, host, port);
  server.on("error", (error) => options.log.warn({ err: error.message }, "metrics endpoint"));
  const bound = server.address() as AddressInfo;
  const shown = bound.family === "IPv6" ? `[${bound.address}]` : bound.address;
  let closing: Promise<void> | null = null;
  return {
    url: `http://${shown}:${bound.port}`,
    close() {
      closing ??= new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      });
      return closing;
    },
  };
}

/** The numbers say how busy the node is and who runs there: they stay on the machine. */
export function parseLoopbackAddress(address: string): { readonly host: string; readonly port: number } {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:\s[\]]+)):(\d{1,5})$/.exec(address);
  const host = match?.[1] ?? match?.[2] ?? "";
  const port = Number(match?.[3]);
  if (!match || port > 65535) throw new DomainError("invalid-argument", `metrics address ${JSON.stringify(address)} is not host:port`);
  const loopback = host === "localhost" || host === "::1" || (isIP(host) === 4 && host.startsWith("127."));
  if (!loopback) throw new DomainError("invalid-argument", `metrics address ${JSON.stringify(address)} is not a loopback address`);
  return { host, port };
}

async function answer(options: MetricsEndpointOptions, request: IncomingMessage, response: ServerResponse): Promise<void> {
  if (request.method !== "GET" && request.method !== "HEAD") {
    response.setHeader("Allow", "GET, HEAD");
    send(response, 405, "method not allowed\n");
    return;
  }
  const path = (request.url ?? "").split("?", 1)[0];
  if (path === "/healthz") {
    const { ok, problems } = options.health();
    send(response, ok ? 200 : 503, ok ? "ok\n" : `${problems.join("\n")}\n`);
  } else if (path === "/metrics") {
    const text = await options.registry.metrics();
    send(response, 200, text, options.registry.contentType);
  } else {
    send(response, 404, "not found\n");
  }
}

function send(response: ServerResponse, status: number, body: string, type = "text/plain; charset=utf-8"): void {
  response.writeHead(status, { "Content-Type": type, "Content-Length": Buffer.byteLength(body), "Cache-Control": "no-store" });
  response.end(response.req.method === "HEAD" ? "" : body);
}

function listen(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: Error): void => {
      reject(new DomainError("unavailable", `metrics cannot listen on ${host}:${port}: ${error.message}`, { cause: error }));
    };
    server.once("error", onError);
    server.listen({ host, port }, () => {
      server.off("error", onError);
      resolve();
    });
  });
}
