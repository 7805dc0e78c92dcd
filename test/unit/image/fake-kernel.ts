/** The kernel calls that the image domain uses, over plain files; unpacking inflates and hashes, and writes one file. */
import { createHash } from "node:crypto";
import { mkdir, rename, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { SystemError } from "../../../src/base/errors.ts";
import type { Kernel, ProgramArgs, ProgramResult, UnpackArgs, UnpackHandle } from "../../../src/kernel/contract.ts";

export interface FakeKernel {
  readonly kernel: Kernel;
  /** Layers being unpacked now, and the most at one time. */
  readonly unpacking: { now: number; most: number; started: number; aborted: number };
  readonly syncs: { count: number };
  readonly programs: ProgramArgs[];
  freeBytes: number;
  /** Set to fail the next writes of records whose path contains the text. */
  failWrites: string | null;
  /** Replaces the outcome of an unpacking. */
  unpackError: { errno: string; detail: string } | null;
  /** Awaited before an unpacking finishes. */
  unpackGate: Promise<void> | null;
  /** Awaited before a sync is done. */
  syncGate: Promise<void> | null;
  program: (args: ProgramArgs) => Partial<ProgramResult>;
}

export function createFakeKernel(): FakeKernel {
  const fake: FakeKernel = {
    kernel: {} as Kernel,
    unpacking: { now: 0, most: 0, started: 0, aborted: 0 },
    syncs: { count: 0 },
    programs: [],
    freeBytes: 1e12,
    failWrites: null,
    unpackError: null,
    unpackGate: null,
    syncGate: null,
    program: () => {
      throw new SystemError({ errno: "ENOENT", syscall: "execve", path: "", step: "program.start" });
    },
  };
  let counter = 0;
  const kernel: Partial<Kernel> = {
    features: () => ({ architecture: "amd64" }) as ReturnType<Kernel["features"]>,
    async writeFileAtomic({ path, data }) {
      if (fake.failWrites !== null && path.includes(fake.failWrites)) {
        throw new SystemError({ errno: "ENOSPC", syscall: "write", path, step: "file.write" });
      }
      counter += 1;
      const temporary = `${path}.${counter}.tmp`;
      await writeFile(temporary, data);
      await rename(temporary, path);
    },
    removeTree: ({ path }) => rm(path, { recursive: true, force: true }),
    async syncFilesystem() {
      await fake.syncGate;
      fake.syncs.count += 1;
    },
    filesystemUsage: () =>
      Promise.resolve({
        totalBytes: 1e12,
        freeBytes: fake.freeBytes,
        totalInodes: 1e6,
        freeInodes: 1e6,
        device: "0:1",
        mountPoint: "/fake",
        type: "fake",
      }),
    runProgram(args) {
      fake.programs.push(args);
      const result = Promise.resolve().then(() => ({
        exitCode: 0,
        signal: null,
        stdout: Buffer.alloc(0),
        stderr: Buffer.alloc(0),
        timedOut: false,
        outputExceeded: false,
        ...fake.program(args),
      }));
      return { result, kill: () => undefined };
    },
    spawnUnpack: (args) => Promise.resolve(startUnpack(fake, args)),
  };
  Object.assign(fake.kernel, kernel);
  return fake;
}

function startUnpack(fake: FakeKernel, args: UnpackArgs): UnpackHandle {
  const parts: Uint8Array[] = [];
  let abort: () => void = () => undefined;
  let ended = false;
  const aborted = new Promise<never>((_, reject) => {
    abort = () => {
      if (!ended) fake.unpacking.aborted += 1;
      end();
      reject(new SystemError({ errno: "ECANCELED", syscall: "poll", path: "", step: "unpack.feed" }));
    };
  });
  aborted.catch(() => undefined);
  const end = (): void => {
    if (ended) return;
    ended = true;
    fake.unpacking.now -= 1;
  };
  fake.unpacking.started += 1;
  fake.unpacking.now += 1;
  fake.unpacking.most = Math.max(fake.unpacking.most, fake.unpacking.now);

  const finish = async () => {
    await fake.unpackGate;
    if (fake.unpackError) throw new SystemError({ syscall: "openat", path: "etc/file", step: "unpack.extract", ...fake.unpackError });
    const compressed = Buffer.concat(parts);
    let content: Buffer;
    try {
      content = compressed[0] === 0x1f ? gunzipSync(compressed) : compressed;
    } catch (error) {
      throw new SystemError({ errno: "EBADMSG", syscall: "decompress", path: "", step: "unpack.decompress", detail: String(error) });
    }
    await stat(args.target);
    await mkdir(args.target, { recursive: true });
    await writeFile(join(args.target, "content"), content);
    return { diffId: `sha256:${createHash("sha256").update(content).digest("hex")}`, bytes: content.length, entries: 1, inodes: 2 };
  };
  return {
    write: (data) => {
      parts.push(Buffer.from(data));
      return Promise.race([Promise.resolve(), aborted]);
    },
    finish: () => Promise.race([finish(), aborted]).finally(end),
    abort: () => abort(),
  };
}
