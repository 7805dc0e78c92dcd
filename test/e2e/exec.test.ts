/** ExecSync. */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { status } from "../support/cri-client.ts";
import { againstPeer, type Container, failure, until, useNode } from "../support/node.ts";
import { descriptorsOf } from "../support/residue.ts";
import { hostNetwork } from "../support/workloads.ts";

const node = useNode("exec");
const mebibyte = 1 << 20;

async function sleeper(changes = {}, security = {}): Promise<Container> {
  const pod = await node.runPod({}, hostNetwork);
  return pod.runContainer(["sleep", "1000"], changes, security);
}

describe("a command", () => {
  test("gives its output, its errors and its exit code", async () => {
    const container = await sleeper();
    expect(await container.exec(["sh", "-c", "echo out; echo err >&2; exit 3"])).toEqual({ stdout: "out\n", stderr: "err\n", exitCode: 3 });
    expect(await container.exec(["true"])).toEqual({ stdout: "", stderr: "", exitCode: 0 });
    expect(await container.exec(["false"])).toMatchObject({ exitCode: 1 });
    expect(await container.exec(["sh", "-c", "kill -9 $$"])).toMatchObject({ exitCode: 137 });
    expect(await container.exec(["sh", "-c", "kill -TERM $$"])).toMatchObject({ exitCode: 143 });
  });

  test("gets its arguments as they are", async () => {
    const container = await sleeper();
    const words = ["", " ", "a b", "'\"\\$x`", "漢字", "-n", "\n", "x".repeat(50_000)];
    const { stdout } = await container.exec(["sh", "-c", 'for word in "$@"; do printf "%s|" "$word"; done', "sh", ...words]);
    expect(stdout).toBe(words.map((word) => `${word}|`).join(""));
  });

  test("has the container's environment, directory, user and cgroup, and no standard input", async () => {
    const container = await sleeper(
      { workingDir: "/var/log", envs: [{ key: "MINE", value: Buffer.from("yes") }] },
      { runAsUser: { value: 33 } },
    );
    expect(await container.sh("pwd; echo $MINE; id -u; cat | wc -c")).toBe("/var/log\nyes\n33\n0\n");
    expect(await container.run("cat", "/proc/self/cgroup")).toBe(await container.run("cat", "/proc/1/cgroup"));
    expect(await container.run("readlink", "/proc/self/ns/mnt")).toBe(await container.run("readlink", "/proc/self/ns/mnt"));
  });

  test("binary output returns byte for byte", async () => {
    const container = await sleeper();
    const { stdout } = await node.runtime.ExecSync({
      containerId: container.id,
      cmd: ["sh", "-c", "printf '\\000\\377\\n\\r\\200'"],
      timeout: 10,
    });
    expect([...stdout]).toEqual([0, 255, 10, 13, 128]);
  });

  test("is found by PATH, and named where it is not", async () => {
    const container = await sleeper();
    if (againstPeer) return;
    await failure(container.exec(["no-such-command"]), status.INVALID_ARGUMENT, "no-such-command");
    await failure(container.exec(["/etc/passwd"]), status.INVALID_ARGUMENT, "/etc/passwd");
    await failure(container.exec(["/no/such/path"]), status.INVALID_ARGUMENT, "/no/such/path");
    expect((await container.exec(["true"])).exitCode).toBe(0);
  });

  test("in a container that does not run is refused, naming it", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const created = await pod.createContainer(["true"]);
    if (againstPeer) return;
    await failure(created.exec(["true"]), status.FAILED_PRECONDITION, created.id.slice(0, 12));
    await created.start();
    await created.exited();
    await failure(created.exec(["true"]), status.FAILED_PRECONDITION, created.id.slice(0, 12));
    const unknown = node.runtime.ExecSync({ containerId: "0123456789abcdef".repeat(4), cmd: ["true"], timeout: 1 });
    await failure(unknown, status.NOT_FOUND);
    await failure(node.runtime.ExecSync({ containerId: created.id, cmd: [] }), status.INVALID_ARGUMENT, "cmd");
  });

  test("of a container that is being stopped still runs", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]);
    await container.logged(/ready/);
    const stop = container.stop(60);
    expect(await container.run("echo", "still")).toBe("still\n");
    await container.stop(0);
    await stop;
  });

  test("whose container dies ends with it", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "1000"]);
    const exec = container.exec(["sleep", "500"]).then(
      ({ exitCode }) => exitCode,
      () => "failed",
    );
    await until("it runs", async () => (await container.sh("ps")).includes("sleep 500"));
    await container.stop(0);
    expect([137, "failed"]).toContain(await exec);
  });
});

describe("output", () => {
  test("beyond 16 MiB is dropped, and the command goes on", async () => {
    if (againstPeer) return;
    const container = await sleeper();
    const script = `head -c ${20 * mebibyte} /dev/zero; echo done >&2`;
    const result = await node.runtime.ExecSync({ containerId: container.id, cmd: ["sh", "-c", script], timeout: 60 });
    expect(result.exitCode).toBe(0);
    expect(Buffer.from(result.stderr).toString()).toBe("done\n");
    expect(result.stdout.byteLength).toBeLessThanOrEqual(16 * mebibyte);
    expect(result.stdout.byteLength).toBeGreaterThan(15 * mebibyte);
  });

  test("of both streams together fits one message", async () => {
    const container = await sleeper();
    const script = `head -c ${12 * mebibyte} /dev/zero; head -c ${12 * mebibyte} /dev/zero >&2`;
    if (againstPeer) return;
    const result = await node.runtime.ExecSync({ containerId: container.id, cmd: ["sh", "-c", script], timeout: 60 });
    expect(result.stdout.byteLength + result.stderr.byteLength).toBeLessThanOrEqual(16 * mebibyte);
    expect(result.stdout.byteLength).toBeGreaterThan(7 * mebibyte);
    expect(result.stderr.byteLength).toBeGreaterThan(7 * mebibyte);
  });

  test("of a command that leaves a child behind comes without waiting for the child", async () => {
    if (againstPeer) return;
    const container = await sleeper();
    const started = performance.now();
    const result = await container.exec(["sh", "-c", "sleep 300 & echo started"]);
    expect(result).toMatchObject({ stdout: "started\n", exitCode: 0 });
    expect(performance.now() - started).toBeLessThan(againstPeer ? 30_000 : 4000);
  });
});

describe("a time-out", () => {
  test("is DEADLINE_EXCEEDED, and the command with all its children is gone", async () => {
    if (againstPeer) return;
    const container = await sleeper();
    const started = performance.now();
    const call = container.exec(["sh", "-c", "sleep 471 & sleep 472 & sleep 473"], 1);
    await failure(call, status.DEADLINE_EXCEEDED, ...(againstPeer ? [] : [container.id.slice(0, 12)]));
    expect(performance.now() - started).toBeGreaterThan(950);
    expect(performance.now() - started).toBeLessThan(4000);
    if (againstPeer) return;
    await until(
      "the children are gone",
      async () => !/sleep 47[123]/.test(await container.sh("ps")),
      () => container.sh("ps"),
    );
    expect(await container.run("echo", "well")).toBe("well\n");
  });

  test("of a command that ignores signals kills it, too", async () => {
    const container = await sleeper();
    await failure(container.exec(["sh", "-c", "trap '' TERM HUP INT; while :; do sleep 0.02; done"], 1), status.DEADLINE_EXCEEDED);
    if (!againstPeer) await until("it is gone", async () => !(await container.sh("ps")).includes("trap"));
  });

  test("that is not reached does no harm", async () => {
    const container = await sleeper();
    expect(await container.exec(["sh", "-c", "sleep 0.3; echo done"], 5)).toMatchObject({ stdout: "done\n", exitCode: 0 });
  });

  test("the caller's deadline ends the command, too", async () => {
    const container = await sleeper();
    const call = node.runtime.ExecSync({ containerId: container.id, cmd: ["sleep", "474"], timeout: 0 }, { timeoutMs: 500 });
    await failure(call, status.DEADLINE_EXCEEDED);
    if (!againstPeer)
      await until(
        "it is gone",
        async () => !(await container.sh("ps")).includes("sleep 474"),
        () => container.sh("ps"),
      );
  });
});

describe("many", () => {
  test("50 at once give each its own output", async () => {
    const container = await sleeper();
    const results = await Promise.all(
      Array.from({ length: 50 }, (_, i) => container.exec(["sh", "-c", `sleep 0.05; echo ${i}; exit ${i}`], 60)),
    );
    expect(results.map(({ stdout }) => stdout)).toEqual(Array.from({ length: 50 }, (_, i) => `${i}\n`));
    expect(results.map(({ exitCode }) => exitCode)).toEqual(Array.from({ length: 50 }, (_, i) => i));
  });

  test("300 in a row leave neither descriptors nor memory nor zombies, in the daemon or the monitor", async () => {
    if (againstPeer) return;
    const container = await sleeper();
    const burst = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i += 10) await Promise.all(Array.from({ length: 10 }, () => container.exec(["true"])));
    };
    await burst(50);
    const monitor = parentOf(await container.pid());
    const before = { daemon: descriptorsOf(node.pid).length, monitor: descriptorsOf(monitor).length, rss: residentKiB(monitor) };
    await burst(300);
    await until(
      "the daemon's descriptors are closed",
      () => descriptorsOf(node.pid).length <= before.daemon,
      () => descriptorsOf(node.pid),
    );
    expect(descriptorsOf(monitor).length).toBe(before.monitor);
    expect(residentKiB(monitor)).toBeLessThan(before.rss + 64);
    expect(childrenOf(monitor)).toHaveLength(1);
    expect(childrenOf(node.pid).filter((pid) => stateOf(pid) === "Z")).toEqual([]);
  });
});

function fieldsOf(pid: number): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, "utf8");
  return text.slice(text.lastIndexOf(")") + 2).split(" ");
}

const parentOf = (pid: number): number => Number(fieldsOf(pid)[1]);
const stateOf = (pid: number): string => fieldsOf(pid)[0] ?? "";

function childrenOf(parent: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return parentOf(pid) === parent;
      } catch {
        return false;
      }
    });
}

function residentKiB(pid: number): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? 0);
}
