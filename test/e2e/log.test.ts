/** The CRI log: its format, its streams, its rotation. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { describe, expect, test } from "vitest";
import { status } from "../support/cri-client.ts";
import { againstPeer, type Container, failure, type LogLine, parseLog, sleep, until, useNode } from "../support/node.ts";
import { containerConfig, hostNetwork } from "../support/workloads.ts";

const node = useNode("logs");
const limit = 16 * 1024;

async function written(script: string, changes = {}): Promise<{ container: Container; lines: LogLine[] }> {
  const pod = await node.runPod({}, hostNetwork);
  const container = await pod.runContainer(["sh", "-c", script], changes);
  expect(await container.exited()).toMatchObject({ exitCode: 0 });
  return { container, lines: await container.log() };
}

describe("a line of the log", () => {
  test("is time, stream, tag and text", async () => {
    const before = Date.now() - 1;
    const { container, lines } = await written("echo one; echo two >&2; echo; printf 'a\\tb  c \\n'");
    const raw = readFileSync(await container.logPath(), "utf8");
    for (const line of raw.trimEnd().split("\n")) {
      expect(line).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d) (stdout|stderr) F /);
    }
    expect(raw.endsWith("\n")).toBe(true);
    expect(lines.filter(({ stream }) => stream === "stdout").map(({ text }) => text)).toEqual(["one", "", "a\tb  c "]);
    expect(lines.filter(({ stream }) => stream === "stderr").map(({ text }) => text)).toEqual(["two"]);
    for (const { time } of lines) {
      expect(Date.parse(time)).toBeGreaterThanOrEqual(before);
      expect(Date.parse(time)).toBeLessThanOrEqual(Date.now() + 1);
    }
  });

  test("of one stream keeps its order and rises in time", async () => {
    const { lines } = await written("i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done");
    expect(lines.map(({ text }) => text)).toEqual(Array.from({ length: 2000 }, (_, i) => `line ${i}`));
    const times = lines.map(({ time }) => time);
    expect(times).toEqual([...times].sort());
  });

  test("has the time at which it was written, not when it was read", async () => {
    const { lines } = await written("echo one; sleep 0.4; echo two");
    const [one, two] = lines.map(({ time }) => Date.parse(time));
    expect((two ?? 0) - (one ?? 0)).toBeGreaterThan(350);
    expect((two ?? 0) - (one ?? 0)).toBeLessThan(1500);
  });

  test("that is written in pieces is one line", async () => {
    const { lines } = await written("printf one; sleep 0.1; printf two; sleep 0.1; echo three");
    expect(lines.map(({ tag, text }) => [tag, text])).toEqual([["F", "onetwothree"]]);
  });

  test("that does not end is there when its writer has", async () => {
    const { lines } = await written("echo whole; printf rest");
    expect(lines.map(({ text }) => text)).toEqual(["whole", "rest"]);
  });

  test("longer than 16 KiB is split: P for what goes on, F for the end", async () => {
    for (const size of [limit - 1, limit, limit + 1, 3 * limit, 100_000]) {
      const { lines } = await written(`head -c ${size} /dev/zero | tr '\\0' x; echo`);
      expect(lines.map(({ text }) => text).join(""), `${size} bytes`).toBe("x".repeat(size));
      expect(lines.every(({ text }) => text.length <= limit)).toBe(true);
      expect(lines.map(({ tag }) => tag)).toEqual([...Array.from({ length: lines.length - 1 }, () => "P"), "F"]);
      if (!againstPeer) expect(lines.length).toBe(size > limit ? Math.ceil(size / limit) : 1);
    }
  });

  test("keeps bytes that are no text", async () => {
    const { container } = await written("printf 'a\\000b\\377c\\r\\n'");
    const raw = readFileSync(await container.logPath());
    const content = raw.subarray(raw.indexOf(" stdout F ") + " stdout F ".length);
    if (!againstPeer) expect([...content]).toEqual([97, 0, 98, 255, 99, 13, 10]);
    else expect([...content].slice(0, 5)).toEqual([97, 0, 98, 255, 99]);
  });
});

test("output of both streams at full speed is complete", async () => {
  const { lines } = await written("seq 1 30000 & seq 30001 60000 >&2 & wait");
  const numbers = (stream: string): number[] => lines.filter((line) => line.stream === stream).map(({ text }) => Number(text));
  expect(numbers("stdout")).toEqual(Array.from({ length: 30_000 }, (_, i) => i + 1));
  expect(numbers("stderr")).toEqual(Array.from({ length: 30_000 }, (_, i) => i + 30_001));
});

test("what a background child of the container writes is still logged after its start-up", async () => {
  const { lines } = await written("(sleep 0.3; echo late) & echo early; wait");
  expect(lines.map(({ text }) => text)).toEqual(["early", "late"]);
});

test("a container without a log path has no log", async () => {
  const pod = await node.runPod({}, hostNetwork);
  const container = await pod.runContainer(["sh", "-c", "echo x; echo y >&2"], { logPath: "" });
  expect(await container.exited()).toMatchObject({ exitCode: 0, logPath: "" });
});

test("the log stays until the kubelet removes it, and is readable by others", async () => {
  const { container } = await written("echo x");
  const path = await container.logPath();
  await container.remove();
  expect(readFileSync(path, "utf8")).toContain(" stdout F x\n");
  expect(statSync(path).mode & 0o777).toBe(0o640);
});

describe("ReopenContainerLog", () => {
  test("makes a new file after a rename; each line is in one of both", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.01; done"]);
    const path = await container.logPath();
    await container.logged(/line 5$/);
    renameSync(path, `${path}.1`);
    await node.runtime.ReopenContainerLog({ containerId: container.id });
    expect(existsSync(path)).toBe(true);
    await container.exited();
    const lines = [`${path}.1`, path].map((file) => parseLog(readFileSync(file, "utf8")).map(({ text }) => text));
    expect(lines.flat()).toEqual(Array.from({ length: 40 }, (_, i) => `line ${i}`));
    expect(lines[1]?.length).toBeGreaterThan(0);
  });

  test("loses nothing and doubles nothing while a container writes as fast as it can", async () => {
    const count = 200_000;
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", `seq 1 ${count}`]);
    const path = await container.logPath();
    const files: string[] = [];
    for (let index = 0; index < 12; index += 1) {
      await sleep(8);
      const name = `${path}.${String(index).padStart(2, "0")}`;
      try {
        renameSync(path, name);
      } catch {
        break;
      }
      files.push(name);
      await node.runtime.ReopenContainerLog({ containerId: container.id }).catch(() => undefined);
    }
    await container.exited();
    const seen = [...files, path].filter((file) => existsSync(file)).flatMap((file) => parseLog(readFileSync(file, "utf8")));
    expect(files.length).toBeGreaterThan(1);
    const numbers = seen.map(({ text }) => Number(text));
    expect(numbers.length).toBe(count);
    expect(numbers.every((number, index) => number === index + 1)).toBe(true);
  });

  test("of an ended or an unknown container fails and makes no file", async () => {
    const { container } = await written("echo x");
    const path = await container.logPath();
    rmSync(path);
    const call = node.runtime.ReopenContainerLog({ containerId: container.id });
    if (againstPeer) await expect(call).rejects.toThrow();
    else await failure(call, status.FAILED_PRECONDITION, container.id.slice(0, 12));
    expect(readdirSync(dirname(path))).toEqual([]);
    const unknown = node.runtime.ReopenContainerLog({ containerId: "0123456789abcdef".repeat(4) });
    if (againstPeer) await expect(unknown).rejects.toThrow();
    else await failure(unknown, status.NOT_FOUND);
  });

  test("where the directory has gone fails, and the container goes on", async () => {
    if (againstPeer) return;
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "while :; do echo x; sleep 0.02; done"]);
    await container.logged(/x/);
    const path = await container.logPath();
    rmSync(dirname(path), { recursive: true });
    const error = await node.runtime.ReopenContainerLog({ containerId: container.id }).then(
      () => null,
      (thrown: unknown) => thrown as Error,
    );
    expect(error).not.toBeNull();
    expect(await container.run("echo", "alive")).toBe("alive\n");
  });
});

test("a full disk under the log holds up neither the container nor its end", async () => {
  if (againstPeer) return;
  const config = node.podConfig({}, hostNetwork);
  const directory = config.logDirectory ?? "";
  mkdirSync(directory, { recursive: true });
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=256k", "small", directory]);
  try {
    const { podSandboxId } = await node.runtime.RunPodSandbox({ config });
    const request = {
      podSandboxId,
      sandboxConfig: config,
      config: containerConfig("c", node.image, ["sh", "-c", "seq 1 100000; exit 4"], {}, { namespaceOptions: hostNetwork }),
    };
    const { containerId } = await node.runtime.CreateContainer(request);
    await node.runtime.StartContainer({ containerId });
    await until("it ends", async () => (await node.runtime.ContainerStatus({ containerId })).status?.exitCode === 4);
    await node.empty();
  } finally {
    execFileSync("umount", [directory]);
  }
});
