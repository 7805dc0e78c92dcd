/**
 * PullImage: ask the registry what the name means, fetch the configuration, and of the layers those that are not here yet;
 * each is unpacked while it is downloaded. The image's record is written last.
 */

import { nowNs } from "../base/clock.ts";
import { DomainError, describeError, toError } from "../base/errors.ts";
import type { Digest, ImageId } from "../base/ids.ts";
import type { BerthConfig } from "../config/types.ts";
import type { Kernel } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";
import type { Catalog } from "./catalog.ts";
import type { ContentStore } from "./content.ts";
import type { LayerStore } from "./layers.ts";
import {
  type ConfigFile,
  chainIdsOf,
  choosePlatform,
  type Descriptor,
  type Document,
  describePlatforms,
  type Platform,
  parseConfigFile,
  parseDocument,
  platformsOf,
} from "./manifest.ts";
import { isIndexType } from "./media-types.ts";
import type { ImageRecord } from "./records.ts";
import { formatReference, type Reference, repositoryName } from "./reference.ts";
import { RegistryClient } from "./registry/client.ts";
import { createCredentialSource } from "./registry/credentials.ts";
import { findEndpoints } from "./registry/endpoints.ts";
import type { HttpClient } from "./registry/http.ts";
import { checkPolicy } from "./registry/policy.ts";
import type { RegistriesConf } from "./registry/registries-conf.ts";
import { Semaphore } from "./semaphore.ts";
import type { ImageView, RegistryAuth } from "./types.ts";
import { unpackLayer } from "./unpack.ts";

export interface PullDependencies {
  readonly kernel: Kernel;
  readonly config: BerthConfig["image"];
  readonly root: string;
  readonly http: HttpClient;
  readonly content: ContentStore;
  readonly layers: LayerStore;
  readonly catalog: Catalog;
  /** Over all pulls. */
  readonly downloads: Semaphore;
  /** Serialises commit and removal of one image. */
  exclusively<T>(op: Operation, id: ImageId, work: () => Promise<T>): Promise<T>;
}

/** An index within an index within an index is nobody's image. */
const maxIndexDepth = 3;

interface Resolved {
  /** Of the document that the name stands for: the index's where there is one. */
  readonly topDigest: Digest;
  readonly manifestDigest: Digest;
  readonly manifestBytes: Buffer;
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
}

export async function pullImage(
  op: Operation,
  deps: PullDependencies,
  conf: RegistriesConf,
  reference: Reference,
  auth: RegistryAuth | null,
): Promise<ImageView> {
  const name = formatReference(reference);
  await op.step("image.policy", () => checkPolicy(deps.config.policy, reference));
  const endpoints = await op.step("image.endpoints", () => findEndpoints(conf, deps.config.certsDirectory, reference));
  const credentials = createCredentialSource(deps.kernel, deps.config.authFile, auth, reference);
  const client = new RegistryClient(deps.http, reference, endpoints, credentials);

  const resolved = await op.step("image.manifest", () => resolveManifest(op, deps, client, name));
  const configBytes = await op.step("image.config", () => fetchConfig(op, deps, client, resolved.config));
  const configFile = parseConfigFile(configBytes, `image ${name}: configuration ${resolved.config.digest}`);
  checkConfig(name, configFile, resolved, platformsOf(deps.kernel.features().architecture));

  const chainIds = chainIdsOf(configFile.diffIds);
  deps.layers.hold(chainIds);
  try {
    await op.step("image.layers", () => fetchLayers(op, deps, client, name, resolved, configFile.diffIds, chainIds));
    const record: ImageRecord = {
      id: resolved.config.digest as string as ImageId,
      manifestDigest: resolved.manifestDigest,
      layers: resolved.layers.map((layer, index) => ({
        chainId: chainIds[index] as Digest,
        diffId: configFile.diffIds[index] as Digest,
        blobDigest: layer.digest,
        blobSize: layer.size,
      })),
      config: configFile.config,
      architecture: configFile.architecture,
      os: configFile.os,
      createdAt: configFile.createdAt,
      pulledAtNs: nowNs(),
      removed: false,
    };
    const names = [`${repositoryName(reference)}@${resolved.topDigest}`];
    if (reference.digest === null) names.push(name);
    return await op.step("image.commit", () =>
      deps.exclusively(op, record.id, async () => {
        try {
          await deps.content.write(resolved.manifestDigest, resolved.manifestBytes);
          await deps.content.write(resolved.config.digest, configBytes);
          return await deps.catalog.commit(record, names);
        } catch (error) {
          throw storageError(`image ${name}: storing`, error);
        }
      }),
    );
  } finally {
    deps.layers.release(chainIds);
  }
}

// ---- manifest ---------------------------------------------------------------------------------------------------

async function resolveManifest(op: Operation, deps: PullDependencies, client: RegistryClient, name: string): Promise<Resolved> {
  const wanted = platformsOf(deps.kernel.features().architecture);
  const seen = new Set<Digest>();
  let answer = await client.manifest(op);
  const topDigest = answer.digest;
  for (let depth = 0; ; depth += 1) {
    const what = `image ${name}: manifest ${answer.digest} from ${answer.host}`;
    const document: Document = parseDocument(answer.bytes, answer.contentType, what);
    if (document.kind === "manifest") {
      return { topDigest, manifestDigest: answer.digest, manifestBytes: answer.bytes, config: document.config, layers: document.layers };
    }
    seen.add(answer.digest);
    const entry = choosePlatform(document.manifests, wanted);
    if (!entry) {
      const ours = describePlatform(wanted[0]);
      throw new DomainError("not-found", `image ${name}: no image for ${ours}; there are ${describePlatforms(document.manifests)}`, {
        ids: { image: name },
      });
    }
    if (depth >= maxIndexDepth || seen.has(entry.digest)) {
      throw new DomainError("data-loss", `${what} nests indexes more than ${maxIndexDepth} deep`, { ids: { image: name } });
    }
    answer = await client.manifest(op, entry.digest);
    if (answer.bytes.length !== entry.size) {
      throw new DomainError("data-loss", `${what} says that ${entry.digest} has ${entry.size} bytes, it has ${answer.bytes.length}`);
    }
    if (!isIndexType(entry.mediaType) && parseDocument(answer.bytes, answer.contentType, what).kind === "index") {
      throw new DomainError("data-loss", `${what} calls ${entry.digest} a manifest, it is an index`);
    }
  }
}

function describePlatform(platform: Platform | undefined): string {
  return `${platform?.os}/${platform?.architecture}`;
}

async function fetchConfig(op: Operation, deps: PullDependencies, client: RegistryClient, config: Descriptor): Promise<Buffer> {
  return (await deps.content.read(config.digest)) ?? (await client.blob(op, config));
}

function checkConfig(name: string, config: ConfigFile, resolved: Resolved, wanted: readonly Platform[]): void {
  const ids = { image: name };
  if (config.os !== "" && config.os !== "linux") {
    throw new DomainError("not-found", `image ${name}: it is for ${config.os}, this host runs linux`, { ids });
  }
  if (config.architecture !== "" && !wanted.some(({ architecture }) => architecture === config.architecture)) {
    throw new DomainError("not-found", `image ${name}: it is for ${config.architecture}, this host runs ${wanted[0]?.architecture}`, {
      ids,
    });
  }
  if (config.diffIds.length !== resolved.layers.length) {
    throw new DomainError(
      "data-loss",
      `image ${name}: configuration ${resolved.config.digest} names ${config.diffIds.length} layers, manifest ${resolved.manifestDigest} has ${resolved.layers.length}`,
      { ids },
    );
  }
}

// ---- layers -----------------------------------------------------------------------------------------------------

async function fetchLayers(
  op: Operation,
  deps: PullDependencies,
  client: RegistryClient,
  name: string,
  resolved: Resolved,
  diffIds: readonly Digest[],
  chainIds: readonly Digest[],
): Promise<void> {
  const missing = resolved.layers.filter((_, index) => !deps.layers.get(chainIds[index] as Digest));
  if (missing.length > 0) await checkFreeSpace(op, deps, name, missing);
  // One layer's failure ends the others at once: the pull has failed.
  const group = op.child("image.layers", null);
  const own = new Semaphore(deps.config.maxParallelDownloadsPerPull);
  let failure: Error | null = null;
  const work = resolved.layers.map((layer, index) =>
    fetchLayer(group, deps, client, name, own, layer, diffIds[index] as Digest, chainIds[index] as Digest).catch((error: unknown) => {
      failure ??= toError(error);
      group.cancel(new DomainError("cancelled", `image ${name}: another layer failed`));
    }),
  );
  try {
    await Promise.all(work);
  } finally {
    group.dispose();
  }
  op.throwIfAborted();
  if (failure) throw failure as Error;
}

async function fetchLayer(
  op: Operation,
  deps: PullDependencies,
  client: RegistryClient,
  name: string,
  own: Semaphore,
  layer: Descriptor,
  diffId: Digest,
  chainId: Digest,
): Promise<void> {
  if (deps.layers.get(chainId)) return;
  const what = `image ${name}: layer ${layer.digest}`;
  const fetched = own.run(op, () =>
    deps.layers.ensure(op, {
      chainId,
      diffId,
      blobDigest: layer.digest,
      blobSize: layer.size,
      unpack: (layerOp, target) =>
        deps.downloads.run(layerOp, () =>
          layerOp.step("image.layer.unpack", () => {
            const limits = { maxBytes: deps.config.maxLayerBytes, maxEntries: deps.config.maxLayerEntries };
            return unpackLayer(layerOp, deps.kernel, { target, layer, diffId, limits, name: what }, client.download(layerOp, layer));
          }),
        ),
    }),
  );
  await fetched.catch((error: unknown) => {
    throw op.signal.aborted ? toError(op.signal.reason) : storageError(`${what}: storing`, error);
  });
}

/** Compressed sizes are the least that it will take: what cannot fit is refused before it fills the disk. */
async function checkFreeSpace(op: Operation, deps: PullDependencies, name: string, layers: readonly Descriptor[]): Promise<void> {
  const { freeBytes } = await op.race(deps.kernel.filesystemUsage({ path: deps.root }));
  const least = layers.reduce((sum, { size }) => sum + size, 0);
  if (freeBytes - least >= deps.config.minFreeBytes) return;
  throw new DomainError(
    "resource-exhausted",
    `image ${name}: its layers take at least ${least} bytes, ${freeBytes} are free below ${deps.root}, and ${deps.config.minFreeBytes} stay free`,
    { ids: { image: name } },
  );
}

/** What the disk said while something was written. */
export function storageError(what: string, thrown: unknown): Error {
  if (thrown instanceof DomainError) return thrown;
  const errno = (thrown as { errno?: unknown; code?: unknown } | null)?.errno ?? (thrown as { code?: unknown } | null)?.code;
  const full = errno === "ENOSPC" || errno === "EDQUOT" || (thrown as { code?: unknown } | null)?.code === "ENOSPC";
  return new DomainError(full ? "resource-exhausted" : "internal", `${what}: ${describeError(thrown)}`, { cause: thrown });
}
