import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import https from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { FakeRegistry } from "./fake-registry.ts";
import { auth, createRig, imageOf, insecure, operation, type Rig, rejection } from "./rig.ts";

let keys: string;
let missing: string | null = null;
let rig: Rig;
/** Serves plain HTTP; the front passes on what it gets by TLS. */
let registry: FakeRegistry;
let front: https.Server;
let clientNames: string[];
const image = imageOf(["x"]);

beforeAll(() => {
  keys = mkdtempSync(join(tmpdir(), "berth-tls-"));
  const openssl = (...args: string[]): void => void execFileSync("openssl", args, { cwd: keys, stdio: "ignore" });
  try {
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl("req", "-x509", ...key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=authority", "-days", "2");
    for (const [name, extension] of [
      ["server", "subjectAltName=IP:127.0.0.1"],
      ["client", "extendedKeyUsage=clientAuth"],
    ] as const) {
      openssl("req", ...key, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=${name}`, "-addext", extension);
      openssl(
        "x509",
        "-req",
        "-in",
        `${name}.csr`,
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        `${name}.crt`,
        "-days",
        "2",
        "-copy_extensions",
        "copy",
      );
    }
  } catch {
    missing = "openssl is not installed";
  }
});
afterAll(() => rmSync(keys, { recursive: true, force: true }));

beforeEach(async ({ skip }) => {
  if (missing !== null) skip(missing);
  clientNames = [];
  registry = await new FakeRegistry().start();
  registry.add("a", "1", image);
  rig = await createRig();
  const [key, cert, ca] = ["server.key", "server.crt", "ca.crt"].map((name) => readFileSync(join(keys, name)));
  front = https.createServer(
    { key, cert, ca, requestCert: true, rejectUnauthorized: false } as https.ServerOptions,
    (request, response) => {
      const subject = (request.socket as TLSSocket).getPeerCertificate().subject as { CN?: string } | undefined;
      clientNames.push(subject?.CN ?? "");
      if (request.url?.includes("/v2/plain/")) {
        response.writeHead(307, { location: `http://${registry.host}/v2/a/manifests/1` }).end();
        return;
      }
      void fetch(`http://${registry.host}${request.url}`, { headers: { authorization: request.headers.authorization ?? "" } }).then(
        async (answer) => {
          const headers = Object.fromEntries(
            ["content-type", "www-authenticate"].flatMap((name) =>
              answer.headers.has(name) ? [[name, answer.headers.get(name) ?? ""]] : [],
            ),
          );
          response.writeHead(answer.status, headers).end(Buffer.from(await answer.arrayBuffer()));
        },
      );
    },
  );
  await new Promise<void>((resolve) => front.listen(0, "127.0.0.1", resolve));
});
afterEach(async () => {
  if (missing !== null) return;
  await rig.destroy();
  await registry.stop();
  front.closeAllConnections();
  await new Promise((resolve) => front.close(resolve));
});

const host = (): string => `127.0.0.1:${(front.address() as AddressInfo).port}`;
const pull = (path: string) => rig.images.pull(operation(), { reference: `${host()}/${path}`, auth: null, runtimeHandler: "" });

/** What an operator puts into certs.d. */
async function certificates(files: Record<string, string>): Promise<void> {
  const directory = join(rig.config.certsDirectory, host());
  await mkdir(directory, { recursive: true });
  for (const [name, source] of Object.entries(files)) await writeFile(join(directory, name), readFileSync(join(keys, source)));
}

describe("a registry with TLS", () => {
  it("of an unknown authority is refused", async () => {
    expect(await rejection(pull("a:1"))).toMatchObject({
      kind: "registry-unavailable",
      message: expect.stringMatching(/certificate|issuer/i),
    });
    expect(registry.requests).toEqual([]);
  });

  it("of an authority in certs.d is served, with the client's certificate", async () => {
    await certificates({ "ca.crt": "ca.crt" });
    expect((await pull("a:1")).id).toBe(image.config.digest);
    expect(new Set(clientNames)).toEqual(new Set([""]));
    await certificates({ "client.cert": "client.crt", "client.key": "client.key" });
    await pull("a:1");
    expect(clientNames.at(-1)).toBe("client");
  });

  it("is not verified where the operator says so, and stays TLS", async () => {
    await rig.registries(insecure(host()));
    expect((await pull("a:1")).id).toBe(image.config.digest);
    expect(clientNames.length).toBeGreaterThan(0);
  });

  it("may not redirect to plain HTTP", async () => {
    await certificates({ "ca.crt": "ca.crt" });
    expect(await rejection(pull("plain:1"))).toMatchObject({ kind: "data-loss", message: expect.stringContaining("from https to http") });
    expect(registry.requests).toEqual([]);
  });

  it("may not send credentials to a token service without TLS", async () => {
    await certificates({ "ca.crt": "ca.crt" });
    registry.tokens = new Set(["good"]);
    const request = { reference: `${host()}/a:1`, auth: auth({ username: "u", password: "p" }), runtimeHandler: "" };
    expect(await rejection(rig.images.pull(operation(), request))).toMatchObject({
      kind: "unauthenticated",
      message: expect.stringContaining("not reached by https"),
    });
    expect(registry.seen("/token")).toEqual([]);
    expect(registry.requests.every(({ authorization }) => authorization === "")).toBe(true);
  });
});
