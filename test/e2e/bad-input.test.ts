/** What cannot be done is refused with the right code and a message that names object and step; nothing is left, the daemon is well. */
import { execFileSync } from "node:child_process";
import { chmodSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { ContainerConfigInput, LinuxContainerSecurityContextInput, PodSandboxConfigInput } from "../../api/cri/service-definition.ts";
import { PodSandboxState } from "../../api/cri/service-definition.ts";
import { status } from "../support/cri-client.ts";
import { pushBusybox } from "../support/image-builder.ts";
import { failure, until, useNode } from "../support/node.ts";
import { hostNetwork } from "../support/workloads.ts";

const node = useNode("bad", { sets: ["network.plugin_timeout_ms=700", "image.min_free_bytes=0"] });
let networks = 0;
const { INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNAVAILABLE, DEADLINE_EXCEEDED } =
  status;

async function noPods(): Promise<void> {
  expect((await node.runtime.ListPodSandbox({})).items).toEqual([]);
}

describe("malformed requests", () => {
  test.each([
    ["a length beyond the end", Buffer.from([0x0a, 0x7f, 0x01])],
    ["an unfinished number", Buffer.from([0x08, 0xff, 0xff, 0xff])],
    ["a wrong wire type", Buffer.from([0x0f])],
    ["noise", Buffer.from("this is not protobuf at all, really")],
    ["a negative length", Buffer.from([0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01])],
    ["groups without an end", Buffer.from([0x0b, 0x0b, 0x0b, 0x0b])],
  ])("%s is INVALID_ARGUMENT, naming the call", async (_title, bytes) => {
    await failure(node.runtime.RunPodSandbox(bytes), INVALID_ARGUMENT, "RunPodSandbox");
    await failure(node.runtime.CreateContainer(bytes), INVALID_ARGUMENT, "CreateContainer");
    await failure(node.images.PullImage(bytes), INVALID_ARGUMENT, "PullImage");
  });

  test("deep nesting ends in an answer", async () => {
    let bytes = Buffer.alloc(0);
    for (let i = 0; i < 5000; i += 1) bytes = Buffer.concat([Buffer.from([0x0a]), varint(bytes.length), bytes]);
    await expect(node.runtime.RunPodSandbox(bytes)).rejects.toThrow();
  });

  test("empty requests name what is missing", async () => {
    await failure(node.runtime.RunPodSandbox({}), INVALID_ARGUMENT, "config");
    await failure(node.runtime.RunPodSandbox({ config: {} }), INVALID_ARGUMENT, "metadata");
    await failure(node.runtime.CreateContainer({}), INVALID_ARGUMENT);
    await failure(node.runtime.StopPodSandbox({}), INVALID_ARGUMENT, "pod_sandbox_id");
    await failure(node.runtime.RemoveContainer({}), INVALID_ARGUMENT, "container_id");
    await failure(node.runtime.ExecSync({ cmd: ["true"] }), INVALID_ARGUMENT, "container_id");
    await failure(node.images.RemoveImage({}), INVALID_ARGUMENT);
  });

  test("what is not served yet is UNIMPLEMENTED", async () => {
    await failure(node.runtime.CheckpointContainer({ containerId: "x" }), UNIMPLEMENTED, "CheckpointContainer");
    await failure(node.runtime.UpdateRuntimeConfig({}), UNIMPLEMENTED, "UpdateRuntimeConfig");
  });

  test("a message beyond 16 MiB is refused, and the connection goes on", async () => {
    await failure(node.runtime.Version({ version: "x".repeat(17 << 20) }), RESOURCE_EXHAUSTED);
    await node.runtime.Version({});
  });
});

describe("pods", () => {
  const cases: [string, (config: PodSandboxConfigInput) => PodSandboxConfigInput, status, (string | RegExp)[]][] = [
    ["a NUL in the name", (c) => ({ ...c, metadata: { ...c.metadata, name: "a\0b" } }), INVALID_ARGUMENT, ["name"]],
    ["a line break in the name", (c) => ({ ...c, metadata: { ...c.metadata, name: "a\nb" } }), INVALID_ARGUMENT, ["name"]],
    ["a path as the name", (c) => ({ ...c, metadata: { ...c.metadata, name: "../../etc" } }), INVALID_ARGUMENT, ["name"]],
    ["a path as the uid", (c) => ({ ...c, metadata: { ...c.metadata, uid: "../../var" } }), INVALID_ARGUMENT, ["uid"]],
    ["a line break in the namespace", (c) => ({ ...c, metadata: { ...c.metadata, namespace: "x\ny" } }), INVALID_ARGUMENT, ["namespace"]],
    ["no name", (c) => ({ ...c, metadata: { ...c.metadata, name: "" } }), INVALID_ARGUMENT, ["name"]],
    ["a log directory with ..", (c) => ({ ...c, logDirectory: "/var/log/../../etc" }), INVALID_ARGUMENT, ["log_directory"]],
    ["a relative log directory", (c) => ({ ...c, logDirectory: "logs" }), INVALID_ARGUMENT, ["log_directory"]],
    ["a host name that is none", (c) => ({ ...c, hostname: "a b" }), INVALID_ARGUMENT, ["hostname"]],
    ["a host name that is too long", (c) => ({ ...c, hostname: "x".repeat(65) }), INVALID_ARGUMENT, ["hostname"]],
    ["a cgroup parent with ..", (c) => ({ ...c, linux: { ...c.linux, cgroupParent: "/a/../../b" } }), INVALID_ARGUMENT, ["cgroup_parent"]],
    ["a name server that is none", (c) => ({ ...c, dnsConfig: { servers: ["not an address"] } }), INVALID_ARGUMENT, [/dns/i]],
    [
      "a search domain with a line break",
      (c) => ({ ...c, dnsConfig: { searches: ["a\nnameserver 6.6.6.6"] } }),
      INVALID_ARGUMENT,
      [/dns/i],
    ],
    ["a port beyond 65535", (c) => ({ ...c, portMappings: [{ containerPort: 80, hostPort: 70_000 }] }), INVALID_ARGUMENT, ["port"]],
    [
      "a host address that is none",
      (c) => ({ ...c, portMappings: [{ containerPort: 80, hostPort: 80, hostIp: "x" }] }),
      INVALID_ARGUMENT,
      ["host"],
    ],
  ];
  test.each(cases)("%s", async (_title, change, code, texts) => {
    await failure(node.runtime.RunPodSandbox({ config: change(node.podConfig()) }), code, ...texts);
    await noPods();
  });

  test("an unknown runtime handler", async () => {
    const config = node.podConfig();
    await failure(node.runtime.RunPodSandbox({ config, runtimeHandler: "no-such" }), INVALID_ARGUMENT, "no-such", "native");
    await noPods();
  });

  test("a user namespace, which is not served yet", async () => {
    const config = node.podConfig(
      {},
      { ...hostNetwork, network: 0, usernsOptions: { mode: 0, uids: [{ hostId: 100_000, containerId: 0, length: 65_536 }] } },
    );
    await failure(node.runtime.RunPodSandbox({ config }), [INVALID_ARGUMENT, UNIMPLEMENTED], "user namespace");
    await noPods();
  });

  test("a sysctl that the kernel refuses is named with its value's fate, and all is undone", async () => {
    const config = node.podConfig();
    const linux = { ...config.linux, sysctls: { "net.ipv4.no_such_thing_at_all": "1" } };
    await failure(
      node.runtime.RunPodSandbox({ config: { ...config, linux } }),
      [INVALID_ARGUMENT, INTERNAL, FAILED_PRECONDITION],
      "no_such_thing_at_all",
    );
    await noPods();
  });
});

describe("containers", () => {
  type Change = (config: ContainerConfigInput) => ContainerConfigInput;
  const security =
    (change: LinuxContainerSecurityContextInput): Change =>
    (config) => ({ ...config, linux: { ...config.linux, securityContext: { ...config.linux?.securityContext, ...change } } });
  const cases: [string, Change, status, (string | RegExp)[]][] = [
    ["a missing command", (c) => ({ ...c, command: ["no-such-command"] }), INVALID_ARGUMENT, ["no-such-command"]],
    ["a missing program", (c) => ({ ...c, command: ["/no/such/program"] }), INVALID_ARGUMENT, ["/no/such/program"]],
    ["a program that is a directory", (c) => ({ ...c, command: ["/etc"] }), INVALID_ARGUMENT, ["/etc"]],
    ["a program that may not be executed", (c) => ({ ...c, command: ["/etc/passwd"] }), INVALID_ARGUMENT, ["/etc/passwd"]],
    ["an unknown image", (c) => ({ ...c, image: { image: "no-such.test/image:1" } }), NOT_FOUND, ["no-such.test/image:1"]],
    ["an unknown image id", (c) => ({ ...c, image: { image: `sha256:${"a".repeat(64)}` } }), NOT_FOUND, ["aaaaaaaa"]],
    ["no image", (c) => ({ ...c, image: { image: "" } }), INVALID_ARGUMENT, ["image"]],
    ["a log path with ..", (c) => ({ ...c, logPath: "../../escape.log" }), INVALID_ARGUMENT, ["log_path"]],
    ["an absolute log path", (c) => ({ ...c, logPath: "/etc/log" }), INVALID_ARGUMENT, ["log_path"]],
    ["a NUL in the name", (c) => ({ ...c, metadata: { name: "a\0b" } }), INVALID_ARGUMENT, ["name"]],
    ["a line break in the name", (c) => ({ ...c, metadata: { name: "a\nb" } }), INVALID_ARGUMENT, ["name"]],
    ["a NUL in an argument", (c) => ({ ...c, args: ["a\0b"] }), INVALID_ARGUMENT, ["args"]],
    ["a variable without a name", (c) => ({ ...c, envs: [{ key: "", value: Buffer.from("x") }] }), INVALID_ARGUMENT, ["envs"]],
    ["a variable with = in its name", (c) => ({ ...c, envs: [{ key: "A=B", value: Buffer.from("x") }] }), INVALID_ARGUMENT, ["envs"]],
    ["a relative mount source", (c) => ({ ...c, mounts: [{ hostPath: "etc", containerPath: "/x" }] }), INVALID_ARGUMENT, ["host_path"]],
    ["a mount over the root", (c) => ({ ...c, mounts: [{ hostPath: "/etc", containerPath: "/" }] }), INVALID_ARGUMENT, ["root"]],
    ["a mount below /proc", (c) => ({ ...c, mounts: [{ hostPath: "/etc", containerPath: "/proc/sys" }] }), INVALID_ARGUMENT, ["/proc/sys"]],
    ["a mount with ..", (c) => ({ ...c, mounts: [{ hostPath: "/etc", containerPath: "/a/../../b" }] }), INVALID_ARGUMENT, [".."]],
    [
      "an unknown propagation",
      (c) => ({ ...c, mounts: [{ hostPath: "/etc", containerPath: "/x", propagation: 9 }] }),
      INVALID_ARGUMENT,
      ["propagation"],
    ],
    [
      "recursive read-only that is not read-only",
      (c) => ({ ...c, mounts: [{ hostPath: "/etc", containerPath: "/x", recursiveReadOnly: true }] }),
      INVALID_ARGUMENT,
      ["recursive_read_only"],
    ],
    ["a group without a user", security({ runAsGroup: { value: 5 } }), INVALID_ARGUMENT, ["run_as_group"]],
    ["an unknown user", security({ runAsUsername: "nobody-at-all" }), INVALID_ARGUMENT, ["nobody-at-all"]],
    ["a negative user", security({ runAsUser: { value: -2 } }), INVALID_ARGUMENT, ["run_as_user"]],
    ["a user beyond 32 bits", security({ runAsUser: { value: 4_294_967_296 } }), INVALID_ARGUMENT, ["run_as_user"]],
    [
      "a seccomp profile that is not there",
      security({ seccomp: { profileType: 2, localhostRef: "/no/such/profile.json" } }),
      INVALID_ARGUMENT,
      ["/no/such/profile.json"],
    ],
    ["a seccomp profile without a name", security({ seccomp: { profileType: 2, localhostRef: "" } }), INVALID_ARGUMENT, ["seccomp"]],
    [
      "an AppArmor profile that is not loaded",
      security({ apparmor: { profileType: 2, localhostRef: "no-such-profile" } }),
      INVALID_ARGUMENT,
      [/apparmor/i],
    ],
    [
      "a memory limit that nothing can run in",
      (c) => ({ ...c, linux: { ...c.linux, resources: { memoryLimitInBytes: 4096 } } }),
      INVALID_ARGUMENT,
      ["memory"],
    ],
    [
      "processors that are not there",
      (c) => ({ ...c, linux: { ...c.linux, resources: { cpusetCpus: "1000" } } }),
      INVALID_ARGUMENT,
      ["cpuset"],
    ],
    [
      "a device that is none",
      (c) => ({ ...c, devices: [{ hostPath: "/etc/passwd", containerPath: "/dev/x", permissions: "rwm" }] }),
      INVALID_ARGUMENT,
      ["/etc/passwd"],
    ],
    [
      "an unknown CDI device",
      (c) => ({ ...c, CDIDevices: [{ name: "vendor.test/class=none" }] }),
      UNIMPLEMENTED,
      ["vendor.test/class=none"],
    ],
  ];
  test.each(cases)("%s", async (_title, change, code, texts) => {
    const pod = await node.runPod({}, hostNetwork);
    const config = change(pod.containerConfig(["sleep", "100"], { metadata: { name: "bad" } }));
    const request = { podSandboxId: pod.id, config, sandboxConfig: pod.config };
    const attempt = async (): Promise<void> => {
      const { containerId } = await node.runtime.CreateContainer(request);
      await node.runtime.StartContainer({ containerId });
    };
    const error = await failure(attempt(), code, ...texts);
    expect(error.details).not.toMatch(/\n\s+at |undefined|\[object/);
    // The name is free, the pod is whole.
    const good = await pod.runContainer(["true"], { metadata: { name: "bad", attempt: 1 } });
    expect(await good.exited()).toMatchObject({ exitCode: 0 });
    expect((await pod.status()).state).toBe(PodSandboxState.SANDBOX_READY);
  });

  test("in a pod that is not there or not ready", async () => {
    const pod = await node.runPod({}, hostNetwork);
    await pod.stop();
    await failure(pod.createContainer(["true"]), FAILED_PRECONDITION, pod.id.slice(0, 12));
    await pod.remove();
    await failure(pod.createContainer(["true"]), NOT_FOUND, pod.id.slice(0, 12));
  });

  test("errors name the container and the step", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const config = pod.containerConfig(["no-such-command"], { metadata: { name: "named" } });
    const attempt = async (): Promise<void> => {
      const { containerId } = await node.runtime.CreateContainer({ podSandboxId: pod.id, config, sandboxConfig: pod.config });
      await node.runtime.StartContainer({ containerId });
    };
    await failure(attempt(), INVALID_ARGUMENT, "container named", /container\.\w+|exec|process/);
  });
});

describe("a network plugin that", () => {
  let shipped = "";
  beforeAll(() => {
    shipped = readFileSync(join(node.directories.cniConfig, "10-berth.conflist"), "utf8");
  });
  beforeEach(() => {
    for (const name of readdirSync(plugins())) rmSync(join(plugins(), name));
  });
  afterEach(async () => {
    // The pods go with the plugins that made them.
    await node.empty();
    writeFileSync(join(node.directories.cniConfig, "10-berth.conflist"), shipped);
    await until("the shipped network is used", () => usedNetwork() === "berth");
    await node.networkReady();
  });

  test("fails with an error in JSON: message, code and details are passed on", async () => {
    plugin(
      "failing",
      `[ "$CNI_COMMAND" = ADD ] || exit 0; echo '{"cniVersion":"1.0.0","code":999,"msg":"no address left","details":"pool is empty"}'; exit 1`,
    );
    await useOne("failing");
    await failure(
      node.runtime.RunPodSandbox({ config: node.podConfig() }),
      INTERNAL,
      "failing",
      "ADD",
      "no address left",
      "pool is empty",
      "sandbox.network",
    );
    await noPods();
    expect(calls("failing")).toEqual(["ADD", "DEL"]);
  });

  test("prints what is no JSON", async () => {
    plugin("garbage", `[ "$CNI_COMMAND" = ADD ] && echo "all fine, trust me"; exit 0`);
    await useOne("garbage");
    await failure(node.runtime.RunPodSandbox({ config: node.podConfig() }), INTERNAL, "garbage", "ADD", "JSON");
    await noPods();
  });

  test("fails without a word", async () => {
    plugin("silent", `[ "$CNI_COMMAND" = ADD ] && { echo "panic: everything" >&2; exit 77; }; exit 0`);
    await useOne("silent");
    await failure(node.runtime.RunPodSandbox({ config: node.podConfig() }), INTERNAL, "silent", "77", "panic: everything");
    await noPods();
  });

  test("hangs: it is killed with its children in time", async () => {
    plugin("hanging", `[ "$CNI_COMMAND" = ADD ] && { sleep 4713 & sleep 4714; }; exit 0`);
    await useOne("hanging");
    const started = performance.now();
    const error = await failure(
      node.runtime.RunPodSandbox({ config: node.podConfig() }),
      [INTERNAL, DEADLINE_EXCEEDED, UNAVAILABLE],
      "hanging",
      "ADD",
      /700|time/,
    );
    expect(error.details).toContain("sandbox.network");
    expect(performance.now() - started).toBeLessThan(8000);
    await until("its children are gone", () => !commands().some((line) => /sleep 471[34]/.test(line)), commands);
    await noPods();
  });

  test("floods its output", async () => {
    plugin("flooding", `[ "$CNI_COMMAND" = ADD ] && { yes | head -c 50000000; }; exit 0`);
    await useOne("flooding");
    await failure(node.runtime.RunPodSandbox({ config: node.podConfig() }), INTERNAL, "flooding");
    await noPods();
  });

  test("says try again later", async () => {
    plugin("busy", `[ "$CNI_COMMAND" = ADD ] && { echo '{"cniVersion":"1.0.0","code":11,"msg":"later"}'; exit 1; }; exit 0`);
    await useOne("busy");
    await failure(node.runtime.RunPodSandbox({ config: node.podConfig() }), UNAVAILABLE, "busy", "later");
    await noPods();
  });

  test("gives addresses that are none", async () => {
    plugin("liar", `[ "$CNI_COMMAND" = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"not-an-address"}]}'; exit 0`);
    await useOne("liar");
    await failure(node.runtime.RunPodSandbox({ config: node.podConfig() }), INTERNAL, "not-an-address");
    await noPods();
  });

  test("fails its DEL: the pod can be stopped once it works again", async () => {
    plugin(
      "sticky",
      `[ "$CNI_COMMAND" = DEL ] && [ ! -e ${join(plugins(), "works")} ] && { echo '{"cniVersion":"1.0.0","code":7,"msg":"not now"}'; exit 1; }; echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.8.7/24"}]}'`,
    );
    await useOne("sticky");
    const pod = await node.runPod();
    expect(await pod.ip()).toBe("10.9.8.7");
    await failure(node.runtime.StopPodSandbox({ podSandboxId: pod.id }), INTERNAL, "sticky", "DEL", "not now");
    expect((await pod.status()).state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    await failure(node.runtime.RemovePodSandbox({ podSandboxId: pod.id }), INTERNAL, "sticky");
    writeFileSync(join(plugins(), "works"), "");
    await pod.stop();
    await pod.remove();
    await noPods();
  });

  test("is not there: NetworkReady says which, a pod is refused by name, one on the host's network runs", async () => {
    useNetwork({ type: "no-such-plugin" });
    await notReady("no-such-plugin");
    await failure(node.runtime.RunPodSandbox({ config: node.podConfig() }), [FAILED_PRECONDITION, UNAVAILABLE], "no-such-plugin");
    await noPods();
    const pod = await node.runPod({}, hostNetwork);
    expect((await pod.status()).state).toBe(PodSandboxState.SANDBOX_READY);
  });

  test("is a path that leads elsewhere is never run", async () => {
    plugin("evil", `touch ${join(plugins(), "executed")}; echo '{}'`);
    for (const type of ["../bin/evil", join(plugins(), "evil"), "..", "a/../evil"]) {
      useNetwork({ type });
      await notReady(type);
      await expect(node.runtime.RunPodSandbox({ config: node.podConfig() })).rejects.toThrow();
    }
    expect(statSync(join(plugins(), "executed"), { throwIfNoEntry: false })).toBeUndefined();
    await noPods();
  });

  test("has a configuration that is broken: NetworkReady tells the file and what is wrong", async () => {
    writeFileSync(join(node.directories.cniConfig, "10-berth.conflist"), "{ this is no json");
    expect((await notReady("10-berth.conflist")).reason).toBe("NetworkPluginNotReady");
    rmSync(join(node.directories.cniConfig, "10-berth.conflist"));
    await notReady(`${node.directories.cniConfig} has no`);
    await failure(node.runtime.RunPodSandbox({ config: node.podConfig() }), [FAILED_PRECONDITION, UNAVAILABLE], node.directories.cniConfig);
  });

  test("gets what the specification promises it, and nothing of the daemon's", async () => {
    plugin(
      "curious",
      `env | sort > ${join(plugins(), "env")}; cat > ${join(plugins(), "stdin")}; ls /proc/self/fd > ${join(plugins(), "fds")}; echo '{"cniVersion":"1.0.0","ips":[{"address":"10.9.8.7/24"}]}'`,
    );
    await useOne("curious");
    const pod = await node.runPod();
    const env = Object.fromEntries(
      readFileSync(join(plugins(), "env"), "utf8")
        .trim()
        .split("\n")
        .map((line) => [line.split("=")[0] ?? "", line.slice(line.indexOf("=") + 1)]),
    );
    expect(env).toMatchObject({
      CNI_COMMAND: "ADD",
      CNI_CONTAINERID: pod.id,
      CNI_IFNAME: "eth0",
      CNI_NETNS: join(node.directories.namespaces, `berth-${pod.id}`),
    });
    expect(env["CNI_ARGS"]).toContain(`K8S_POD_NAME=${pod.config.metadata?.name}`);
    expect(Object.keys(env).filter((key) => !/^(CNI_\w+|PATH|PWD|SHLVL|_|OLDPWD)$/.test(key))).toEqual([]);
    expect(JSON.parse(readFileSync(join(plugins(), "stdin"), "utf8"))).toMatchObject({
      name: expect.stringMatching(/^test-/),
      type: "curious",
      cniVersion: "1.0.0",
    });
    expect(readFileSync(join(plugins(), "fds"), "utf8").trim().split("\n").length).toBeLessThanOrEqual(4);
  });
});

describe("a full disk", () => {
  let mounted = "";
  const fill = (path: string): void => writeFileSync(path, Buffer.alloc(0));

  /** A small file system over one directory of the daemon, already full. */
  async function onFullDisk(directory: string, work: () => Promise<void>): Promise<void> {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "full", directory]);
    mounted = directory;
    try {
      try {
        for (let i = 0; ; i += 1) fill(join(directory, `filler-${i}`));
      } catch {
        // Full now.
      }
      await work();
    } finally {
      execFileSync("umount", ["-l", directory]);
      mounted = "";
    }
  }
  afterEach(() => expect(mounted).toBe(""));

  test("under the records: RunPodSandbox is RESOURCE_EXHAUSTED, naming the step", async () => {
    await onFullDisk(join(node.directories.root, "sandboxes"), async () => {
      await failure(node.runtime.RunPodSandbox({ config: node.podConfig() }), RESOURCE_EXHAUSTED, "sandbox.intent");
    });
    await noPods();
    expect((await (await node.runPod({}, hostNetwork)).status()).state).toBe(PodSandboxState.SANDBOX_READY);
  });

  test("under the pods' files: undone, naming the step", async () => {
    await onFullDisk(join(node.directories.runRoot, "sandboxes"), async () => {
      await failure(node.runtime.RunPodSandbox({ config: node.podConfig() }), RESOURCE_EXHAUSTED, /sandbox\.(directory|files|shm)/);
    });
    await noPods();
  });

  test("under the containers' records: CreateContainer is RESOURCE_EXHAUSTED, naming the step", async () => {
    const pod = await node.runPod({}, hostNetwork);
    await onFullDisk(join(node.directories.root, "containers"), async () => {
      await failure(pod.createContainer(["true"]), RESOURCE_EXHAUSTED, /container\.\w+/);
    });
    const again = await pod.runContainer(["true"]);
    expect(await again.exited()).toMatchObject({ exitCode: 0 });
  });

  test("under the layers: PullImage is RESOURCE_EXHAUSTED and leaves nothing", async () => {
    const host = node.reference.split("/")[0] ?? "";
    await pushBusybox(host, "full/app", "1", { cmd: ["full"] });
    await node.images.RemoveImage({ image: { image: node.image } });
    const directory = join(node.directories.root, "layers");
    await until(
      "the layers are gone",
      () => readdirSync(directory).length === 0,
      () => readdirSync(directory),
    );
    try {
      await onFullDisk(directory, async () => {
        await failure(node.images.PullImage({ image: { image: `${host}/full/app:1` } }), RESOURCE_EXHAUSTED, "full/app:1");
      });
      expect((await node.images.ListImages({})).images).toEqual([]);
    } finally {
      await node.images.PullImage({ image: { image: node.reference } });
      await node.settle();
    }
  });

  test("under the container's writable layer is the container's own affair", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "100"]);
    const result = await container.exec(["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=100 2>&1"]);
    expect(result.exitCode).not.toBe(0);
    expect(result.stdout).toContain("No space left");
    expect(await container.run("echo", "well")).toBe("well\n");
  });
});

test("many bad requests at once leave the daemon well", async () => {
  const wrong = Array.from({ length: 100 }, (_, i) =>
    node.runtime.RunPodSandbox({ config: { metadata: { name: `../${i}` } } }).catch((error: { code: status }) => error.code),
  );
  expect(new Set(await Promise.all(wrong))).toEqual(new Set([INVALID_ARGUMENT]));
  await noPods();
});

// --- plugins of the tests' own ---

function plugins(): string {
  return node.directories.cniPlugins;
}

function plugin(type: string, script: string): void {
  const path = join(plugins(), type);
  writeFileSync(path, `#!/bin/sh\necho "$CNI_COMMAND" >> ${path}.calls\n${script}\n`);
  chmodSync(path, 0o755);
}

function calls(type: string): string[] {
  return readFileSync(join(plugins(), `${type}.calls`), "utf8")
    .trim()
    .split("\n");
}

/** Gives it a name of its own, by which the daemon's log tells when it is used. */
function useNetwork(only: Record<string, unknown>): string {
  networks += 1;
  const name = `test-${networks}`;
  const path = join(node.directories.cniConfig, "10-berth.conflist");
  writeFileSync(path, JSON.stringify({ cniVersion: "1.0.0", name, plugins: [only] }));
  return name;
}

async function useOne(type: string): Promise<void> {
  const name = useNetwork({ type });
  await until(`the network ${name} is used`, () => usedNetwork() === name);
}

function usedNetwork(): unknown {
  return node.logRecords().findLast(({ msg }) => msg === "the pod network is ready")?.["network"];
}

async function condition(): Promise<{ status: boolean; reason: string; message: string }> {
  const { status: state } = await node.runtime.Status({});
  const found = state?.conditions.find(({ type }) => type === "NetworkReady");
  if (!found) throw new Error("no condition NetworkReady");
  return found;
}

async function notReady(text: string): Promise<{ reason: string; message: string }> {
  let last = await condition();
  await until(
    `the network is not ready for ${text}`,
    async () => {
      last = await condition();
      return !last.status && last.message.includes(text);
    },
    () => last,
  );
  return last;
}

function commands(): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      } catch {
        return "";
      }
    });
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  while (rest > 0x7f) {
    bytes.push((rest & 0x7f) | 0x80);
    rest >>>= 7;
  }
  return Buffer.from([...bytes, rest]);
}
