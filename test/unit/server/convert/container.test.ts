import { describe, expect, test } from "vitest";
import { ContainerConfig, type ContainerConfigInput, encodeMessage } from "../../../../api/cri/service-definition.ts";
import { containerConfigFromRequest } from "../../../../src/server/convert/container.ts";
import { imageUser } from "../../../../src/server/convert/image.ts";
import { fitOutput } from "../../../../src/server/exec.ts";

const convert = (input: ContainerConfigInput) => containerConfigFromRequest(ContainerConfig.decode(encodeMessage(ContainerConfig, input)));
const minimal = { metadata: { name: "main" }, image: { image: "busybox" } };

describe("a container's configuration", () => {
  test("the least that is valid has defaults everywhere", () => {
    expect(convert(minimal)).toEqual({
      metadata: { name: "main", attempt: 0 },
      image: "busybox",
      userSpecifiedImage: "",
      command: [],
      args: [],
      workingDirectory: "",
      env: [],
      mounts: [],
      devices: [],
      cdiDevices: [],
      labels: {},
      annotations: {},
      logPath: "",
      stdin: false,
      stdinOnce: false,
      tty: false,
      resources: null,
      security: {
        privileged: false,
        addCapabilities: [],
        dropCapabilities: [],
        addAmbientCapabilities: [],
        namespaces: { network: "pod", pid: "pod", ipc: "pod", targetId: "" },
        runAsUser: null,
        runAsGroup: null,
        runAsUsername: "",
        readOnlyRootfs: false,
        supplementalGroups: [],
        supplementalGroupsPolicy: "merge",
        noNewPrivileges: false,
        maskedPaths: [],
        readOnlyPaths: [],
        seccomp: null,
        apparmor: null,
        securityContextJson: null,
      },
      stopSignal: "",
    });
  });

  test("everything arrives", () => {
    const config = convert({
      ...minimal,
      envs: [
        { key: "A", value: Buffer.from("\ufeffbytes=kept") },
        { key: "A", value: Buffer.from("") },
      ],
      mounts: [
        {
          containerPath: "/m",
          readonly: true,
          image: { image: "img", userSpecifiedImage: "name", runtimeHandler: "h" },
          imageSubPath: "etc",
          mountOptions: ["noexec"],
          uidMappings: [{ hostId: 1, containerId: 2, length: 3 }],
        },
        { containerPath: "/r", hostPath: "/h", readonly: true, recursiveReadOnly: true },
      ],
      devices: [{ containerPath: "/dev/a", hostPath: "/dev/b", permissions: "mrw" }],
      CDIDevices: [{ name: "vendor.example/gpu=0" }],
      stdin: true,
      stdinOnce: true,
      tty: true,
      linux: {
        resources: {
          cpuPeriod: 100_000,
          cpuQuota: -1,
          oomScoreAdj: -998,
          hugepageLimits: [{ pageSize: "2MB", limit: 4096 }],
          unified: { "memory.high": "max" },
          memorySwapLimitInBytes: 2 ** 40,
        },
        securityContext: {
          runAsUser: { value: 0 },
          runAsGroup: { value: 4_294_967_294 },
          supplementalGroups: [0, 4_294_967_294],
          supplementalGroupsPolicy: 1,
          maskedPaths: ["/proc/kcore"],
          noNewPrivs: true,
        },
      },
      stopSignal: 13,
    });
    expect(config.env).toEqual([
      { key: "A", value: "\ufeffbytes=kept" },
      { key: "A", value: "" },
    ]);
    expect(config.mounts[0]).toMatchObject({
      image: { reference: "img", userSpecified: "name", runtimeHandler: "h" },
      imageSubPath: "etc",
      options: ["noexec"],
      uidMappings: [{ hostId: 1, containerId: 2, length: 3 }],
    });
    expect(config.mounts[1]).toMatchObject({ recursiveReadOnly: true, readOnly: true, propagation: "private", image: null });
    expect(config.devices).toEqual([{ containerPath: "/dev/a", hostPath: "/dev/b", permissions: "mrw" }]);
    expect(config).toMatchObject({ cdiDevices: ["vendor.example/gpu=0"], stdin: true, stdinOnce: true, tty: true, stopSignal: "SIGKILL" });
    expect(config.resources).toEqual({
      cpuPeriodUs: 100_000,
      cpuQuotaUs: -1,
      cpuShares: 0,
      memoryLimitBytes: 0,
      oomScoreAdj: -998,
      cpusetCpus: "",
      cpusetMems: "",
      hugepageLimits: [{ pageSize: "2MB", limitBytes: 4096 }],
      unified: { "memory.high": "max" },
      memorySwapLimitBytes: 2 ** 40,
    });
    expect(config.security).toMatchObject({
      runAsUser: 0,
      runAsGroup: 4_294_967_294,
      supplementalGroups: [0, 4_294_967_294],
      supplementalGroupsPolicy: "strict",
      maskedPaths: ["/proc/kcore"],
      noNewPrivileges: true,
    });
  });

  test("the same request gives an equal configuration, so that a retry is recognised", () => {
    const input = { ...minimal, labels: { b: "1", a: "2" }, linux: { securityContext: { runAsUser: { value: 1 } } } };
    expect(JSON.stringify(convert(input))).toBe(JSON.stringify(convert(input)));
  });

  test("a group needs a user or a user name", () => {
    const secured = (securityContext: object) => convert({ ...minimal, linux: { securityContext } }).security;
    expect(() => secured({ runAsGroup: { value: 5 } })).toThrow("run_as_group");
    expect(secured({ runAsGroup: { value: 5 }, runAsUser: { value: 0 } }).runAsGroup).toBe(5);
    expect(secured({ runAsGroup: { value: 5 }, runAsUsername: "nobody" }).runAsGroup).toBe(5);
  });
});

describe("the user of an image", () => {
  test.each([
    ["", null, ""],
    ["1002", 1002, ""],
    ["0", 0, ""],
    ["www-data", null, "www-data"],
    ["1003:1004", 1003, ""],
    ["www-data:1004", null, "www-data"],
    ["4294967294", 4_294_967_294, ""],
    ["4294967295", null, ""],
    ["4294967296", null, ""],
    ["-1", null, "-1"],
  ])("%j", (user, uid, username) => {
    expect(imageUser(user)).toEqual({ uid: uid === null ? null : { value: uid }, username });
  });
});

describe("output that must fit one message", () => {
  const lengths = (stdout: number, stderr: number, room: number) => {
    const fitted = fitOutput(new Uint8Array(stdout), new Uint8Array(stderr), room);
    return [fitted.stdout.byteLength, fitted.stderr.byteLength];
  };
  test("is cut only where it must be, and neither output starves the other", () => {
    expect(lengths(10, 20, 100)).toEqual([10, 20]);
    expect(lengths(200, 0, 100)).toEqual([100, 0]);
    expect(lengths(0, 200, 100)).toEqual([0, 100]);
    expect(lengths(200, 30, 100)).toEqual([70, 30]);
    expect(lengths(30, 200, 100)).toEqual([30, 70]);
    expect(lengths(200, 200, 101)).toEqual([50, 51]);
  });
});
