import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { DomainError, SystemError } from "../../../src/base/errors.ts";
import { isErrno, makeSystemError } from "../../../src/kernel/errors.ts";
import { addonCandidates, checkFunctions, kernelFunctions, loadKernel } from "../../../src/kernel/load.ts";

const directories: string[] = [];
afterEach(() => {
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true, force: true });
});

function directoryWith(contents: string | null): string {
  const directory = mkdtempSync(join(tmpdir(), "berth-load-"));
  directories.push(directory);
  if (contents !== null) writeFileSync(join(directory, "berth.node"), contents);
  return directory;
}

function thrown(work: () => unknown): DomainError {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(DomainError);
    return error as DomainError;
  }
  throw new Error("nothing was thrown");
}

test("is looked for beside the bundle, then in the build tree; a directory that is set is the only one", () => {
  expect(addonCandidates({}, "/opt/berth/dist/berth.mjs")[0]).toBe("/opt/berth/dist/native/berth.node");
  expect(addonCandidates({}, "/src/berth/src/kernel/load.ts")[1]).toBe("/src/berth/build/native/berth.node");
  expect(addonCandidates({ BERTH_NATIVE_DIR: "/elsewhere" }, "/opt/berth/dist/berth.mjs")).toEqual(["/elsewhere/berth.node"]);
  expect(addonCandidates({ BERTH_NATIVE_DIR: "" }, "/opt/berth/dist/berth.mjs")).toHaveLength(2);
});

test("a missing addon says where it was looked for", () => {
  const directory = directoryWith(null);
  const error = thrown(() => loadKernel({ BERTH_NATIVE_DIR: directory }));
  expect(error.kind).toBe("failed-precondition");
  expect(error.message).toContain(join(directory, "berth.node"));
});

test("a file that is no addon is an error that names it", () => {
  const directory = directoryWith("not an ELF file");
  const error = thrown(() => loadKernel({ BERTH_NATIVE_DIR: directory }));
  expect(error.message).toContain(join(directory, "berth.node"));
  expect(error.cause).toBeInstanceOf(Error);
});

test("an addon of another contract is refused with the difference", () => {
  const complete = [...kernelFunctions, "setErrorFactory"];
  checkFunctions(complete, "/x/berth.node");
  const error = thrown(() => checkFunctions([...complete.filter((name) => name !== "removeTree"), "removeTrees"], "/x/berth.node"));
  expect(error.message).toMatch(/\/x\/berth\.node is of another version: it lacks removeTree and has the unknown removeTrees/);
});

test("no function is listed twice", () => {
  expect(new Set(kernelFunctions).size).toBe(kernelFunctions.length);
});

test("a native failure becomes a SystemError", () => {
  const error = makeSystemError("EBUSY", "rmdir", "/sys/fs/cgroup/x", "cgroup.remove", "still in it: process 7");
  expect(error).toBeInstanceOf(SystemError);
  expect(error.message).toBe("cgroup.remove: rmdir /sys/fs/cgroup/x: EBUSY (still in it: process 7)");
  expect(makeSystemError("ENOENT", "open", "", "log.open", "").message).toBe("log.open: open: ENOENT");
  expect(isErrno(error, "ENOENT", "EBUSY")).toBe(true);
  expect(isErrno(error, "ENOENT")).toBe(false);
  expect(isErrno(Object.assign(new Error("other"), { errno: "EBUSY" }), "EBUSY")).toBe(false);
});
