/** A registry in this process: content by digest, tags, authentication, and faults to order. */
import http from "node:http";
import type { AddressInfo } from "node:net";
import type { Blob, BuiltImage } from "../../support/image-builder.ts";

export interface SeenRequest {
  readonly method: string;
  readonly path: string;
  readonly authorization: string;
  readonly range: string;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: string;
}

type Handler = (request: SeenRequest, response: http.ServerResponse) => boolean | Promise<boolean>;

export class FakeRegistry {
  readonly requests: SeenRequest[] = [];
  readonly #blobs = new Map<string, Buffer>();
  readonly #manifests = new Map<string, { type: string; data: Buffer }>();
  readonly #server: http.Server;
  /** Called first; true means that it has answered. */
  intercept: Handler | null = null;
  /** `user:password`; "" serves everybody. */
  basic = "";
  /** Tokens that are accepted; null serves everybody. The realm is this registry's own /token. */
  tokens: Set<string> | null = null;
  ranges = true;
  #open = 0;

  constructor() {
    this.#server = http.createServer((request, response) => void this.#serve(request, response));
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return this;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  get host(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  get openRequests(): number {
    return this.#open;
  }

  /** Paths of the requests so far whose path contains `text`. */
  seen(text: string): string[] {
    return this.requests.filter(({ path }) => path.includes(text)).map(({ path }) => path);
  }

  addBlob(blob: Blob): void {
    this.#blobs.set(blob.digest, blob.data);
  }

  addManifest(repository: string, reference: string, blob: Blob, type: string = blob.mediaType): void {
    for (const name of [reference, blob.digest]) this.#manifests.set(`${repository}:${name}`, { type, data: blob.data });
  }

  add(repository: string, reference: string, image: BuiltImage): void {
    this.addManifest(repository, reference, image.manifest);
    for (const blob of [image.config, ...image.layers]) this.addBlob(blob);
  }

  async #serve(incoming: http.IncomingMessage, response: http.ServerResponse): Promise<void> {
    this.#open += 1;
    response.on("close", () => {
      this.#open -= 1;
    });
    const parts: Buffer[] = [];
    for await (const part of incoming) parts.push(part as Buffer);
    const request: SeenRequest = {
      method: incoming.method ?? "",
      path: incoming.url ?? "",
      authorization: incoming.headers.authorization ?? "",
      range: incoming.headers.range ?? "",
      headers: incoming.headers,
      body: Buffer.concat(parts).toString("utf8"),
    };
    this.requests.push(request);
    if (this.intercept && (await this.intercept(request, response))) return;
    if (this.basic !== "" && request.authorization !== `Basic ${Buffer.from(this.basic).toString("base64")}`) {
      response.writeHead(401, { "www-authenticate": 'Basic realm="fake"' }).end('{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}');
      return;
    }
    if (this.tokens !== null && !this.tokens.has(request.authorization.replace(/^Bearer /, ""))) {
      const challenge = `Bearer realm="http://${this.host}/token",service="fake",scope="repository:x:pull"`;
      response.writeHead(401, { "www-authenticate": challenge }).end();
      return;
    }
    const match = /^\/v2\/(.+)\/(manifests|blobs)\/([^/?]+)$/.exec(request.path);
    if (match?.[2] === "manifests") this.#manifest(response, `${match[1]}:${match[3]}`);
    else if (match?.[2] === "blobs") this.#blob(request, response, match[3] ?? "");
    else notFound(response, "NAME_UNKNOWN");
  }

  #manifest(response: http.ServerResponse, key: string): void {
    const found = this.#manifests.get(key);
    if (found) response.writeHead(200, { "content-type": found.type, "content-length": found.data.length }).end(found.data);
    else notFound(response, "MANIFEST_UNKNOWN");
  }

  #blob(request: SeenRequest, response: http.ServerResponse, digest: string): void {
    const data = this.#blobs.get(digest);
    if (!data) {
      notFound(response, "BLOB_UNKNOWN");
      return;
    }
    const from = this.ranges ? /^bytes=(\d+)-$/.exec(request.range)?.[1] : undefined;
    if (from === undefined) {
      response.writeHead(200, { "content-length": data.length }).end(data);
      return;
    }
    const rest = data.subarray(Number(from));
    const range = `bytes ${from}-${data.length - 1}/${data.length}`;
    response.writeHead(206, { "content-length": rest.length, "content-range": range }).end(rest);
  }
}

function notFound(response: http.ServerResponse, code: string): void {
  response.writeHead(404, { "content-type": "application/json" }).end(JSON.stringify({ errors: [{ code, message: "it is not here" }] }));
}
