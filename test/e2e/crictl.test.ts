/** crictl 1.36, as an operator uses it. */
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { pushBusybox } from "../support/image-builder.ts";
import { until, useNode } from "../support/node.ts";

const node = useNode("crictl");
const program = join(process.env["BERTH_TOOLS"] ?? "", "crictl");

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

function run(...args: readonly string[]): Promise<Ran> {
  const endpoint = `unix://${node.directories.socket}`;
  // A configuration file of the host must not change what is tested.
  const all = ["--config", "/dev/null", "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--timeout", "20s", ...args];
  return new Promise((resolve) => {
    execFile(program, all, { encoding: "utf8", timeout: 60_000 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : typeof error.code === "number" ? error.code : 1, stdout, stderr });
    });
  });
}

async function crictl(...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await run(...args);
  if (code !== 0) throw new Error(`crictl ${args.join(" ")} ended with ${code}: ${stdout}${stderr}`);
  return stdout;
}

async function json<T>(...args: readonly string[]): Promise<T> {
  return JSON.parse(await crictl(...args)) as T;
}

const files = { pod: "", container: "" };
let counter = 0;

beforeAll(() => {
  if (!existsSync(program)) throw new Error(`${program} is missing: node scripts/go-tools.mjs crictl`);
});

beforeEach(() => {
  counter += 1;
  files.pod = join(node.directories.base, "pod.json");
  files.container = join(node.directories.base, "container.json");
  const log_directory = join(node.directories.logs, `crictl-${counter}`);
  mkdirSync(log_directory);
  writeFileSync(
    files.pod,
    JSON.stringify({
      metadata: { name: `web-${counter}`, namespace: "shop", uid: `uid-${counter}`, attempt: 1 },
      hostname: "web",
      log_directory,
      labels: { app: "web" },
      annotations: { note: "a b\nc" },
      linux: { cgroup_parent: `${node.directories.cgroupParent}/crictl-${counter}` },
    }),
  );
  writeFileSync(
    files.container,
    JSON.stringify({
      metadata: { name: "main", attempt: 2 },
      image: { image: node.reference },
      command: ["sh", "-c", "echo started; echo problem >&2; trap 'exit 3' TERM; while :; do sleep 0.1; done"],
      log_path: "main.log",
      // crictl shows a container's pod by the kubelet's labels.
      labels: { part: "main", "io.kubernetes.pod.name": `web-${counter}`, "io.kubernetes.pod.namespace": "shop" },
      envs: [{ key: "FROM", value: "json" }],
      linux: { resources: { memory_limit_in_bytes: 67108864 } },
    }),
  );
});

async function runPod(): Promise<string> {
  const id = (await crictl("runp", files.pod)).trim();
  expect(id).toMatch(/^[0-9a-f]{64}$/);
  return id;
}

async function runContainer(pod: string): Promise<string> {
  const id = (await crictl("create", pod, files.container, files.pod)).trim();
  expect(id).toMatch(/^[0-9a-f]{64}$/);
  expect((await crictl("start", id)).trim()).toBe(id);
  return id;
}

test("is the pinned version", async () => {
  expect(await crictl("--version")).toMatch(/crictl version v?1\.36\./);
});

test("a pod's life: runp create start ps pods inspect inspectp exec -s logs stats stop rm stopp rmp", async () => {
  const pod = await runPod();
  const container = await runContainer(pod);

  const pods = await json<{ items: { id: string; state: string; metadata: { name: string; namespace: string } }[] }>("pods", "-o", "json");
  expect(pods.items).toMatchObject([{ id: pod, state: "SANDBOX_READY", metadata: { name: `web-${counter}`, namespace: "shop" } }]);
  const ps = await json<{ containers: { id: string; state: string; podSandboxId: string }[] }>("ps", "-o", "json");
  expect(ps.containers).toMatchObject([
    { id: container, state: "CONTAINER_RUNNING", podSandboxId: pod, metadata: { name: "main", attempt: 2 } },
  ]);
  expect(await crictl("ps")).toMatch(
    new RegExp(`^${container.slice(0, 13)}.*Running +main +2 +${pod.slice(0, 13)} +web-${counter} +shop`, "m"),
  );
  expect((await crictl("pods", "-q", "--name", `web-${counter}`, "--label", "app=web", "--state", "ready")).trim()).toBe(pod);
  expect((await crictl("ps", "-q", "--pod", pod.slice(0, 10), "--label", "part=main")).trim()).toBe(container);
  expect((await crictl("ps", "-q", "--label", "part=other")).trim()).toBe("");

  const inspected = await json<{ status: Record<string, unknown>; info: { pid: number } }>("inspect", container);
  expect(inspected.status).toMatchObject({
    id: container,
    state: "CONTAINER_RUNNING",
    metadata: { name: "main", attempt: 2 },
    image: { image: expect.any(String) },
    imageRef: node.image,
    labels: { part: "main" },
    resources: { linux: { memoryLimitInBytes: "67108864" } },
  });
  expect(inspected.info.pid).toBeGreaterThan(1);
  const pod2 = await json<{ status: { network: { ip: string } } }>("inspectp", pod.slice(0, 12));
  expect(pod2.status).toMatchObject({ id: pod, state: "SANDBOX_READY", annotations: { note: "a b\nc" } });
  expect(pod2.status.network.ip).toMatch(/^10\.251\./);

  expect((await crictl("exec", "-s", container, "sh", "-c", "echo $FROM; hostname")).trim()).toBe("json\nweb");
  const failed = await run("exec", "-s", container, "sh", "-c", "echo oops >&2; exit 5");
  expect(failed).toMatchObject({ stderr: expect.stringContaining("oops") });
  expect(failed.code).not.toBe(0);

  await until("the log is written", async () => (await run("logs", container)).stdout.includes("started"));
  const logs = await run("logs", container);
  expect([logs.stdout, logs.stderr]).toEqual(["started\n", "problem\n"]);

  const stats = await json<{ stats: { attributes: { id: string }; memory: { workingSetBytes: { value: string } } }[] }>(
    "stats",
    "-o",
    "json",
  );
  expect(stats.stats).toHaveLength(1);
  expect(stats.stats[0]?.attributes.id).toBe(container);
  expect(Number(stats.stats[0]?.memory.workingSetBytes.value)).toBeGreaterThan(0);

  expect((await crictl("stop", "--timeout", "5", container)).trim()).toBe(container);
  expect(await json("inspect", container)).toMatchObject({ status: { state: "CONTAINER_EXITED", exitCode: 3, reason: "Error" } });
  expect((await crictl("rm", container)).trim()).toBe(container);
  expect(await crictl("stopp", pod)).toContain(pod);
  expect(await crictl("rmp", pod)).toContain(pod);
  expect((await json<{ items: unknown[] }>("pods", "-o", "json")).items).toEqual([]);
});

test("rm --force and rmp --force end what runs", async () => {
  const pod = await runPod();
  const container = await runContainer(pod);
  await crictl("rm", "--force", container);
  await runContainer(pod);
  await crictl("rmp", "--force", pod);
  expect((await json<{ containers: unknown[] }>("ps", "-a", "-o", "json")).containers).toEqual([]);
});

test("images: pull images inspecti rmi imagefsinfo", async () => {
  const reference = `${node.reference.split("/")[0]}/crictl/app:1`;
  const built = await pushBusybox(reference.split("/")[0] ?? "", "crictl/app", "1", { cmd: ["echo", "crictl"] });
  expect(await crictl("pull", reference)).toContain(built.config.digest);
  const { images } = await json<{ images: { id: string; repoTags: string[]; size: string }[] }>("images", "-o", "json");
  const found = images.find(({ id }) => id === built.config.digest);
  expect(found?.repoTags).toEqual([reference]);
  expect(Number(found?.size)).toBeGreaterThan(0);
  expect(await crictl("images")).toMatch(/crictl\/app +1 +[0-9a-f]{13}/);
  expect(await json("inspecti", reference)).toMatchObject({ status: { id: built.config.digest } });
  const info = await json<{ status: { imageFilesystems: { usedBytes: { value: string } }[] } }>("imagefsinfo", "-o", "json");
  expect(JSON.stringify(info)).toMatch(/"usedBytes":\{"value":"\d{4,}"\}/);
  expect(await crictl("rmi", reference)).toContain(reference);
  expect((await crictl("images", "-q")).trim()).toBe(node.image);
  const missing = await run("pull", `${reference}-missing`);
  expect(missing.code).not.toBe(0);
  expect(missing.stderr).toContain("crictl/app:1-missing");
});

test("the runtime: version info runtime-config", async () => {
  expect(await crictl("version")).toMatch(/RuntimeName: +berth[\s\S]*RuntimeApiVersion: +v1/);
  const info = await json<{ status: { conditions: { type: string; status: boolean }[] } }>("info");
  expect(info.status.conditions.map(({ type, status }) => [type, status])).toEqual([
    ["RuntimeReady", true],
    ["NetworkReady", true],
  ]);
  expect(await crictl("runtime-config")).toContain("CGROUPFS");
});

describe("what is not there", () => {
  test("is told by name and by exit code", async () => {
    for (const args of [["inspect"], ["inspectp"], ["start"], ["exec", "-s"], ["logs"]]) {
      const { code, stderr } = await run(...args, "0123456789ab", ...(args[0] === "exec" ? ["true"] : []));
      expect(code, args.join(" ")).not.toBe(0);
      expect(stderr, args.join(" ")).toMatch(/0123456789ab|not found/i);
    }
  });

  test("a request with an unknown handler", async () => {
    const { code, stderr } = await run("runp", "--runtime", "no-such-handler", files.pod);
    expect(code).not.toBe(0);
    expect(stderr).toContain("no-such-handler");
  });
});
