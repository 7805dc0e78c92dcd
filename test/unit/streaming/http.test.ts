import { execFileSync } from "node:child_process";
import { chmodSync, copyFileSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { TlsFiles } from "../../../src/streaming/tls.ts";
import { SpdyClient, spdyHeaders, upgrade } from "../../support/spdy-client.ts";
import { type Rig, startRig } from "./rig.ts";

const v4 = spdyHeaders("v4.channel.k8s.io");
const webSocket = (protocol: string): [string, string][] => [
  ["Connection", "Upgrade"],
  ["Upgrade", "websocket"],
  ["Sec-WebSocket-Version", "13"],
  ["Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="],
  ["Sec-WebSocket-Protocol", protocol],
];

describe("requests", () => {
  let rig: Rig;
  beforeEach(async () => {
    rig = await startRig();
  });
  afterEach(() => rig.stop());

  const statusOf = async (url: string, options: Parameters<typeof upgrade>[1]): Promise<number> => {
    const { response, socket } = await upgrade(url, options);
    socket.destroy();
    return response.status;
  };

  it.each(["GET", "POST"])("takes %s", async (method) => {
    expect(await statusOf(rig.exec(["true"]), { method, headers: v4 })).toBe(101);
  });

  it.each(["PUT", "HEAD", "DELETE", "OPTIONS"])("refuses %s, and keeps the token", async (method) => {
    const url = rig.exec(["true"]);
    expect(await statusOf(url, { method, headers: v4 })).toBe(405);
    expect(await statusOf(url, { headers: v4 })).toBe(101);
  });

  it("refuses an Origin, and keeps the token", async () => {
    const url = rig.exec(["true"]);
    expect(await statusOf(url, { headers: [...v4, ["Origin", "http://127.0.0.1"]] })).toBe(403);
    expect(await statusOf(url, { method: "GET", headers: [...webSocket("v5.channel.k8s.io"), ["Origin", "https://example.test"]] })).toBe(
      403,
    );
    expect(await statusOf(url, { headers: v4 })).toBe(101);
  });

  it("takes a token once, whatever became of it", async () => {
    const url = rig.exec(["true"]);
    expect(await statusOf(url, { headers: v4 })).toBe(101);
    expect(await statusOf(url, { headers: v4 })).toBe(404);
    const plain = rig.exec(["true"]);
    expect(await statusOf(plain, { method: "GET" })).toBe(400);
    expect(await statusOf(plain, { headers: v4 })).toBe(404);
    await rig.allReleased();
  });

  it("takes a token for its own method alone", async () => {
    const url = rig.exec(["true"]);
    expect(await statusOf(url.replace("/exec/", "/attach/"), { headers: v4 })).toBe(404);
    expect(await statusOf(url.replace("/exec/", "/portforward/"), { headers: v4 })).toBe(404);
    expect(await statusOf(url, { headers: v4 })).toBe(101);
  });

  it.each([
    "/",
    "/exec/",
    "/exec",
    "/exec/../x",
    "/exec/a/b",
    "/cri/exec/token",
    `/exec/${"a".repeat(300)}`,
    "/exec/unknown-token",
    "/metrics",
  ])("knows nothing of %s", async (path) => {
    expect(await statusOf(rig.url + path, { headers: v4 })).toBe(404);
    expect(await statusOf(rig.url + path, { method: "GET" })).toBe(404);
  });

  it("wants an upgrade that it speaks", async () => {
    expect(
      await statusOf(rig.exec(["true"]), {
        headers: [
          ["Connection", "Upgrade"],
          ["Upgrade", "h2c"],
        ],
      }),
    ).toBe(400);
    expect(await statusOf(rig.exec(["true"]), { headers: webSocket("v5.channel.k8s.io") })).toBe(405);
    expect(await statusOf(rig.exec(["true"]), { method: "GET", headers: webSocket("v9.channel.k8s.io") })).toBe(403);
    expect(await statusOf(rig.portForward(), { method: "GET", headers: webSocket("v4.channel.k8s.io") })).toBe(403);
    expect(await statusOf(rig.portForward(), { headers: spdyHeaders("v4.channel.k8s.io") })).toBe(403);
    const oldVersion = webSocket("v5.channel.k8s.io").map(([name, value]): [string, string] => [
      name,
      name === "Sec-WebSocket-Version" ? "7" : value,
    ]);
    expect(await statusOf(rig.exec(["true"]), { method: "GET", headers: oldVersion })).toBe(426);
    const badKey = webSocket("v5.channel.k8s.io").map(([name, value]): [string, string] => [
      name,
      name === "Sec-WebSocket-Key" ? "x" : value,
    ]);
    expect(await statusOf(rig.exec(["true"]), { method: "GET", headers: badKey })).toBe(400);
    await rig.allReleased();
    expect(rig.starts).toBe(0);
  });

  it("says nothing of tokens in its log", async () => {
    const url = rig.exec(["true"]);
    const client = await SpdyClient.connect(url, ["v4.channel.k8s.io"]);
    client.destroy();
    await rig.allReleased();
    await statusOf(url, { headers: v4 });
    expect(rig.logs.length).toBeGreaterThan(0);
    expect(JSON.stringify(rig.logs)).not.toContain(url.split("/").at(-1));
  });

  it("serves nothing once it stops", async () => {
    const url = rig.exec(["true"]);
    await rig.server.stop("over", 100);
    await expect(upgrade(url, { headers: v4 })).rejects.toThrow();
  });
});

describe("TLS", () => {
  let directory: string;
  const path = (name: string): string => join(directory, name);
  const openssl = (...args: string[]): void => void execFileSync("openssl", args, { cwd: directory, stdio: "ignore" });

  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), "berth-tls-"));
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    for (const name of ["one", "two", "ca"]) {
      openssl(
        "req",
        "-x509",
        ...key,
        "-keyout",
        `${name}.key`,
        "-out",
        `${name}.crt`,
        "-days",
        "2",
        "-subj",
        `/CN=${name}`,
        "-addext",
        "subjectAltName=IP:127.0.0.1",
      );
    }
    openssl("req", ...key, "-keyout", "client.key", "-out", "client.csr", "-subj", "/CN=client");
    openssl(
      "x509",
      "-req",
      "-in",
      "client.csr",
      "-CA",
      "ca.crt",
      "-CAkey",
      "ca.key",
      "-CAcreateserial",
      "-days",
      "2",
      "-out",
      "client.crt",
    );
    for (const name of ["one", "two", "client"]) chmodSync(path(`${name}.key`), 0o600);
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  const files = (clientCa = ""): TlsFiles => ({ certificate: path("live.crt"), key: path("live.key"), clientCa });
  const install = (name: string): void => {
    copyFileSync(path(`${name}.crt`), path("live.crt"));
    copyFileSync(path(`${name}.key`), path("live.key"));
    chmodSync(path("live.key"), 0o600);
  };
  const trusting = (name: string) => ({ ca: readFileSync(path(`${name}.crt`)) });

  it("serves with a certificate, and with another one without a restart", async () => {
    install("one");
    const rig = await startRig({ tls: files() });
    const client = await SpdyClient.connect(rig.exec(["cat"], { stderr: false }), ["v4.channel.k8s.io"], { tls: trusting("one") });
    const error = await client.open({ streamtype: "error" });
    const stdin = await client.open({ streamtype: "stdin" });
    const stdout = await client.open({ streamtype: "stdout" });
    install("two");
    await rig.server.reloadTls();
    await expect(SpdyClient.connect(rig.exec(["true"]), ["v4.channel.k8s.io"], { tls: trusting("one") })).rejects.toThrow("self-signed");
    (await SpdyClient.connect(rig.exec(["true"]), ["v4.channel.k8s.io"], { tls: trusting("two") })).destroy();
    stdin.write("still here");
    stdin.end();
    expect((await stdout.whole()).toString()).toBe("still here");
    expect((await error.whole()).toString()).toContain("Success");
    await rig.stop();
  });

  it("keeps the old certificate where the new one is no good", async () => {
    install("one");
    const rig = await startRig({ tls: files() });
    copyFileSync(path("two.crt"), path("live.crt"));
    await rig.server.reloadTls();
    (await SpdyClient.connect(rig.exec(["true"]), ["v4.channel.k8s.io"], { tls: trusting("one") })).destroy();
    expect(rig.logs.map(({ level }) => level)).toContain("warn");
    await rig.stop();
  });

  it("asks for a client's certificate where a CA is named", async () => {
    install("one");
    const rig = await startRig({ tls: files(path("ca.crt")) });
    await expect(SpdyClient.connect(rig.exec(["true"]), ["v4.channel.k8s.io"], { tls: trusting("one") })).rejects.toThrow();
    const own = { ...trusting("one"), cert: readFileSync(path("client.crt")), key: readFileSync(path("client.key")) };
    (await SpdyClient.connect(rig.exec(["true"]), ["v4.channel.k8s.io"], { tls: own })).destroy();
    const foreign = { ...trusting("one"), cert: readFileSync(path("two.crt")), key: readFileSync(path("two.key")) };
    await expect(SpdyClient.connect(rig.exec(["true"]), ["v4.channel.k8s.io"], { tls: foreign })).rejects.toThrow();
    await rig.stop();
  });

  it("refuses a key that everybody can read, and files that are not there", async () => {
    install("one");
    chmodSync(path("live.key"), 0o644);
    await expect(startRig({ tls: files() })).rejects.toMatchObject({ kind: "invalid-argument" });
    await expect(startRig({ tls: { ...files(), key: path("none.key") } })).rejects.toMatchObject({ kind: "invalid-argument" });
  });
});
