import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DomainError } from "../../../src/base/errors.ts";
import { silentLogger } from "../../../src/base/log.ts";
import { decideAppArmor } from "../../../src/oci/spec/apparmor.ts";
import { buildSpec, type SpecInput, serializeSpec } from "../../../src/oci/spec/build.ts";
import { buildMounts, type MountInput, type MountTableInput } from "../../../src/oci/spec/mounts.ts";
import { buildDeviceRules } from "../../../src/oci/spec/resources.ts";
import { SeccompProfiles } from "../../../src/oci/spec/seccomp.ts";
import { buildDefaultSeccomp } from "../../../src/oci/spec/seccomp-default.ts";
import { Operation } from "../../../src/operation/context.ts";

const operation = (): Operation => new Operation({ name: "test", log: silentLogger(), timeoutMs: 1_000 });
const kind = (work: () => unknown): string => {
  try {
    work();
    return "no error";
  } catch (error) {
    return error instanceof DomainError ? error.kind : String(error);
  }
};
const kindOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "no error",
    (error: DomainError) => error.kind,
  );

describe("config.json", () => {
  const input: SpecInput = {
    args: ["/bin/true"],
    env: ["A=1"],
    cwd: "/",
    terminal: false,
    user: { uid: 1, gid: 2, groups: [2, 3] },
    capabilities: { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] },
    rlimits: [],
    noNewPrivileges: true,
    oomScoreAdj: 5,
    apparmorProfile: null,
    readOnlyRootfs: true,
    mounts: [],
    namespaces: [{ type: "mount" }],
    cgroupsPath: "/a/b",
    resources: {},
    devices: [],
    maskedPaths: [],
    readonlyPaths: [],
    annotations: {},
  };

  it("takes its seccomp object as text, and is the same JSON as if it had been one object", () => {
    const spec = buildSpec(input);
    const seccomp = buildDefaultSeccomp("amd64", []);
    expect(JSON.parse(serializeSpec(spec, JSON.stringify(seccomp)))).toEqual(
      JSON.parse(JSON.stringify({ ...spec, linux: { ...spec.linux, seccomp } })),
    );
    expect(JSON.parse(serializeSpec(spec, null))).toEqual(JSON.parse(JSON.stringify(spec)));
  });

  it("leaves out what is not there rather than saying null", () => {
    expect(serializeSpec(buildSpec(input), null)).not.toMatch(/null|apparmor/);
    expect(serializeSpec(buildSpec({ ...input, apparmorProfile: "p" }), null)).toContain('"apparmorProfile":"p"');
  });

  it("lets mounts through its root only where one asks for it", () => {
    const mount = (option: string) => ({ destination: "/a", type: "bind", source: "/a", options: ["rbind", option] });
    const propagation = (...options: string[]) => buildSpec({ ...input, mounts: options.map(mount) }).linux.rootfsPropagation;
    expect([propagation("rprivate"), propagation("rprivate", "rslave"), propagation("rslave", "rshared")]).toEqual([
      "rprivate",
      "rslave",
      "rshared",
    ]);
  });
});

describe("mounts", () => {
  const pod = { hosts: "/p/hosts", resolvConf: "/p/resolv.conf", hostname: "/p/hostname", shm: "/p/shm" };
  const table: MountTableInput = { mounts: [], pod, privileged: false, readOnlyRootfs: false, recursiveReadOnlySupported: true };
  const bind = (changes: Partial<MountInput>): MountInput => ({
    containerPath: "/data",
    hostPath: "/src",
    readOnly: false,
    recursiveReadOnly: false,
    propagation: "private",
    options: [],
    ...changes,
  });
  const build = (mounts: MountInput[], changes: Partial<MountTableInput> = {}) => buildMounts({ ...table, ...changes, mounts });
  const at = (mounts: ReturnType<typeof buildMounts>, destination: string) => mounts.filter((mount) => mount.destination === destination);

  it("are the default file systems with their options", () => {
    const mounts = build([]);
    expect(at(mounts, "/proc")[0]?.options).toEqual(["nosuid", "noexec", "nodev"]);
    expect(at(mounts, "/dev")[0]?.options).toEqual(["nosuid", "strictatime", "mode=755", "size=65536k"]);
    expect(at(mounts, "/dev/pts")[0]?.options).toEqual(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]);
    expect(at(mounts, "/sys")[0]?.options).toContain("ro");
    expect(at(mounts, "/sys/fs/cgroup")[0]?.options).toEqual(["nosuid", "noexec", "nodev", "relatime", "ro"]);
    for (const file of ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"])
      expect(at(mounts, file)[0]?.options).toEqual(["rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"]);
    expect(at(mounts, "/dev/shm")[0]).toMatchObject({ type: "bind", source: "/p/shm" });
  });

  it("of a privileged container leave sysfs and cgroups writable", () => {
    const mounts = build([], { privileged: true });
    expect(at(mounts, "/sys")[0]?.options).toContain("rw");
    expect(at(mounts, "/sys/fs/cgroup")[0]?.options).toContain("rw");
  });

  it("never bind the host's own /etc/hosts, and share its /dev/shm where the pod has none", () => {
    const mounts = build([], { pod: { ...pod, hosts: null, shm: null } });
    expect(at(mounts, "/etc/hosts")).toEqual([]);
    expect(at(mounts, "/dev/shm")[0]?.source).toBe("/dev/shm");
  });

  it("put parents before children, and the request's in the place of a default", () => {
    const mounts = build([
      bind({ containerPath: "/a/b/c" }),
      bind({ containerPath: "/a" }),
      bind({ containerPath: "/etc/hosts/", hostPath: "/kubelet/hosts" }),
    ]);
    const order = mounts.map(({ destination }) => destination);
    expect(order.indexOf("/a")).toBeLessThan(order.indexOf("/a/b/c"));
    expect(order.indexOf("/dev")).toBeLessThan(order.indexOf("/dev/pts"));
    expect(at(mounts, "/etc/hosts").map(({ source }) => source)).toEqual(["/kubelet/hosts"]);
  });

  it.each([
    [{}, ["rbind", "rprivate", "rw"]],
    [{ readOnly: true }, ["rbind", "rprivate", "ro"]],
    [{ readOnly: true, recursiveReadOnly: true }, ["rbind", "rprivate", "rro"]],
    [{ propagation: "host-to-container" as const }, ["rbind", "rslave", "rw"]],
    [{ propagation: "bidirectional" as const, options: ["noexec", "nosuid"] }, ["rbind", "rshared", "rw", "noexec", "nosuid"]],
  ])("%j is %j", (changes, options) => {
    expect(at(build([bind(changes)]), "/data")[0]?.options).toEqual(options);
  });

  it.each<[Partial<MountInput>, string]>([
    [{ recursiveReadOnly: true }, "invalid-argument"],
    [{ recursiveReadOnly: true, readOnly: true, propagation: "host-to-container" }, "invalid-argument"],
    [{ containerPath: "/" }, "invalid-argument"],
    [{ containerPath: "" }, "invalid-argument"],
    [{ containerPath: "/a/../../etc" }, "invalid-argument"],
    [{ containerPath: "/proc/self/attr" }, "invalid-argument"],
    [{ containerPath: "/proc/sys" }, "invalid-argument"],
    [{ hostPath: "relative" }, "invalid-argument"],
    [{ options: ["suid"] }, "invalid-argument"],
  ])("refuse %j", (changes, expected) => {
    expect(kind(() => build([bind(changes)]))).toBe(expected);
  });

  it("refuse a recursive read-only one that the kernel cannot make, and two at one place", () => {
    expect(kind(() => build([bind({ readOnly: true, recursiveReadOnly: true })], { recursiveReadOnlySupported: false }))).toBe(
      "rro-unsupported",
    );
    expect(kind(() => build([bind({}), bind({ containerPath: "/data/" })]))).toBe("invalid-argument");
  });
});

describe("the default seccomp profile", () => {
  const profile = buildDefaultSeccomp("amd64", []);
  const rules = (name: string, of = profile) => (of.syscalls ?? []).filter(({ names }) => names.includes(name));

  it("answers ENOSYS to what it does not know, and EPERM to what it refuses", () => {
    expect(profile).toMatchObject({
      defaultAction: "SCMP_ACT_ERRNO",
      defaultErrnoRet: 38,
      architectures: ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    });
    for (const name of [
      "bpf",
      "perf_event_open",
      "setns",
      "unshare",
      "init_module",
      "kexec_load",
      "open_by_handle_at",
      "quotactl",
      "acct",
      "iopl",
      "ioperm",
      "clock_settime",
      "settimeofday",
      "swapon",
      "userfaultfd",
      "io_uring_setup",
      "mount",
      "umount2",
      "pivot_root",
      "keyctl",
      "reboot",
      "syslog",
      "socketcall",
    ]) {
      expect(rules(name), name).toEqual([expect.objectContaining({ action: "SCMP_ACT_ERRNO", errnoRet: 1 })]);
    }
  });

  it("has no syscall both allowed and refused, nor one twice", () => {
    for (const capabilities of [[], ["CAP_SYS_ADMIN"], ["CAP_SYS_ADMIN", "CAP_SYSLOG", "CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"]]) {
      const plain = (buildDefaultSeccomp("amd64", capabilities).syscalls ?? [])
        .filter(({ args }) => args === undefined)
        .flatMap(({ names }) => names);
      expect(new Set(plain).size, capabilities.join()).toBe(plain.length);
    }
  });

  it("allows with a capability what the capability is for", () => {
    const admin = buildDefaultSeccomp("amd64", ["CAP_SYS_ADMIN"]);
    for (const name of ["mount", "setns", "unshare", "bpf", "clone", "clone3"])
      expect(rules(name, admin).map(({ action }) => action)).toEqual(["SCMP_ACT_ALLOW"]);
    expect(rules("reboot", admin)[0]?.action).toBe("SCMP_ACT_ERRNO");
    expect(rules("syslog", buildDefaultSeccomp("amd64", ["CAP_SYSLOG"]))[0]?.action).toBe("SCMP_ACT_ALLOW");
    expect(rules("keyctl", admin)[0]?.action).toBe("SCMP_ACT_ERRNO");
  });

  it("allows clone without namespace flags, and hides clone3", () => {
    const [allow] = rules("clone").filter(({ action }) => action === "SCMP_ACT_ALLOW");
    expect(allow?.args).toEqual([{ index: 0, value: 0x7e020000, valueTwo: 0, op: "SCMP_CMP_MASKED_EQ" }]);
    expect(rules("clone3")).toEqual([{ names: ["clone3"], action: "SCMP_ACT_ERRNO", errnoRet: 38 }]);
    expect(
      (buildDefaultSeccomp("s390x", []).syscalls ?? []).find(({ names, action }) => names[0] === "clone" && action === "SCMP_ACT_ALLOW")
        ?.args?.[0]?.index,
    ).toBe(1);
  });

  it("allows each existing address family but AF_ALG and AF_VSOCK, whatever the upper half of the argument says", () => {
    for (const capabilities of [[], ["CAP_AUDIT_WRITE"]]) {
      const allows = (family: number, protocol = 0): boolean =>
        rules("socket", buildDefaultSeccomp("amd64", capabilities)).some(
          ({ action, args = [] }) =>
            action === "SCMP_ACT_ALLOW" &&
            args.every(({ index, value, op }) => {
              const given = index === 0 ? family : protocol;
              return op === "SCMP_CMP_EQ"
                ? given === value
                : op === "SCMP_CMP_NE"
                  ? given !== value
                  : op === "SCMP_CMP_LT"
                    ? given < value
                    : false;
            }),
        );
      for (let family = 0; family < 46; family += 1) expect(allows(family), `family ${family}`).toBe(family !== 38 && family !== 40);
      for (const family of [38, 40]) expect(allows(family + 2 ** 32)).toBe(false);
      expect(allows(16, 9)).toBe(capabilities.length > 0);
    }
    const denied = rules("socket").filter(({ action }) => action === "SCMP_ACT_ERRNO");
    expect(denied.map(({ args, errnoRet }) => [args?.[0]?.value, errnoRet])).toEqual([
      [16, 22],
      [38, 1],
      [40, 1],
    ]);
  });

  it("allows five personalities", () => {
    expect(rules("personality").map(({ args }) => args?.[0]?.value)).toEqual([0, 8, 0x20000, 0x20008, 0xffffffff]);
  });
});

describe("seccomp profiles", () => {
  let root: string;
  let profiles: SeccompProfiles;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), "berth-seccomp-"));
    mkdirSync(join(root, "dir"));
    profiles = new SeccompProfiles({ architecture: "amd64", supported: true, defaultProfilePath: "", profileRoot: root });
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));
  const resolve = (profile: Parameters<SeccompProfiles["resolve"]>[1]["profile"], privileged = false) =>
    profiles.resolve(operation(), { profile, privileged, capabilities: [] });
  const local = (localhostRef: string) => resolve({ type: "localhost", localhostRef });

  it("are none for a null or unconfined one, and for a privileged container", async () => {
    expect(await resolve(null)).toBeNull();
    expect(await resolve({ type: "unconfined", localhostRef: "" })).toBeNull();
    expect(await resolve({ type: "runtime-default", localhostRef: "" }, true)).toBeNull();
  });

  it("are built once for each set of capabilities", async () => {
    const runtimeDefault = { type: "runtime-default" as const, localhostRef: "" };
    expect(await resolve(runtimeDefault)).toBe(await resolve(runtimeDefault));
    expect(await profiles.resolve(operation(), { profile: runtimeDefault, privileged: false, capabilities: ["CAP_SYS_ADMIN"] })).not.toBe(
      await resolve(runtimeDefault),
    );
  });

  it("come from a file by name or by absolute path", async () => {
    const text = {
      defaultAction: "SCMP_ACT_ALLOW",
      comment: "dropped",
      syscalls: [{ names: ["chmod", "made_up"], action: "SCMP_ACT_ERRNO", args: null }],
    };
    writeFileSync(join(root, "p.json"), JSON.stringify(text));
    const expected = { defaultAction: "SCMP_ACT_ALLOW", syscalls: [{ names: ["chmod", "made_up"], action: "SCMP_ACT_ERRNO" }] };
    expect(JSON.parse((await local("p.json")) ?? "")).toEqual(expected);
    expect(JSON.parse((await local(`localhost/${join(root, "p.json")}`)) ?? "")).toEqual(expected);
  });

  it.each(["", "absent.json", "../p.json", "dir", "empty.json", "action.json", "noaction.json", "op.json", "list.json"])(
    "fail closed for %j",
    async (name) => {
      writeFileSync(join(root, "empty.json"), "");
      writeFileSync(join(root, "action.json"), '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_MAYBE"}]}');
      writeFileSync(join(root, "noaction.json"), "{}");
      writeFileSync(
        join(root, "op.json"),
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["a"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"=="}]}]}',
      );
      writeFileSync(join(root, "list.json"), "[]");
      expect(await kindOf(local(name))).toBe("invalid-argument");
    },
  );

  it("fail where the kernel has none", async () => {
    profiles = new SeccompProfiles({ architecture: "amd64", supported: false, defaultProfilePath: "", profileRoot: root });
    expect(await kindOf(resolve({ type: "runtime-default", localhostRef: "" }))).toBe("failed-precondition");
    expect(await resolve(null)).toBeNull();
  });
});

describe("AppArmor", () => {
  const options = { supported: true, defaultProfile: "berth-default", loaded: async () => new Set(["berth-default", "mine"]) };
  const decide = (
    profile: { type: "runtime-default" | "unconfined" | "localhost"; localhostRef: string } | null,
    changes: Partial<typeof options> = {},
    privileged = false,
  ) => decideAppArmor(operation(), { profile, privileged }, { ...options, ...changes });
  const runtimeDefault = { type: "runtime-default" as const, localhostRef: "" };

  it("gives the default, a loaded profile, or none", async () => {
    expect(await decide(null)).toBe("berth-default");
    expect(await decide(runtimeDefault)).toBe("berth-default");
    expect(await decide({ type: "localhost", localhostRef: "localhost/mine" })).toBe("mine");
    expect(await decide({ type: "unconfined", localhostRef: "" })).toBe("unconfined");
    expect(await decide(null, {}, true)).toBeNull();
    expect(await decide(null, { supported: false })).toBeNull();
    expect(await decide(null, { loaded: async () => new Set() })).toBeNull();
  });

  it("never leaves out what was asked for by name", async () => {
    expect(await kindOf(decide({ type: "localhost", localhostRef: "other" }))).toBe("invalid-argument");
    expect(await kindOf(decide({ type: "localhost", localhostRef: "" }))).toBe("invalid-argument");
    expect(await kindOf(decide({ type: "localhost", localhostRef: "mine" }, { supported: false }))).toBe("invalid-argument");
    expect(await kindOf(decide(runtimeDefault, { loaded: async () => new Set() }))).toBe("failed-precondition");
  });
});

describe("device rules", () => {
  const device = { path: "/dev/x", type: "c" as const, major: 10, minor: 200, fileMode: 0o666, uid: 0, gid: 0 };
  it("deny all first and allow what every program expects, then what was granted", () => {
    const rules = buildDeviceRules([{ device, permissions: "r" }], false);
    expect(rules[0]).toEqual({ allow: false, access: "rwm" });
    expect(rules.at(-1)).toEqual({ allow: true, type: "c", major: 10, minor: 200, access: "r" });
    expect(rules.filter(({ type, access }) => type === "b" && access !== "m")).toEqual([]);
    expect(buildDeviceRules([], true)).toEqual([{ allow: true, access: "rwm" }]);
  });
});
