import { connect as connectHttp2 } from "node:http2";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { encodeMessage, PodSandboxConfig, ProfileType, PullImageRequest } from "../../../api/cri/service-definition.ts";
import { DomainError, SystemError } from "../../../src/base/errors.ts";
import { connectCri, status, toBigInt } from "../../support/cri-client.ts";
import { containerId, imageId, sandboxId, startFakeServer, testOperation, timeNs } from "./fake-services.ts";

const sandboxConfig = {
  metadata: { name: "web", uid: "8f3c", namespace: "default", attempt: 2 },
  logDirectory: "/var/log/pods/default_web_8f3c",
  // Bytes that a careless conversion would touch: order, empty values, spaces, names of Object's own members.
  labels: { "app.kubernetes.io/name": "wéb ", empty: "", constructor: "c", "2": "b", "10": "a" },
  annotations: { "kubernetes.io/config.seen": '2026-01-01T00:00:00Z\n"\u0001', toString: "x" },
};
const containerConfig = {
  metadata: { name: "main", attempt: 1 },
  image: { image: imageId, userSpecifiedImage: "busybox" },
  command: ["/bin/sh"],
  args: ["-c", "httpd"],
  envs: [{ key: "LANG", value: Buffer.from("ü") }],
  labels: { tier: "front" },
  annotations: { note: "n" },
  logPath: "main/1.log",
  mounts: [{ containerPath: "/data", hostPath: "/srv/data", readonly: true, propagation: 1 }],
  linux: {
    resources: { memoryLimitInBytes: 64 * 2 ** 20, cpuShares: 512 },
    securityContext: { runAsUser: { value: 0 }, seccomp: { profileType: ProfileType.Localhost, localhostRef: "p.json" } },
  },
  stopSignal: 38,
};

const unreadable = new Proxy(new Error("x"), {
  get: () => {
    throw new Error("unreadable");
  },
});

const failure = (code: status, text: string) => ({ code, details: expect.stringContaining(text) });

describe("the runtime's own RPCs", () => {
  test("Version fills all four fields", async () => {
    const { client } = await startFakeServer();
    expect(await client.runtime.Version({})).toMatchObject({
      version: "0.1.0",
      runtimeName: "berth",
      runtimeVersion: "0.1.0-test",
      runtimeApiVersion: "v1",
    });
  });

  test("Status has both conditions, the unnamed handler and the features that are true", async () => {
    const { client } = await startFakeServer();
    const answer = await client.runtime.Status({});
    expect(answer.status?.conditions).toMatchObject([
      { type: "RuntimeReady", status: true },
      { type: "NetworkReady", status: true },
    ]);
    expect(answer.runtimeHandlers.map(({ name, features }) => [name, features?.recursiveReadOnlyMounts, features?.userNamespaces])).toEqual(
      [
        ["", true, false],
        ["native", true, false],
        ["runc", false, false],
      ],
    );
    expect(answer.features).toMatchObject({ supplementalGroupsPolicy: true, userNamespacesHostNetwork: false, mountOptions: false });
    expect(answer.info).toEqual({});
  });

  test("a network that is not ready says why", async () => {
    const { client, facts } = await startFakeServer();
    Object.assign(facts.network, { ready: false, reason: "NetworkPluginNotReady", message: "no conflist in /etc/cni/net.d" });
    const answer = await client.runtime.Status({ verbose: true });
    expect(answer.status?.conditions[1]).toMatchObject({
      type: "NetworkReady",
      status: false,
      reason: "NetworkPluginNotReady",
      message: "no conflist in /etc/cni/net.d",
    });
    expect(JSON.parse(answer.info["info"] ?? "")).toEqual({ config: { root: "/var/lib/berth" }, startedAtNs: timeNs.toString() });
    Object.assign(facts.network, { reason: "" });
    expect((await client.runtime.Status({})).status?.conditions[1]?.reason).toBe("NetworkNotReady");
  });

  test("RuntimeConfig names the cgroup driver", async () => {
    const { client } = await startFakeServer();
    expect((await client.runtime.RuntimeConfig({})).linux?.cgroupDriver).toBe(1);
  });

  test("what is not served answers UNIMPLEMENTED, streams too", async () => {
    const { client } = await startFakeServer();
    await expect(client.runtime.CheckpointPod({})).rejects.toMatchObject(failure(status.UNIMPLEMENTED, "CheckpointPod"));
    await expect(client.runtime.UpdateRuntimeConfig({})).rejects.toMatchObject({ code: status.UNIMPLEMENTED });
    await expect(client.runtime.UpdateContainerResources({})).rejects.toMatchObject({ code: status.UNIMPLEMENTED });
    const events = async (): Promise<void> => {
      for await (const event of client.runtime.GetContainerEvents({})) throw new Error(`an event: ${JSON.stringify(event)}`);
    };
    await expect(events()).rejects.toMatchObject(failure(status.UNIMPLEMENTED, "GetContainerEvents"));
  });
});

describe("sandboxes", () => {
  test("run, list, status, stop and remove; labels and annotations come back byte for byte", async () => {
    const { client } = await startFakeServer();
    expect((await client.runtime.RunPodSandbox({ config: sandboxConfig })).podSandboxId).toBe(sandboxId);

    const [item] = (await client.runtime.ListPodSandbox({})).items;
    expect(item).toMatchObject({ id: sandboxId, state: 0, metadata: sandboxConfig.metadata });
    expect(item?.labels).toEqual(sandboxConfig.labels);
    expect(item?.annotations).toEqual(sandboxConfig.annotations);
    expect(toBigInt(item?.createdAt ?? { low: 0, high: 0, unsigned: false })).toBe(timeNs);

    const answer = await client.runtime.PodSandboxStatus({ podSandboxId: sandboxId, verbose: true });
    expect(answer.status).toMatchObject({ id: sandboxId, state: 0, network: { ip: "10.88.0.5", additionalIps: [{ ip: "fd00::5" }] } });
    expect(answer.status?.labels).toEqual(sandboxConfig.labels);
    expect(answer.status?.annotations).toEqual(sandboxConfig.annotations);
    expect(toBigInt(answer.timestamp) > timeNs).toBe(true);
    expect(JSON.parse(answer.info["info"] ?? "")).toMatchObject({ pid: 4711, createPhasesMs: { "network.attach": 12.5 } });

    await client.runtime.StopPodSandbox({ podSandboxId: sandboxId });
    expect((await client.runtime.ListPodSandbox({})).items[0]?.state).toBe(1);
    await client.runtime.RemovePodSandbox({ podSandboxId: sandboxId });
    expect((await client.runtime.ListPodSandbox({})).items).toEqual([]);
  });

  test("stop and remove of what is not there succeed, status of it is NOT_FOUND", async () => {
    const { client } = await startFakeServer();
    await client.runtime.StopPodSandbox({ podSandboxId: "unknown" });
    await client.runtime.RemovePodSandbox({ podSandboxId: "unknown" });
    await expect(client.runtime.PodSandboxStatus({ podSandboxId: "unknown" })).rejects.toMatchObject(failure(status.NOT_FOUND, "unknown"));
  });

  test("filters go by id, state and every label", async () => {
    const { client } = await startFakeServer();
    await client.runtime.RunPodSandbox({ config: sandboxConfig });
    const second = await client.runtime.RunPodSandbox({ config: { ...sandboxConfig, labels: { empty: "", app: "b" } } });
    await client.runtime.StopPodSandbox({ podSandboxId: second.podSandboxId });
    const ids = async (filter: object) => (await client.runtime.ListPodSandbox({ filter })).items.map(({ id }) => id);
    expect(await ids({ id: "5555" })).toEqual([sandboxId]);
    expect(await ids({ state: { state: 0 } })).toEqual([sandboxId]);
    expect(await ids({ state: { state: 1 } })).toEqual([second.podSandboxId]);
    expect(await ids({ labelSelector: { empty: "" } })).toHaveLength(2);
    expect(await ids({ labelSelector: { empty: "", constructor: "c" } })).toEqual([sandboxId]);
    expect(await ids({ labelSelector: { missing: "" } })).toEqual([]);
  });

  test("a status carries those of the sandbox's containers", async () => {
    const { client } = await startFakeServer();
    await client.runtime.RunPodSandbox({ config: sandboxConfig });
    await client.runtime.CreateContainer({ podSandboxId: sandboxId, config: containerConfig });
    const other = await client.runtime.RunPodSandbox({ config: sandboxConfig });
    await client.runtime.CreateContainer({ podSandboxId: other.podSandboxId, config: containerConfig });
    const answer = await client.runtime.PodSandboxStatus({ podSandboxId: sandboxId });
    expect(answer.containersStatuses.map(({ id }) => id)).toEqual([containerId]);
    expect(answer.status?.id).toBe(sandboxId);
  });
});

describe("containers", () => {
  test("create, start, list, status, stop, remove", async () => {
    const { client, containers } = await startFakeServer();
    expect((await client.runtime.CreateContainer({ podSandboxId: sandboxId, config: containerConfig })).containerId).toBe(containerId);
    await client.runtime.StartContainer({ containerId });
    const [item] = (await client.runtime.ListContainers({})).containers;
    expect(item).toMatchObject({
      id: containerId,
      podSandboxId: sandboxId,
      metadata: containerConfig.metadata,
      image: { image: "busybox", userSpecifiedImage: "busybox" },
      imageId,
      imageRef: imageId,
      state: 1,
    });
    expect(item?.labels).toEqual(containerConfig.labels);
    await client.runtime.StopContainer({ containerId, timeout: 30 });
    const answer = await client.runtime.ContainerStatus({ containerId, verbose: true });
    expect(answer.status).toMatchObject({
      state: 2,
      exitCode: 137,
      reason: "OOMKilled",
      imageRef: imageId,
      imageId,
      logPath: "/var/log/pods/x/main/1.log",
      mounts: [{ containerPath: "/data", hostPath: "/srv/data", readonly: true, propagation: 1 }],
      stopSignal: 38,
    });
    expect([answer.status?.createdAt, answer.status?.startedAt, answer.status?.finishedAt].map((time) => time && toBigInt(time))).toEqual([
      timeNs,
      timeNs + 1n,
      timeNs + 2n,
    ]);
    expect(answer.status?.user?.linux?.supplementalGroups.map(toBigInt)).toEqual([1001n, 4_294_967_294n]);
    expect(answer.status?.resources?.linux?.memoryLimitInBytes.low).toBe(64 * 2 ** 20);
    const info = answer.info["info"] ?? "";
    expect(JSON.parse(info)).toMatchObject({ sandboxId, config: { env: ["LANG"] } });
    expect(info).not.toContain("ü");
    expect(containers.stops).toMatchObject([{ id: containerId, graceMs: 30_000 }]);
    await client.runtime.RemoveContainer({ containerId });
    await client.runtime.RemoveContainer({ containerId });
    await client.runtime.StopContainer({ containerId, timeout: 0 });
    await expect(client.runtime.ContainerStatus({ containerId })).rejects.toMatchObject({ code: status.NOT_FOUND });
  });

  test("a changed container gives new bytes, an unchanged one the cached ones", async () => {
    const { client } = await startFakeServer();
    await client.runtime.CreateContainer({ podSandboxId: sandboxId, config: containerConfig });
    const states = async () => (await client.runtime.ListContainers({})).containers.map(({ state }) => state);
    expect(await states()).toEqual([0]);
    expect(await states()).toEqual([0]);
    await client.runtime.StartContainer({ containerId });
    expect(await states()).toEqual([1]);
  });

  test("500 containers are listed whole", async () => {
    const { client } = await startFakeServer();
    for (let index = 0; index < 500; index++) {
      await client.runtime.CreateContainer({ podSandboxId: sandboxId, config: { ...containerConfig, annotations: { index: `${index}` } } });
    }
    const { containers } = await client.runtime.ListContainers({});
    expect(containers.map(({ annotations }) => annotations["index"])).toEqual([...Array(500).keys()].map(String));
  });

  test("filters go by state, sandbox and label", async () => {
    const { client } = await startFakeServer();
    await client.runtime.CreateContainer({ podSandboxId: sandboxId, config: containerConfig });
    await client.runtime.CreateContainer({ podSandboxId: "other", config: { ...containerConfig, labels: {} } });
    await client.runtime.StartContainer({ containerId });
    const count = async (filter: object) => (await client.runtime.ListContainers({ filter })).containers.length;
    expect(await count({})).toBe(2);
    expect(await count({ state: { state: 0 } })).toBe(1);
    expect(await count({ podSandboxId: sandboxId })).toBe(1);
    expect(await count({ podSandboxId: sandboxId, state: { state: 0 } })).toBe(0);
    expect(await count({ labelSelector: { tier: "front" } })).toBe(1);
    await expect(count({ state: { state: 9 } })).rejects.toMatchObject(failure(status.INVALID_ARGUMENT, "filter.state"));
  });

  test("statistics are exact beyond 2^53 and leave out what is not known", async () => {
    const { client } = await startFakeServer();
    await client.runtime.CreateContainer({ podSandboxId: sandboxId, config: containerConfig });
    const created = await client.runtime.ContainerStats({ containerId });
    expect(created.stats).toMatchObject({ cpu: null, memory: null, attributes: { id: containerId } });
    await client.runtime.StartContainer({ containerId });
    const [stats] = (await client.runtime.ListContainerStats({ filter: { labelSelector: { tier: "front" } } })).stats;
    expect(toBigInt(stats?.cpu?.usageCoreNanoSeconds?.value ?? fail())).toBe(9_007_199_254_740_993n);
    expect(toBigInt(stats?.cpu?.timestamp ?? fail())).toBe(timeNs);
    expect(stats?.memory?.workingSetBytes?.value.low).toBe(1024);
    expect(stats?.memory?.availableBytes?.value.low).toBe(0);
    expect(stats?.writableLayer?.fsId?.mountpoint).toBe("/var/lib/berth");
    expect((await client.runtime.ListContainerStats({ filter: { labelSelector: { tier: "back" } } })).stats).toEqual([]);
  });

  test("ReopenContainerLog reaches the container", async () => {
    const { client, containers } = await startFakeServer();
    await client.runtime.CreateContainer({ podSandboxId: sandboxId, config: containerConfig });
    await client.runtime.ReopenContainerLog({ containerId });
    expect(containers.reopened).toEqual([containerId]);
    await expect(client.runtime.ReopenContainerLog({ containerId: "gone" })).rejects.toMatchObject({ code: status.NOT_FOUND });
  });

  test("ExecSync returns both outputs and the exit code", async () => {
    const { client, containers } = await startFakeServer();
    containers.exec = async (_op, { command, timeoutMs }) => ({
      exitCode: 3,
      stdout: Buffer.from(command.join("|")),
      stderr: Buffer.from(String(timeoutMs)),
    });
    const answer = await client.runtime.ExecSync({ containerId, cmd: ["echo", "-n", "hello"], timeout: 7 });
    expect([answer.exitCode, Buffer.from(answer.stdout).toString(), Buffer.from(answer.stderr).toString()]).toEqual([
      3,
      "echo|-n|hello",
      "7000",
    ]);
  });

  test("ExecSync output of twice 16 MiB is cut to what one message holds", async () => {
    const { client, containers } = await startFakeServer();
    containers.exec = async () => ({ exitCode: 0, stdout: Buffer.alloc(16 * 2 ** 20, "o"), stderr: Buffer.alloc(16 * 2 ** 20, "e") });
    const answer = await client.runtime.ExecSync({ containerId, cmd: ["yes"] });
    expect(answer.stdout.byteLength).toBe(8 * 2 ** 20 - 512);
    expect(answer.stderr.byteLength).toBe(8 * 2 ** 20 - 512);
  });
});

describe("images", () => {
  test("pull, list, status, remove; every id is the same", async () => {
    const { client, images } = await startFakeServer();
    const pulled = await client.images.PullImage({
      image: { image: "busybox", runtimeHandler: "native" },
      auth: { username: "u", password: "p" },
    });
    expect(pulled.imageRef).toBe(imageId);
    expect(images.pulls).toMatchObject([{ reference: "busybox", runtimeHandler: "native", auth: { username: "u", password: "p" } }]);
    const [listed] = (await client.images.ListImages({})).images;
    expect(listed).toMatchObject({
      id: imageId,
      repoTags: ["registry.example/busybox:latest"],
      uid: { value: { low: 1002 } },
      username: "",
      pinned: true,
    });
    expect(toBigInt(listed?.size ?? fail())).toBe(5_000_000_000n);
    const answer = await client.images.ImageStatus({ image: { image: imageId }, verbose: true });
    expect(answer.image?.id).toBe(imageId);
    expect(JSON.parse(answer.info["info"] ?? "")).toMatchObject({ config: { env: ["PATH", "TOKEN"] } });
    expect((await client.images.ListImages({ filter: { image: { image: "absent" } } })).images).toEqual([]);
    expect((await client.images.ListImages({ filter: { image: { image: imageId } } })).images).toHaveLength(1);
    await client.images.RemoveImage({ image: { image: imageId } });
    await client.images.RemoveImage({ image: { image: imageId } });
    expect((await client.images.ImageStatus({ image: { image: imageId } })).image).toBeNull();
  });

  test("empty credentials are none", async () => {
    const { client, images } = await startFakeServer();
    await client.images.PullImage({ image: { image: "busybox" }, auth: { serverAddress: "x" } });
    expect(images.pulls[0]?.auth).toBeNull();
  });

  test("ImageFsInfo has one file system for images and none for containers", async () => {
    const { client } = await startFakeServer();
    const answer = await client.images.ImageFsInfo({});
    expect(answer.imageFilesystems).toMatchObject([{ fsId: { mountpoint: "/var/lib/berth" } }]);
    expect(toBigInt(answer.imageFilesystems[0]?.usedBytes?.value ?? fail())).toBe(6_000_000_000n);
    expect(answer.containerFilesystems).toEqual([]);
  });

  test.each([
    ["registry-unavailable", status.UNKNOWN, "RegistryUnavailable: host x: 503"],
    ["signature-validation-failed", status.UNKNOWN, "SignatureValidationFailed: host x: 503"],
    ["unauthenticated", status.UNAUTHENTICATED, "host x: 503"],
  ] as const)("a pull that fails as %s has the text that the kubelet looks for", async (kind, code, details) => {
    const { client, images } = await startFakeServer();
    images.beforePull = () => {
      throw new DomainError(kind, "host x: 503");
    };
    await expect(client.images.PullImage({ image: { image: "busybox" } })).rejects.toMatchObject({ code, details });
  });
});

describe("bad requests are INVALID_ARGUMENT and name the field", () => {
  const run = (config: object) => ({ config: { ...sandboxConfig, ...config } });
  test.each([
    ["config", {}],
    ["config.metadata", run({ metadata: null })],
    ["config.metadata.name", run({ metadata: { uid: "u", namespace: "n" } })],
    ["config.metadata.uid", run({ metadata: { name: "a", uid: "../../var", namespace: "n" } })],
    ["config.metadata.namespace", run({ metadata: { name: "a", uid: "u", namespace: "a/b" } })],
    ["config.log_directory", run({ logDirectory: "/var/log/../../etc" })],
    ["config.log_directory", run({ logDirectory: "relative" })],
    ["config.hostname", run({ hostname: "a\nb" })],
    ["config.linux.cgroup_parent", run({ linux: { cgroupParent: "/kubepods/../.." } })],
    ["config.port_mappings.container_port", run({ portMappings: [{ containerPort: 70000 }] })],
    ["config.dns_config.servers", run({ dnsConfig: { servers: ["1.1.1.1\nnameserver 6.6.6.6"] } })],
    ["userns_options", run({ linux: { securityContext: { namespaceOptions: { usernsOptions: { mode: 0 } } } } })],
    ["namespace_options.network", run({ linux: { securityContext: { namespaceOptions: { network: 1 } } } })],
    ["seccomp.localhost_ref", run({ linux: { securityContext: { seccomp: { profileType: 2 } } } })],
  ])("RunPodSandbox: %s", async (field, request) => {
    const { client, sandboxes } = await startFakeServer();
    await expect(client.runtime.RunPodSandbox(request)).rejects.toMatchObject(failure(status.INVALID_ARGUMENT, field));
    expect(sandboxes.views.size).toBe(0);
  });

  const create = (config: object) => ({ podSandboxId: sandboxId, config: { ...containerConfig, ...config } });
  const security = (securityContext: object) => create({ linux: { securityContext } });
  test.each([
    ["pod_sandbox_id", { config: containerConfig }],
    ["config", { podSandboxId: sandboxId }],
    ["config.metadata", create({ metadata: null })],
    ["config.metadata.name", create({ metadata: { name: "a b" } })],
    ["config.image", create({ image: null })],
    ["config.image.image", create({ image: { image: "" } })],
    ["config.log_path", create({ logPath: "../x" })],
    ["config.log_path", create({ logPath: "/x" })],
    ["config.log_path", create({ logPath: "a/../../x" })],
    ["config.envs.key", create({ envs: [{ key: "A=B", value: Buffer.from("x") }] })],
    ['config.envs["A"]', create({ envs: [{ key: "A", value: Buffer.from([0xff]) }] })],
    ["config.mounts[0].host_path", create({ mounts: [{ containerPath: "/a", hostPath: "b" }] })],
    ["config.mounts[0].propagation", create({ mounts: [{ containerPath: "/a", hostPath: "/b", propagation: 7 }] })],
    ["recursive_read_only", create({ mounts: [{ containerPath: "/a", hostPath: "/b", recursiveReadOnly: true }] })],
    [
      "recursive_read_only",
      create({ mounts: [{ containerPath: "/a", hostPath: "/b", recursiveReadOnly: true, readonly: true, propagation: 2 }] }),
    ],
    ["config.devices[0].permissions", create({ devices: [{ containerPath: "/a", hostPath: "/b", permissions: "x" }] })],
    ["run_as_group", security({ runAsGroup: { value: 1 } })],
    ["run_as_user", security({ runAsUser: { value: 4_294_967_295 } })],
    ["run_as_user", security({ runAsUser: { value: -1 } })],
    ["supplemental_groups", security({ supplementalGroups: [{ low: 0, high: 1, unsigned: false }] })],
    ["target_id", security({ namespaceOptions: { pid: 3 } })],
    ["config.linux.resources.oom_score_adj", create({ linux: { resources: { oomScoreAdj: 1001 } } })],
    ["memory_limit_in_bytes", create({ linux: { resources: { memoryLimitInBytes: { low: -1, high: 0x7fffffff, unsigned: false } } } })],
    ["config.stop_signal", create({ stopSignal: 66 })],
  ])("CreateContainer: %s", async (field, request) => {
    const { client, containers } = await startFakeServer();
    await expect(client.runtime.CreateContainer(request)).rejects.toMatchObject(failure(status.INVALID_ARGUMENT, field));
    expect(containers.views.size).toBe(0);
  });

  test("the secret of a variable is not in the error", async () => {
    const { client } = await startFakeServer();
    const request = create({ envs: [{ key: "TOKEN", value: Buffer.from("hunter2\0") }] });
    await expect(client.runtime.CreateContainer(request)).rejects.toMatchObject({ details: expect.not.stringContaining("hunter2") });
  });

  test("ids and commands that are missing", async () => {
    const { client } = await startFakeServer();
    const { runtime, images } = client;
    for (const call of [
      () => runtime.StopPodSandbox({}),
      () => runtime.RemovePodSandbox({}),
      () => runtime.PodSandboxStatus({}),
      () => runtime.StartContainer({}),
      () => runtime.StopContainer({}),
      () => runtime.StopContainer({ containerId, timeout: -1 }),
      () => runtime.RemoveContainer({}),
      () => runtime.ContainerStatus({}),
      () => runtime.ContainerStats({}),
      () => runtime.ReopenContainerLog({}),
      () => runtime.ExecSync({ cmd: ["true"] }),
      () => runtime.ExecSync({ containerId }),
      () => runtime.ContainerStatus({ containerId: "a\nb" }),
      () => images.PullImage({}),
      () => images.ImageStatus({ image: {} }),
      () => images.RemoveImage({}),
    ]) {
      await expect(call(), String(call)).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    }
  });

  test("bytes that are no message", async () => {
    const { client } = await startFakeServer();
    const malformed = failure(status.INVALID_ARGUMENT, "RunPodSandbox: the request is malformed");
    await expect(client.runtime.RunPodSandbox(Buffer.from([0x0a, 0xff]))).rejects.toMatchObject(malformed);
    const badUtf8 = Buffer.concat([Buffer.from([0x0a, 4, 0x12, 2, 0xff, 0xfe])]);
    expect(() => PodSandboxConfig.decode(badUtf8.subarray(2))).toThrow();
    await expect(client.runtime.RunPodSandbox(badUtf8)).rejects.toMatchObject(malformed);
    await client.runtime.Version({});
  });
});

describe("errors of the domains", () => {
  test("what the kernel said is INTERNAL with its text", async () => {
    const { client, sandboxes } = await startFakeServer();
    sandboxes.beforeRun = () => {
      throw new SystemError({ errno: "ENOSPC", syscall: "mkdir", path: "/x", step: "directories" });
    };
    const call = client.runtime.RunPodSandbox({ config: sandboxConfig });
    await expect(call).rejects.toMatchObject({ code: status.INTERNAL, details: "directories: mkdir /x: ENOSPC" });
  });

  test.each([
    ["a string", "boom"],
    ["undefined", undefined],
    ["null", null],
    ["an error with half a surrogate pair", new Error("bad \ud800 text")],
    ["an error whose message cannot be read", unreadable],
  ])("a handler that throws %s does not end the server", async (_, thrown) => {
    const { client, sandboxes } = await startFakeServer();
    sandboxes.beforeRun = () => {
      throw thrown;
    };
    await expect(client.runtime.RunPodSandbox({ config: sandboxConfig })).rejects.toMatchObject({ code: status.INTERNAL });
    await client.runtime.Version({});
  });

  test("an answer that cannot be encoded is INTERNAL", async () => {
    const { client, facts } = await startFakeServer();
    const poisoned = new Proxy(
      {},
      {
        get: () => {
          throw new Error("cannot be encoded");
        },
      },
    );
    Object.assign(facts.network, { message: poisoned });
    await expect(client.runtime.Status({})).rejects.toMatchObject({ code: status.INTERNAL });
    await client.runtime.Version({});
  });

  test("an answer beyond the limit is RESOURCE_EXHAUSTED", async () => {
    const { client } = await startFakeServer({ maxMessageBytes: 4096 });
    for (let index = 0; index < 60; index++) await client.runtime.RunPodSandbox({ config: sandboxConfig });
    await expect(client.runtime.ListPodSandbox({})).rejects.toMatchObject({ code: status.RESOURCE_EXHAUSTED });
  });

  test("a request beyond the limit is RESOURCE_EXHAUSTED", async () => {
    const { client } = await startFakeServer({ maxMessageBytes: 4096 });
    const big = { ...sandboxConfig, annotations: { big: "x".repeat(8192) } };
    await expect(client.runtime.RunPodSandbox({ config: big })).rejects.toMatchObject({ code: status.RESOURCE_EXHAUSTED });
    await client.runtime.Version({});
  });
});

describe("the operation of a call", () => {
  test("has the call's deadline, the ids of the request and is listed while it runs", async () => {
    const { client, sandboxes, running } = await startFakeServer();
    let go: () => void = () => undefined;
    sandboxes.beforeRun = (op) => op.step("network.attach", () => new Promise<void>((resolve) => (go = resolve)));
    const call = client.runtime.RunPodSandbox({ config: sandboxConfig }, { timeoutMs: 5000 });
    await expect
      .poll(() => running.list())
      .toMatchObject([{ name: "RunPodSandbox", step: "network.attach", ids: { pod: "default/web", podUid: "8f3c" } }]);
    const left = running.list()[0]?.remainingMs ?? 0;
    expect(left > 3000 && left <= 5000).toBe(true);
    go();
    await call;
    await expect.poll(() => running.size).toBe(0);
  });

  test("without a deadline: the default, twice for RunPodSandbox, with the grace for StopContainer, none for PullImage", async () => {
    const { client, sandboxes, containers, images } = await startFakeServer({ defaultTimeoutMs: 10_000 });
    const seen: Record<string, number | null> = {};
    sandboxes.beforeRun = (op) => {
      seen["run"] = op.remainingMs;
    };
    containers.exec = async (op, { timeoutMs }) => {
      seen[`exec ${timeoutMs}`] = op.remainingMs;
      return { exitCode: 0, stdout: new Uint8Array(), stderr: new Uint8Array() };
    };
    const unlimited = { timeoutMs: null };
    await client.runtime.RunPodSandbox({ config: sandboxConfig }, unlimited);
    await client.runtime.StopContainer({ containerId, timeout: 60 }, unlimited);
    await client.runtime.ExecSync({ containerId, cmd: ["a"], timeout: 5 }, unlimited);
    await client.runtime.ExecSync({ containerId, cmd: ["a"] }, unlimited);
    await client.images.PullImage({ image: { image: "busybox" } }, unlimited);
    const near = (value: number | null | undefined, wanted: number) => expect(Math.round((value ?? 0) / 1000)).toBe(wanted / 1000);
    near(seen["run"], 20_000);
    near(seen["exec 5000"], 15_000);
    expect(seen["exec 0"]).toBeNull();
    near(containers.stops[0]?.remainingMs, 70_000);
    expect(images.pulls[0]?.remainingMs).toBeNull();
  });

  test("a passed deadline aborts the signal as deadline-exceeded and answers DEADLINE_EXCEEDED", async () => {
    const { client, images, metrics } = await startFakeServer();
    let reason: unknown = null;
    images.beforePull = async (op) => {
      await op.wait(60_000).catch((error: unknown) => {
        reason = error;
        throw error;
      });
    };
    const call = client.images.PullImage({ image: { image: "busybox" } }, { timeoutMs: 60 });
    await expect(call).rejects.toMatchObject({ code: status.DEADLINE_EXCEEDED });
    await expect.poll(() => reason).toMatchObject({ kind: "deadline-exceeded" });
    await expect
      .poll(() => metrics.registry.metrics())
      .toContain('berth_operations_errors_total{operation="PullImage",code="DEADLINE_EXCEEDED"} 1');
  });

  test("a deadline of a month, as a long grace period gives, is not a passed one", async () => {
    const { client, containers } = await startFakeServer();
    const monthMs = 31 * 24 * 3600_000;
    // grpc-js as a client cannot hold such a deadline either, so the header is given by hand.
    const timeouts = ["2678400S", "44640M", "744H", "99999999H"];
    for (const timeout of timeouts) {
      const answer = await client.runtime.StopContainer(
        { containerId, timeout: monthMs / 1000 },
        { timeoutMs: null, metadata: { "grpc-timeout": timeout } },
      );
      expect(answer).toEqual({});
    }
    expect(containers.stops.map(({ remainingMs }) => Math.round((remainingMs ?? 0) / 3600_000))).toEqual(timeouts.map(() => 24 * 24));
  });

  test("a cancelled call aborts the signal", async () => {
    const { client, images } = await startFakeServer();
    let reason: unknown = null;
    images.beforePull = (op) =>
      op.wait(60_000).catch((error: unknown) => {
        reason = error;
        throw error;
      });
    const controller = new AbortController();
    const call = client.images.PullImage({ image: { image: "busybox" } }, { timeoutMs: null, signal: controller.signal });
    await expect.poll(() => images.pulls.length).toBe(1);
    controller.abort();
    await expect(call).rejects.toMatchObject({ code: status.CANCELLED });
    await expect.poll(() => reason).toMatchObject({ kind: "cancelled" });
  });

  test("a client that goes away cancels its calls", async () => {
    const { server, images } = await startFakeServer();
    let cancelled = false;
    images.beforePull = (op) => op.wait(60_000).finally(() => (cancelled = true));
    const session = connectHttp2("http://localhost", { createConnection: () => connect(server.socketPath) });
    const request = session.request({
      ":method": "POST",
      ":path": "/runtime.v1.ImageService/PullImage",
      "content-type": "application/grpc",
      te: "trailers",
    });
    const message = encodeMessage(PullImageRequest, { image: { image: "busybox" } });
    request.end(Buffer.concat([Buffer.from([0, 0, 0, 0, message.byteLength]), message]));
    request.on("error", () => undefined);
    await expect.poll(() => images.pulls.length).toBe(1);
    session.destroy();
    await expect.poll(() => cancelled).toBe(true);
  });

  test("a handler that ignores its signal does not keep the caller, but stays listed", async () => {
    const { client, sandboxes, running, server } = await startFakeServer({ defaultTimeoutMs: 50 });
    let go: () => void = () => undefined;
    sandboxes.beforeRun = () => new Promise<void>((resolve) => (go = resolve));
    const call = client.runtime.RunPodSandbox({ config: sandboxConfig }, { timeoutMs: null });
    await expect(call).rejects.toMatchObject(failure(status.DEADLINE_EXCEEDED, "RunPodSandbox did not finish within 100 ms"));
    expect(running.size).toBe(1);
    expect(server.inFlight).toBe(1);
    go();
    await expect.poll(() => running.size).toBe(0);
  });

  test("counts, times and phases reach the metrics", async () => {
    const { client, sandboxes, metrics } = await startFakeServer();
    sandboxes.beforeRun = (op) => op.step("network.attach", () => sleep(5));
    await client.runtime.RunPodSandbox({ config: sandboxConfig });
    await client.runtime.PodSandboxStatus({ podSandboxId: "gone" }).catch(() => undefined);
    const text = await metrics.registry.metrics();
    expect(text).toContain('berth_operations_total{operation="RunPodSandbox"} 1');
    expect(text).toContain('berth_operations_errors_total{operation="PodSandboxStatus",code="NOT_FOUND"} 1');
    expect(text).toContain('berth_phase_duration_seconds_count{operation="RunPodSandbox",phase="network.attach"} 1');
    expect(text).toContain('berth_operations_in_flight{operation="RunPodSandbox"} 0');
  });

  test("past the cap further calls of the method are refused, others are not", async () => {
    const { client, images } = await startFakeServer({ maxInFlightPerMethod: 2 });
    let go: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => (go = resolve));
    images.beforePull = () => gate;
    const pull = () => client.images.PullImage({ image: { image: "busybox" } });
    const running = [pull(), pull()];
    await expect.poll(() => images.pulls.length).toBe(2);
    await expect(pull()).rejects.toMatchObject(failure(status.RESOURCE_EXHAUSTED, "PullImage: 2 calls"));
    await client.runtime.Version({});
    go();
    await Promise.all(running);
    await pull();
  });
});

describe("stopping", () => {
  test("lets running calls end, refuses new ones and removes the socket", async () => {
    const { client, server, images } = await startFakeServer();
    let go: () => void = () => undefined;
    images.beforePull = () => new Promise<void>((resolve) => (go = resolve));
    const call = client.images.PullImage({ image: { image: "busybox" } });
    await expect.poll(() => images.pulls.length).toBe(1);
    const stopped = server.stop(testOperation());
    await expect(client.runtime.Version({}, { timeoutMs: 500 })).rejects.toMatchObject({ code: expect.any(Number) });
    go();
    expect((await call).imageRef).toBe(imageId);
    await stopped;
    await server.stop(testOperation());
    const late = connectCri(server.socketPath);
    await expect(late.runtime.Version({}, { timeoutMs: 500 })).rejects.toMatchObject({ code: expect.any(Number) });
    late.close();
  });

  test("cancels what has not ended in time", async () => {
    const { client, server, images } = await startFakeServer();
    let reason: unknown = null;
    images.beforePull = (op) =>
      op.wait(60_000).catch((error: unknown) => {
        reason = error;
        throw error;
      });
    const call = client.images.PullImage({ image: { image: "busybox" } });
    const outcome = expect(call).rejects.toMatchObject({ code: expect.any(Number) });
    await expect.poll(() => images.pulls.length).toBe(1);
    await server.stop(testOperation(50));
    expect(reason).toMatchObject({ kind: "unavailable" });
    await outcome;
    expect(server.inFlight).toBe(0);
  });
});

function fail(): never {
  throw new Error("the answer lacks a field");
}
