/** What the image domain offers to the rest. Only `src/image` knows how images are stored. */
import type { Digest, ImageId } from "../base/ids.ts";
import type { Operation } from "../operation/context.ts";

/** The image's own configuration, reduced to what a container needs (image-spec config.md). */
export interface ImageConfig {
  readonly user: string;
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly command: readonly string[];
  readonly workingDirectory: string;
  readonly stopSignal: string | null;
  readonly volumes: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly exposedPorts: readonly string[];
}

/** One immutable image as it is now; a change of its tags makes a new object. */
export interface ImageView {
  readonly id: ImageId;
  /** `host/path:tag`, normalised, as requested (never a mirror's name). */
  readonly repoTags: readonly string[];
  /** `host/path@sha256:…`. */
  readonly repoDigests: readonly string[];
  /** Uncompressed bytes of all layers on disk. */
  readonly sizeBytes: number;
  readonly pinned: boolean;
  readonly config: ImageConfig;
  readonly architecture: string;
  readonly os: string;
  readonly createdAt: string | null;
  /** Base layer first. */
  readonly chainIds: readonly Digest[];
  readonly pulledAtNs: bigint;
}

export interface RegistryAuth {
  readonly username: string;
  readonly password: string;
  /** base64 `user:password`. */
  readonly auth: string;
  readonly serverAddress: string;
  readonly identityToken: string;
  readonly registryToken: string;
}

export interface PullRequest {
  /** As the client wrote it: `busybox`, `host:5000/a/b:tag`, `name@sha256:…`. */
  readonly reference: string;
  readonly auth: RegistryAuth | null;
  /** Runtime handler the image is for; empty for the default. */
  readonly runtimeHandler: string;
}

/** Read-only lower directories of an image, held until `release`: RemoveImage of a held image keeps its layers. */
export interface ImageLease {
  readonly image: ImageView;
  /** Topmost first, for an overlay. */
  readonly lowerDirectories: readonly string[];
}

export interface FilesystemView {
  readonly timestampNs: bigint;
  readonly mountPoint: string;
  readonly usedBytes: number;
  readonly inodesUsed: number;
}

export interface ImageService {
  /**
   * Pulls, or returns what is there for an unchanged digest. Callers of the same reference and credentials share one
   * pull; it is cancelled when the last of them has left. The registry is really asked each time, so that a
   * credential is really checked.
   */
  pull(op: Operation, request: PullRequest): Promise<ImageView>;
  /** By tag, digest reference, id (with or without `sha256:`) or unique id prefix (≥ 4 digits); null where unknown. Never waits. */
  find(reference: string): ImageView | null;
  list(): readonly ImageView[];
  /** By any name of the image: removes it with all its names; unknown is success. Layers still leased go when released. */
  remove(op: Operation, reference: string): Promise<void>;
  /** Holds the image for a container; `owner` is the container's id and is persisted by the caller's record, see `restoreLease`. */
  lease(image: ImageView, owner: string): ImageLease;
  /** After a restart: the container `owner` still uses these layers. */
  restoreLease(owner: string, imageId: ImageId, chainIds: readonly Digest[]): ImageLease | null;
  releaseLease(owner: string): void;
  /** Bytes and inodes of all layers, kept up to date by pull and remove; no walk. */
  usage(): FilesystemView;
  /** Loads the records, drops pending layers of a former boot, removes what belongs to no image. */
  recover(op: Operation): Promise<void>;
  /** Normalises a reference to the form of `repoTags`; throws invalid-argument. */
  normalize(reference: string): string;
  close(): Promise<void>;
}
