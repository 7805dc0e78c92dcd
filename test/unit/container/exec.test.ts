import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { DomainError } from "../../../src/base/errors.ts";
import type { Containers } from "../../../src/container/index.ts";
import { containerConfig, FakeHost, operation, podId } from "./fake-host.ts";

let host: FakeHost;
let containers: Containers;
let id: string;

beforeEach(async () => {
  host = new FakeHost();
  containers = await host.recovered();
  ({ id } = await containers.create(operation(), podId, containerConfig()));
  await containers.start(operation(), id);
});

afterEach(async () => {
  await containers.close();
  host.dispose();
});

const exec = (command: readonly string[], timeoutMs = 0, op = operation()) =>
  containers.execSync(op, { containerId: id, command, timeoutMs });
const kindOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => "no error",
    (error: DomainError) => error.kind,
  );
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

describe("ExecSync", () => {
  it("returns output and exit code, and asks the kernel once", async () => {
    host.behaviour.exec = ([, ...words]) => ({ stdout: words.join(" "), stderr: "err", exitCode: 4 });
    host.calls.length = 0;
    const result = await exec(["echo", "a", "b"]);
    expect([text(result.stdout), text(result.stderr), result.exitCode]).toEqual(["a b", "err", 4]);
    expect(host.calls).toEqual(["compileExecPlan"]);
  });

  it("runs as the container does, without its arguments and without a terminal", async () => {
    await exec(["true"]);
    const process = JSON.parse(host.execPlans[0]?.exec?.processJson ?? "") as Record<string, unknown>;
    expect(process).toEqual({
      terminal: false,
      user: { uid: 0, gid: 0, additionalGids: [0] },
      env: expect.arrayContaining(["FROM_IMAGE=1"]),
      cwd: "/work",
      args: ["true"],
    });
  });

  it("leaves no handle open", async () => {
    await exec(["true"]);
    const before = host.handles.size;
    await Promise.all([exec(["true"]), exec(["true"]), exec(["true"])]);
    expect(host.handles.size).toBe(before);
  });

  it("kills the command's group past its timeout and fails with deadline-exceeded", async () => {
    host.behaviour.exec = () => "hang";
    const before = performance.now();
    expect(await kindOf(exec(["sleep"], 50))).toBe("deadline-exceeded");
    expect(performance.now() - before).toBeLessThan(1_000);
    expect(host.monitor.execs.size).toBe(0);
  });

  it("kills the command when its caller has left", async () => {
    host.behaviour.exec = () => "hang";
    expect(await kindOf(exec(["sleep"], 0, operation(50)))).toBe("deadline-exceeded");
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(host.monitor.execs.size).toBe(0);
  });

  it("does not wait for a child that holds the output open", async () => {
    host.behaviour.exec = () => ({ stdout: "so far", exitCode: 0, leavesChild: true });
    const before = performance.now();
    const { stdout } = await exec(["sh", "-c", "sleep 1d &"]);
    expect(text(stdout)).toBe("so far");
    expect(performance.now() - before).toBeLessThan(3_000);
  });

  it("blames the request for a command that is not there", async () => {
    host.behaviour.exec = () => "missing";
    expect(await kindOf(exec(["nothing"]))).toBe("invalid-argument");
    await expect(exec(["nothing"])).rejects.toThrow('exec of ["nothing"]');
  });

  it("needs a running container", async () => {
    const created = await containers.create(operation(), podId, containerConfig({ metadata: { name: "b", attempt: 0 } }));
    expect(await kindOf(containers.execSync(operation(), { containerId: created.id, command: ["true"], timeoutMs: 0 }))).toBe(
      "failed-precondition",
    );
    await containers.stop(operation(), id, 0);
    expect(await kindOf(exec(["true"]))).toBe("failed-precondition");
    id = "unknown";
    expect(await kindOf(exec(["true"]))).toBe("not-found");
  });

  it("waits while the monitor's socket is full", async () => {
    host.fullSends = 3;
    expect((await exec(["true"])).exitCode).toBe(0);
  });

  it("fails when the monitor dies under it", async () => {
    host.behaviour.exec = () => "hang";
    const running = exec(["sleep"]);
    running.catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 30));
    host.monitor.process.end(null, 9);
    expect(await kindOf(running)).toBe("unavailable");
  });
});
