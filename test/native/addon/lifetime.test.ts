/** Handles, garbage, threads and ends: nothing leaks, nothing hangs, nothing is used after it is closed. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { expect, test } from "vitest";
import { addonCandidates } from "../../../src/kernel/load.ts";
import { collectGarbage, eventually, kernel, openDescriptors, program, shell, temporaryDirectory } from "./rig.ts";

const addon = addonCandidates(process.env, join(import.meta.dirname, "../../../src/kernel/load.ts")).find((path) => existsSync(path)) ?? "";
const directory = temporaryDirectory();

test("closing twice is nothing, using a closed handle throws", async () => {
  const handle = kernel.openNull();
  expect(handle.number).toBeGreaterThan(2);
  handle.close();
  handle.close();
  expect(handle.number).toBe(-1);
  const self = await kernel.openProcess({ pid: process.pid, startTime: null });
  self?.close();
  self?.close();
  expect(() => self?.signal(0)).toThrow(/ProcessHandle is closed/);
  expect(() => self?.exited()).toThrow(/ProcessHandle is closed/);
});

test("a handle that is closed during a call does not take its descriptor away from it", async () => {
  const root = await kernel.openTree({ path: directory, clone: false, recursive: false, readOnly: false });
  writeFileSync(join(directory, "file"), "contents");
  const reading = Array.from({ length: 20 }, () => kernel.readInRoot({ root, path: "file", maxBytes: 100 }));
  root.close();
  for (const data of await Promise.all(reading)) expect(String(data)).toBe("contents");
});

test("handles that nobody closes are closed with their collection", async () => {
  await collectGarbage();
  const before = openDescriptors();
  await (async () => {
    for (let i = 0; i < 200; i += 1) {
      kernel.openNull();
      void kernel.collectPipe({ maxBytes: 10 });
      await kernel.openProcess({ pid: process.pid, startTime: null });
    }
  })();
  expect(openDescriptors()).toBeGreaterThan(before + 200);
  await eventually(async () => {
    await collectGarbage();
    return openDescriptors() <= before + 2;
  }, "descriptors are back to where they were");
});

test("a thousand programs leave no descriptor, no child and no thread behind", async () => {
  await kernel.runProgram(program("/bin/true", [])).result;
  const before = openDescriptors();
  const batch = 50;
  for (let round = 0; round < 1000 / batch; round += 1) {
    const results = await Promise.all(
      Array.from({ length: batch }, (_, i) => kernel.runProgram(shell(`echo ${i}`, { stdin: Buffer.from("x") })).result),
    );
    results.forEach((result, i) => {
      expect(String(result.stdout)).toBe(`${i}\n`);
    });
  }
  await eventually(() => openDescriptors() <= before, "descriptors are back to where they were");
  const children = spawnSync("/bin/sh", ["-c", `cat /proc/${process.pid}/task/*/children`], { encoding: "utf8" }).stdout.trim();
  // The shell that counts is itself one.
  expect(children.split(" ").length).toBeLessThanOrEqual(1);
}, 60_000);

const worker = `
  const { parentPort, workerData } = require("node:worker_threads");
  const kernel = require(workerData);
  const one = { path: "/bin/echo", args: ["echo", "hi"], env: [], cwd: "/", stdin: new Uint8Array(), maxOutputBytes: 100, timeoutMs: 5000 };
  (async () => {
    const result = await kernel.runProgram(one).result;
    kernel.openNull();
    // Under way when the thread ends.
    kernel.runProgram({ ...one, path: "/bin/sleep", args: ["sleep", "0.2"] });
    kernel.collectPipe({ maxBytes: 1 });
    parentPort.postMessage(String(Buffer.from(result.stdout)));
  })();
`;

test("works in worker threads that come and go, with calls under way", async () => {
  for (let i = 0; i < 5; i += 1) {
    const thread = new Worker(worker, { eval: true, workerData: addon });
    const said = await new Promise((resolve, reject) => {
      thread.once("message", resolve);
      thread.once("error", reject);
    });
    expect(said).toBe("hi\n");
    await thread.terminate();
  }
  // What the threads had started comes to its end without anybody to tell.
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(String((await kernel.runProgram(shell("echo fine")).result).stdout)).toBe("fine\n");
});

function runScript(body: string): { status: number | null; signal: string | null; stdout: string; stderr: string; elapsedMs: number } {
  mkdirSync(directory, { recursive: true });
  const file = join(directory, `script-${Math.random()}.cjs`);
  writeFileSync(file, `const kernel = require(${JSON.stringify(addon)});\n(async () => {\n${body}\n})();\n`);
  const startedAt = performance.now();
  const ended = spawnSync(process.execPath, [file], { encoding: "utf8", timeout: 20_000 });
  return { ...ended, elapsedMs: performance.now() - startedAt };
}

const sleeper = (seconds: number): string =>
  `kernel.runProgram({ path: "/bin/sleep", args: ["sleep", "${seconds}"], env: [], cwd: "/", stdin: new Uint8Array(), maxOutputBytes: 1, timeoutMs: 60000 })`;

test("process.exit during calls ends at once", () => {
  const ended = runScript(`
    ${sleeper(5)};
    for (let i = 0; i < 50; i++) kernel.listMounts();
    kernel.syncFilesystem({ path: "/dev/shm" });
    setTimeout(() => process.exit(5), 50);
  `);
  expect(ended.stderr).toBe("");
  expect(ended.status).toBe(5);
  expect(ended.elapsedMs).toBeLessThan(4500);
});

test("a call under way keeps the event loop alive, an idle addon and a mere watch do not", () => {
  const busy = runScript(`const result = await ${sleeper(0.3)}.result; console.log("exit", result.exitCode);`);
  expect(busy.stdout).toBe("exit 0\n");
  expect(busy.status).toBe(0);
  const idle = runScript(`
    const init = await kernel.openProcess({ pid: 1, startTime: null });
    init.exited().then(() => console.log("never"));
    console.log("idle");
  `);
  expect(idle.stdout).toBe("idle\n");
  expect(idle.status).toBe(0);
  expect(idle.elapsedMs).toBeLessThan(4500);
});
