/**
 * The image domain over the real addon, the real berth-unpack and the real overlayfs: what a container would see of layers that
 * were unpacked side by side must be what applying them one after the other gives.
 */
import { existsSync, lstatSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { silentLogger } from "../../../src/base/log.ts";
import type { BerthConfig } from "../../../src/config/types.ts";
import { createImageService, type ManagedImageService } from "../../../src/image/index.ts";
import type { Kernel } from "../../../src/kernel/contract.ts";
import { addonCandidates, loadKernel } from "../../../src/kernel/load.ts";
import { Operation } from "../../../src/operation/context.ts";
import { buildImage, layerFromTar, pushImage } from "../../support/image-builder.ts";
import { type RunningRegistry, registryProgram, startRegistry } from "../../support/registry.ts";
import { FakeRegistry } from "../../unit/image/fake-registry.ts";
import { type TarEntry, tar } from "./tar-writer.ts";

const missing =
  process.getuid?.() !== 0
    ? "needs root: overlay mounts and the unpacker's jail"
    : addonCandidates().some(existsSync)
      ? null
      : "the addon is not built";

let base: string;
let kernel: Kernel;
let images: ManagedImageService;
let registry: FakeRegistry;

beforeEach(async ({ skip }) => {
  if (missing !== null) skip(missing);
  base = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "berth-image-"));
  kernel = loadKernel();
  registry = await new FakeRegistry().start();
  images = createImageService({
    kernel,
    config: config(registry.host),
    root: join(base, "root"),
    log: silentLogger(),
    runtimeHandlers: null,
  });
  await images.recover(operation());
});
afterEach(async () => {
  if (missing !== null) return;
  await images.close();
  await registry.stop();
  rmSync(base, { recursive: true });
});

function operation(): Operation {
  return new Operation({ name: "test", log: silentLogger(), timeoutMs: 25_000 });
}

function config(host: string): BerthConfig["image"] {
  const etc = join(base, "etc");
  rmSync(etc, { recursive: true, force: true });
  return {
    registriesConfig: writeConf(etc, host),
    registriesConfigDirectory: join(etc, "registries.conf.d"),
    certsDirectory: join(etc, "certs.d"),
    policy: join(etc, "policy.json"),
    authFile: join(etc, "auth.json"),
    maxParallelDownloads: 4,
    maxParallelDownloadsPerPull: 3,
    progressTimeoutMs: 10_000,
    maxLayerBytes: 64 << 20,
    maxLayerEntries: 100_000,
    pinned: [],
    minFreeBytes: 0,
  };
}

function writeConf(etc: string, host: string): string {
  const path = join(etc, "registries.conf");
  mkdirSync(etc, { recursive: true });
  writeFileSync(path, `[[registry]]\nlocation = "${host}"\ninsecure = true\n`);
  return path;
}

const pull = (reference: string) => images.pull(operation(), { reference, auth: null, runtimeHandler: "" });

/** What an overlay of the image's layers shows: path → content, or what it is. */
async function seen(reference: string): Promise<Record<string, string>> {
  const lease = images.lease(await pull(reference), "test");
  const rootfs = await kernel.mountOverlay({ lowers: lease.lowerDirectories, upper: null, work: null });
  try {
    const out: Record<string, string> = {};
    const walk = (path: string): void => {
      const root = `/proc/self/fd/${rootfs.number}/`;
      for (const name of readdirSync(root + path)) {
        const inner = path === "" ? name : `${path}/${name}`;
        const status = lstatSync(root + inner);
        out[inner] = status.isDirectory() ? "directory" : status.isFile() ? readFileSync(root + inner, "utf8") : "something else";
        if (status.isDirectory()) walk(inner);
      }
    };
    walk("");
    return out;
  } finally {
    rootfs.close();
    images.releaseLease("test");
  }
}

// ---- the model: layers applied one after the other (image-spec layer.md) ---------------------------------------------

type Model = Map<string, string>;

function applied(layers: readonly (readonly TarEntry[])[]): Record<string, string> {
  const state: Model = new Map();
  const removeBelow = (path: string): void => {
    for (const key of [...state.keys()]) if (key.startsWith(`${path}/`)) state.delete(key);
  };
  const names = (name: string): { directory: string; base: string } => {
    const clean = name.replace(/\/$/, "");
    const slash = clean.lastIndexOf("/");
    return { directory: slash < 0 ? "" : clean.slice(0, slash), base: clean.slice(slash + 1) };
  };
  for (const layer of layers) {
    // Whiteouts are about the layers below alone, wherever they stand.
    for (const { name } of layer) {
      const { directory, base } = names(name);
      if (base === ".wh..wh..opq") removeBelow(directory);
      else if (base.startsWith(".wh.")) {
        const hidden = join(directory, base.slice(4));
        state.delete(hidden);
        removeBelow(hidden);
      }
    }
    for (const { name, type = "0", data = "" } of layer) {
      const { directory, base } = names(name);
      for (let at = directory; at !== ""; at = names(at).directory) {
        if (state.get(at) !== "directory") state.set(at, "directory");
      }
      if (base.startsWith(".wh.")) continue;
      const path = directory === "" ? base : `${directory}/${base}`;
      if (type === "5") {
        if (state.get(path) !== "directory") state.set(path, "directory");
      } else {
        removeBelow(path);
        state.set(path, String(data));
      }
    }
  }
  return Object.fromEntries(state);
}

/** Layers over few names, so that they meet; within one layer a name is one thing. */
function randomLayers(random: () => number): TarEntry[][] {
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)] as T;
  const name = (): string => Array.from({ length: 1 + Math.floor(random() * 3) }, () => pick(["a", "b", "c"])).join("/");
  return Array.from({ length: 2 + Math.floor(random() * 4) }, (_, layer) => {
    const files = new Set<string>();
    const directories = new Set<string>();
    const entries: TarEntry[] = [];
    for (let count = 0; count < 8; count += 1) {
      const path = name();
      const parents = path
        .split("/")
        .map((_part, index, parts) => parts.slice(0, index).join("/"))
        .slice(1);
      if (parents.some((parent) => files.has(parent))) continue;
      for (const parent of parents) directories.add(parent);
      const kind = random();
      if (kind < 0.4) {
        if (directories.has(path)) continue;
        files.add(path);
        entries.push({ name: path, data: `${layer}-${count}` });
      } else if (kind < 0.6) {
        if (files.has(path)) continue;
        directories.add(path);
        entries.push({ name: `${path}/`, type: "5" });
      } else if (kind < 0.85) {
        entries.push({ name: path.replace(/([^/]+)$/, ".wh.$1") });
      } else {
        if (files.has(path)) continue;
        directories.add(path);
        entries.push({ name: `${path}/.wh..wh..opq` });
      }
    }
    return entries.sort(() => random() - 0.5);
  });
}

/** The same sequence for the same seed, so that a failure can be repeated. */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

it.each(Array.from({ length: process.env["BERTH_TIER"] === "nightly" ? 500 : 25 }, (_, seed) => seed))(
  "layers give what applying them in turn gives (seed %i)",
  async (seed) => {
    const layers = randomLayers(generator(seed));
    const image = buildImage(
      layers.map((entries, index) => layerFromTar(tar(entries), index % 2 === 0 ? "gzip" : "none")),
      {},
    );
    registry.add("a", "1", image);
    expect(await seen(`${registry.host}/a:1`), JSON.stringify(layers)).toEqual(applied(layers));
  },
);

it("a real registry's image comes through, and goes without a trace", async ({ skip }) => {
  if (!existsSync(registryProgram)) skip(`${registryProgram} is not installed`);
  const real: RunningRegistry = await startRegistry({ directory: join(base, "registry") });
  try {
    writeConf(join(base, "etc"), real.host);
    const image = buildImage([
      layerFromTar(
        tar([
          { name: "etc/", type: "5" },
          { name: "etc/motd", data: "hello" },
        ]),
        "zstd",
      ),
      layerFromTar(tar([{ name: "bin/tool", data: "x", mode: 0o4755 }])),
    ]);
    await pushImage(real.host, "team/app", "1", image);
    expect(await seen(`${real.host}/team/app:1`)).toEqual({ etc: "directory", "etc/motd": "hello", bin: "directory", "bin/tool": "x" });
    expect(images.usage().inodesUsed).toBe(6);
    await images.remove(operation(), `${real.host}/team/app:1`);
    await images.settled();
    expect(readdirSync(join(base, "root", "layers"))).toEqual([]);
    expect(images.usage()).toMatchObject({ usedBytes: 0, inodesUsed: 0 });
  } finally {
    await real.stop();
  }
});

it("a layer that is corrupt, hostile or too large leaves nothing", async () => {
  const host = registry.host;
  const attempt = async (tag: string, layer: Buffer, compression: "gzip" | "none" = "gzip"): Promise<{ kind: string; message: string }> => {
    registry.add("a", tag, buildImage([layerFromTar(tar([{ name: "fine", data: "x" }])), layerFromTar(layer, compression)]));
    const error = await pull(`${host}/a:${tag}`).then(
      () => ({ kind: "none", message: "" }),
      (thrown: { kind: string; message: string }) => thrown,
    );
    await images.settled();
    expect(readdirSync(join(base, "root", "layers"))).toEqual([]);
    return error;
  };
  const hostile = await attempt("hostile", tar([{ name: "../evil", data: "x" }]));
  expect(hostile.kind).toBe("data-loss");
  for (const part of [`${host}/a:hostile`, "layer sha256:", "unpack.extract", "../evil"]) expect(hostile.message).toContain(part);
  expect((await attempt("truncated", tar([{ name: "f", data: Buffer.alloc(100_000) }]).subarray(0, 50_000))).kind).toBe("data-loss");
  expect((await attempt("bomb", tar([{ name: "f", data: Buffer.alloc(70 << 20) }]))).kind).toBe("resource-exhausted");
  expect((await attempt("text", Buffer.from("no archive"), "none")).kind).toBe("data-loss");
});

it("a cancelled pull kills its unpackers and leaves nothing", async () => {
  const big = layerFromTar(tar([{ name: "big", data: Buffer.alloc(8 << 20, 7) }]), "none");
  registry.add("a", "1", buildImage([big]));
  let sent: () => void = () => undefined;
  const half = new Promise<void>((resolve) => {
    sent = resolve;
  });
  registry.intercept = (request, response) => {
    if (!request.path.endsWith(big.digest)) return false;
    response.writeHead(200, { "content-length": big.size });
    response.write(big.data.subarray(0, 4 << 20), () => sent());
    return true;
  };
  const controller = new AbortController();
  const op = new Operation({ name: "test", log: silentLogger(), timeoutMs: null, signal: controller.signal });
  const pulled = images
    .pull(op, { reference: `${registry.host}/a:1`, auth: null, runtimeHandler: "" })
    .catch((error: { kind: string }) => error);
  await half;
  await expect.poll(() => unpackers()).toHaveLength(1);
  controller.abort();
  expect(await pulled).toMatchObject({ kind: "cancelled" });
  await images.settled();
  expect(unpackers()).toEqual([]);
  expect(readdirSync(join(base, "root", "layers"))).toEqual([]);
});

/** Our children that are unpackers. */
function unpackers(): string[] {
  return readdirSync("/proc").filter((name) => {
    if (!/^\d+$/.test(name)) return false;
    try {
      const [, command = "", rest = ""] = /^\d+ \((.*)\) (.*)$/.exec(readFileSync(`/proc/${name}/stat`, "utf8").trim()) ?? [];
      return command.startsWith("berth-unpack") && rest.split(" ")[1] === String(process.pid);
    } catch {
      return false;
    }
  });
}
