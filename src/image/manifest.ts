/**
 * Manifests, indexes and configurations (image-spec manifest.md, image-index.md, config.md), checked before anything
 * is done with them: a document has one meaning or is refused.
 */
import { createHash } from "node:crypto";
import { DomainError } from "../base/errors.ts";
import type { Digest } from "../base/ids.ts";
import {
  asArray,
  asObject,
  asSize,
  asString,
  type JsonObject,
  JsonShapeError,
  optionalArray,
  optionalObject,
  optionalString,
  stringArray,
  stringMap,
} from "./json.ts";
import { dockerConfig, dockerManifest, isIndexType, isLayerType, isManifestType, ociConfig } from "./media-types.ts";
import { isDigest } from "./reference.ts";
import type { ImageConfig } from "./types.ts";

/** Bytes of a manifest, an index or a configuration. */
export const maxDocumentBytes = 4 << 20;
/** overlayfs stacks 500. */
export const maxLayers = 400;
const maxIndexEntries = 1024;

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: number;
}

export interface Platform {
  readonly os: string;
  readonly architecture: string;
  readonly variant: string;
}

export interface IndexEntry extends Descriptor {
  readonly platform: Platform | null;
}

export type Document =
  | { readonly kind: "manifest"; readonly config: Descriptor; readonly layers: readonly Descriptor[] }
  | { readonly kind: "index"; readonly manifests: readonly IndexEntry[] };

/** `sha256:…` of the bytes. */
export function digestOf(bytes: Uint8Array | string): Digest {
  return `sha256:${createHash("sha256").update(bytes).digest("hex")}` as Digest;
}

/**
 * `contentType` is what the registry said, "" for nothing. Throws data-loss for a document that is malformed or could be
 * read in two ways, failed-precondition for a valid one that is no container image. `name` is for the messages.
 */
export function parseDocument(bytes: Uint8Array, contentType: string, name: string): Document {
  return guarded(name, () => {
    const root = parseJson(bytes);
    const own = optionalString(root["mediaType"], "mediaType");
    if (own !== "" && contentType !== "" && isKnown(contentType) && own !== contentType) {
      throw new JsonShapeError(`it says that it is ${own}, and its registry says ${contentType}`);
    }
    if (root["schemaVersion"] === 1 || "fsLayers" in root) {
      throw new DomainError("failed-precondition", `${name} is in Docker's schema 1, which is not supported`);
    }
    if (root["schemaVersion"] !== 2) throw new JsonShapeError("schemaVersion is not 2");
    const hasLayers = "layers" in root || "config" in root;
    const hasManifests = "manifests" in root;
    if (hasLayers && hasManifests) throw new JsonShapeError("it is both a manifest and an index");
    const type = own !== "" ? own : isKnown(contentType) ? contentType : "";
    if (type !== "" && !isKnown(type)) throw new DomainError("failed-precondition", `${name} is not an image but ${type}`);
    if (hasManifests) {
      if (type !== "" && !isIndexType(type)) throw new JsonShapeError(`an index that says it is ${type}`);
      const manifests = asArray(root["manifests"], "manifests", maxIndexEntries).map(indexEntry);
      return { kind: "index", manifests };
    }
    if (type !== "" && !isManifestType(type)) throw new JsonShapeError(`a manifest that says it is ${type}`);
    return manifest(root, type, name);
  });
}

function isKnown(type: string): boolean {
  return isIndexType(type) || isManifestType(type);
}

function manifest(root: JsonObject, type: string, name: string): Document {
  const config = descriptor(root["config"], "config");
  const layers = asArray(root["layers"], "layers", maxLayers).map((layer, index) => descriptor(layer, `layers[${index}]`));
  const configType = config.mediaType;
  if (configType !== ociConfig && configType !== dockerConfig && !(type === dockerManifest && configType === "application/octet-stream")) {
    throw new DomainError("failed-precondition", `${name} is not a container image: its configuration is ${configType}`);
  }
  if (config.size > maxDocumentBytes) throw new JsonShapeError(`config.size is over ${maxDocumentBytes}`);
  if (layers.length === 0) throw new DomainError("failed-precondition", `${name} has no layers`);
  for (const layer of layers) {
    if (!isLayerType(layer.mediaType)) {
      throw new DomainError("failed-precondition", `${name} has a layer ${layer.digest} of the unsupported type ${layer.mediaType}`);
    }
  }
  return { kind: "manifest", config, layers };
}

/** `urls` of a descriptor are never followed: credentials and requests go to the registry's endpoints alone. */
function descriptor(value: unknown, path: string): Descriptor {
  const object = asObject(value, path);
  const digest = asString(object["digest"], `${path}.digest`);
  if (!isDigest(digest)) throw new JsonShapeError(`${path}.digest is not a sha256 digest`);
  return { mediaType: asString(object["mediaType"], `${path}.mediaType`), digest, size: asSize(object["size"], `${path}.size`) };
}

function indexEntry(value: unknown, index: number): IndexEntry {
  const path = `manifests[${index}]`;
  const platform = optionalObject(asObject(value, path)["platform"], `${path}.platform`);
  return {
    ...descriptor(value, path),
    platform: platform && {
      os: optionalString(platform["os"], `${path}.platform.os`),
      architecture: optionalString(platform["architecture"], `${path}.platform.architecture`),
      variant: optionalString(platform["variant"], `${path}.platform.variant`),
    },
  };
}

// ---- platforms ------------------------------------------------------------------------------------------------

/** What a host runs, best first; variant "" matches an entry without one. */
export function platformsOf(architecture: string): readonly Platform[] {
  const linux = (arch: string, ...variants: string[]): Platform[] =>
    variants.map((variant) => ({ os: "linux", architecture: arch, variant }));
  switch (architecture) {
    case "amd64":
      return [...linux("amd64", "", "v1"), ...linux("386", "")];
    case "arm64":
      return [...linux("arm64", "v8", ""), ...linux("arm", "v8", "v7", "v6", "v5", "")];
    default:
      return linux(architecture, "");
  }
}

/** The entry that suits the host best; null where none does. Entries without a platform are no candidates. */
export function choosePlatform(entries: readonly IndexEntry[], wanted: readonly Platform[]): IndexEntry | null {
  for (const platform of wanted) {
    const found = entries.find(
      (entry) =>
        entry.platform?.os === platform.os &&
        entry.platform.architecture === platform.architecture &&
        entry.platform.variant === platform.variant &&
        (isManifestType(entry.mediaType) || isIndexType(entry.mediaType)),
    );
    if (found) return found;
  }
  return null;
}

export function describePlatforms(entries: readonly IndexEntry[]): string {
  const names = entries.flatMap(({ platform }) => {
    if (!platform || platform.os === "unknown") return [];
    return [[platform.os, platform.architecture, platform.variant].filter((part) => part !== "").join("/")];
  });
  return names.slice(0, 20).join(", ") || "none";
}

// ---- configuration ----------------------------------------------------------------------------------------------

export interface ConfigFile {
  readonly architecture: string;
  readonly os: string;
  readonly createdAt: string | null;
  readonly config: ImageConfig;
  readonly diffIds: readonly Digest[];
}

/** Throws data-loss. */
export function parseConfigFile(bytes: Uint8Array, name: string): ConfigFile {
  return guarded(name, () => {
    const root = parseJson(bytes);
    const rootfs = asObject(root["rootfs"], "rootfs");
    const diffIds = optionalArray(rootfs["diff_ids"], "rootfs.diff_ids", maxLayers).map((item, index) => {
      const text = asString(item, `rootfs.diff_ids[${index}]`);
      if (!isDigest(text)) throw new JsonShapeError(`rootfs.diff_ids[${index}] is not a sha256 digest`);
      return text;
    });
    const config = optionalObject(root["config"], "config") ?? {};
    return {
      architecture: optionalString(root["architecture"], "architecture"),
      os: optionalString(root["os"], "os"),
      createdAt: optionalString(root["created"], "created") || null,
      diffIds,
      config: {
        user: optionalString(config["User"], "config.User"),
        env: stringArray(config["Env"], "config.Env"),
        entrypoint: stringArray(config["Entrypoint"], "config.Entrypoint"),
        command: stringArray(config["Cmd"], "config.Cmd"),
        workingDirectory: optionalString(config["WorkingDir"], "config.WorkingDir"),
        stopSignal: optionalString(config["StopSignal"], "config.StopSignal") || null,
        volumes: Object.keys(optionalObject(config["Volumes"], "config.Volumes") ?? {}),
        labels: stringMap(config["Labels"], "config.Labels"),
        exposedPorts: Object.keys(optionalObject(config["ExposedPorts"], "config.ExposedPorts") ?? {}),
      },
    };
  });
}

/** Chain ids of a stack of layers, base first (image-spec config.md, Layer ChainID). */
export function chainIdsOf(diffIds: readonly Digest[]): readonly Digest[] {
  const chain: Digest[] = [];
  for (const diffId of diffIds) {
    const parent = chain.at(-1);
    chain.push(parent === undefined ? diffId : digestOf(`${parent} ${diffId}`));
  }
  return chain;
}

function parseJson(bytes: Uint8Array): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new JsonShapeError(`not JSON: ${error instanceof Error ? error.message.slice(0, 100) : ""}`);
  }
  return asObject(value, "the document");
}

function guarded<T>(name: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (error instanceof JsonShapeError) throw new DomainError("data-loss", `${name} is malformed: ${error.message}`);
    throw error;
  }
}
