/**
 * Builds OCI and Docker images out of Debian's files and pushes them to a registry. Layers are made by npm `tar`
 * from a staging directory; the wire side is plain HTTP.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, copyFileSync, cpSync, linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { create } from "tar";

export interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly platform?: { readonly os: string; readonly architecture: string; readonly variant?: string };
}

export interface Blob extends Descriptor {
  readonly data: Buffer;
}

export interface Layer extends Blob {
  readonly diffId: string;
}

export interface BuiltImage {
  readonly config: Blob;
  readonly layers: readonly Layer[];
  readonly manifest: Blob;
}

export interface ImageOptions {
  readonly cmd?: readonly string[];
  readonly entrypoint?: readonly string[];
  readonly env?: readonly string[];
  readonly user?: string;
  readonly workingDir?: string;
  readonly stopSignal?: string;
  readonly volumes?: Readonly<Record<string, object>>;
  readonly labels?: Readonly<Record<string, string>>;
  readonly architecture?: string;
  /** Docker's media types in place of the OCI's. */
  readonly docker?: boolean;
}

export const mediaTypes = {
  ociManifest: "application/vnd.oci.image.manifest.v1+json",
  ociIndex: "application/vnd.oci.image.index.v1+json",
  ociConfig: "application/vnd.oci.image.config.v1+json",
  ociLayer: "application/vnd.oci.image.layer.v1.tar",
  dockerManifest: "application/vnd.docker.distribution.manifest.v2+json",
  dockerConfig: "application/vnd.docker.container.image.v1+json",
  dockerLayer: "application/vnd.docker.image.rootfs.diff.tar.gzip",
} as const;

export function hostArchitecture(): string {
  return { x64: "amd64", arm64: "arm64", ppc64: "ppc64le", s390x: "s390x" }[process.arch as string] ?? process.arch;
}

export function digestOf(data: Uint8Array): string {
  return `sha256:${createHash("sha256").update(data).digest("hex")}`;
}

/** One layer out of the files that `fill` writes into an empty directory; owned by root. */
export async function layerFrom(fill: (directory: string) => void, compression: "gzip" | "zstd" | "none" = "gzip"): Promise<Layer> {
  const directory = mkdtempSync(join(tmpdir(), "berth-layer-"));
  try {
    fill(directory);
    const chunks: Buffer[] = [];
    const names = execFileSync("ls", ["-A", directory], { encoding: "utf8" }).split("\n").filter(Boolean);
    for await (const chunk of create({ cwd: directory, portable: false, mtime: new Date(0), gzip: false }, names))
      chunks.push(chunk as Buffer);
    return layerFromTar(Buffer.concat(chunks), compression);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** One layer out of the bytes of a tar. */
export function layerFromTar(archive: Buffer, compression: "gzip" | "zstd" | "none" = "gzip"): Layer {
  const data =
    compression === "gzip"
      ? gzipSync(archive, { level: 1 })
      : compression === "zstd"
        ? execFileSync("zstd", ["-q", "-c"], { input: archive, maxBuffer: 1 << 30 })
        : archive;
  const suffix = compression === "none" ? "" : `+${compression}`;
  return { mediaType: mediaTypes.ociLayer + suffix, digest: digestOf(data), size: data.length, data, diffId: digestOf(archive) };
}

export function buildImage(layers: readonly Layer[], options: ImageOptions = {}): BuiltImage {
  const config = jsonBlob(options.docker ? mediaTypes.dockerConfig : mediaTypes.ociConfig, {
    architecture: options.architecture ?? hostArchitecture(),
    os: "linux",
    created: "2026-01-01T00:00:00Z",
    config: {
      Cmd: options.cmd,
      Entrypoint: options.entrypoint,
      Env: options.env ?? ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
      User: options.user,
      WorkingDir: options.workingDir,
      StopSignal: options.stopSignal,
      Volumes: options.volumes,
      Labels: options.labels,
    },
    rootfs: { type: "layers", diff_ids: layers.map((layer) => layer.diffId) },
    history: layers.map(() => ({ created: "2026-01-01T00:00:00Z", created_by: "image-builder" })),
  });
  const described = layers.map((layer) => (options.docker ? { ...layer, mediaType: mediaTypes.dockerLayer } : layer));
  const manifest = jsonBlob(options.docker ? mediaTypes.dockerManifest : mediaTypes.ociManifest, {
    schemaVersion: 2,
    mediaType: options.docker ? mediaTypes.dockerManifest : mediaTypes.ociManifest,
    config: descriptorOf(config),
    layers: described.map(descriptorOf),
  });
  return { config, layers: described, manifest };
}

export function buildIndex(manifests: readonly Descriptor[]): Blob {
  return jsonBlob(mediaTypes.ociIndex, { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests });
}

export function descriptorOf({ mediaType, digest, size, platform }: Descriptor): Descriptor {
  return { mediaType, digest, size, ...(platform ? { platform } : {}) };
}

export function jsonBlob(mediaType: string, value: unknown): Blob {
  const data = Buffer.from(JSON.stringify(value));
  return { mediaType, digest: digestOf(data), size: data.length, data };
}

/** Pushes blobs and manifest under `<host>/<repository>:<tag>`. */
export async function pushImage(host: string, repository: string, tag: string, image: BuiltImage, authorization?: string): Promise<void> {
  for (const blob of [image.config, ...image.layers]) await pushBlob(host, repository, blob, authorization);
  await pushManifest(host, repository, tag, image.manifest, authorization);
}

export async function pushManifest(
  host: string,
  repository: string,
  reference: string,
  manifest: Blob,
  authorization?: string,
): Promise<void> {
  await request(`http://${host}/v2/${repository}/manifests/${reference}`, "PUT", manifest.data, manifest.mediaType, authorization);
}

export async function pushBlob(host: string, repository: string, blob: Blob, authorization?: string): Promise<void> {
  const base = `http://${host}/v2/${repository}/blobs`;
  const known = await fetch(`${base}/${blob.digest}`, { method: "HEAD", headers: authorization ? { authorization } : {} });
  if (known.ok) return;
  const started = await request(`${base}/uploads/`, "POST", Buffer.alloc(0), "application/octet-stream", authorization);
  const location = new URL(started.headers.get("location") ?? "", base);
  location.searchParams.set("digest", blob.digest);
  await request(location.href, "PUT", blob.data, "application/octet-stream", authorization);
}

async function request(url: string, method: string, body: Buffer, contentType: string, authorization?: string): Promise<Response> {
  const response = await fetch(url, {
    method,
    body: new Uint8Array(body),
    headers: { "content-type": contentType, ...(authorization ? { authorization } : {}) },
  });
  if (!response.ok) throw new Error(`${method} ${url}: ${response.status} ${await response.text()}`);
  return response;
}

/**
 * A root file system out of Debian's dynamic busybox with its libraries; applets are hard links, since a masked applet
 * that is a symlink would mask busybox itself.
 */
export function fillBusybox(directory: string): void {
  for (const name of [
    "bin",
    "sbin",
    "usr/bin",
    "usr/sbin",
    "etc",
    "root",
    "home",
    "proc",
    "sys",
    "dev",
    "run",
    "var/log",
    "var/tmp",
    "www",
  ]) {
    mkdirSync(join(directory, name), { recursive: true });
  }
  mkdirSync(join(directory, "tmp"));
  chmodSync(join(directory, "tmp"), 0o1777);
  symlinkSync("/run", join(directory, "var/run"));
  const busybox = join(directory, "bin/busybox");
  copyFileSync("/bin/busybox", busybox);
  chmodSync(busybox, 0o755);
  for (const library of sharedLibraries("/bin/busybox")) copyInto(directory, library);
  for (const applet of execFileSync("/bin/busybox", ["--list"], { encoding: "utf8" }).split("\n")) {
    if (applet !== "" && applet !== "busybox") linkSync(busybox, join(directory, "bin", applet));
  }
  writeFileSync(
    join(directory, "etc/passwd"),
    "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
  );
  writeFileSync(join(directory, "etc/group"), "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\nstaff:x:50:nobody\nnogroup:x:65534:\n");
  writeFileSync(join(directory, "www/index.html"), "Hello from Berth\n");
}

export function copyInto(directory: string, path: string): void {
  const target = join(directory, path);
  mkdirSync(dirname(target), { recursive: true });
  cpSync(path, target, { dereference: true });
}

/** The libraries that the dynamic loader would map, the loader included. */
export function sharedLibraries(program: string): string[] {
  const lines = execFileSync("ldd", [program], { encoding: "utf8" }).split("\n");
  return lines.map((line) => /(?:=>\s*)?(\/\S+)\s+\(0x/.exec(line)?.[1]).filter((path) => path !== undefined);
}

/** Builds and pushes the busybox image; its file system in one layer, the web page in a second one. */
export async function pushBusybox(
  host: string,
  repository = "berth/busybox",
  tag = "1.35",
  options: ImageOptions = {},
): Promise<BuiltImage> {
  const base = await layerFrom(fillBusybox);
  const page = await layerFrom((directory) => {
    mkdirSync(join(directory, "www"));
    writeFileSync(join(directory, "www", "page.html"), "second layer\n");
  });
  const image = buildImage([base, page], { cmd: ["sh"], ...options });
  await pushImage(host, repository, tag, image);
  return image;
}
