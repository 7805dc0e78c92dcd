/**
 * berth-unpack itself, over layers that are as they should be and over layers that nobody should have made. Beside the layer stands
 * a canary tree that no layer may touch.
 */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { constants, deflateRawSync, gzipSync } from "node:zlib";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { end, gnuLong, paxHeader, type TarEntry, tar, tarEntry } from "./tar-writer.ts";

const program = fileURLToPath(new URL("../../../build/native/berth-unpack", import.meta.url));
const driver = process.env["BERTH_UNPACK_DRIVE"] ?? fileURLToPath(new URL("../../../build/native-build/bin/unpack-drive", import.meta.url));
const unpackProgram = process.env["BERTH_UNPACK"] ?? program;
const missing =
  process.getuid?.() !== 0
    ? "berth-unpack needs root: its jail is made of namespaces and a new root"
    : !existsSync(unpackProgram) || !existsSync(driver)
      ? "berth-unpack is not built"
      : null;

interface Outcome {
  readonly diffId?: string;
  readonly bytes?: number;
  readonly entries?: number;
  readonly inodes?: number;
  readonly errno?: string;
  readonly step?: string;
  readonly path?: string;
  readonly detail?: string;
  readonly pid: number;
}

let base: string;
let target: string;
let canary: string;

function unpack(layer: Buffer, limits: { bytes?: number; entries?: number; abortAfter?: number } = {}): Outcome {
  const args = [unpackProgram, target, String(limits.bytes ?? 1e9), String(limits.entries ?? 1e6)];
  if (limits.abortAfter !== undefined) args.push(String(limits.abortAfter));
  const { stdout, stderr, status } = spawnSync(driver, args, { input: layer, maxBuffer: 1 << 26 });
  if (stdout.length === 0) throw new Error(`the driver ended with ${status}: ${stderr.toString()}`);
  return JSON.parse(stdout.toString()) as Outcome;
}

const extract = (entries: readonly TarEntry[]): Outcome => unpack(tar(entries));
const at = (path: string): string => join(target, path);
const text = (path: string): string => readFileSync(at(path), "utf8");
const mode = (path: string): number => lstatSync(at(path)).mode & 0o7777;
const digestOf = (data: Buffer): string => `sha256:${createHash("sha256").update(data).digest("hex")}`;
const isWhiteout = (path: string): boolean => lstatSync(at(path)).isCharacterDevice() && lstatSync(at(path)).rdev === 0;
const xattr = (path: string, name: string): Buffer | null => {
  const { status, stdout } = spawnSync("getfattr", ["--only-values", "-h", "-n", name, at(path)]);
  return status === 0 ? stdout : null;
};
const isOpaque = (path: string): boolean => xattr(path, "trusted.overlay.opaque")?.toString() === "y";

beforeEach(({ skip }) => {
  if (missing !== null) skip(missing);
  base = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "berth-unpack-"));
  target = join(base, "layer");
  canary = join(base, "canary");
  mkdirSync(target);
  mkdirSync(canary);
  writeFileSync(join(canary, "file"), "alive", { mode: 0o600 });
});
afterEach(() => {
  if (missing !== null) return;
  expect(readdirSync(base).sort()).toEqual(["canary", "layer"]);
  expect(readdirSync(canary)).toEqual(["file"]);
  expect(readFileSync(join(canary, "file"), "utf8")).toBe("alive");
  expect(statSync(join(canary, "file")).mode & 0o7777).toBe(0o600);
  rmSync(base, { recursive: true });
});

describe("berth-unpack", () => {
  describe("a layer", () => {
    it("comes out with contents, owners, modes, times and links", () => {
      const layer = tar([
        { name: "./", type: "5", mode: 0o711, mtime: 5 },
        { name: "dir/", type: "5", mode: 0o2750, uid: 7, gid: 8, mtime: 1_111_111_111 },
        { name: "dir/file", data: "hello", mode: 0o640, uid: 1000, gid: 4_000_00, mtime: 1_222_222_222 },
        { name: "dir/soft", type: "2", link: "/etc/passwd", uid: 9, gid: 9, mtime: 1_333_333_333 },
        { name: "dir/hard", type: "1", link: "dir/file" },
        { name: "pipe", type: "6", mode: 0o666, uid: 3 },
        { name: "missing/parents/file", data: "x" },
        { name: "empty", mode: 0 },
      ]);
      const outcome = unpack(layer);
      expect(outcome).toMatchObject({ diffId: digestOf(layer), entries: 8, inodes: 9 });
      expect(text("dir/file")).toBe("hello");
      expect(mode("dir/file")).toBe(0o640);
      expect(lstatSync(at("dir/file"))).toMatchObject({ uid: 1000, gid: 4_000_00, nlink: 2, mtimeMs: 1_222_222_222_000 });
      expect(lstatSync(at("dir"))).toMatchObject({ uid: 7, gid: 8, mtimeMs: 1_111_111_111_000 });
      expect(mode("dir")).toBe(0o2750);
      expect(readlinkSync(at("dir/soft"))).toBe("/etc/passwd");
      expect(lstatSync(at("dir/soft"))).toMatchObject({ uid: 9, mtimeMs: 1_333_333_333_000 });
      expect(lstatSync(at("dir/hard")).ino).toBe(lstatSync(at("dir/file")).ino);
      expect(lstatSync(at("pipe")).isFIFO()).toBe(true);
      expect(mode("pipe")).toBe(0o666);
      expect(text("missing/parents/file")).toBe("x");
      expect(mode("missing")).toBe(0o755);
      expect(mode("empty")).toBe(0);
      expect(mode("")).toBe(0o711);
      expect(lstatSync(target).mtimeMs).toBe(5000);
    });

    it("keeps setuid, setgid and sticky bits of files that others own", () => {
      extract([
        { name: "suid", data: "x", mode: 0o4755, uid: 1, gid: 2 },
        { name: "sgid", data: "x", mode: 0o2755, uid: 1, gid: 2 },
        { name: "all", data: "x", mode: 0o7777 },
        { name: "tmp/", type: "5", mode: 0o1777 },
      ]);
      expect([mode("suid"), mode("sgid"), mode("all"), mode("tmp")]).toEqual([0o4755, 0o2755, 0o7777, 0o1777]);
    });

    it("keeps nanoseconds, long names and names in any bytes", () => {
      const long = `${"d".repeat(200)}/${"f".repeat(250)}`;
      const gnu = `${"g".repeat(220)}/${"h".repeat(200)}`;
      unpack(
        Buffer.concat([
          tar([{ name: "short", data: "pax", pax: { path: long, mtime: "1234567890.123456789" } }], { end: false }),
          gnuLong("L", gnu),
          tar([{ name: "cut", data: "gnu", gnu: true }], { end: false }),
          gnuLong("K", `../${"t".repeat(300)}`),
          tar([{ name: "link", type: "2", link: "cut", gnu: true }], { end: false }),
          tar([
            { name: "ümläut", data: "utf8" },
            { name: "x", data: "pax utf8", pax: { path: "日本/語" } },
          ]),
        ]),
      );
      expect(text(long)).toBe("pax");
      expect(lstatSync(at(long), { bigint: true }).mtimeNs).toBe(1_234_567_890_123_456_789n);
      expect(text(gnu)).toBe("gnu");
      expect(readlinkSync(at("link"))).toBe(`../${"t".repeat(300)}`);
      expect(text("ümläut")).toBe("utf8");
      expect(text("日本/語")).toBe("pax utf8");
    });

    it("keeps file capabilities and user attributes, and drops those that are the host's", () => {
      const capability = Buffer.from("0100000200200000000000000000000000000000", "hex");
      extract([
        {
          name: "tool",
          data: "x",
          uid: 5,
          mode: 0o755,
          pax: {
            "SCHILY.xattr.security.capability": capability,
            "SCHILY.xattr.trusted.overlay.opaque": "y",
            "SCHILY.xattr.trusted.evil": "y",
            "SCHILY.xattr.security.selinux": "system_u",
          },
        },
        { name: "dir/", type: "5", pax: { "SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.user.overlay.opaque": "y" } },
      ]);
      expect(xattr("tool", "security.capability")?.toString("hex")).toBe(capability.toString("hex"));
      const all = execFileSync("getfattr", ["-d", "-h", "-m", "-", "--absolute-names", at("tool"), at("dir")], { encoding: "utf8" });
      expect(all).not.toContain("trusted");
      expect(all).not.toContain("selinux");
      expect(all).not.toContain("overlay");
    });

    it("keeps device nodes and their links, with owners, modes and times, and the times of directories around them", () => {
      const outcome = extract([
        { name: "dev/", type: "5", mtime: 77 },
        { name: "dev/null", type: "3", major: 1, minor: 3, mode: 0o666, uid: 4, gid: 5, mtime: 88 },
        { name: "dev/sda", type: "4", major: 8, minor: 0, mode: 0o4660 },
        { name: "dev/nil", type: "1", link: "dev/null" },
        { name: "dev/gone", type: "3", major: 1, minor: 5 },
        { name: "dev/gone", data: "a file now" },
      ]);
      expect(outcome.inodes).toBe(5);
      const node = lstatSync(at("dev/null"));
      expect(node.isCharacterDevice()).toBe(true);
      expect(node).toMatchObject({ rdev: 0x103, uid: 4, gid: 5, mtimeMs: 88_000, nlink: 2 });
      expect(mode("dev/null")).toBe(0o666);
      expect(lstatSync(at("dev/nil")).ino).toBe(node.ino);
      expect(lstatSync(at("dev/sda")).isBlockDevice()).toBe(true);
      expect(mode("dev/sda")).toBe(0o4660);
      expect(text("dev/gone")).toBe("a file now");
      expect(lstatSync(at("dev")).mtimeMs).toBe(77_000);
    });

    it("that is empty, or only its end, is a layer", () => {
      const outcome = unpack(Buffer.alloc(0));
      expect(outcome).toMatchObject({ diffId: digestOf(Buffer.alloc(0)), entries: 0, inodes: 1 });
      expect(unpack(end)).toMatchObject({ diffId: digestOf(end), entries: 0 });
    });

    it("is hashed with what comes after its end, and may lack the end", () => {
      const trailing = Buffer.concat([tar([{ name: "a", data: "x" }]), Buffer.alloc(100_000, 7)]);
      expect(unpack(trailing).diffId).toBe(digestOf(trailing));
      rmSync(at("a"));
      const open = tar([{ name: "a", data: "x" }], { end: false });
      expect(unpack(open).diffId).toBe(digestOf(open));
    });

    it("with holes takes only its data", () => {
      const name = "sparse";
      const map = "2\n0\n5\n1000000\n5\n";
      const data = Buffer.concat([Buffer.from(map.padEnd(512, "\0")), Buffer.from("start"), Buffer.from("after")]);
      const pax = { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": name, "GNU.sparse.realsize": "2000000" };
      const outcome = extract([{ name: "GNUSparseFile.0/sparse", data, pax }]);
      expect(lstatSync(at(name)).size).toBe(2_000_000);
      const content = readFileSync(at(name));
      expect(content.subarray(0, 5).toString()).toBe("start");
      expect(content.subarray(1_000_000, 1_000_005).toString()).toBe("after");
      expect(content.subarray(5, 1_000_000).every((byte) => byte === 0)).toBe(true);
      expect(outcome.bytes).toBeLessThan(20_000);
    });
  });

  describe("compression", () => {
    const layer = tar([{ name: "file", data: Buffer.alloc(3_000_000, "some text that repeats itself, more or less ") }]);
    const parts = [layer.subarray(0, 1_000_001), layer.subarray(1_000_001)];

    it.each([
      ["none", () => layer],
      ["gzip", () => gzipSync(layer)],
      ["gzip of several members", () => Buffer.concat(parts.map((part) => gzipSync(part)))],
      ["gzip with an empty member and zeros behind", () => Buffer.concat([gzipSync(layer), gzipSync(Buffer.alloc(0)), Buffer.alloc(1000)])],
      ["gzip without compression", () => gzipSync(layer, { level: 0 })],
      ["zstd", () => execFileSync("zstd", ["-q", "-c"], { input: layer, maxBuffer: 1 << 26 })],
      [
        "zstd of several frames",
        () => Buffer.concat(parts.map((part) => execFileSync("zstd", ["-q", "-c"], { input: part, maxBuffer: 1 << 26 }))),
      ],
      [
        "zstd with skippable frames",
        () => {
          const skippable = Buffer.from("502a4d180400000061626364", "hex");
          return Buffer.concat([skippable, execFileSync("zstd", ["-q", "-c"], { input: layer, maxBuffer: 1 << 26 }), skippable]);
        },
      ],
    ])("%s", (_name, compressed) => {
      expect(unpack(compressed())).toMatchObject({ diffId: digestOf(layer), entries: 1 });
      expect(lstatSync(at("file")).size).toBe(3_000_000);
    });

    it.each([
      ["truncated gzip", () => gzipSync(layer).subarray(0, -100), "truncated"],
      ["gzip cut in its trailer", () => gzipSync(layer).subarray(0, -3), "truncated"],
      [
        "gzip with a wrong checksum",
        () => {
          const data = gzipSync(layer);
          data[data.length - 5] = (data[data.length - 5] ?? 0) ^ 1;
          return data;
        },
        "checksum",
      ],
      ["gzip with rubbish behind it", () => Buffer.concat([gzipSync(layer), Buffer.from("rubbish")]), "after the end"],
      [
        "gzip with a damaged body",
        () => {
          const data = gzipSync(layer);
          data.fill(0xff, 2000, 2100);
          return data;
        },
        "gzip",
      ],
      ["truncated zstd", () => execFileSync("zstd", ["-q", "-c"], { input: layer, maxBuffer: 1 << 26 }).subarray(0, -20), "truncated"],
      ["xz", () => Buffer.concat([Buffer.from("fd377a585a00", "hex"), Buffer.alloc(100)]), "xz"],
      ["bzip2", () => Buffer.concat([Buffer.from("BZh9"), Buffer.alloc(100)]), "bzip2"],
      ["raw deflate", () => deflateRawSync(layer), ""],
      ["text", () => Buffer.from("<html>not found</html>"), ""],
      ["a truncated tar", () => layer.subarray(0, 100_000), "runcated"],
      [
        "a damaged header",
        () => {
          const data = Buffer.from(tar([{ name: "a" }, { name: "b" }]));
          data[600] = (data[600] ?? 0) ^ 0xff;
          return data;
        },
        "",
      ],
    ])("of %s is refused", (_name, bytes, why) => {
      const outcome = unpack(bytes());
      expect(outcome.errno).toBe("EBADMSG");
      expect(outcome.detail).toContain(why);
    });

    it("does not use more memory for a larger zstd window than allowed", () => {
      const huge = execFileSync("zstd", ["-q", "-c", "--ultra", "-22", "--long=31"], { input: Buffer.alloc(1 << 20), maxBuffer: 1 << 26 });
      // The window is written into the frame's header, whatever the content: single-segment frames carry their size instead.
      huge[4] = (huge[4] ?? 0) & ~0x20;
      expect(unpack(huge).errno).toBe("EBADMSG");
    });
  });

  describe("whiteouts", () => {
    it("become 0:0 devices and opaque directories", () => {
      extract([
        { name: "a/", type: "5" },
        { name: "a/.wh.gone" },
        { name: "b/", type: "5", mtime: 99 },
        { name: "b/.wh..wh..opq" },
        { name: "b/kept", data: "x" },
        { name: ".wh.top" },
        { name: "unlisted/.wh.file" },
        { name: ".wh..wh.plnk/", type: "5" },
        { name: ".wh..wh.aufs" },
      ]);
      expect(isWhiteout("a/gone")).toBe(true);
      expect(isWhiteout("top")).toBe(true);
      expect(isWhiteout("unlisted/file")).toBe(true);
      expect(isOpaque("b")).toBe(true);
      expect(isOpaque("a")).toBe(false);
      expect(lstatSync(at("b")).mtimeMs).toBe(99_000);
      expect(readdirSync(at("b"))).toEqual(["kept"]);
      expect(readdirSync(target).sort()).toEqual(["a", "b", "top", "unlisted"]);
    });

    it("hide nothing of their own layer, in either order", () => {
      extract([
        { name: "file", data: "x" },
        { name: ".wh.file" },
        { name: ".wh.later" },
        { name: "later", data: "y" },
        { name: "dir/", type: "5" },
        { name: "dir/in", data: "z" },
        { name: ".wh.dir" },
        { name: ".wh.newdir" },
        { name: "newdir/", type: "5", mode: 0o700 },
        { name: ".wh.implied" },
        { name: "implied/file", data: "w" },
        { name: "late/file", data: "v" },
        { name: "late/.wh..wh..opq" },
      ]);
      expect([text("file"), text("later"), text("dir/in"), text("implied/file"), text("late/file")]).toEqual(["x", "y", "z", "w", "v"]);
      expect(["dir", "newdir", "implied", "late"].map(isOpaque)).toEqual([true, true, true, true]);
      expect(mode("newdir")).toBe(0o700);
    });

    it("that went away with their directory leave nothing", () => {
      extract([
        { name: "a/", type: "5" },
        { name: "a/.wh..wh..opq" },
        { name: "a/null", type: "3", major: 1, minor: 3 },
        { name: "a", data: "a file" },
      ]);
      expect(text("a")).toBe("a file");
    });

    it.each([".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh.."])("of no file are refused: %s", (name) => {
      expect(extract([{ name }]).errno).toBe("EBADMSG");
    });

    it("have nothing below them", () => {
      expect(extract([{ name: ".wh.a/b", data: "x" }]).errno).toBe("EBADMSG");
    });

    it("through a link stay in the layer", () => {
      extract([{ name: "out", type: "2", link: canary }, { name: "out/.wh.file" }]);
      expect(isWhiteout(join(canary, "file"))).toBe(true);
    });
  });

  describe("later entries", () => {
    it("replace earlier ones of another kind", () => {
      const outcome = extract([
        { name: "a/b/c", data: "deep" },
        { name: "a", data: "file over directory" },
        { name: "x", data: "file" },
        { name: "x/", type: "5", mode: 0o700 },
        { name: "x/in", data: "in directory over file" },
        { name: "l", type: "2", link: "x" },
        { name: "l", data: "file over link" },
        { name: "d", type: "2", link: "x" },
        { name: "d/", type: "5" },
        { name: "f", data: "one" },
        { name: "g", type: "1", link: "f" },
        { name: "f", data: "two" },
        { name: "k/", type: "5", mode: 0o700 },
        { name: "k/kept", data: "kept" },
        { name: "k/", type: "5", mode: 0o711 },
      ]);
      expect(text("a")).toBe("file over directory");
      expect(text("x/in")).toBe("in directory over file");
      expect(text("l")).toBe("file over link");
      expect(lstatSync(at("d")).isDirectory()).toBe(true);
      expect([text("f"), text("g")]).toEqual(["two", "one"]);
      expect(text("k/kept")).toBe("kept");
      expect(mode("k")).toBe(0o711);
      const counted = Number(
        execFileSync("find", [target, "-printf", "%i\\n"])
          .toString()
          .split("\n")
          .filter(Boolean)
          .filter((v, i, all) => all.indexOf(v) === i).length,
      );
      expect(outcome.inodes).toBe(counted);
    });

    it("of other kinds below the same directory find it again", () => {
      extract([
        { name: "deep/down/", type: "5" },
        { name: "deep/down/x", data: "file" },
        { name: "deep/down/x/", type: "5", mode: 0o700 },
        { name: "deep/down/.wh.y" },
        { name: "deep/down/y/", type: "5", mode: 0o711 },
        { name: "deep/down/x/in", data: "in" },
      ]);
      expect([mode("deep/down/x"), mode("deep/down/y")]).toEqual([0o700, 0o711]);
      expect(isOpaque("deep/down/y")).toBe(true);
      expect(text("deep/down/x/in")).toBe("in");
    });

    it("go through the links of the layer, as a container would", () => {
      extract([
        { name: "run/", type: "5" },
        { name: "var/", type: "5" },
        { name: "var/run", type: "2", link: "/run" },
        { name: "var/run/pid", data: "1" },
        { name: "var/lock", type: "2", link: "../not/yet" },
        { name: "var/lock/lock", data: "2" },
        { name: "var/lock/sub/", type: "5", mode: 0o700 },
        { name: "up", type: "2", link: "../../.." },
        { name: "up/top", data: "3" },
      ]);
      expect(readlinkSync(at("var/run"))).toBe("/run");
      expect(text("run/pid")).toBe("1");
      expect(text("not/yet/lock")).toBe("2");
      expect(mode("not/yet/sub")).toBe(0o700);
      expect(text("top")).toBe("3");
    });

    it("do not go through what is no directory", () => {
      expect(
        extract([
          { name: "a", data: "x" },
          { name: "a/b", data: "y" },
        ]).errno,
      ).toBe("EBADMSG");
      rmSync(at("a"));
      expect(
        extract([
          { name: "a", type: "2", link: "b" },
          { name: "b", type: "2", link: "a" },
          { name: "a/x", data: "y" },
        ]).errno,
      ).toBe("EBADMSG");
    });

    it("that would lose a directory's attributes are refused", () => {
      const outcome = extract([
        { name: "real/", type: "5" },
        { name: "way", type: "2", link: "real" },
        { name: "way/sub/", type: "5", mode: 0o700 },
        { name: "way", data: "gone" },
      ]);
      expect(outcome).toMatchObject({ errno: "EBADMSG", path: "way/sub" });
    });
  });

  describe("a hostile layer", () => {
    const outside = () => canary;

    it.each([["../x"], ["a/../../x"], ["/../x"], [".."], ["a/.."]])("with the name %s is refused", (name) => {
      expect(
        extract([
          { name: "a/", type: "5" },
          { name, data: "x" },
        ]).errno,
      ).toBe("EBADMSG");
    });

    it("with an absolute name stays inside", () => {
      extract([
        { name: `${outside()}/file`, data: "overwritten" },
        { name: "//x//./y", data: "z" },
      ]);
      expect(text(join(canary, "file"))).toBe("overwritten");
      expect(text("x/y")).toBe("z");
    });

    it.each([
      ["absolute", () => outside()],
      ["relative", () => `../../../../../../../..${outside()}`],
      ["through /proc", () => `/proc/self/root${outside()}`],
      ["through the working directory of others", () => `/proc/1/cwd${outside()}`],
    ])("with a link out of it (%s) writes, links and changes inside only", (_how, link) => {
      extract([
        { name: "out", type: "2", link: link() },
        { name: "out/file", data: "evil" },
        { name: "out/new", data: "evil" },
        { name: "out/", type: "5", mode: 0o777 },
        { name: "out2", type: "2", link: join(link(), "file") },
        { name: "out2", data: "evil" },
        { name: "mode", type: "2", link: join(link(), "file"), mode: 0o777, uid: 1 },
      ]);
    });

    it("with a chain of links stays inside", () => {
      extract([
        { name: "a", type: "2", link: "." },
        { name: "a/b", type: "2", link: ".." },
        { name: "b/c", type: "2", link: `..${canary}` },
        { name: "c/file", data: "evil" },
      ]);
    });

    it.each([
      ["outside", () => join(canary, "file")],
      ["with ..", () => `../canary/file`],
      ["to nothing", () => "nothing"],
      ["to a directory", () => "dir"],
      ["through a link out", () => "out/file"],
      ["to the root", () => "/"],
    ])("with a hard link %s is refused", (_how, link) => {
      const outcome = extract([
        { name: "dir/", type: "5" },
        { name: "out", type: "2", link: canary },
        { name: "hard", type: "1", link: link() },
      ]);
      expect(outcome.errno).toBe("EBADMSG");
      expect(existsSync(at("hard"))).toBe(false);
    });

    it("with a hard link to a symbolic link links the link", () => {
      extract([
        { name: "soft", type: "2", link: join(canary, "file") },
        { name: "hard", type: "1", link: "soft" },
        { name: "hard", data: "evil", mode: 0o777 },
        { name: "self", data: "same" },
        { name: "self", type: "1", link: "self" },
      ]);
      expect(readlinkSync(at("soft"))).toBe(join(canary, "file"));
      expect(text("hard")).toBe("evil");
      expect(text("self")).toBe("same");
    });

    it("with a hard link over the directory of its target is refused", () => {
      expect(
        extract([
          { name: "d/f", data: "x" },
          { name: "d", type: "1", link: "d/f" },
        ]).errno,
      ).toBe("EBADMSG");
    });

    it.each<[string, () => Buffer]>([
      ["a root that is a file", () => tar([{ name: "./", data: "x" }])],
      ["a root that is a link", () => tar([{ name: "/", type: "2", link: "/etc" }])],
      ["no name", () => tar([{ name: "", data: "x" }])],
      ["a negative size", () => tar([{ name: "a", rawSize: `\xff${"\xff".repeat(10)}\xf0` }])],
      ["a huge size", () => tar([{ name: "a", rawSize: `\x80${"\x00".repeat(3)}\x7f${"\xff".repeat(7)}` }])],
      ["a negative size in PAX", () => tar([{ name: "a", pax: { size: "-1" } }])],
      ["a size in PAX that the data do not have", () => tar([{ name: "a", data: "x", pax: { size: "9999999999" } }])],
      ["an owner beyond all", () => tar([{ name: "a", pax: { uid: "4294967295" } }])],
      ["a negative owner", () => tar([{ name: "a", pax: { uid: "-1" } }])],
      ["a device number beyond all", () => tar([{ name: "a", type: "3", major: 1 << 20, minor: 1 }])],
      ["a name too deep", () => tar([{ name: "x", pax: { path: `${"a/".repeat(300)}b` } }])],
      ["a component too long", () => tar([{ name: "x", pax: { path: "a".repeat(256) } }])],
      ["a PAX header beyond all", () => tar([{ name: "a", pax: { comment: Buffer.alloc(3 << 20, 65) } }])],
      [
        "a PAX record with a length beyond its header",
        () => Buffer.concat([tarEntry({ name: "x", type: "x", data: "999999 path=evil\n" }), tar([{ name: "a" }])]),
      ],
      [
        "a sparse map without end",
        () =>
          tar([
            {
              name: "s",
              data: Buffer.from(`${"9".repeat(400)}\n`),
              pax: { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "10" },
            },
          ]),
      ],
      ["a symbolic link to nothing", () => tar([{ name: "a", type: "2", link: "" }])],
    ])("with %s is refused", (_what, layer) => {
      const outcome = unpack(layer());
      expect(outcome.errno, JSON.stringify(outcome)).toMatch(/^(EBADMSG|EFBIG)$/);
    });

    it("with a name of a path's greatest length is refused and not cut", () => {
      const outcome = extract([{ name: "x", pax: { path: `${"a/".repeat(100)}${"b".repeat(200)}/${"c/".repeat(2000)}d` } }]);
      expect(outcome.errno).toBe("EBADMSG");
      expect(readdirSync(target)).toEqual([]);
    });

    it("with a zero byte in a PAX name makes nothing outside of it", () => {
      unpack(tar([{ name: "x", data: "y", pax: { path: Buffer.from("a\0/../../evil") } }]));
    });

    it("with global PAX headers does not change what follows for good", () => {
      unpack(Buffer.concat([paxHeader({ path: "../evil", uid: "0" }, "g"), tar([{ name: "a", data: "x", uid: 3 }])]));
      expect(existsSync(at("a"))).toBe(true);
    });

    it("with libraries and tables of its own is not asked for them", () => {
      const trojan = "not a library";
      const outcome = extract([
        ...[
          "lib/x86_64-linux-gnu/libc.so.6",
          "usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
          "etc/nsswitch.conf",
          "etc/ld.so.preload",
        ].map((name) => ({ name, data: trojan })),
        { name: "after", data: "x", pax: { path: "nach/ümläut", hdrcharset: "ISO-IR 10646 2000 UTF-8" } },
      ]);
      expect(outcome.errno).toBeUndefined();
      expect(text("nach/ümläut")).toBe("x");
    });
  });

  describe("limits", () => {
    it("bound the uncompressed bytes", () => {
      const layer = tar([{ name: "a", data: Buffer.alloc(1_000_000) }]);
      expect(unpack(gzipSync(layer), { bytes: 500_000 })).toMatchObject({ errno: "EFBIG", step: expect.stringMatching(/^unpack\./) });
    });

    it("bound the number of entries", () => {
      expect(unpack(tar(Array.from({ length: 11 }, (_, index) => ({ name: `f${index}` }))), { entries: 10 })).toMatchObject({
        errno: "EFBIG",
      });
    });

    it("bound a file that is mostly a hole", () => {
      const pax = { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9000000000000000" };
      const data = Buffer.from("1\n0\n0\n".padEnd(512, "\0"));
      expect(extract([{ name: "hole", data, pax }]).errno).toMatch(/^(EFBIG|EBADMSG)$/);
    });

    it("bound extended attributes", () => {
      const outcome = extract([{ name: "a", pax: { "SCHILY.xattr.user.big": Buffer.alloc(100_000, 65) } }]);
      expect(outcome).toMatchObject({ errno: "EFBIG", path: "a" });
    });

    it("stop a bomb long before it is out", () => {
      const zeros = gzipSync(Buffer.alloc(1 << 28), { level: 9, strategy: constants.Z_RLE });
      const bomb = Buffer.concat([
        gzipSync(tarEntry({ name: "bomb", rawSize: "77777777777\0" })),
        zeros,
        zeros,
        zeros,
        zeros,
        zeros,
        zeros,
      ]);
      expect(unpack(bomb, { bytes: 100 << 20 })).toMatchObject({ errno: "EFBIG" });
    });

    it("refuse a directory that is not empty", () => {
      writeFileSync(at("there"), "x");
      expect(unpack(tar([]))).toMatchObject({ errno: "ENOTEMPTY", step: "unpack.start" });
    });
  });

  describe("a full file system", () => {
    it("is ENOSPC with the entry's name", () => {
      const mounted = join(base, "layer");
      const { status, stderr } = spawnSync("mount", ["-t", "tmpfs", "-o", "size=256k", "tmpfs", mounted]);
      if (status !== 0) throw new Error(stderr.toString());
      try {
        const outcome = unpack(gzipSync(tar([{ name: "dir/big", data: Buffer.alloc(1 << 20, 3) }])));
        expect(outcome).toMatchObject({ errno: "ENOSPC", path: "dir/big", step: "unpack.extract" });
      } finally {
        spawnSync("umount", [mounted]);
      }
    });
  });

  describe("its life", () => {
    /** Ended but not waited for by its parent, which may be anybody's, is ended. */
    const alive = (pid: number): boolean => {
      try {
        return !/^State:\s*[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
      } catch {
        return false;
      }
    };

    it("ends with an abort, and with an error in the middle of much input", () => {
      const layer = tar([{ name: "big", data: Buffer.alloc(8 << 20, 1) }]);
      const aborted = unpack(layer, { abortAfter: 1 << 20 });
      expect(aborted.errno).toBe("ECANCELED");
      expect(alive(aborted.pid)).toBe(false);
      rmSync(at("big"), { force: true });
      const failed = unpack(Buffer.concat([tar([{ name: "../x" }]), Buffer.alloc(16 << 20)]));
      expect(failed.errno).toBe("EBADMSG");
      expect(alive(failed.pid)).toBe(false);
    });

    it("ends when the daemon dies", async () => {
      const child = spawn(driver, [unpackProgram, target, "1000000", "1000"], { stdio: ["pipe", "ignore", "inherit"] });
      child.stdin.write(tarEntry({ name: "a", data: "x" }));
      const own = () =>
        execFileSync("ps", ["-o", "pid=,ppid=,comm=", "-e"], { encoding: "utf8" })
          .split("\n")
          .map((line) => line.trim().split(/\s+/));
      const find = () => own().find(([, parent, name]) => parent === String(child.pid) && name === "berth-unpack")?.[0];
      await expect.poll(find).toBeDefined();
      const pid = Number(find());
      await expect.poll(() => existsSync(at("a"))).toBe(true);
      child.kill("SIGKILL");
      await expect.poll(() => alive(pid)).toBe(false);
    });

    it("is spent in a jail", async () => {
      const child = spawn(driver, [unpackProgram, target, "1000000", "1000"], { stdio: ["pipe", "ignore", "inherit"] });
      try {
        child.stdin.write(tarEntry({ name: "a", data: "x" }));
        const children = () => readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").trim();
        await expect.poll(() => existsSync(at("a"))).toBe(true);
        const proc = `/proc/${children()}`;
        const status = readFileSync(`${proc}/status`, "utf8");
        const field = (name: string): string => new RegExp(`^${name}:\\s*(.*)$`, "m").exec(status)?.[1] ?? "";
        expect(field("NoNewPrivs")).toBe("1");
        expect(field("Seccomp")).toBe("2");
        // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, SETFCAP 31.
        const kept = (1n << 0n) | (1n << 1n) | (1n << 3n) | (1n << 4n) | (1n << 31n);
        for (const set of ["CapPrm", "CapEff", "CapBnd"]) expect(BigInt(`0x${field(set)}`)).toBe(kept);
        for (const set of ["CapInh", "CapAmb"]) expect(BigInt(`0x${field(set)}`)).toBe(0n);
        for (const thread of readdirSync(`${proc}/task`)) {
          expect(readFileSync(`${proc}/task/${thread}/status`, "utf8")).toMatch(/^Seccomp:\s*2$/m);
        }
        for (const kind of ["mnt", "net", "ipc", "uts"])
          expect(readlinkSync(`${proc}/ns/${kind}`)).not.toBe(readlinkSync(`/proc/self/ns/${kind}`));
        // Its file systems are the layer alone, and its descriptors the input, the results and its root.
        expect(readFileSync(`${proc}/mountinfo`, "utf8").trim().split("\n")).toHaveLength(1);
        const descriptors = readdirSync(`${proc}/fd`).map((fd) => readlinkSync(`${proc}/fd/${fd}`).replace(/\[\d+\]/, ""));
        for (const descriptor of descriptors) expect(descriptor).toMatch(/^(pipe:|socket:|\/dev\/null|\/(a)?)$/);
        expect(readFileSync(`${proc}/net/dev`, "utf8").trim().split("\n")).toHaveLength(3);
      } finally {
        child.kill("SIGKILL");
      }
    });
  });
});
