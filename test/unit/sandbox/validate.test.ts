import { hostname } from "node:os";
import { afterAll, describe, expect, test } from "vitest";
import type { SandboxConfig } from "../../../src/sandbox/types.ts";
import { sandboxKey, validateSandbox } from "../../../src/sandbox/validate.ts";
import { FakeHost, hostNetwork, podConfig } from "./fake-host.ts";

const host = new FakeHost();
afterAll(() => host.dispose());

const validate = (changes: Partial<SandboxConfig>): ReturnType<typeof validateSandbox> => validateSandbox(podConfig(changes), host.config);
const metadata = (changes: Partial<SandboxConfig["metadata"]>): Partial<SandboxConfig> => ({
  metadata: { ...podConfig().metadata, ...changes },
});
const port = (changes: object): Partial<SandboxConfig> => ({
  portMappings: [{ protocol: "tcp", containerPort: 80, hostPort: 8080, hostIp: "", ...changes }],
});
const dns = (changes: object): Partial<SandboxConfig> => ({ dns: { servers: [], searches: [], options: [], ...changes } });

test("a plain request is accepted", () => {
  expect(validate({})).toMatchObject({ own: { net: true, ipc: true, uts: true, pid: false }, cgroupParent: "/kubepods/poduid-1" });
});

test.each<[string, Partial<SandboxConfig>, RegExp]>([
  ["an empty name", metadata({ name: "" }), /metadata\.name/],
  ["a uid that leads elsewhere", metadata({ uid: "../../var" }), /metadata\.uid/],
  ["a namespace that adds to CNI_ARGS", metadata({ namespace: "a;K8S_POD_NAME=b" }), /metadata\.namespace/],
  ["a line break in a name", metadata({ name: "a\nb" }), /metadata\.name "a\\nb"/],
  ["an unknown handler", { runtimeHandler: "kata" }, /runtime handler "kata" is not configured; there are native, runc/],
  ["a network of a container", { namespaces: { ...hostNetwork, network: "container" } }, /network namespace cannot be CONTAINER/],
  ["an ipc of a container", { namespaces: { ...hostNetwork, ipc: "target" } }, /ipc namespace cannot be TARGET/],
  ["a pid of a target", { namespaces: { ...hostNetwork, pid: "target" } }, /pid namespace cannot be TARGET/],
  ["a long hostname", { hostname: "h".repeat(65) }, /at most 64/],
  ["a hostname with a line break", { hostname: "a\nb" }, /hostname/],
  ["a DNS server that is a name", dns({ servers: ["dns.example"] }), /dns server "dns\.example" is not an IP address/],
  ["a search with a line break", dns({ searches: ["a\nnameserver 6.6.6.6"] }), /not one word/],
  ["an option with a space", dns({ options: ["ndots:5 rotate"] }), /not one word/],
  ["a port beyond 65535", port({ hostPort: 65_536 }), /port mapping 65536:80/],
  ["a host port to nothing", port({ containerPort: 0 }), /mapped to no container port/],
  ["a host IP that is none", port({ hostIp: "localhost" }), /host IP "localhost"/],
  ["a relative log directory", { logDirectory: "logs" }, /log_directory/],
  ["a log directory with ..", { logDirectory: "/var/log/../../etc" }, /log_directory/],
  ["a cgroup parent with ..", { cgroupParent: "/kubepods/../system" }, /cgroup_parent/],
  ["a bandwidth that is none", { annotations: { "kubernetes.io/ingress-bandwidth": "fast" } }, /ingress-bandwidth: "fast"/],
])("%s is invalid", (_what, changes, message) => {
  expect(() => validate(changes)).toThrow(expect.objectContaining({ kind: "invalid-argument", message: expect.stringMatching(message) }));
});

describe("user namespaces", () => {
  const context = (usernsOptions: unknown): Partial<SandboxConfig> => ({
    securityContextJson: JSON.stringify({ namespaceOptions: { usernsOptions } }),
  });

  test("are refused rather than left out; the host's is accepted", () => {
    for (const options of [{}, { mode: "POD" }]) {
      expect(() => validate(context(options))).toThrow(expect.objectContaining({ kind: "unimplemented" }));
    }
    expect(() => validate(context({ mode: "CONTAINER" }))).toThrow(expect.objectContaining({ kind: "invalid-argument" }));
    expect(() => validate(context({ mode: "NODE" }))).not.toThrow();
    expect(() => validate({ securityContextJson: "{}" })).not.toThrow();
  });
});

test("the hostname is the request's, the id's, or the host's with the host's network", () => {
  const id = "0123456789abcdef".repeat(4);
  expect(validate({}).hostname(id)).toBe("web");
  expect(validate({ hostname: "" }).hostname(id)).toBe("0123456789ab");
  expect(validate({ namespaces: hostNetwork }).hostname(id)).toBe(hostname());
});

test("retries are recognised by namespace, name, uid and attempt", () => {
  const keys = [{}, { name: "x" }, { namespace: "x" }, { uid: "x" }, { attempt: 1 }].map((changes) =>
    sandboxKey(podConfig(metadata(changes))),
  );
  expect(new Set(keys).size).toBe(keys.length);
});
