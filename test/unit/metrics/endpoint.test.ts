import { request } from "node:http";
import { connect } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { silentLogger } from "../../../src/base/log.ts";
import { type Health, type MetricsEndpoint, parseLoopbackAddress, startMetricsEndpoint } from "../../../src/metrics/endpoint.ts";
import { createMetrics } from "../../../src/metrics/operation-metrics.ts";

const open: MetricsEndpoint[] = [];
afterEach(async () => {
  await Promise.all(open.splice(0).map((endpoint) => endpoint.close()));
});

async function start(health: () => Health = () => ({ ok: true, problems: [] })) {
  const metrics = createMetrics({ processMetrics: false });
  const endpoint = await startMetricsEndpoint({ address: "127.0.0.1:0", registry: metrics.registry, health, log: silentLogger() });
  open.push(endpoint);
  return { metrics, endpoint };
}

function call(url: string, method = "GET"): Promise<{ status: number; body: string; type: string }> {
  return new Promise((resolve, reject) => {
    const sent = request(url, { method, agent: false }, (response) => {
      const parts: Buffer[] = [];
      response.on("data", (part: Buffer) => parts.push(part));
      response.on("end", () =>
        resolve({
          status: response.statusCode ?? 0,
          body: Buffer.concat(parts).toString(),
          type: String(response.headers["content-type"]),
        }),
      );
    });
    sent.on("error", reject);
    sent.end();
  });
}

describe("the metrics endpoint", () => {
  test("serves the registry in Prometheus' text format", async () => {
    const { metrics, endpoint } = await start();
    metrics.begin("Version")("OK", 1, []);
    const answer = await call(`${endpoint.url}/metrics`);
    expect(answer.status).toBe(200);
    expect(answer.type).toContain("text/plain; version=0.0.4");
    expect(answer.body).toContain('berth_operations_total{operation="Version"} 1');
  });

  test("healthz says ok, or what is wrong with 503", async () => {
    let health: Health = { ok: true, problems: [] };
    const { endpoint } = await start(() => health);
    expect(await call(`${endpoint.url}/healthz`)).toMatchObject({ status: 200, body: "ok\n" });
    health = { ok: false, problems: ["runtime: recovery has not ended"] };
    expect(await call(`${endpoint.url}/healthz`)).toMatchObject({ status: 503, body: "runtime: recovery has not ended\n" });
  });

  test("other paths and methods are refused", async () => {
    const { endpoint } = await start();
    expect((await call(`${endpoint.url}/`)).status).toBe(404);
    expect((await call(`${endpoint.url}/metrics`, "POST")).status).toBe(405);
    expect(await call(`${endpoint.url}/metrics`, "HEAD")).toMatchObject({ status: 200, body: "" });
  });

  test("a failing health check is a 500 and does not end the server", async () => {
    let fail = true;
    const { endpoint } = await start(() => {
      if (fail) throw new Error("broken");
      return { ok: true, problems: [] };
    });
    expect((await call(`${endpoint.url}/healthz`)).status).toBe(500);
    fail = false;
    expect((await call(`${endpoint.url}/healthz`)).status).toBe(200);
  });

  test("close ends idle connections, frees the port and may be called twice", async () => {
    const { endpoint } = await start();
    const port = Number(new URL(endpoint.url).port);
    const idle = connect(port, "127.0.0.1");
    await new Promise((resolve) => idle.once("connect", resolve));
    const ended = new Promise((resolve) => idle.once("close", resolve));
    idle.on("error", () => undefined);
    idle.resume();
    await Promise.all([endpoint.close(), endpoint.close()]);
    await ended;
    await expect(call(endpoint.url)).rejects.toThrow("ECONNREFUSED");
  });

  test("a port that is taken is an unavailable error that names it", async () => {
    const { endpoint, metrics } = await start();
    const address = endpoint.url.replace("http://", "");
    const second = startMetricsEndpoint({
      address,
      registry: metrics.registry,
      health: () => ({ ok: true, problems: [] }),
      log: silentLogger(),
    });
    await expect(second).rejects.toMatchObject({ kind: "unavailable", message: expect.stringContaining(address) });
  });
});

describe("the address", () => {
  test.each([
    ["127.0.0.1:9464", "127.0.0.1", 9464],
    ["127.8.0.1:0", "127.8.0.1", 0],
    ["localhost:80", "localhost", 80],
    ["[::1]:65535", "::1", 65535],
  ])("%s is loopback", (address, host, port) => {
    expect(parseLoopbackAddress(address)).toEqual({ host, port });
  });

  test.each(["0.0.0.0:9464", "10.0.0.1:1", "[::]:1", "[fe80::1]:1", "127.0.0.1", "127.0.0.1:65536", ":80", "127.example.com:1", ""])(
    "%j is refused",
    (address) => {
      expect(() => parseLoopbackAddress(address)).toThrow(expect.objectContaining({ kind: "invalid-argument" }));
    },
  );
});
