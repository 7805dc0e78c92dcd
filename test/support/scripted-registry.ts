/** A registry that counts, demands, fails and lies as a test tells it to. */
import { randomBytes } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { type Blob, type BuiltImage, digestOf } from "./image-builder.ts";

export interface Behaviour {
  /** Demanded of each request; absent for anonymous access. */
  auth?: { readonly kind: "basic" | "bearer"; readonly user: string; readonly password: string };
  /** Answers a request itself and returns true. */
  intercept?: (request: IncomingMessage, response: ServerResponse) => boolean;
}

export class ScriptedRegistry {
  readonly blobs = new Map<string, Buffer>();
  readonly manifests = new Map<string, { readonly type: string; readonly data: Buffer }>();
  readonly requests: string[] = [];
  behaviour: Behaviour = {};
  #server: Server | null = null;
  #tokens = new Set<string>();
  host = "";

  async start(port = 0): Promise<void> {
    const server = createServer((request, response) => this.#answer(request, response));
    await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
    this.host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    this.#server = server;
  }

  /** Connections that wait for another request are the client's to keep; a test that counts descriptors ends them. */
  endIdle(): void {
    this.#server?.closeIdleConnections();
  }

  stop(): void {
    this.#server?.closeAllConnections();
    this.#server?.close();
  }

  add(repository: string, tag: string, image: BuiltImage): void {
    for (const blob of [image.config, ...image.layers]) this.blobs.set(blob.digest, blob.data);
    this.addManifest(repository, tag, image.manifest);
  }

  addManifest(repository: string, tag: string, manifest: Blob): void {
    const entry = { type: manifest.mediaType, data: manifest.data };
    for (const reference of [tag, manifest.digest]) this.manifests.set(`${repository}:${reference}`, entry);
  }

  /** Downloads of one blob. */
  downloads(digest: string): number {
    return this.requests.filter((line) => line.startsWith("GET ") && line.endsWith(digest)).length;
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? "/", `http://${this.host}`);
    this.requests.push(`${request.method} ${url.pathname}`);
    if (url.pathname === "/token") {
      this.#token(request, response, url);
      return;
    }
    if (!this.#authorized(request)) {
      const challenge =
        this.behaviour.auth?.kind === "basic"
          ? 'Basic realm="test"'
          : `Bearer realm="http://${this.host}/token",service="test",scope="repository:${/^\/v2\/(.+)\/(?:manifests|blobs)\//.exec(url.pathname)?.[1] ?? ""}:pull"`;
      response.writeHead(401, { "www-authenticate": challenge, "content-type": "application/json" });
      response.end('{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}');
      return;
    }
    if (this.behaviour.intercept?.(request, response)) return;
    const [, repository = "", kind = "", reference = ""] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(url.pathname) ?? [];
    if (url.pathname === "/v2/") {
      response.writeHead(200).end("{}");
      return;
    }
    const found =
      kind === "manifests"
        ? this.manifests.get(`${repository}:${reference}`)
        : { type: "application/octet-stream", data: this.blobs.get(reference) };
    if (found?.data === undefined) {
      response.writeHead(404, { "content-type": "application/json" });
      response.end(`{"errors":[{"code":"${kind === "manifests" ? "MANIFEST" : "BLOB"}_UNKNOWN","message":"unknown"}]}`);
      return;
    }
    response.writeHead(200, {
      "content-type": found.type,
      "content-length": found.data.length,
      "docker-content-digest": digestOf(found.data),
    });
    response.end(request.method === "HEAD" ? undefined : found.data);
  }

  #authorized(request: IncomingMessage): boolean {
    const { auth } = this.behaviour;
    if (!auth) return true;
    const [kind, value = ""] = (request.headers.authorization ?? "").split(" ");
    if (auth.kind === "basic") return kind === "Basic" && Buffer.from(value, "base64").toString() === `${auth.user}:${auth.password}`;
    return kind === "Bearer" && this.#tokens.has(value);
  }

  #token(request: IncomingMessage, response: ServerResponse, url: URL): void {
    const { auth } = this.behaviour;
    const given = Buffer.from((request.headers.authorization ?? "").replace(/^Basic /, ""), "base64").toString();
    if (auth && auth.user !== "" && given !== `${auth.user}:${auth.password}`) {
      response
        .writeHead(401, { "content-type": "application/json" })
        .end('{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}');
      return;
    }
    if (url.searchParams.get("service") !== "test" || !/^repository:.+:pull$/.test(url.searchParams.get("scope") ?? "")) {
      response.writeHead(400).end("service or scope is missing");
      return;
    }
    const token = randomBytes(8).toString("hex");
    this.#tokens.add(token);
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ token, expires_in: 60 }));
  }
}
