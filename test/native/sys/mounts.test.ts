import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { FdHandle } from "../../../src/kernel/contract.ts";
import { failure, isPrivileged, kernel, notPrivileged, shell, temporaryDirectory } from "../addon/rig.ts";

const directory = temporaryDirectory();
let counter = 0;

/** A new directory with these files. */
function tree(files: Readonly<Record<string, string>>, name = `t${counter++}`): string {
  const path = join(directory, name);
  mkdirSync(path, { recursive: true });
  for (const [file, contents] of Object.entries(files)) {
    mkdirSync(join(path, file, ".."), { recursive: true });
    writeFileSync(join(path, file), contents);
  }
  return path;
}

const read = async (root: FdHandle, path: string): Promise<string | null> => {
  const data = await kernel.readInRoot({ root, path, maxBytes: 1000 });
  return data === null ? null : String(data);
};

/** Writes into a detached mount, by way of this process's descriptor. */
const write = async (root: FdHandle, script: string): Promise<number | null> =>
  (await kernel.runProgram(shell(script, { cwd: `/proc/${process.pid}/fd/${root.number}` })).result).exitCode;

const mountedBelow = async (): Promise<string[]> =>
  (await kernel.listMounts()).map(({ mountPoint }) => mountPoint).filter((path) => path.startsWith(directory));

describe.skipIf(!isPrivileged)(`mounts (${notPrivileged})`, () => {
  afterAll(async () => {
    for (const path of await mountedBelow()) await kernel.unmount({ path });
  });

  test("a detached overlay shows its layers, the topmost first, and writes go to the upper", async () => {
    const lowers = [tree({ both: "top", onlyTop: "1" }), tree({ both: "bottom", onlyBottom: "2" })];
    const [upper, work] = [tree({}), tree({})];
    const root = await kernel.mountOverlay({ lowers, upper, work });
    expect(await read(root, "both")).toBe("top");
    expect(await read(root, "onlyBottom")).toBe("2");
    expect(await write(root, "echo written > new; rm onlyTop")).toBe(0);
    expect(readFileSync(join(upper, "new"), "utf8")).toBe("written\n");
    expect(await read(root, "onlyTop")).toBe(null);
    expect(readFileSync(join(lowers[0] ?? "", "onlyTop"), "utf8")).toBe("1");
    expect(await mountedBelow()).toEqual([]);
    root.close();
  });

  test("an upper is mounted again although the last mount was volatile", async () => {
    const args = { lowers: [tree({ a: "1" })], upper: tree({}), work: tree({}) };
    for (let i = 0; i < 3; i += 1) {
      const root = await kernel.mountOverlay(args);
      expect(await write(root, `echo ${i} >> b`)).toBe(0);
      root.close();
    }
    expect(readFileSync(join(args.upper, "b"), "utf8")).toBe("0\n1\n2\n");
  });

  test("names with colons, commas, backslashes and spaces", async () => {
    const root = await kernel.mountOverlay({
      lowers: [tree({ a: "a" }, "odd:name,one"), tree({ b: "b" }, "back\\slash \\: two")],
      upper: tree({}, "up,per:\\x"),
      work: tree({}, "wo:rk,\\y"),
    });
    expect([await read(root, "a"), await read(root, "b")]).toEqual(["a", "b"]);
    root.close();
  });

  test("more layers with longer names than one option string holds", async () => {
    const lowers = Array.from({ length: 80 }, (_, i) => tree({ [`f${i}`]: `${i}` }, `layer-${i}-${"x".repeat(100)}`));
    const root = await kernel.mountOverlay({ lowers, upper: tree({}), work: tree({}) });
    expect(await read(root, "f0")).toBe("0");
    expect(await read(root, "f79")).toBe("79");
    root.close();
  });

  test("without an upper it is read-only, with one layer or with several", async () => {
    for (const lowers of [[tree({ a: "1" })], [tree({ a: "1" }), tree({ b: "2" })]]) {
      const root = await kernel.mountOverlay({ lowers, upper: null, work: null });
      expect(await read(root, "a")).toBe("1");
      expect(await write(root, ": > c")).not.toBe(0);
      root.close();
    }
  });

  test("a layer that is not there is named", async () => {
    const missing = join(directory, "missing");
    const args = { upper: tree({}), work: tree({}) };
    const error = await failure(kernel.mountOverlay({ ...args, lowers: [tree({}), missing] }));
    expect(error).toMatchObject({ errno: "ENOENT", step: "overlay.mount" });
    expect(error.message).toContain(missing);
  });

  test("a detached mount is made visible and stays usable by its handle", async () => {
    const root = await kernel.mountOverlay({ lowers: [tree({ a: "1" })], upper: tree({}), work: tree({}) });
    const place = tree({});
    await kernel.attachMount({ mount: root, path: place });
    expect(readFileSync(join(place, "a"), "utf8")).toBe("1");
    expect(await read(root, "a")).toBe("1");
    expect(await mountedBelow()).toEqual([place]);
    await kernel.unmount({ path: place });
    expect(readdirSync(place)).toEqual([]);
    expect(await read(root, "a")).toBe("1");
    root.close();
  });

  test("unmounting takes all that is stacked there, and nothing is success", async () => {
    const place = tree({ below: "b" });
    for (let i = 0; i < 3; i += 1) await kernel.mountTmpfs({ path: place, sizeBytes: 1 << 16, mode: 0o755 });
    await kernel.unmount({ path: place });
    expect(readdirSync(place)).toEqual(["below"]);
    await kernel.unmount({ path: place });
    await kernel.unmount({ path: join(directory, "nowhere") });
  });

  test("a tmpfs has its size and mode and runs no programs", async () => {
    const place = tree({});
    await kernel.mountTmpfs({ path: place, sizeBytes: 64 << 10, mode: 0o1777 });
    expect(statSync(place).mode & 0o7777).toBe(0o1777);
    expect((await kernel.filesystemUsage({ path: place })).totalBytes).toBe(64 << 10);
    expect(() => writeFileSync(join(place, "big"), Buffer.alloc(128 << 10))).toThrow(/ENOSPC/);
    rmSync(join(place, "big"));
    writeFileSync(join(place, "program"), "#!/bin/sh\n", { mode: 0o755 });
    const program = { ...shell(""), path: join(place, "program") };
    expect(await failure(kernel.runProgram(program).result)).toMatchObject({ errno: "EACCES" });
    await kernel.unmount({ path: place });
  });

  test("a clone of a tree, read-only where asked for", async () => {
    const source = tree({ a: "1" });
    const args = { path: source, recursive: true };
    const writable = await kernel.openTree({ ...args, clone: true, readOnly: false });
    expect(await write(writable, ": > b")).toBe(0);
    const readOnly = await kernel.openTree({ ...args, clone: true, readOnly: true });
    expect(await write(readOnly, ": > c")).not.toBe(0);
    expect(existsSync(join(source, "b"))).toBe(true);
    writable.close();
    readOnly.close();
    expect(await failure(kernel.openTree({ ...args, path: join(directory, "absent"), clone: true, readOnly: false }))).toMatchObject({
      errno: "ENOENT",
      step: "mount.open",
    });
  });
});
