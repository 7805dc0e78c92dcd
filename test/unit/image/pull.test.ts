import { mkdir, readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Digest } from "../../../src/base/ids.ts";
import { chainIdsOf } from "../../../src/image/manifest.ts";
import { buildIndex, descriptorOf, jsonBlob, layerFromTar, mediaTypes } from "../../support/image-builder.ts";
import { FakeRegistry } from "./fake-registry.ts";
import { auth, createRig, imageOf, insecure, operation, type Rig, rejection } from "./rig.ts";

let registry: FakeRegistry;
let rig: Rig;

beforeEach(async () => {
  registry = await new FakeRegistry().start();
  rig = await createRig();
  await rig.registries(insecure(registry.host));
});
afterEach(async () => {
  await rig.destroy();
  await registry.stop();
});

const pull = (reference: string, op = operation()) => rig.images.pull(op, { reference, auth: null, runtimeHandler: "" });

/** What a failed pull must have left: nothing. */
async function expectNothing(): Promise<void> {
  await rig.images.settled();
  expect(await rig.layerNames()).toEqual([]);
  expect(await readdir(join(rig.root, "images", "records"))).toEqual([]);
  expect(await readdir(join(rig.root, "images", "names"))).toEqual([]);
  expect(rig.images.list()).toEqual([]);
  expect(rig.images.usage()).toMatchObject({ usedBytes: 0, inodesUsed: 0 });
  expect(rig.fake.unpacking.now).toBe(0);
}

describe("a pull", () => {
  it("makes an image with its layers in order", async () => {
    const image = imageOf(["base", "top"], { cmd: ["run"], user: "7", labels: { a: "b" } });
    registry.add("team/app", "1", image);
    const view = await pull(`${registry.host}/team/app:1`);
    expect(view).toMatchObject({
      id: image.config.digest,
      repoTags: [`${registry.host}/team/app:1`],
      repoDigests: [`${registry.host}/team/app@${image.manifest.digest}`],
      sizeBytes: 7,
      config: { command: ["run"], user: "7", labels: { a: "b" } },
      architecture: "amd64",
      chainIds: chainIdsOf(image.layers.map(({ diffId }) => diffId as Digest)),
    });
    const lease = rig.images.lease(view, "c1");
    const contents = await Promise.all(lease.lowerDirectories.map((directory) => readFile(join(directory, "content"), "utf8")));
    expect(contents).toEqual(["top", "base"]);
    expect(rig.images.usage()).toMatchObject({ usedBytes: 7, inodesUsed: 4, mountPoint: "/fake" });
    expect(rig.images.find(`${registry.host}/team/app:1`)).toBe(view);
    expect(rig.images.find(view.id)).toBe(view);
    expect(rig.images.find(view.id.slice(7))).toBe(view);
    expect(rig.images.find(view.id.slice(7, 19))).toBe(view);
    expect(rig.images.find(view.id.slice(7, 10))).toBeNull();
    expect(rig.images.find(view.repoDigests[0] ?? "")).toBe(view);
    expect(rig.images.find("nonsense//")).toBeNull();
  });

  it("by digest gives a digest and no tag", async () => {
    const image = imageOf(["x"]);
    registry.add("a", "unused", image);
    const view = await pull(`${registry.host}/a@${image.manifest.digest}`);
    expect(view.repoTags).toEqual([]);
    expect(view.repoDigests).toEqual([`${registry.host}/a@${image.manifest.digest}`]);
  });

  it("takes the entry of an index that suits the host, and names the image after the index", async () => {
    const ours = imageOf(["ours"]);
    const other = imageOf(["other"], { architecture: "arm64" });
    registry.add("a", "ours", ours);
    registry.add("a", "other", other);
    const platform = (architecture: string) => ({ os: "linux", architecture });
    const index = buildIndex([
      { ...descriptorOf(other.manifest), platform: platform("arm64") },
      { ...descriptorOf(ours.manifest), platform: platform("amd64") },
    ]);
    registry.addManifest("a", "multi", index);
    const view = await pull(`${registry.host}/a:multi`);
    expect(view.id).toBe(ours.config.digest);
    expect(view.repoDigests).toEqual([`${registry.host}/a@${index.digest}`]);
  });

  it("of layers that are here downloads none of them", async () => {
    registry.add("a", "1", imageOf(["shared", "one"]));
    registry.add("a", "2", imageOf(["shared", "two"]));
    await pull(`${registry.host}/a:1`);
    const before = registry.seen("/blobs/").length;
    await pull(`${registry.host}/a:2`);
    // Its configuration and its top layer.
    expect(registry.seen("/blobs/").length - before).toBe(2);
    expect(rig.fake.unpacking.started).toBe(3);
    expect(rig.images.usage().usedBytes).toBe("sharedonetwo".length);
  });

  it("asks the registry although all is here, and downloads nothing", async () => {
    registry.add("a", "1", imageOf(["x"]));
    const first = await pull(`${registry.host}/a:1`);
    const before = registry.requests.length;
    const second = await pull(`${registry.host}/a:1`);
    expect(second.id).toBe(first.id);
    expect(registry.requests.slice(before).map(({ path }) => path)).toEqual(["/v2/a/manifests/1"]);
  });

  it("moves a tag to the newer image and leaves the older its digest", async () => {
    const [one, two] = [imageOf(["1"]), imageOf(["2"])];
    registry.add("a", "latest", one);
    const before = await pull(`${registry.host}/a`);
    registry.add("a", "latest", two);
    const after = await pull(`${registry.host}/a`);
    expect(after.repoTags).toEqual([`${registry.host}/a:latest`]);
    expect(rig.images.find(before.id)).toMatchObject({ repoTags: [], repoDigests: [`${registry.host}/a@${one.manifest.digest}`] });
  });

  it("gives one id to one image from two registries", async () => {
    const other = await new FakeRegistry().start();
    try {
      await rig.registries(insecure(registry.host, other.host));
      const image = imageOf(["x"]);
      registry.add("a", "1", image);
      other.add("b", "2", image);
      await pull(`${registry.host}/a:1`);
      const view = await pull(`${other.host}/b:2`);
      expect(view.repoTags).toEqual([`${registry.host}/a:1`, `${other.host}/b:2`].sort());
      expect(rig.images.list()).toHaveLength(1);
      expect(rig.fake.unpacking.started).toBe(1);
    } finally {
      await other.stop();
    }
  });

  it("unpacks at most as many layers at a time as configured", async () => {
    let open: () => void = () => undefined;
    rig.fake.unpackGate = new Promise((resolve) => {
      open = resolve;
    });
    registry.add("a", "1", imageOf(["1", "2", "3", "4", "5", "6"]));
    const pulled = pull(`${registry.host}/a:1`);
    await expect.poll(() => rig.fake.unpacking.now).toBe(3);
    open();
    await pulled;
    expect(rig.fake.unpacking.most).toBe(3);
  });

  it("keeps a layer that several pulls make at once, once", async () => {
    let open: () => void = () => undefined;
    rig.fake.unpackGate = new Promise((resolve) => {
      open = resolve;
    });
    registry.add("a", "1", imageOf(["shared", "one"]));
    registry.add("a", "2", imageOf(["shared", "two"]));
    const both = [pull(`${registry.host}/a:1`), pull(`${registry.host}/a:2`)];
    await expect.poll(() => rig.fake.unpacking.now).toBe(3);
    open();
    await Promise.all(both);
    expect(rig.fake.unpacking.started).toBe(3);
    expect(await rig.layerNames()).toHaveLength(3);
  });

  it("finds a short name in the registries to be searched, and under aliases", async () => {
    registry.add("team/app", "1", imageOf(["x"]));
    await rig.registries(
      `unqualified-search-registries = ["${registry.host}"]\n[aliases]\n"short" = "${registry.host}/team/app"\n${insecure(registry.host)}`,
    );
    expect((await pull("team/app:1")).repoTags).toEqual([`${registry.host}/team/app:1`]);
    expect((await pull("short:1")).repoTags).toEqual([`${registry.host}/team/app:1`]);
    expect(rig.images.normalize("team/app")).toBe(`${registry.host}/team/app:latest`);
    expect(rig.images.find("short:1")).not.toBeNull();
  });
});

describe("a mirror", () => {
  it("serves, and the image keeps the name that was asked for", async () => {
    registry.add("team/app", "1", imageOf(["x"]));
    await rig.registries(
      `[[registry]]\nlocation = "nowhere.invalid"\n[[registry.mirror]]\nlocation = "${registry.host}"\ninsecure = true\n`,
    );
    expect((await pull("nowhere.invalid/team/app:1")).repoTags).toEqual(["nowhere.invalid/team/app:1"]);
  });

  it("that fails is passed over, for single blobs too", async () => {
    const mirror = await new FakeRegistry().start();
    try {
      const image = imageOf(["x", "y"]);
      registry.add("a", "1", image);
      mirror.addManifest("a", "1", image.manifest);
      mirror.intercept = (request, response) => {
        if (!request.path.includes("/blobs/")) return false;
        response.writeHead(404).end();
        return true;
      };
      await rig.registries(
        `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n[[registry.mirror]]\nlocation = "${mirror.host}"\ninsecure = true\n`,
      );
      await pull(`${registry.host}/a:1`);
      expect(mirror.seen("/manifests/")).toHaveLength(1);
      expect(registry.seen("/manifests/")).toHaveLength(0);
    } finally {
      await mirror.stop();
    }
  });

  it("that does not have it is named beside the registry's answer", async () => {
    const mirror = await new FakeRegistry().start();
    try {
      await rig.registries(
        `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n[[registry.mirror]]\nlocation = "${mirror.host}"\ninsecure = true\n`,
      );
      const error = await rejection(pull(`${registry.host}/a:1`));
      expect(error.kind).toBe("not-found");
      expect(error.message).toContain(mirror.host);
      expect(error.message).toContain(registry.host);
    } finally {
      await mirror.stop();
    }
  });
});

describe("authentication", () => {
  const image = imageOf(["x"]);
  const withAuth = (fields: Parameters<typeof auth>[0], reference = `${registry.host}/team/app:1`) =>
    rig.images.pull(operation(), { reference, auth: auth(fields), runtimeHandler: "" });

  beforeEach(() => registry.add("team/app", "1", image));

  it("is basic where the registry asks for it", async () => {
    registry.basic = "user:pass:word";
    await withAuth({ username: "user", password: "pass:word" });
    await withAuth({ auth: Buffer.from("user:pass:word").toString("base64") });
    expect(await rejection(pull(`${registry.host}/team/app:1`))).toMatchObject({
      kind: "unauthenticated",
      message: expect.stringContaining("no credentials"),
    });
    const error = await rejection(withAuth({ username: "user", password: "s3cret" }));
    expect(error.kind).toBe("unauthenticated");
    expect(error.message).not.toContain("s3cret");
  });

  it("is by token, from credentials, refresh token or given", async () => {
    registry.tokens = new Set(["good"]);
    registry.intercept = (request, response) => {
      if (!request.path.startsWith("/token")) return false;
      const isUser = request.authorization === `Basic ${Buffer.from("u:p").toString("base64")}`;
      const isRefresh = request.method === "POST" && new URLSearchParams(request.body).get("refresh_token") === "r";
      if (isUser || isRefresh) response.writeHead(200).end(JSON.stringify(isUser ? { token: "good" } : { access_token: "good" }));
      else response.writeHead(401).end("{}");
      return true;
    };
    await withAuth({ username: "u", password: "p" });
    const tokenRequest = registry.requests.find(({ path }) => path.startsWith("/token"));
    expect(new URLSearchParams(tokenRequest?.path.split("?")[1]).getAll("scope")).toEqual(["repository:x:pull"]);
    await withAuth({ identityToken: "r" });
    await withAuth({ registryToken: "good" });
    expect(await rejection(withAuth({ registryToken: "bad" }))).toMatchObject({ kind: "unauthenticated" });
    expect(await rejection(withAuth({ username: "u", password: "wrong" }))).toMatchObject({ kind: "unauthenticated" });
    expect(await rejection(pull(`${registry.host}/team/app:1`))).toMatchObject({ kind: "unauthenticated" });
  });

  it("is proved anew by each pull, though the image is here", async () => {
    registry.basic = "u:p";
    await withAuth({ username: "u", password: "p" });
    expect(await rejection(withAuth({ username: "u", password: "q" }))).toMatchObject({ kind: "unauthenticated" });
    expect(rig.images.list()).toHaveLength(1);
  });

  it("never goes to another host than its own", async () => {
    registry.basic = "u:p";
    const error = await rejection(withAuth({ username: "u", password: "p", serverAddress: "https://other.example/v1/" }));
    expect(error.kind).toBe("unauthenticated");
    expect(registry.requests.some(({ authorization }) => authorization !== "")).toBe(false);
    await withAuth({ username: "u", password: "p", serverAddress: `http://${registry.host}` });
  });

  it("comes from auth.json, the most specific entry first; the call's own wins", async () => {
    registry.basic = "u:p";
    const entry = (text: string) => ({ auth: Buffer.from(text).toString("base64") });
    await writeFile(
      rig.config.authFile,
      JSON.stringify({ auths: { [registry.host]: entry("no:no"), [`${registry.host}/team`]: entry("u:p") } }),
    );
    await pull(`${registry.host}/team/app:1`);
    expect(await rejection(withAuth({ username: "wrong", password: "p" }))).toMatchObject({ kind: "unauthenticated" });
    await writeFile(rig.config.authFile, "{ secret");
    const error = await rejection(pull(`${registry.host}/team/app:1`));
    expect(error).toMatchObject({ kind: "failed-precondition" });
    expect(error.message).not.toContain("secret");
  });

  it("comes from a credential helper", async () => {
    registry.basic = "u:p";
    await writeFile(rig.config.authFile, JSON.stringify({ credHelpers: { [registry.host]: "test" } }));
    rig.fake.program = () => ({ stdout: Buffer.from(JSON.stringify({ ServerURL: "x", Username: "u", Secret: "p" })) });
    await pull(`${registry.host}/team/app:1`);
    expect(rig.fake.programs[0]).toMatchObject({ path: "/usr/local/bin/docker-credential-test", args: ["docker-credential-test", "get"] });
    expect(Buffer.from(rig.fake.programs[0]?.stdin ?? []).toString()).toBe(registry.host);
    rig.fake.program = () => ({ exitCode: 1, stdout: Buffer.from("oops s3cret") });
    const error = await rejection(pull(`${registry.host}/team/app:1`));
    expect(error).toMatchObject({ kind: "failed-precondition", message: expect.stringContaining("exited with 1") });
    expect(error.message).not.toContain("s3cret");
    await writeFile(rig.config.authFile, JSON.stringify({ credHelpers: { [registry.host]: "../evil" } }));
    expect(await rejection(pull(`${registry.host}/team/app:1`))).toMatchObject({
      kind: "failed-precondition",
      message: expect.stringContaining("malformed"),
    });
  });

  it("does not follow a redirect to another origin", async () => {
    const other = await new FakeRegistry().start();
    try {
      other.add("cdn", "x", image);
      registry.basic = "u:p";
      registry.intercept = (request, response) => {
        if (!request.path.includes("/blobs/") || request.authorization === "") return false;
        response.writeHead(307, { location: `http://${other.host}/v2/cdn/blobs/${request.path.split("/").at(-1)}` }).end();
        return true;
      };
      await withAuth({ username: "u", password: "p" });
      expect(other.requests.length).toBeGreaterThan(0);
      expect(other.requests.every(({ authorization }) => authorization === "")).toBe(true);
    } finally {
      await other.stop();
    }
  });

  it("asks no token of a link-local address", async () => {
    registry.intercept = (_request, response) => {
      response.writeHead(401, { "www-authenticate": 'Bearer realm="http://169.254.169.254/token"' }).end();
      return true;
    };
    expect(await rejection(withAuth({ username: "u", password: "p" }))).toMatchObject({
      kind: "permission-denied",
      message: expect.stringContaining("link-local"),
    });
  });
});

describe("a pull that fails", () => {
  it.each([
    [404, "not-found"],
    [403, "permission-denied"],
    [429, "registry-unavailable"],
    [503, "registry-unavailable"],
  ])("with status %i is %s and says what, where and why", async (status, kind) => {
    registry.intercept = (_request, response) => {
      response.writeHead(status, { "retry-after": "3600" }).end('{"errors":[{"code":"X","message":"the reason\\nforged"}]}');
      return true;
    };
    const error = await rejection(pull(`${registry.host}/a:1`));
    expect(error.kind).toBe(kind);
    for (const part of [`${registry.host}/a:1`, "manifest 1", `from ${registry.host}`, `status ${status}`, "the reason"])
      expect(error.message).toContain(part);
    expect(error.message).not.toContain("\n");
    await expectNothing();
  });

  it("because nobody listens is registry-unavailable", async () => {
    const gone = await new FakeRegistry().start();
    const { host } = gone;
    await gone.stop();
    await rig.registries(insecure(host));
    expect(await rejection(pull(`${host}/a:1`))).toMatchObject({
      kind: "registry-unavailable",
      message: expect.stringContaining("ECONNREFUSED"),
    });
  });

  it("because the host speaks no TLS and plain HTTP was not allowed is registry-unavailable", async () => {
    registry.add("a", "1", imageOf(["x"]));
    await rig.registries("");
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({ kind: "registry-unavailable" });
    expect(registry.requests).toEqual([]);
  });

  it("because the registry falls silent is registry-unavailable", async () => {
    await rig.destroy();
    rig = await createRig({ progressTimeoutMs: 100 });
    await rig.registries(insecure(registry.host));
    registry.intercept = () => true;
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({
      kind: "registry-unavailable",
      message: expect.stringContaining("no progress for 100 ms"),
    });
  });

  const image = imageOf(["first", "second"]);
  const bottom = image.layers[0];
  if (!bottom) throw new Error("no layer");

  it.each([
    ["has other bytes", Buffer.alloc(bottom.size, 1)],
    ["is longer than its manifest says", Buffer.concat([bottom.data, Buffer.from("x")])],
    ["is shorter than its manifest says", bottom.data.subarray(1)],
  ])("because a layer %s is data-loss", async (_what, data) => {
    registry.add("a", "1", image);
    registry.addBlob({ ...bottom, data });
    const error = await rejection(pull(`${registry.host}/a:1`));
    expect(error.kind).toBe("data-loss");
    for (const part of [`${registry.host}/a:1`, bottom.digest]) expect(error.message).toContain(part);
    await expectNothing();
  });

  it("because a layer is not what the configuration says is data-loss", async () => {
    const config = JSON.parse(image.config.data.toString()) as { rootfs: { diff_ids: string[] } };
    config.rootfs.diff_ids[1] = `sha256:${"0".repeat(64)}`;
    const lying = { ...image, config: jsonBlob(image.config.mediaType, config) };
    const manifest = jsonBlob(image.manifest.mediaType, {
      ...JSON.parse(image.manifest.data.toString()),
      config: descriptorOf(lying.config),
    });
    registry.add("a", "1", { ...lying, manifest });
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({
      kind: "data-loss",
      message: expect.stringContaining("the image's configuration says"),
    });
    await expectNothing();
  });

  it("because manifest and configuration differ in layers is data-loss", async () => {
    const config = jsonBlob(mediaTypes.ociConfig, { os: "linux", architecture: "amd64", rootfs: { type: "layers", diff_ids: [] } });
    const manifest = jsonBlob(image.manifest.mediaType, { ...JSON.parse(image.manifest.data.toString()), config: descriptorOf(config) });
    registry.add("a", "1", { ...image, config, manifest });
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({
      kind: "data-loss",
      message: expect.stringContaining("names 0 layers"),
    });
  });

  it("because the bytes of a digest are others is data-loss", async () => {
    const digest = `sha256:${"1".repeat(64)}`;
    registry.addManifest("a", digest, image.manifest);
    expect(await rejection(pull(`${registry.host}/a@${digest}`))).toMatchObject({ kind: "data-loss" });
  });

  it.each([
    ["EBADMSG", "data-loss"],
    ["ENOSPC", "resource-exhausted"],
    ["EFBIG", "resource-exhausted"],
    ["EIO", "internal"],
  ])("because the unpacker says %s is %s", async (errno, kind) => {
    registry.add("a", "1", image);
    rig.fake.unpackError = { errno, detail: "so it is" };
    const error = await rejection(pull(`${registry.host}/a:1`));
    expect(error.kind).toBe(kind);
    for (const part of [`${registry.host}/a:1`, "layer sha256:", "unpack.extract", "so it is"]) expect(error.message).toContain(part);
    await expectNothing();
  });

  it("because the disk would be too full is resource-exhausted before anything is written", async () => {
    await rig.destroy();
    rig = await createRig({ minFreeBytes: 1000 });
    await rig.registries(insecure(registry.host));
    registry.add("a", "1", image);
    rig.fake.freeBytes = 1010;
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({ kind: "resource-exhausted" });
    expect(rig.fake.unpacking.started).toBe(0);
    await expectNothing();
  });

  it.each(["images/records", "images/names", "content"])("because %s cannot be written is resource-exhausted", async (where) => {
    registry.add("a", "1", image);
    rig.fake.failWrites = where;
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({
      kind: "resource-exhausted",
      message: expect.stringContaining("ENOSPC"),
    });
    await expectNothing();
  });

  it("because no entry of the index suits the host is not-found and lists what there is", async () => {
    registry.add("a", "arm", image);
    registry.addManifest(
      "a",
      "1",
      buildIndex([{ ...descriptorOf(image.manifest), platform: { os: "linux", architecture: "arm64", variant: "v8" } }]),
    );
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({
      kind: "not-found",
      message: expect.stringContaining("linux/arm64/v8"),
    });
  });

  it("because an index turns in a circle or goes too deep ends soon", async () => {
    const platform = { os: "linux", architecture: "amd64" };
    let inner = descriptorOf(image.manifest);
    registry.add("a", "leaf", image);
    for (let depth = 0; depth < 6; depth += 1) {
      const index = buildIndex([{ ...inner, platform }]);
      registry.addManifest("a", `deep${depth}`, index);
      inner = descriptorOf(index);
    }
    expect((await pull(`${registry.host}/a:deep0`)).id).toBe(image.config.digest);
    expect(await rejection(pull(`${registry.host}/a:deep5`))).toMatchObject({
      kind: "data-loss",
      message: expect.stringContaining("deep"),
    });
  });

  it("for another architecture is not-found", async () => {
    registry.add("a", "1", imageOf(["x"], { architecture: "s390x" }));
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({ kind: "not-found", message: expect.stringContaining("s390x") });
  });

  it("by policy asks nobody", async () => {
    await writeFile(rig.config.policy, JSON.stringify({ default: [{ type: "reject" }] }));
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({ kind: "signature-validation-failed" });
    expect(registry.requests).toEqual([]);
  });

  it("by an unknown handler or a malformed name is invalid-argument", async () => {
    const request = { reference: `${registry.host}/a:1`, auth: null, runtimeHandler: "unknown" };
    expect(await rejection(rig.images.pull(operation(), request))).toMatchObject({ kind: "invalid-argument" });
    expect(await rejection(pull("A//b"))).toMatchObject({ kind: "invalid-argument" });
  });

  it("follows ten redirects and no more, and none from https", async () => {
    registry.intercept = (request, response) => {
      response.writeHead(302, { location: `${request.path}x` }).end();
      return true;
    };
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({
      kind: "data-loss",
      message: expect.stringContaining("more than 10 redirects"),
    });
    expect(registry.requests).toHaveLength(11);
  });

  it("bounds what a manifest may be", async () => {
    registry.intercept = (_request, response) => {
      response.writeHead(200, { "content-type": mediaTypes.ociManifest }).end(Buffer.alloc(5 << 20, 0x20));
      return true;
    };
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({
      kind: "data-loss",
      message: expect.stringContaining("more than"),
    });
  });
});

describe("a dropped connection", () => {
  const big = layerFromTar(Buffer.alloc(300_000, "abcdefg"), "none");

  it.each([true, false])("is taken up again where it was (ranges: %s)", async (ranges) => {
    const image = imageOf(["x"]);
    const manifest = jsonBlob(image.manifest.mediaType, { ...JSON.parse(image.manifest.data.toString()), layers: [descriptorOf(big)] });
    const config = jsonBlob(mediaTypes.ociConfig, {
      os: "linux",
      architecture: "amd64",
      rootfs: { type: "layers", diff_ids: [big.diffId] },
    });
    const fixed = jsonBlob(manifest.mediaType, { ...JSON.parse(manifest.data.toString()), config: descriptorOf(config) });
    registry.add("a", "1", { config, layers: [big], manifest: fixed });
    registry.ranges = ranges;
    let drops = 0;
    registry.intercept = (request, response) => {
      if (!request.path.endsWith(big.digest) || drops >= 2) return false;
      drops += 1;
      const from = ranges ? Number(/\d+/.exec(request.range)?.[0] ?? 0) : 0;
      const headers = {
        "content-length": big.size - from,
        ...(from > 0 ? { "content-range": `bytes ${from}-${big.size - 1}/${big.size}` } : {}),
      };
      response.writeHead(from > 0 ? 206 : 200, headers);
      response.write(big.data.subarray(from, from + 100_000), () => setTimeout(() => response.destroy(), 20));
      return true;
    };
    const view = await pull(`${registry.host}/a:1`);
    expect(view.sizeBytes).toBe(300_000);
    expect(drops).toBe(2);
    const offsets = registry.requests.filter(({ path }) => path.endsWith(big.digest)).map(({ range }) => range);
    expect(offsets[0]).toBe("");
    expect(offsets.slice(1).every((range) => /^bytes=\d+-$/.test(range))).toBe(true);
  });

  it("that never gets further fails in the end", async () => {
    const image = imageOf(["x"]);
    registry.add("a", "1", image);
    registry.intercept = (request, response) => {
      if (!request.path.endsWith(image.layers[0]?.digest ?? "")) return false;
      response.destroy();
      return true;
    };
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({ kind: "registry-unavailable" });
    await expectNothing();
  });
});

describe("joined pulls", () => {
  const image = imageOf(["x", "y"]);
  const gate = (): (() => void) => {
    let open: () => void = () => undefined;
    rig.fake.unpackGate = new Promise((resolve) => {
      open = resolve;
    });
    return open;
  };

  it("share one download", async () => {
    registry.add("a", "1", image);
    const views = await Promise.all(Array.from({ length: 8 }, () => pull(`${registry.host}/a:1`)));
    expect(new Set(views).size).toBe(1);
    expect(registry.seen("/manifests/")).toHaveLength(1);
    expect(rig.fake.unpacking.started).toBe(2);
  });

  it("do not share across credentials", async () => {
    registry.add("a", "1", image);
    const as = (username: string) =>
      rig.images.pull(operation(), { reference: `${registry.host}/a:1`, auth: auth({ username, password: "p" }), runtimeHandler: "" });
    await Promise.all([as("u1"), as("u2"), as("u1")]);
    expect(registry.seen("/manifests/")).toHaveLength(2);
  });

  it("go on when the first caller leaves, and end when the last has left", async () => {
    const open = gate();
    registry.add("a", "1", image);
    const first = new AbortController();
    const leaving = rejection(pull(`${registry.host}/a:1`, operation(null, first.signal)));
    const staying = pull(`${registry.host}/a:1`);
    await expect.poll(() => rig.fake.unpacking.now).toBe(2);
    first.abort();
    expect(await leaving).toMatchObject({ kind: "cancelled" });
    expect(rig.fake.unpacking.aborted).toBe(0);
    open();
    expect((await staying).id).toBe(image.config.digest);
  });

  it("kill the unpackers and leave nothing when all have left", async () => {
    gate();
    registry.add("a", "1", image);
    const controller = new AbortController();
    const both = [1, 2].map(() => rejection(pull(`${registry.host}/a:1`, operation(null, controller.signal))));
    await expect.poll(() => rig.fake.unpacking.now).toBe(2);
    controller.abort();
    for (const error of await Promise.all(both)) expect(error).toMatchObject({ kind: "cancelled" });
    await expect.poll(() => rig.fake.unpacking.now).toBe(0);
    await expectNothing();
    expect(rig.fake.unpacking.aborted).toBe(2);
  });

  it("obey each caller's deadline", async () => {
    gate();
    registry.add("a", "1", image);
    expect(await rejection(pull(`${registry.host}/a:1`, operation(1)))).toMatchObject({ kind: "deadline-exceeded" });
    await expect.poll(() => registry.openRequests).toBe(0);
    await expectNothing();
  });

  it("do not hand one caller's failure to another whose own attempt works", async () => {
    registry.add("a", "1", imageOf(["shared", "one"]));
    registry.add("b", "1", imageOf(["shared", "two"]));
    let failures = 0;
    registry.intercept = (request, response) => {
      if (!/\/v2\/a\/blobs\/.*/.test(request.path) || request.path.endsWith(imageOf(["shared", "one"]).config.digest)) return false;
      failures += 1;
      setTimeout(() => response.writeHead(403).end(), 100);
      return true;
    };
    const [failing, working] = await Promise.allSettled([pull(`${registry.host}/a:1`), pull(`${registry.host}/b:1`)]);
    expect(failures).toBeGreaterThan(0);
    expect(failing.status).toBe("rejected");
    expect(working.status).toBe("fulfilled");
  });

  it("are ended by the shutdown", async () => {
    gate();
    registry.add("a", "1", image);
    const pulled = rejection(pull(`${registry.host}/a:1`));
    await expect.poll(() => rig.fake.unpacking.now).toBe(2);
    await rig.images.close();
    expect(await pulled).toMatchObject({ kind: "cancelled" });
    expect(await rig.layerNames()).toEqual([]);
  });
});

describe("configuration files", () => {
  it("are read anew for each pull", async () => {
    registry.add("a", "1", imageOf(["x"]));
    await rig.registries(`[[registry]]\nlocation = "${registry.host}"\nblocked = true\n`);
    expect(await rejection(pull(`${registry.host}/a:1`))).toMatchObject({ kind: "permission-denied" });
    await rig.registries("");
    await mkdir(join(rig.config.certsDirectory, registry.host), { recursive: true });
    await writeFile(join(rig.config.certsDirectory, registry.host, "hosts.toml"), `server = "http://${registry.host}"\n`);
    await pull(`${registry.host}/a:1`);
  });
});
