import { execFileSync } from "node:child_process";
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { FdHandle } from "../../../src/kernel/contract.ts";
import { failure, isPrivileged, kernel, notPrivileged, temporaryDirectory } from "../addon/rig.ts";

const directory = temporaryDirectory();
const at = (...parts: string[]): string => join(directory, ...parts);
const data = (text: string): Uint8Array => Buffer.from(text);

describe("writeFileAtomic", () => {
  test("replaces a file whole, with the mode asked for whatever the umask", async () => {
    const previous = process.umask(0o077);
    await kernel.writeFileAtomic({ path: at("record"), data: data("one"), mode: 0o644, durable: false });
    process.umask(previous);
    expect(statSync(at("record")).mode & 0o7777).toBe(0o644);
    await kernel.writeFileAtomic({ path: at("record"), data: data(""), mode: 0o600, durable: true });
    expect(readFileSync(at("record"), "utf8")).toBe("");
    expect(statSync(at("record")).mode & 0o7777).toBe(0o600);
    expect(readdirSync(directory).filter((name) => name.includes("tmp"))).toEqual([]);
  });

  test("a symbolic link is replaced, not followed", async () => {
    writeFileSync(at("target"), "untouched");
    symlinkSync(at("target"), at("link"));
    await kernel.writeFileAtomic({ path: at("link"), data: data("new"), mode: 0o600, durable: false });
    expect(lstatSync(at("link")).isFile()).toBe(true);
    expect(readFileSync(at("target"), "utf8")).toBe("untouched");
  });

  test("a failure leaves no temporary file and says what failed", async () => {
    mkdirSync(at("occupied", "inner"), { recursive: true });
    const error = await failure(kernel.writeFileAtomic({ path: at("occupied"), data: data("x"), mode: 0o600, durable: false }));
    expect(error).toMatchObject({ errno: "EISDIR", syscall: "renameat", path: at("occupied"), step: "file.write" });
    expect(readdirSync(directory).filter((name) => name.includes("tmp"))).toEqual([]);
    expect(await failure(kernel.writeFileAtomic({ path: at(".."), data: data(""), mode: 0o600, durable: false }))).toBeDefined();
  });
});

describe("makeDirectories", () => {
  test("makes what is missing with exactly the mode, and follows links that are there", async () => {
    mkdirSync(at("real"));
    symlinkSync(at("real"), at("way"));
    await kernel.makeDirectories({ path: at("way", "a", "b"), mode: 0o700 });
    expect(statSync(at("real", "a")).mode & 0o7777).toBe(0o700);
    expect(statSync(at("real", "a", "b")).mode & 0o7777).toBe(0o700);
    await kernel.makeDirectories({ path: at("way", "a", "b"), mode: 0o755 });
    expect(statSync(at("real", "a", "b")).mode & 0o7777).toBe(0o700);
  });

  test("a file in the way is ENOTDIR", async () => {
    writeFileSync(at("file"), "");
    expect(await failure(kernel.makeDirectories({ path: at("file", "a"), mode: 0o755 }))).toMatchObject({ errno: "ENOTDIR" });
  });

  test("many at once make the same path", async () => {
    await Promise.all(Array.from({ length: 16 }, () => kernel.makeDirectories({ path: at("crowd", "a", "b", "c"), mode: 0o711 })));
    expect(statSync(at("crowd", "a", "b", "c")).mode & 0o7777).toBe(0o711);
  });
});

describe("removeTree", () => {
  test("removes files, links and directories of any mode, and absent is success", async () => {
    mkdirSync(at("tree", "sub", "locked"), { recursive: true });
    writeFileSync(at("tree", "sub", "file"), "x");
    mkdirSync(at("kept"));
    writeFileSync(at("kept", "file"), "kept");
    symlinkSync(at("kept"), at("tree", "sub", "link-to-directory"));
    symlinkSync("/no/where", at("tree", "dangling"));
    chmodSync(at("tree", "sub", "locked"), 0);
    await kernel.removeTree({ path: at("tree") });
    expect(existsSync(at("tree"))).toBe(false);
    expect(readFileSync(at("kept", "file"), "utf8")).toBe("kept");
    await kernel.removeTree({ path: at("tree") });
    await kernel.removeTree({ path: at("no", "such", "parent") });
  });

  test("of a link removes the link, of a file the file", async () => {
    mkdirSync(at("pointed"));
    writeFileSync(at("pointed", "file"), "");
    symlinkSync(at("pointed"), at("pointer"));
    await kernel.removeTree({ path: at("pointer") });
    expect(existsSync(at("pointed", "file"))).toBe(true);
    await kernel.removeTree({ path: at("pointed", "file") });
    expect(existsSync(at("pointed", "file"))).toBe(false);
  });

  test("a tree deeper than a path may be long", async () => {
    // 270 levels of 100 characters, made from below so that no path is ever written out.
    const thirty = Array(30).fill("d".repeat(100)).join("/");
    const script = `cd "$0" && mkdir deep && cd deep && for i in 1 2 3 4 5 6 7 8 9; do mkdir -p ${thirty} && cd -P ${thirty} || exit 1; done`;
    execFileSync("/bin/sh", ["-c", script, directory]);
    await kernel.removeTree({ path: at("deep") });
    expect(existsSync(at("deep"))).toBe(false);
  });

  test("a wide tree while others add to it and take from it", async () => {
    mkdirSync(at("busy"));
    for (let i = 0; i < 500; i += 1) writeFileSync(at("busy", `f${i}`), "");
    const racer = kernel.runProgram({
      path: "/bin/sh",
      args: [
        "sh",
        "-c",
        'i=0; while [ $i -lt 300 ]; do mkdir "$0/d$i" && : >"$0/d$i/x"; rm -f "$0/f$i"; i=$((i+1)); done 2>/dev/null',
        at("busy"),
      ],
      env: ["PATH=/bin:/usr/bin"],
      cwd: "/",
      stdin: new Uint8Array(),
      maxOutputBytes: 1000,
      timeoutMs: 20_000,
    });
    await kernel.removeTree({ path: at("busy") }).catch((error: unknown) => expect(error).toMatchObject({ errno: "ENOTEMPTY" }));
    await racer.result;
    await kernel.removeTree({ path: at("busy") });
    expect(existsSync(at("busy"))).toBe(false);
  });

  test("refuses to remove the root and what has no name", async () => {
    for (const path of ["/", "//", "/tmp/..", "."]) expect(await failure(kernel.removeTree({ path }))).toMatchObject({ errno: "EINVAL" });
  });

  test.skipIf(!isPrivileged)(`stops at a mount with EBUSY and leaves what is in it (${notPrivileged})`, async () => {
    mkdirSync(at("mounted", "point"), { recursive: true });
    await kernel.mountTmpfs({ path: at("mounted", "point"), sizeBytes: 1 << 20, mode: 0o755 });
    writeFileSync(at("mounted", "point", "file"), "in the mount");
    expect(await failure(kernel.removeTree({ path: at("mounted") }))).toMatchObject({ errno: "EBUSY", path: at("mounted", "point") });
    expect(await failure(kernel.removeTree({ path: at("mounted", "point") }))).toMatchObject({ errno: "EBUSY" });
    expect(readFileSync(at("mounted", "point", "file"), "utf8")).toBe("in the mount");
    await kernel.unmount({ path: at("mounted", "point") });
    await kernel.removeTree({ path: at("mounted") });
    expect(existsSync(at("mounted"))).toBe(false);
  });

  test.skipIf(!isPrivileged)(`removes what a container has made immutable (${notPrivileged}, and chattr)`, async (context) => {
    mkdirSync(at("frozen", "inner"), { recursive: true });
    writeFileSync(at("frozen", "inner", "file"), "");
    try {
      execFileSync("chattr", ["+i", at("frozen", "inner", "file"), at("frozen", "inner")], { stdio: "ignore" });
    } catch {
      context.skip("the file system of the temporary directory has no such attribute");
    }
    await kernel.removeTree({ path: at("frozen") });
    expect(existsSync(at("frozen"))).toBe(false);
  });
});

describe("readInRoot", () => {
  let root: FdHandle;
  const read = (path: string, maxBytes = 100): Promise<Uint8Array | null> => kernel.readInRoot({ root, path, maxBytes });

  beforeAll(async () => {
    mkdirSync(at("root", "etc"), { recursive: true });
    writeFileSync(at("root", "etc", "passwd"), "inside");
    writeFileSync(at("outside"), "outside");
    symlinkSync("/etc/passwd", at("root", "absolute"));
    symlinkSync("../../../../../outside", at("root", "climbing"));
    symlinkSync("../../../../../../../../etc/passwd", at("root", "etc", "up"));
    symlinkSync("/proc/self/root/etc/passwd", at("root", "magic"));
    symlinkSync("loop", at("root", "loop"));
    execFileSync("mkfifo", [at("root", "fifo")]);
    writeFileSync(at("root", "sparse"), "");
    truncateSync(at("root", "sparse"), 1 << 30);
    root = await kernel.openTree({ path: at("root"), clone: false, recursive: false, readOnly: false });
  });
  afterAll(() => root.close());

  test("absolute and climbing links stay inside", async () => {
    expect(String(await read("/etc/passwd"))).toBe("inside");
    expect(String(await read("etc/passwd"))).toBe("inside");
    expect(String(await read("absolute"))).toBe("inside");
    expect(String(await read("/etc/up"))).toBe("inside");
    expect(await read("climbing")).toBe(null);
    expect(await read("../../../../../outside")).toBe(null);
    expect(await read("magic")).toBe(null);
  });

  test("absent is null, the rest is named", async () => {
    expect(await read("etc/group")).toBe(null);
    expect(await read("etc/passwd/below")).toBe(null);
    expect(await failure(read("loop"))).toMatchObject({ errno: "ELOOP" });
    expect(await failure(read("etc"))).toMatchObject({ errno: "ENOTSUP" });
  });

  test("a pipe is not waited for, a huge file is not read", async () => {
    expect(await failure(read("fifo"))).toMatchObject({ errno: "ENOTSUP", step: "root.read" });
    expect(await failure(read("sparse"))).toMatchObject({ errno: "EFBIG" });
    expect(await failure(read("etc/passwd", 5))).toMatchObject({ errno: "EFBIG" });
    expect(String(await read("etc/passwd", 6))).toBe("inside");
  });
});

describe("logs, usage, mounts", () => {
  test("a log is appended to, its directories are made, a link at its place is refused", async () => {
    const handle = await kernel.openLog({ path: at("logs", "pod", "0.log") });
    handle.close();
    (await kernel.openLog({ path: at("logs", "pod", "0.log") })).close();
    expect(statSync(at("logs", "pod", "0.log")).mode & 0o7777).toBe(0o640);
    symlinkSync("/etc/shadow", at("logs", "pod", "1.log"));
    expect(await failure(kernel.openLog({ path: at("logs", "pod", "1.log") }))).toMatchObject({ errno: "ELOOP", step: "log.open" });
    execFileSync("mkfifo", [at("logs", "pod", "2.log")]);
    expect(await failure(kernel.openLog({ path: at("logs", "pod", "2.log") }))).toBeDefined();
  });

  test("a file with two names weighs once", async () => {
    mkdirSync(at("weigh"));
    writeFileSync(at("weigh", "a"), Buffer.alloc(40_000, 1));
    linkSync(at("weigh", "a"), at("weigh", "b"));
    const { bytes, inodes } = await kernel.treeUsage({ path: at("weigh") });
    const blocks = (path: string): number => statSync(path).blocks * 512;
    expect({ bytes, inodes }).toEqual({ bytes: blocks(at("weigh")) + blocks(at("weigh", "a")), inodes: 2 });
    expect(await failure(kernel.treeUsage({ path: at("nothing") }))).toMatchObject({ errno: "ENOENT" });
  });

  test("a file system is told by its mount", async () => {
    const usage = await kernel.filesystemUsage({ path: directory });
    const mounts = await kernel.listMounts();
    expect(mounts.find(({ mountPoint }) => mountPoint === "/proc")).toMatchObject({ type: "proc", root: "/" });
    expect(usage.totalBytes).toBeGreaterThan(usage.freeBytes - 1);
    expect(mounts).toContainEqual(expect.objectContaining({ mountPoint: usage.mountPoint, type: usage.type, device: usage.device }));
    await kernel.syncFilesystem({ path: directory });
  });
});
