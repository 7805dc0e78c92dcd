import { describe, expect, it } from "vitest";
import type { Digest } from "../../../src/base/ids.ts";
import {
  chainIdsOf,
  choosePlatform,
  digestOf,
  type IndexEntry,
  maxLayers,
  parseConfigFile,
  parseDocument,
  platformsOf,
} from "../../../src/image/manifest.ts";
import { dockerList, dockerManifest, ociConfig, ociIndex, ociManifest } from "../../../src/image/media-types.ts";

const digest = (letter: string): Digest => `sha256:${letter.repeat(64)}` as Digest;
const layer = { mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: digest("b"), size: 10 };
const config = { mediaType: ociConfig, digest: digest("c"), size: 20 };
const good = { schemaVersion: 2, mediaType: ociManifest, config, layers: [layer] };
const bytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

describe("documents", () => {
  it("reads a manifest and an index", () => {
    expect(parseDocument(bytes(good), ociManifest, "m")).toEqual({ kind: "manifest", config, layers: [layer] });
    const entry = { mediaType: ociManifest, digest: digest("d"), size: 5, platform: { os: "linux", architecture: "amd64" } };
    expect(parseDocument(bytes({ schemaVersion: 2, manifests: [entry] }), dockerList, "i")).toMatchObject({ kind: "index" });
  });

  it("believes a document without a mediaType of its own by its shape", () => {
    const { mediaType: _, ...bare } = good;
    expect(parseDocument(bytes(bare), "application/json", "m").kind).toBe("manifest");
  });

  it.each([
    ["both a manifest and an index", { ...good, manifests: [] }, ociManifest, "data-loss"],
    ["both, by another field", { schemaVersion: 2, manifests: [], config }, ociIndex, "data-loss"],
    ["another type than its registry says", good, ociIndex, "data-loss"],
    ["an index by type, a manifest by shape", { ...good, mediaType: ociIndex }, ociIndex, "data-loss"],
    ["a manifest by type, an index by shape", { schemaVersion: 2, mediaType: ociManifest, manifests: [] }, ociManifest, "data-loss"],
    ["null layers", { ...good, layers: null }, ociManifest, "data-loss"],
    ["null config", { ...good, config: null }, ociManifest, "data-loss"],
    ["no layers", { ...good, layers: [] }, ociManifest, "failed-precondition"],
    ["a digest that is a path", { ...good, layers: [{ ...layer, digest: "sha256:../../etc" }] }, ociManifest, "data-loss"],
    ["a digest of another kind", { ...good, layers: [{ ...layer, digest: `sha512:${"a".repeat(128)}` }] }, ociManifest, "data-loss"],
    ["a negative size", { ...good, layers: [{ ...layer, size: -1 }] }, ociManifest, "data-loss"],
    ["a fraction for a size", { ...good, layers: [{ ...layer, size: 1.5 }] }, ociManifest, "data-loss"],
    ["a huge size", { ...good, layers: [{ ...layer, size: 1e30 }] }, ociManifest, "data-loss"],
    ["too many layers", { ...good, layers: new Array(maxLayers + 1).fill(layer) }, ociManifest, "data-loss"],
    ["a huge configuration", { ...good, config: { ...config, size: 1e9 } }, ociManifest, "data-loss"],
    ["schema 1", { schemaVersion: 1, fsLayers: [] }, dockerManifest, "failed-precondition"],
    [
      "an artifact",
      { ...good, config: { ...config, mediaType: "application/vnd.cncf.helm.config.v1+json" } },
      ociManifest,
      "failed-precondition",
    ],
    ["an unknown kind of layer", { ...good, layers: [{ ...layer, mediaType: "application/x" }] }, ociManifest, "failed-precondition"],
    ["a document of another kind", { ...good, mediaType: "application/x" }, "application/x", "failed-precondition"],
    ["an array", [], ociManifest, "data-loss"],
  ])("refuses %s", (_what, value, contentType, kind) => {
    expect(() => parseDocument(bytes(value), contentType, "m")).toThrow(expect.objectContaining({ kind }));
  });

  it("refuses what is not UTF-8 or not JSON", () => {
    for (const data of [Buffer.from([0xff, 0xfe]), Buffer.from("{"), Buffer.alloc(0)]) {
      expect(() => parseDocument(data, ociManifest, "m")).toThrow(expect.objectContaining({ kind: "data-loss" }));
    }
  });
});

describe("platforms", () => {
  const entry = (letter: string, os: string, architecture: string, variant = ""): IndexEntry => ({
    mediaType: ociManifest,
    digest: digest(letter),
    size: 1,
    platform: { os, architecture, variant },
  });
  const entries = [
    entry("1", "unknown", "unknown"),
    entry("2", "windows", "amd64"),
    entry("3", "linux", "386"),
    entry("4", "linux", "amd64"),
    entry("5", "linux", "arm", "v7"),
    entry("6", "linux", "arm64", "v8"),
  ];

  it.each([
    ["amd64", "4"],
    ["arm64", "6"],
  ])("%s takes its own", (architecture, letter) => {
    expect(choosePlatform(entries, platformsOf(architecture))?.digest).toBe(digest(letter));
  });

  it("falls back to what the processor also runs, and to nothing else", () => {
    expect(choosePlatform(entries.slice(0, 3), platformsOf("amd64"))?.digest).toBe(digest("3"));
    expect(choosePlatform(entries.slice(0, 5), platformsOf("arm64"))?.digest).toBe(digest("5"));
    expect(choosePlatform(entries, platformsOf("s390x"))).toBeNull();
    expect(choosePlatform([{ ...entries[3], platform: null } as IndexEntry], platformsOf("amd64"))).toBeNull();
  });
});

describe("configurations", () => {
  it("takes null and absent fields for empty ones", () => {
    const parsed = parseConfigFile(
      bytes({ rootfs: { diff_ids: [digest("a")] }, config: { Env: null, Labels: null, Volumes: null, Cmd: ["x"] } }),
      "c",
    );
    expect(parsed).toMatchObject({ os: "", architecture: "", createdAt: null, diffIds: [digest("a")] });
    expect(parsed.config).toMatchObject({ env: [], command: ["x"], entrypoint: [], volumes: [], labels: {}, stopSignal: null, user: "" });
  });

  it.each([
    ["no rootfs", {}],
    ["a diff id that is a path", { rootfs: { diff_ids: ["../../x"] } }],
    ["numbers for a command", { rootfs: { diff_ids: [] }, config: { Cmd: [1] } }],
    ["a text for an environment", { rootfs: { diff_ids: [] }, config: { Env: "A=B" } }],
  ])("refuses %s", (_what, value) => {
    expect(() => parseConfigFile(bytes(value), "c")).toThrow(expect.objectContaining({ kind: "data-loss" }));
  });

  it("chains diff ids", () => {
    expect(chainIdsOf([digest("a"), digest("b")])).toEqual([digest("a"), digestOf(`${digest("a")} ${digest("b")}`)]);
  });
});
