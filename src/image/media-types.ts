/** Media types of OCI image-spec 1.1 and of Docker's image manifest version 2, schema 2. */

export const ociIndex = "application/vnd.oci.image.index.v1+json";
export const ociManifest = "application/vnd.oci.image.manifest.v1+json";
export const ociConfig = "application/vnd.oci.image.config.v1+json";
export const dockerList = "application/vnd.docker.distribution.manifest.list.v2+json";
export const dockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
export const dockerConfig = "application/vnd.docker.container.image.v1+json";

/** What a manifest is asked for with, best first. */
export const manifestAccept = [ociIndex, ociManifest, dockerList, dockerManifest].join(", ");

export function isIndexType(mediaType: string): boolean {
  return mediaType === ociIndex || mediaType === dockerList;
}

export function isManifestType(mediaType: string): boolean {
  return mediaType === ociManifest || mediaType === dockerManifest;
}

const layerTypes = new Set([
  "application/vnd.oci.image.layer.v1.tar",
  "application/vnd.oci.image.layer.v1.tar+gzip",
  "application/vnd.oci.image.layer.v1.tar+zstd",
  "application/vnd.oci.image.layer.nondistributable.v1.tar",
  "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
  "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
  "application/vnd.docker.image.rootfs.diff.tar",
  "application/vnd.docker.image.rootfs.diff.tar.gzip",
  "application/vnd.docker.image.rootfs.diff.tar.zstd",
  "application/vnd.docker.image.rootfs.foreign.diff.tar",
  "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
]);

/** A tar archive, compressed or not, that berth-unpack reads. */
export function isLayerType(mediaType: string): boolean {
  return layerTypes.has(mediaType);
}
