/**
 * What is kept of images: one record for an image (the commit point of its pull, written last), one for each of its names.
 * Their types are this file's own; ImageView is made from them.
 */
import { createHash } from "node:crypto";
import { DomainError } from "../base/errors.ts";
import type { Digest, ImageId } from "../base/ids.ts";
import type { RecordCodec } from "../state/record-store.ts";
import { asArray, asObject, asSize, asString, optionalString, stringArray, stringMap } from "./json.ts";
import { isDigest } from "./reference.ts";
import type { ImageConfig } from "./types.ts";

export interface ImageRecord {
  readonly id: ImageId;
  /** Manifest that it was made from, kept in the content store beside the configuration. */
  readonly manifestDigest: Digest;
  readonly layers: readonly { readonly chainId: Digest; readonly diffId: Digest; readonly blobDigest: Digest; readonly blobSize: number }[];
  readonly config: ImageConfig;
  readonly architecture: string;
  readonly os: string;
  readonly createdAt: string | null;
  readonly pulledAtNs: bigint;
  /** Removed while containers held its layers: hidden, and gone with the last of them. */
  readonly removed: boolean;
}

export interface NameRecord {
  /** `host/path:tag` or `host/path@sha256:…`. */
  readonly name: string;
  readonly imageId: ImageId;
}

/** Keys are file names: the id's hex digits. */
export function imageKey(id: ImageId): string {
  return id.slice("sha256:".length);
}

/** Names have characters that file names may not have. */
export function nameKey(name: string): string {
  return createHash("sha256").update(name).digest("hex");
}

export const imageCodec: RecordCodec<ImageRecord> = {
  kind: "image",
  version: 1,
  encode: (record) => ({ ...record, pulledAtNs: record.pulledAtNs.toString() }),
  decode(data) {
    const object = asObject(data, "record");
    const config = asObject(object["config"], "config");
    const stopSignal = optionalString(config["stopSignal"], "config.stopSignal");
    return {
      id: digest(object["id"], "id") as string as ImageId,
      manifestDigest: digest(object["manifestDigest"], "manifestDigest"),
      layers: asArray(object["layers"], "layers", 1000).map((item, index) => {
        const layer = asObject(item, `layers[${index}]`);
        return {
          chainId: digest(layer["chainId"], "chainId"),
          diffId: digest(layer["diffId"], "diffId"),
          blobDigest: digest(layer["blobDigest"], "blobDigest"),
          blobSize: asSize(layer["blobSize"], "blobSize"),
        };
      }),
      config: {
        user: asString(config["user"], "config.user"),
        env: stringArray(config["env"], "config.env"),
        entrypoint: stringArray(config["entrypoint"], "config.entrypoint"),
        command: stringArray(config["command"], "config.command"),
        workingDirectory: asString(config["workingDirectory"], "config.workingDirectory"),
        stopSignal: stopSignal === "" ? null : stopSignal,
        volumes: stringArray(config["volumes"], "config.volumes"),
        labels: stringMap(config["labels"], "config.labels"),
        exposedPorts: stringArray(config["exposedPorts"], "config.exposedPorts"),
      },
      architecture: asString(object["architecture"], "architecture"),
      os: asString(object["os"], "os"),
      createdAt: optionalString(object["createdAt"], "createdAt") || null,
      pulledAtNs: BigInt(asString(object["pulledAtNs"], "pulledAtNs")),
      removed: object["removed"] === true,
    };
  },
};

export const nameCodec: RecordCodec<NameRecord> = {
  kind: "image-name",
  version: 1,
  encode: (record) => record,
  decode(data) {
    const object = asObject(data, "record");
    return { name: asString(object["name"], "name"), imageId: digest(object["imageId"], "imageId") as string as ImageId };
  },
};

function digest(value: unknown, path: string): Digest {
  const text = asString(value, path);
  if (!isDigest(text)) throw new DomainError("data-loss", `${path} is no digest`);
  return text;
}
