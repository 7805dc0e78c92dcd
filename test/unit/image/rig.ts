/** A service over a temporary root, with configuration files of its own. */
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { silentLogger } from "../../../src/base/log.ts";
import type { BerthConfig } from "../../../src/config/types.ts";
import { createImageService, type ManagedImageService, type RegistryAuth } from "../../../src/image/index.ts";
import { Operation } from "../../../src/operation/context.ts";
import { type BuiltImage, buildImage, type ImageOptions, layerFromTar } from "../../support/image-builder.ts";
import { createFakeKernel, type FakeKernel } from "./fake-kernel.ts";

export interface Rig {
  readonly root: string;
  readonly fake: FakeKernel;
  readonly config: BerthConfig["image"];
  readonly images: ManagedImageService;
  /** Another service over the same root, as after a restart. */
  restart(bootId?: string): Promise<ManagedImageService>;
  /** Directories and files below `layers`, but for nothing. */
  layerNames(): Promise<string[]>;
  registries(toml: string): Promise<void>;
  destroy(): Promise<void>;
}

export async function createRig(overrides: Partial<BerthConfig["image"]> = {}): Promise<Rig> {
  const base = await mkdtemp(join(tmpdir(), "berth-image-"));
  const root = join(base, "root");
  const etc = join(base, "etc");
  await mkdir(etc, { recursive: true });
  const fake = createFakeKernel();
  const config: BerthConfig["image"] = {
    registriesConfig: join(etc, "registries.conf"),
    registriesConfigDirectory: join(etc, "registries.conf.d"),
    certsDirectory: join(etc, "certs.d"),
    policy: join(etc, "policy.json"),
    authFile: join(etc, "auth.json"),
    maxParallelDownloads: 6,
    maxParallelDownloadsPerPull: 3,
    progressTimeoutMs: 5_000,
    maxLayerBytes: 1e9,
    maxLayerEntries: 1e6,
    pinned: [],
    minFreeBytes: 0,
    ...overrides,
  };
  const started: ManagedImageService[] = [];
  const start = async (bootId: string): Promise<ManagedImageService> => {
    const service = createImageService({
      kernel: fake.kernel,
      config,
      root,
      log: silentLogger(),
      runtimeHandlers: new Set(["native"]),
      bootId,
    });
    started.push(service);
    await service.recover(operation());
    return service;
  };
  return {
    root,
    fake,
    config,
    images: await start("boot-1"),
    restart: (bootId = "boot-1") => start(bootId),
    layerNames: async () => (await readdir(join(root, "layers"))).sort(),
    registries: (toml) => writeFile(config.registriesConfig, toml),
    async destroy() {
      for (const service of started) await service.close();
      await rm(base, { recursive: true, force: true });
    },
  };
}

export function operation(timeoutMs: number | null = 8_000, signal?: AbortSignal): Operation {
  return new Operation({ name: "test", log: silentLogger(), timeoutMs, ...(signal ? { signal } : {}) });
}

/** Plain HTTP for a host, by name, as an operator would allow it. */
export function insecure(...hosts: string[]): string {
  return hosts.map((host) => `[[registry]]\nlocation = "${host}"\ninsecure = true\n`).join("");
}

/** An image whose layers hold the given texts; not tar, which the fake unpacker does not mind. */
export function imageOf(texts: readonly string[], options: ImageOptions = {}): BuiltImage {
  return buildImage(
    texts.map((text) => layerFromTar(Buffer.from(text))),
    { architecture: "amd64", ...options },
  );
}

export function auth(fields: Partial<RegistryAuth>): RegistryAuth {
  return { username: "", password: "", auth: "", serverAddress: "", identityToken: "", registryToken: "", ...fields };
}

/** What a rejected promise was rejected with. */
export async function rejection(promise: Promise<unknown>): Promise<{ kind: string; message: string }> {
  try {
    await promise;
  } catch (error) {
    return error as { kind: string; message: string };
  }
  throw new Error("it was not rejected");
}
