/** The handle of an unpacking; what berth-unpack makes of layers is tested in test/native/unpack. */
import { execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import type { UnpackHandle } from "../../../src/kernel/contract.ts";
import { collectGarbage, eventually, failure, isPrivileged, kernel, notPrivileged, openDescriptors, temporaryDirectory } from "./rig.ts";

const directory = temporaryDirectory();
const noProgram = !isPrivileged || !("berth-unpack" in kernel.programDigests());
const limits = { maxBytes: 1 << 30, maxEntries: 10_000 };
let counter = 0;

function target(): string {
  const path = join(directory, `layer-${counter++}`);
  mkdirSync(path);
  return path;
}

const start = (path: string): Promise<UnpackHandle> =>
  kernel.spawnUnpack({ target: path, mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", limits });

/** A layer of `size` bytes that do not compress. */
function layer(size: number): { readonly tar: Buffer; readonly file: Buffer } {
  const source = join(directory, `source-${counter++}`);
  mkdirSync(source);
  const file = randomBytes(size);
  writeFileSync(join(source, "file"), file);
  return { tar: execFileSync("tar", ["-C", source, "-c", "file"], { maxBuffer: 1 << 28 }), file };
}

describe.skipIf(noProgram)(`unpacking (${notPrivileged}, and berth-unpack)`, () => {
  test("bytes in pieces become a layer with its diff-id", async () => {
    const { tar, file } = layer(3_000_000);
    const bytes = gzipSync(tar);
    const path = target();
    const unpacking = await start(path);
    for (let at = 0; at < bytes.length; at += 65_536) await unpacking.write(bytes.subarray(at, at + 65_536));
    const result = await unpacking.finish();
    expect(result.diffId).toBe(`sha256:${createHash("sha256").update(tar).digest("hex")}`);
    expect(result.entries).toBe(1);
    expect(readFileSync(join(path, "file")).equals(file)).toBe(true);
    expect(await failure(unpacking.write(bytes))).toMatchObject({ errno: "ECANCELED" });
    expect(await failure(unpacking.finish())).toMatchObject({ errno: "ECANCELED" });
  });

  test("writes that are not waited for are done in their order, and the buffer may be used again at once", async () => {
    const { tar, file } = layer(500_000);
    const path = target();
    const unpacking = await start(path);
    const buffer = Buffer.alloc(10_000);
    for (let at = 0; at < tar.length; at += buffer.length) {
      const size = tar.copy(buffer, 0, at);
      void unpacking.write(buffer.subarray(0, size));
      buffer.fill(0);
    }
    await unpacking.finish();
    expect(readFileSync(join(path, "file")).equals(file)).toBe(true);
  });

  test("bytes that are no layer fail the unpacking", async () => {
    const unpacking = await start(target());
    await unpacking.write(randomBytes(100_000)).catch(() => undefined);
    expect(await failure(unpacking.finish())).toMatchObject({ errno: "EBADMSG" });
  });

  test("aborting ends what is under way, any number of times", async () => {
    const unpacking = await start(target());
    await unpacking.write(layer(100_000).tar.subarray(0, 50_000));
    const finishing = unpacking.finish();
    unpacking.abort();
    unpacking.abort();
    expect(await failure(finishing)).toBeDefined();
    const early = await start(target());
    early.abort();
    expect(await failure(early.write(Buffer.from("x")))).toMatchObject({ errno: "ECANCELED" });
    expect(await failure(early.finish())).toMatchObject({ errno: "ECANCELED" });
  });

  test("a target that is not empty is refused", async () => {
    const path = target();
    writeFileSync(join(path, "there"), "");
    expect(await failure(start(path))).toMatchObject({ errno: "ENOTEMPTY" });
    expect(await failure(start(join(directory, "absent")))).toMatchObject({ errno: "ENOENT" });
  });

  test("one that is dropped without a word is killed and leaves nothing", async () => {
    await collectGarbage();
    const before = openDescriptors();
    for (let i = 0; i < 5; i += 1) await start(target());
    const running = (): boolean =>
      execFileSync("/bin/sh", ["-c", `cat /proc/${process.pid}/task/*/children`], { encoding: "utf8" })
        .trim()
        .split(" ")
        .some((pid) => existsSync(`/proc/${pid}/comm`) && readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("berth-unpack"));
    await eventually(async () => {
      await collectGarbage();
      return !running() && openDescriptors() <= before;
    }, "all are gone");
  });
});
