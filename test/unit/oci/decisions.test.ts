import { describe, expect, it } from "vitest";
import { DomainError } from "../../../src/base/errors.ts";
import { allCapabilities, type CapabilityRequest, decideCapabilities } from "../../../src/oci/spec/capabilities.ts";
import { decideCommand, decideWorkingDirectory } from "../../../src/oci/spec/command.ts";
import { splitDeviceNumber } from "../../../src/oci/spec/devices.ts";
import { buildEnvironment, defaultPath } from "../../../src/oci/spec/environment.ts";
import { decideNamespaces, type NamespaceInput } from "../../../src/oci/spec/namespaces.ts";
import { decidePaths } from "../../../src/oci/spec/paths.ts";
import { buildResources } from "../../../src/oci/spec/resources.ts";
import { decideStopSignal, parseSignal } from "../../../src/oci/spec/signals.ts";

const kind = (work: () => unknown): string => {
  try {
    work();
    return "no error";
  } catch (error) {
    return error instanceof DomainError ? error.kind : String(error);
  }
};

describe("capabilities", () => {
  const defaults = ["CAP_CHOWN", "CAP_KILL"];
  const request: CapabilityRequest = { defaults, add: [], drop: [], ambient: [], privileged: false, grantable: allCapabilities };
  const decide = (changes: Partial<CapabilityRequest>) => decideCapabilities({ ...request, ...changes }).capabilities.bounding;

  it.each<[string, Partial<CapabilityRequest>, readonly string[]]>([
    ["the defaults", {}, defaults],
    [
      "one more, in any case, with or without its prefix",
      { add: ["net_admin", "CAP_sys_time"] },
      ["CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN", "CAP_SYS_TIME"],
    ],
    ["one less", { drop: ["KILL"] }, ["CAP_CHOWN"]],
    ["all", { add: ["ALL"] }, allCapabilities],
    ["all but one", { add: ["all"], drop: ["CAP_CHOWN"] }, allCapabilities.filter((name) => name !== "CAP_CHOWN")],
    ["none", { drop: ["ALL"] }, []],
    ["none but one", { drop: ["ALL"], add: ["NET_BIND_SERVICE"] }, ["CAP_NET_BIND_SERVICE"]],
    ["a single drop is stronger than a single addition", { add: ["NET_RAW"], drop: ["NET_RAW"] }, defaults],
    ["privileged has all, whatever is dropped", { privileged: true, drop: ["ALL"] }, allCapabilities],
    ["nothing that the daemon does not have", { add: ["ALL"], grantable: ["CAP_KILL"] }, ["CAP_KILL"]],
  ])("%s", (_name, changes, expected) => {
    expect(decide(changes)).toEqual(expected);
  });

  it("leave inheritable and ambient empty unless ambient ones are asked for", () => {
    const { capabilities } = decideCapabilities({ ...request, privileged: true });
    expect([capabilities.inheritable, capabilities.ambient]).toEqual([[], []]);
    const ambient = decideCapabilities({ ...request, ambient: ["NET_RAW"] }).capabilities;
    expect(ambient).toMatchObject({
      ambient: ["CAP_NET_RAW"],
      inheritable: ["CAP_NET_RAW"],
      permitted: ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
    });
  });

  it("name what was asked for by name and cannot be granted", () => {
    expect(decideCapabilities({ ...request, add: ["SYS_TIME"], grantable: defaults }).withheld).toEqual(["CAP_SYS_TIME"]);
    expect(decideCapabilities({ ...request, add: ["ALL"], grantable: defaults }).withheld).toEqual([]);
  });

  it("refuse an unknown name", () => {
    expect(kind(() => decide({ add: ["FLY"] }))).toBe("invalid-argument");
    expect(kind(() => decide({ drop: ["FLY"] }))).toBe("invalid-argument");
  });
});

describe("the command", () => {
  const image = { imageEntrypoint: ["/entry"], imageCommand: ["a", "b"] };
  it.each([
    [[], [], ["/entry", "a", "b"]],
    [[], ["x"], ["/entry", "x"]],
    [["/cmd"], [], ["/cmd"]],
    [["/cmd"], ["x"], ["/cmd", "x"]],
  ])("command %j with args %j is %j", (command, args, expected) => {
    expect(decideCommand({ command, args, ...image })).toEqual(expected);
  });

  it("is refused where there is none, or one with NUL", () => {
    expect(kind(() => decideCommand({ command: [], args: [], imageEntrypoint: [], imageCommand: [] }))).toBe("invalid-argument");
    expect(kind(() => decideCommand({ command: [""], args: [], ...image }))).toBe("invalid-argument");
    expect(kind(() => decideCommand({ command: ["a\0b"], args: [], ...image }))).toBe("invalid-argument");
  });

  it("runs in the request's directory, the image's, or the root", () => {
    expect(decideWorkingDirectory("/a", "/b")).toBe("/a");
    expect(decideWorkingDirectory("", "/b")).toBe("/b");
    expect(decideWorkingDirectory("", "")).toBe("/");
  });

  it.each(["relative", "/a\nroot::0:0::/:", "/a:b", "/a\u007f"])("is refused in %j", (directory) => {
    expect(kind(() => decideWorkingDirectory(directory, ""))).toBe("invalid-argument");
  });
});

describe("the environment", () => {
  const input = { image: [], requested: [], home: "/root", hostname: "pod", tty: false };

  it("has a path, a home and a host name of its own", () => {
    expect(buildEnvironment(input).env).toEqual([`PATH=${defaultPath}`, "HOSTNAME=pod", "HOME=/root"]);
  });

  it("takes the request's value over the image's, in the image's place", () => {
    const { env } = buildEnvironment({
      ...input,
      image: ["A=1", "HOME=/image", "B=2"],
      requested: [{ key: "A", value: "3=4" }],
      tty: true,
    });
    expect(env).toEqual(["A=3=4", "HOME=/image", "B=2", `PATH=${defaultPath}`, "HOSTNAME=pod", "TERM=xterm"]);
  });

  it("leaves out what is no variable, so that nothing is inherited by it", () => {
    const { env, dropped } = buildEnvironment({ ...input, image: ["SECRET", "*", "=x", "LD_PRELOAD=/x"] });
    expect(dropped).toEqual(["SECRET", "*", "=x"]);
    expect(env).toContain("LD_PRELOAD=/x");
    expect(env.every((entry) => /^[^=]+=/.test(entry))).toBe(true);
  });

  it.each([
    [{ key: "", value: "x" }],
    [{ key: "A=B", value: "x" }],
    [{ key: "A", value: "\0" }],
    [{ key: "HOME", value: "/root\nroot::0:0::/:/bin/sh" }],
  ])("refuses %j", (entry) => {
    expect(kind(() => buildEnvironment({ ...input, requested: [entry] }))).toBe("invalid-argument");
  });

  it("refuses an image's home with a line break", () => {
    expect(kind(() => buildEnvironment({ ...input, image: ["HOME=/a\nb"] }))).toBe("invalid-argument");
  });
});

describe("the stop signal", () => {
  it.each([
    ["", null, "SIGTERM", 15],
    ["", "SIGQUIT", "SIGQUIT", 3],
    ["SIGUSR1", "SIGQUIT", "SIGUSR1", 10],
    ["SIGRTMIN", null, "SIGRTMIN", 34],
    ["SIGRTMIN+15", null, "SIGRTMIN+15", 49],
    ["SIGRTMAX-14", null, "SIGRTMAX-14", 50],
    ["SIGRTMAX", null, "SIGRTMAX", 64],
    ["term", null, "SIGTERM", 15],
    ["", "9", "SIGKILL", 9],
    ["", "37", "SIGRTMIN+3", 37],
  ])("of request %j and image %j is %s", (requested, image, name, number) => {
    expect(decideStopSignal(requested, image)).toEqual({ name, number });
  });

  it.each(["SIGNOTHING", "0", "65", "SIGRTMIN-1", "SIGRTMAX+1", "SIGRTMIN+31", "constructor", "-9"])("%j is none", (text) => {
    expect(parseSignal(text)).toBeNull();
    expect(kind(() => decideStopSignal(text, null))).toBe("invalid-argument");
  });
});

describe("namespaces", () => {
  const input: NamespaceInput = {
    pod: { network: "pod", ipc: "pod", pid: "pod" },
    pausePid: 7,
    pid: "pod",
    targetPid: null,
    privateCgroup: true,
  };
  const decide = (changes: Partial<NamespaceInput>) => decideNamespaces({ ...input, ...changes });
  const pidOf = (changes: Partial<NamespaceInput>) => decide(changes).namespaces.find(({ type }) => type === "pid");

  it("are the pod's, but for mounts and cgroups", () => {
    expect(decide({}).namespaces).toEqual([
      { type: "mount" },
      { type: "network", path: "/proc/7/ns/net" },
      { type: "uts", path: "/proc/7/ns/uts" },
      { type: "ipc", path: "/proc/7/ns/ipc" },
      { type: "cgroup" },
      { type: "pid", path: "/proc/7/ns/pid" },
    ]);
    expect(decide({}).ownPid).toBe(false);
  });

  it("of the host are none at all", () => {
    const { namespaces, ownPid } = decide({ pod: { network: "node", ipc: "node", pid: "node" }, pid: "node", privateCgroup: false });
    expect(namespaces).toEqual([{ type: "mount" }]);
    expect(ownPid).toBe(false);
  });

  it("for processes are the container's, the pod's, the host's or another container's", () => {
    expect(pidOf({ pid: "container" })).toEqual({ type: "pid" });
    expect(decide({ pid: "container" }).ownPid).toBe(true);
    expect(pidOf({ pid: "target", targetPid: 99 })).toEqual({ type: "pid", path: "/proc/99/ns/pid" });
    expect(pidOf({ pid: "pod", pod: { ...input.pod, pid: "node" } })).toBeUndefined();
  });

  it("never become the host's because the pod has none of its own", () => {
    expect(pidOf({ pid: "pod", pod: { ...input.pod, pid: "container" } })).toEqual({ type: "pid" });
    expect(kind(() => decide({ pid: "node" }))).toBe("invalid-argument");
    expect(kind(() => decide({ pid: "target", targetPid: null }))).toBe("invalid-argument");
  });
});

describe("masked and read-only paths", () => {
  it("are the request's exactly, the defaults where it says nothing, and none for a privileged container", () => {
    const lists = { masked: ["/a"], readonly: [] };
    expect(decidePaths({ privileged: false, requested: lists, thermalThrottlePaths: ["/t"] })).toEqual(lists);
    expect(decidePaths({ privileged: true, requested: lists, thermalThrottlePaths: ["/t"] })).toEqual({ masked: [], readonly: [] });
    const defaults = decidePaths({ privileged: false, requested: null, thermalThrottlePaths: ["/t"] });
    expect(defaults.masked).toEqual(
      expect.arrayContaining(["/proc/kcore", "/proc/keys", "/proc/interrupts", "/sys/firmware", "/sys/devices/virtual/powercap", "/t"]),
    );
    expect(defaults.readonly).toEqual(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
  });
});

describe("resources", () => {
  const none = {
    cpuPeriodUs: 0,
    cpuQuotaUs: 0,
    cpuShares: 0,
    memoryLimitBytes: 0,
    cpusetCpus: "",
    cpusetMems: "",
    hugepageLimits: [],
    unified: {},
    memorySwapLimitBytes: 0,
  };
  const options = { support: { unified: true, swap: true, hugetlb: true }, pidsLimit: 0, deviceRules: [] };

  it("say nothing of what is not set", () => {
    expect(buildResources(none, options)).toEqual({ devices: [] });
    expect(buildResources(null, { ...options, pidsLimit: 5 })).toEqual({ devices: [], pids: { limit: 5 } });
  });

  it("carry over what is set", () => {
    const all = {
      ...none,
      cpuPeriodUs: 1,
      cpuQuotaUs: -1,
      cpuShares: 2,
      cpusetCpus: "0",
      cpusetMems: "0",
      memoryLimitBytes: 3,
      memorySwapLimitBytes: 4,
      hugepageLimits: [{ pageSize: "2MB", limitBytes: 0 }],
      unified: { "memory.low": "1" },
    };
    expect(buildResources(all, options)).toEqual({
      devices: [],
      cpu: { period: 1, quota: -1, shares: 2, cpus: "0", mems: "0" },
      memory: { limit: 3, swap: 4 },
      hugepageLimits: [{ pageSize: "2MB", limit: 0 }],
      unified: { "memory.low": "1" },
    });
  });

  it("allow no swap with a memory limit alone, where swap is counted", () => {
    expect(buildResources({ ...none, memoryLimitBytes: 9 }, options).memory).toEqual({ limit: 9, swap: 9 });
    expect(buildResources({ ...none, memoryLimitBytes: 9 }, { ...options, support: { ...options.support, swap: false } }).memory).toEqual({
      limit: 9,
    });
  });

  it("refuse what the host cannot limit, and pass over what asks for nothing", () => {
    const poor = { ...options, support: { unified: false, swap: false, hugetlb: false } };
    expect(kind(() => buildResources({ ...none, unified: { "memory.low": "1" } }, poor))).toBe("invalid-argument");
    expect(kind(() => buildResources({ ...none, hugepageLimits: [{ pageSize: "2MB", limitBytes: 1 }] }, poor))).toBe("failed-precondition");
    expect(buildResources({ ...none, hugepageLimits: [{ pageSize: "2MB", limitBytes: 0 }] }, poor)).toEqual({ devices: [] });
  });
});

describe("device numbers", () => {
  it.each([
    [0x0103n, 1, 3],
    [0x0801n, 8, 1],
    [(0x1000n << 32n) | (0x123n << 8n) | ((0x45n << 12n) << 8n) | 0x67n, 0x1123, 0x4567],
  ])("%s", (device, major, minor) => {
    expect(splitDeviceNumber(device)).toEqual({ major, minor });
  });
});
