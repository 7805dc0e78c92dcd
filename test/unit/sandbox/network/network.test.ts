import { mkdirSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { silentLogger } from "../../../../src/base/log.ts";
import type { BerthConfig } from "../../../../src/config/types.ts";
import { PodNetwork } from "../../../../src/sandbox/network/index.ts";
import { bridgeNetwork, bridgeResult, FakeHost, operation, type PluginAnswer, podConfig } from "../fake-host.ts";

let host: FakeHost;
const networks: PodNetwork[] = [];

beforeEach(() => {
  host = new FakeHost();
});

afterEach(() => {
  for (const network of networks.splice(0)) network.close();
  host.dispose();
});

async function started(changes: Partial<BerthConfig["network"]> = {}): Promise<PodNetwork> {
  const network = new PodNetwork({ kernel: host.kernel(), config: { ...host.config.network, ...changes }, log: silentLogger() });
  networks.push(network);
  await network.start();
  return network;
}

const pod = { id: "a".repeat(64) as never, name: "web", namespace: "default", uid: "uid-1" };

describe("readiness", () => {
  test("tells why there is no network, and turns when the configuration appears, changes and goes", async () => {
    const directory = host.config.network.configDirectory;
    rmSync(directory, { recursive: true });
    const network = await started();
    expect(network.readiness()).toEqual({
      ready: false,
      reason: "NetworkPluginNotReady",
      message: `no CNI network configuration: ${directory} does not exist`,
    });
    mkdirSync(directory);
    host.writeNetwork("10-pods.conflist", bridgeNetwork);
    await network.refresh();
    expect(network.readiness()).toEqual({ ready: true, reason: "", message: "" });
    host.writeNetwork("10-pods.conflist", { ...bridgeNetwork, plugins: [{ type: "../x" }] });
    await network.refresh();
    expect(network.readiness().message).toContain(`${join(directory, "10-pods.conflist")}: plugins[0]: type "../x" is not a file name`);
  });

  test("follows the directory by itself", async () => {
    const network = await started();
    expect(network.readiness().ready).toBe(false);
    host.writeNetwork(".tmp", bridgeNetwork);
    const directory = host.config.network.configDirectory;
    renameSync(join(directory, ".tmp"), join(directory, "10-pods.conflist"));
    await expect.poll(() => network.readiness().ready, { timeout: 3_000 }).toBe(true);
  });

  test.each(["portmap", "host-local"])("names the missing program %s", async (type) => {
    host.writeNetwork("10-pods.conflist", bridgeNetwork);
    rmSync(join(host.pluginDirectory, type));
    const network = await started();
    expect(network.readiness().message).toMatch(
      new RegExp(`10-pods.conflist: the program of CNI plugin "${type}" is in none of ${host.pluginDirectory}`),
    );
    await expect(network.plan(operation(), podConfig(), "/x")).rejects.toMatchObject({
      kind: "unavailable",
      message: expect.stringContaining(type),
    });
    // Installed meanwhile: the next pod finds it, without a change of the configuration.
    host.installPlugin(type);
    await expect(network.plan(operation(), podConfig(), "/x")).resolves.toMatchObject({ network: "pods" });
  });

  test("asks STATUS since 1.1, and not before", async () => {
    host.answer = ({ type }) => (type === "portmap" ? { error: { code: 50, msg: "no uplink" } } : { result: null });
    host.writeNetwork("10-pods.conflist", bridgeNetwork);
    expect((await started()).readiness().ready).toBe(true);
    expect(host.plugins).toEqual([]);
    host.writeNetwork("10-pods.conflist", { ...bridgeNetwork, cniVersion: "1.1.0" });
    const { ready, message } = (await started()).readiness();
    expect(ready).toBe(false);
    expect(message).toMatch(/CNI plugin "portmap" \(network "pods"\) STATUS failed with code 50: no uplink/);
    expect(host.plugins.map(({ type, env }) => [type, env["CNI_COMMAND"], env["CNI_CONTAINERID"]])).toEqual([
      ["bridge", "STATUS", undefined],
      ["portmap", "STATUS", undefined],
    ]);
  });
});

test("the poll asks no plugin for its STATUS as long as the configuration stays", async () => {
  host.answer = () => ({ result: null });
  host.writeNetwork("10-pods.conflist", { ...bridgeNetwork, cniVersion: "1.1.0" });
  const network = await started();
  const before = host.plugins.length;
  // A file that is no configuration: an event, and nothing has changed.
  host.writeNetwork("README", "x");
  await new Promise((resolve) => setTimeout(resolve, 200));
  expect(host.plugins.length).toBe(before);
  host.writeNetwork("10-pods.conflist", { ...bridgeNetwork, cniVersion: "1.1.0", name: "others" });
  await expect.poll(() => host.plugins.length, { timeout: 3_000 }).toBe(before + 2);
  expect(network.readiness().ready).toBe(true);
});

describe("attach", () => {
  async function attach(answer: PluginAnswer, changes: Partial<BerthConfig["network"]> = {}, timeoutMs = 5_000): Promise<unknown> {
    host.answer = () => answer;
    host.writeNetwork("10-pods.conflist", bridgeNetwork);
    const network = await started(changes);
    const op = operation(timeoutMs);
    return network.attach(op, pod, "/proc/self/ns/net", await network.plan(op, podConfig(), "/x"));
  }

  test.each<[string, PluginAnswer, object]>([
    [
      "an error with details",
      { error: { code: 7, msg: "bad", details: "more" } },
      { kind: "internal", message: /"bridge" \(network "pods"\) ADD failed with code 7: bad \(more\)/ },
    ],
    ["try again later", { error: { code: 11, msg: "busy" } }, { kind: "unavailable", message: /code 11: busy/ }],
    [
      "no JSON at all",
      { stdout: "oops", stderr: "panic: x", exitCode: 2 },
      { kind: "internal", message: /ADD failed with exit code 2: panic: x/ },
    ],
    ["success without JSON", { stdout: "hello", exitCode: 0 }, { kind: "internal", message: /output is not a JSON object/ }],
    ["success without a result", { result: null }, { kind: "internal", message: /ADD gave no result/ }],
    [
      "an address that is none",
      { result: { ips: [{ address: "nonsense" }] } },
      { kind: "internal", message: /"nonsense" is not an IP address/ },
    ],
    [
      "an interface that is none",
      { result: { ips: [{ address: "10.0.0.1/8", interface: 4 }] } },
      { kind: "internal", message: /names interface 4/ },
    ],
    ["too much output", "flood", { kind: "internal", message: /"bridge" .*wrote more than 1048576 bytes and was killed/ }],
  ])("%s is an error that names the plugin", async (_what, answer, expected) => {
    const { kind, message } = expected as { kind: string; message: RegExp };
    await expect(attach(answer)).rejects.toMatchObject({ kind, message: expect.stringMatching(message) });
  });

  test("a hanging plugin is killed at its own limit, or at the caller's", async () => {
    await expect(attach("hang", { pluginTimeoutMs: 30 })).rejects.toMatchObject({
      kind: "deadline-exceeded",
      message: expect.stringMatching(/CNI plugin "bridge" .*did not finish within 30 ms and was killed/),
    });
    await expect(attach("hang", {}, 80)).rejects.toMatchObject({ kind: "deadline-exceeded", message: expect.stringContaining('"bridge"') });
  });
});

describe("results and capability arguments", () => {
  test("addresses of the pod alone, in the result's order, once", async () => {
    const { podAddresses } = await import("../../../../src/sandbox/network/result.ts");
    const result = {
      ...bridgeResult,
      ips: [
        { address: "fd00::5/64" },
        { address: "192.168.0.1/24", interface: 0 },
        { address: "10.1.0.5/16", interface: 2 },
        { address: "10.1.0.5/16" },
      ],
    };
    expect(podAddresses(result)).toEqual(["fd00::5", "10.1.0.5"]);
    expect(podAddresses({})).toEqual([]);
    expect(podAddresses({ cniVersion: "0.3.1", ips: [{ version: "4", address: "10.0.0.2/24" }] })).toEqual(["10.0.0.2"]);
  });

  test("bandwidth in bits, DNS, cgroup and annotations for the plugins that declare them", async () => {
    const { capabilityArgs } = await import("../../../../src/sandbox/network/capabilities.ts");
    const annotations = { "kubernetes.io/ingress-bandwidth": "10M", "kubernetes.io/egress-bandwidth": "1.5Ki" };
    const dns = { servers: ["10.0.0.10"], searches: [], options: [] };
    expect(capabilityArgs(podConfig({ annotations, dns }), "/kubepods/x")).toEqual({
      cgroupPath: "/kubepods/x",
      "io.kubernetes.cri.pod-annotations": annotations,
      bandwidth: { ingressRate: 10_000_000, ingressBurst: 2147483647, egressRate: 1536, egressBurst: 2147483647 },
      dns,
    });
    for (const bad of ["", "10", "-1M", "1e30", "2P", "10m"]) {
      expect(() => capabilityArgs(podConfig({ annotations: { "kubernetes.io/egress-bandwidth": bad } }), "/")).toThrow(/egress-bandwidth/);
    }
  });
});
