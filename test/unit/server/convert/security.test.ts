import { describe, expect, test } from "vitest";
import {
  encodeMessage,
  LinuxContainerSecurityContext,
  type LinuxContainerSecurityContextInput,
  NamespaceOption,
  type NamespaceOptionInput,
  SecurityProfile,
} from "../../../../api/cri/service-definition.ts";
import { modeToWire, namespacesFromRequest, profileFromRequest, securityContextJson } from "../../../../src/server/convert/security.ts";

const options = (input: NamespaceOptionInput) => NamespaceOption.decode(encodeMessage(NamespaceOption, input));
const profile = (profileType: number, localhostRef = "") =>
  SecurityProfile.decode(encodeMessage(SecurityProfile, { profileType, localhostRef }));
const context = (input: LinuxContainerSecurityContextInput) =>
  LinuxContainerSecurityContext.decode(encodeMessage(LinuxContainerSecurityContext, input));

describe("namespaces", () => {
  test("are the pod's by default", () => {
    expect(namespacesFromRequest(null, "f")).toEqual({ network: "pod", pid: "pod", ipc: "pod", targetId: "" });
    expect(namespacesFromRequest(options({}), "f")).toEqual({ network: "pod", pid: "pod", ipc: "pod", targetId: "" });
  });

  test("follow the request and come back", () => {
    const converted = namespacesFromRequest(options({ network: 2, pid: 3, ipc: 2, targetId: "abc" }), "f");
    expect(converted).toEqual({ network: "node", pid: "target", ipc: "node", targetId: "abc" });
    expect([converted.network, converted.pid, converted.ipc].map(modeToWire)).toEqual([2, 3, 2]);
  });

  test.each([
    ["f.network", { network: 1 }],
    ["f.ipc", { ipc: 1 }],
    ["f.pid", { pid: 4 }],
    ["f.target_id", { pid: 3 }],
  ])("%s must make sense", (field, input) => {
    expect(() => namespacesFromRequest(options(input), "f")).toThrow(field);
  });

  test("a user namespace is refused instead of ignored, the host's is not one", () => {
    expect(() => namespacesFromRequest(options({ usernsOptions: { mode: 0, uids: [{ hostId: 1, length: 1 }] } }), "f")).toThrow(
      "f.userns_options",
    );
    expect(() => namespacesFromRequest(options({ usernsOptions: { mode: 1 } }), "f")).toThrow("f.userns_options");
    expect(namespacesFromRequest(options({ usernsOptions: { mode: 2 } }), "f").network).toBe("pod");
  });
});

describe("profiles", () => {
  test("the typed field beats the deprecated text", () => {
    expect(profileFromRequest(profile(1), "runtime/default", "f")).toEqual({ type: "unconfined", localhostRef: "" });
  });

  test.each([
    ["", null],
    ["unconfined", { type: "unconfined", localhostRef: "" }],
    ["runtime/default", { type: "runtime-default", localhostRef: "" }],
    ["docker/default", { type: "runtime-default", localhostRef: "" }],
    ["localhost/a/b.json", { type: "localhost", localhostRef: "a/b.json" }],
  ])("the text %j", (text, expected) => {
    expect(profileFromRequest(null, text, "f")).toEqual(expected);
  });

  test("an empty reference, an unknown type and an unknown text fail closed", () => {
    expect(() => profileFromRequest(profile(2), "", "f")).toThrow("f.localhost_ref");
    expect(() => profileFromRequest(null, "localhost/", "f")).toThrow("f.localhost_ref");
    expect(() => profileFromRequest(profile(7), "", "f")).toThrow("f.profile_type");
    expect(() => profileFromRequest(null, "Unconfined", "f")).toThrow("unknown form");
  });
});

describe("the security context as JSON", () => {
  test("null without a context", () => {
    expect(securityContextJson(null)).toBeNull();
  });

  test("names enum values, keeps 64-bit integers exact and leaves defaults out", () => {
    const json = securityContextJson(
      context({
        capabilities: { addCapabilities: ["NET_ADMIN"] },
        namespaceOptions: { network: 2, usernsOptions: { mode: 2, uids: [{ hostId: 65536, containerId: 0, length: 65536 }] } },
        selinuxOptions: { level: "s0:c1,c2" },
        runAsUser: { value: { low: 1, high: 0x7fffffff, unsigned: false } },
        supplementalGroups: [5],
        supplementalGroupsPolicy: 1,
        seccomp: { profileType: 2, localhostRef: "p" },
        privileged: true,
      }),
    );
    expect(JSON.parse(json ?? "")).toEqual({
      capabilities: { addCapabilities: ["NET_ADMIN"] },
      namespaceOptions: { network: "NODE", usernsOptions: { mode: "NODE", uids: [{ hostId: 65536, length: 65536 }] } },
      selinuxOptions: { level: "s0:c1,c2" },
      runAsUser: { value: "9223372032559808513" },
      supplementalGroups: ["5"],
      supplementalGroupsPolicy: "Strict",
      seccomp: { profileType: "Localhost", localhostRef: "p" },
      privileged: true,
    });
  });

  test("is the same for the same request", () => {
    const input = { runAsUser: { value: 7 }, namespaceOptions: { pid: 2 } };
    expect(securityContextJson(context(input))).toBe(securityContextJson(context(input)));
  });
});
