/** What the bridge tests share: the real addon, temporary directories, descriptors counted, garbage collected on demand. */
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { afterAll } from "vitest";
import type { Kernel, ProgramArgs } from "../../../src/kernel/contract.ts";
import { loadKernel } from "../../../src/kernel/load.ts";

export const kernel: Kernel = loadKernel();

/** Whether the tests may mount, make namespaces and cgroups. */
export const isPrivileged = process.getuid?.() === 0 && kernel.features().capabilities.includes("CAP_SYS_ADMIN");
export const notPrivileged = "needs root with CAP_SYS_ADMIN";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/** Collects garbage until finalizers have run too. */
export async function collectGarbage(): Promise<void> {
  for (let round = 0; round < 4; round += 1) {
    collect();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

export function openDescriptors(): number {
  return readdirSync("/proc/self/fd").length;
}

/** A directory that is removed after the file's tests. */
export function temporaryDirectory(): string {
  const path = mkdtempSync(join(tmpdir(), "berth-native-"));
  afterAll(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

export function program(path: string, args: readonly string[], more: Partial<ProgramArgs> = {}): ProgramArgs {
  return {
    path,
    args: [path, ...args],
    env: ["PATH=/usr/bin:/bin"],
    cwd: "/",
    stdin: new Uint8Array(),
    maxOutputBytes: 1 << 20,
    timeoutMs: 10_000,
    ...more,
  };
}

export function shell(script: string, more: Partial<ProgramArgs> = {}): ProgramArgs {
  return program("/bin/sh", ["-c", script], more);
}

/** Waits until `condition` holds; fails the test after two seconds. */
export async function eventually(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + 2000;
  while (!(await condition())) {
    if (Date.now() > deadline) throw new Error(`never happened: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export async function failure(promise: Promise<unknown>): Promise<Error> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error("it did not fail");
}
