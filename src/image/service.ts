/** The ImageService over its parts: names, joined pulls, leases, recovery. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { nowNs } from "../base/clock.ts";
import { DomainError, describeError } from "../base/errors.ts";
import type { Digest, ImageId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import type { BerthConfig } from "../config/types.ts";
import type { Kernel } from "../kernel/contract.ts";
import { backgroundOperation, type Operation } from "../operation/context.ts";
import { KeyedMutex } from "../operation/keyed-mutex.ts";
import { Catalog } from "./catalog.ts";
import { ContentStore } from "./content.ts";
import { LayerStore } from "./layers.ts";
import { type PullDependencies, pullImage } from "./pull.ts";
import type { ImageRecord } from "./records.ts";
import { dockerHost, formatReference, parseReference, qualify, type Reference } from "./reference.ts";
import { HttpClient } from "./registry/http.ts";
import { type RegistriesConf, readRegistriesConf } from "./registry/registries-conf.ts";
import { Semaphore } from "./semaphore.ts";
import { SharedWork } from "./shared-work.ts";
import type { FilesystemView, ImageLease, ImageService, ImageView, PullRequest, RegistryAuth } from "./types.ts";

export interface ImageServiceDependencies {
  readonly kernel: Kernel;
  readonly config: BerthConfig["image"];
  /** The persistent state root. */
  readonly root: string;
  readonly log: Logger;
  /** Handlers that a pull may name beside "". Null allows any. */
  readonly runtimeHandlers: ReadonlySet<string> | null;
  /** Of this boot; read from the kernel where absent. */
  readonly bootId?: string;
}

export interface ManagedImageService extends ImageService {
  /**
   * Removes layers, documents and removed images that neither an image nor a container holds. Once after a start, when the
   * containers have restored their leases: until then it is unknown what they hold.
   */
  collectGarbage(op: Operation): Promise<void>;
  /** Resolves when removals and syncs behind are done: for tests and a clean shutdown. */
  settled(): Promise<void>;
}

interface Lease {
  readonly imageId: ImageId;
  readonly chainIds: readonly Digest[];
}

const emptyConf: RegistriesConf = { unqualifiedSearchRegistries: [], aliases: {}, registries: [] };
const removeBudgetMs = 60_000;

export function createImageService(deps: ImageServiceDependencies): ManagedImageService {
  return new LocalImageService(deps);
}

class LocalImageService implements ManagedImageService {
  readonly #deps: ImageServiceDependencies;
  readonly #http: HttpClient;
  readonly #content: ContentStore;
  readonly #layers: LayerStore;
  readonly #catalog: Catalog;
  readonly #pulls = new SharedWork<ImageView>("PullImage");
  readonly #commits = new KeyedMutex();
  readonly #leases = new Map<string, Lease>();
  readonly #pullDependencies: PullDependencies;
  /** As last read: names are normalised without waiting. */
  #conf: RegistriesConf = emptyConf;
  #mountPoint: string;
  #background: Promise<unknown> = Promise.resolve();

  constructor(deps: ImageServiceDependencies) {
    const { kernel, config, root, log } = deps;
    this.#deps = deps;
    this.#mountPoint = root;
    this.#http = new HttpClient(config.progressTimeoutMs);
    this.#content = new ContentStore(root, kernel, log);
    this.#layers = new LayerStore(root, kernel, log);
    this.#catalog = new Catalog(root, kernel, log, this.#layers, config.pinned);
    this.#pullDependencies = {
      kernel,
      config,
      root,
      http: this.#http,
      content: this.#content,
      layers: this.#layers,
      catalog: this.#catalog,
      downloads: new Semaphore(config.maxParallelDownloads),
      exclusively: (op, id, work) => this.#commits.run(op, id, work),
    };
  }

  // ---- start and end ----------------------------------------------------------------------------------------------

  async recover(op: Operation): Promise<void> {
    const { kernel, root, log } = this.#deps;
    await op.step("image.recover", async () => {
      const bootId = this.#deps.bootId ?? (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
      await this.#content.open();
      await this.#layers.open(bootId);
      await this.#catalog.open(log);
      this.#mountPoint = (await op.race(kernel.filesystemUsage({ path: root }))).mountPoint;
      // A malformed configuration fails the pulls, not the start: what is there still runs.
      await this.#readConf().catch((error: unknown) =>
        log.error({ err: describeError(error) }, "the registries configuration is not usable"),
      );
    });
  }

  async collectGarbage(op: Operation): Promise<void> {
    const leased = new Set([...this.#leases.values()].map(({ imageId }) => imageId));
    for (const record of this.#catalog.records()) {
      if (!record.removed || leased.has(record.id)) continue;
      await this.#commits.run(op, record.id, async () => {
        if (this.#catalog.record(record.id)?.removed) await this.#forget(record.id);
      });
    }
    this.#layers.dropUnheld();
    // A running pull writes its documents before the record that needs them.
    await this.#content.removeUnless(
      (digest) =>
        this.#pulling > 0 || this.#catalog.records().some((record) => record.id === (digest as string) || record.manifestDigest === digest),
    );
  }

  async close(): Promise<void> {
    await this.#pulls.close();
    await this.#layers.close();
    await this.#background.catch(() => undefined);
    await this.#catalog.flush();
    this.#http.close();
  }

  async settled(): Promise<void> {
    await this.#background.catch(() => undefined);
    await this.#layers.settled();
  }

  // ---- pull -------------------------------------------------------------------------------------------------------

  #pulling = 0;

  async pull(op: Operation, request: PullRequest): Promise<ImageView> {
    const { runtimeHandlers } = this.#deps;
    if (request.runtimeHandler !== "" && runtimeHandlers !== null && !runtimeHandlers.has(request.runtimeHandler)) {
      throw new DomainError(
        "invalid-argument",
        `image ${request.reference}: unknown runtime handler ${JSON.stringify(request.runtimeHandler)}`,
      );
    }
    // The syntax is checked before anything is read or asked.
    parseReference(request.reference);
    const conf = await this.#readConf();
    const candidates = this.#candidates(request.reference, conf);
    let failure: unknown;
    for (const reference of candidates) {
      const key = `${formatReference(reference)} ${hashAuth(request.auth)} ${request.runtimeHandler}`;
      try {
        return await this.#pulls.run(op, key, (own) => this.#pullOne(own, conf, reference, request.auth));
      } catch (error) {
        op.throwIfAborted();
        // A short name goes to the next registry where this one does not have it, never where it answered something else.
        failure = error;
        if (!(error instanceof DomainError) || !["not-found", "unauthenticated", "permission-denied"].includes(error.kind)) break;
      }
    }
    throw failure;
  }

  async #pullOne(op: Operation, conf: RegistriesConf, reference: Reference, auth: RegistryAuth | null): Promise<ImageView> {
    this.#pulling += 1;
    try {
      return await pullImage(op, this.#pullDependencies, conf, reference, auth);
    } finally {
      this.#pulling -= 1;
    }
  }

  async #readConf(): Promise<RegistriesConf> {
    const { registriesConfig, registriesConfigDirectory } = this.#deps.config;
    this.#conf = await readRegistriesConf(registriesConfig, registriesConfigDirectory);
    return this.#conf;
  }

  // ---- names ------------------------------------------------------------------------------------------------------

  /** At least one; several for a short name where several registries are searched. */
  #candidates(text: string, conf: RegistriesConf): readonly Reference[] {
    const parsed = parseReference(text);
    if (parsed.host !== null) return [qualify(parsed, parsed.host)];
    const alias = conf.aliases[parsed.path];
    if (alias !== undefined) {
      const target = parseReference(alias);
      if (target.host !== null) return [qualify({ ...parsed, host: target.host, path: target.path }, target.host)];
    }
    return searchHosts(conf).map((host) => qualify(parsed, host));
  }

  normalize(reference: string): string {
    const [first] = this.#candidates(reference, this.#conf);
    if (!first) throw new DomainError("internal", `no registry is searched for ${reference}`);
    return formatReference(first);
  }

  find(reference: string): ImageView | null {
    let names: readonly string[] = [];
    try {
      names = this.#candidates(reference, this.#conf).map(formatReference);
    } catch {
      // An id, or nothing that could be an image.
    }
    for (const name of names) {
      const found = this.#catalog.findName(name);
      if (found) return found;
    }
    return this.#catalog.findId(reference);
  }

  list(): readonly ImageView[] {
    return this.#catalog.list();
  }

  // ---- removal and leases -----------------------------------------------------------------------------------------

  async remove(op: Operation, reference: string): Promise<void> {
    const view = this.find(reference);
    if (!view) return;
    await op.step("image.remove", () =>
      this.#commits.run(op, view.id, async () => {
        // Somebody else was first, or the name means another image since.
        if (this.#catalog.view(view.id)) await this.#forget(view.id);
      }),
    );
  }

  /** With the commit lock of the image held. Hidden while a container holds it, gone otherwise. */
  async #forget(id: ImageId): Promise<void> {
    const record = this.#catalog.record(id);
    const leased = this.#isLeased(id);
    await this.#catalog.remove(id, leased);
    if (leased || !record) return;
    await this.#content.remove(id as string as Digest);
    await this.#content.remove(record.manifestDigest);
  }

  lease(image: ImageView, owner: string): ImageLease {
    const record = this.#catalog.record(image.id);
    if (!record || record.removed) throw new DomainError("not-found", `image ${image.id} has been removed`, { ids: { image: image.id } });
    return this.#hold(owner, record);
  }

  restoreLease(owner: string, imageId: ImageId, chainIds: readonly Digest[]): ImageLease | null {
    const record = this.#catalog.record(imageId);
    if (!record || chainIds.length === 0 || chainIds.some((chainId) => !this.#layers.get(chainId))) return null;
    return this.#hold(owner, record);
  }

  releaseLease(owner: string): void {
    const lease = this.#leases.get(owner);
    if (!lease) return;
    this.#leases.delete(owner);
    this.#layers.release(lease.chainIds);
    if (!this.#catalog.record(lease.imageId)?.removed || this.#isLeased(lease.imageId)) return;
    const op = backgroundOperation("image.forget", this.#deps.log, removeBudgetMs);
    const forgotten = this.#commits.run(op, lease.imageId, async () => {
      if (this.#catalog.record(lease.imageId)?.removed) await this.#forget(lease.imageId);
    });
    this.#background = Promise.allSettled([this.#background, forgotten]).finally(() => op.dispose());
    forgotten.catch((error: unknown) =>
      this.#deps.log.warn({ image: lease.imageId, err: describeError(error) }, "a removed image could not be forgotten"),
    );
  }

  #hold(owner: string, record: ImageRecord): ImageLease {
    const image = this.#catalog.view(record.id) ?? this.#catalog.viewOf(record);
    const before = this.#leases.get(owner);
    const chainIds = image.chainIds;
    this.#layers.hold(chainIds);
    this.#leases.set(owner, { imageId: record.id, chainIds });
    if (before) this.#layers.release(before.chainIds);
    return { image, lowerDirectories: [...chainIds].reverse().map((chainId) => this.#layers.directoryOf(chainId)) };
  }

  #isLeased(id: ImageId): boolean {
    for (const { imageId } of this.#leases.values()) if (imageId === id) return true;
    return false;
  }

  usage(): FilesystemView {
    return { timestampNs: nowNs(), mountPoint: this.#mountPoint, usedBytes: this.#layers.usedBytes, inodesUsed: this.#layers.inodesUsed };
  }
}

function searchHosts(conf: RegistriesConf): readonly string[] {
  return conf.unqualifiedSearchRegistries.length > 0 ? conf.unqualifiedSearchRegistries : [dockerHost];
}

/** Two callers share a pull where their credentials are the same; the hash stays in memory and so does what it is made of. */
function hashAuth(auth: RegistryAuth | null): string {
  if (auth === null) return "";
  const { username, password, auth: basic, serverAddress, identityToken, registryToken } = auth;
  return createHash("sha256")
    .update(JSON.stringify([username, password, basic, serverAddress, identityToken, registryToken]))
    .digest("hex");
}
