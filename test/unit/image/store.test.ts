import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { ImageView } from "../../../src/image/index.ts";
import type { BuiltImage } from "../../support/image-builder.ts";
import { FakeRegistry } from "./fake-registry.ts";
import { createRig, imageOf, insecure, operation, type Rig, rejection } from "./rig.ts";

let registry: FakeRegistry;
let rig: Rig;

beforeEach(async () => {
  registry = await new FakeRegistry().start();
  rig = await createRig({ pinned: ["*/pinned:*"] });
  await rig.registries(insecure(registry.host));
});
afterEach(async () => {
  await rig.destroy();
  await registry.stop();
});

async function pulled(repository: string, image: BuiltImage): Promise<ImageView> {
  registry.add(repository, "1", image);
  return rig.images.pull(operation(), { reference: `${registry.host}/${repository}:1`, auth: null, runtimeHandler: "" });
}

const layerState = async (view: ImageView, index = 0): Promise<string> => {
  const path = join(rig.root, "layers", view.chainIds[index]?.slice(7) ?? "", "layer.json");
  return (JSON.parse(await readFile(path, "utf8")) as { state: string }).state;
};

describe("RemoveImage", () => {
  it("by any name takes the image, all its names and its layers", async () => {
    const image = imageOf(["x", "y"]);
    const view = await pulled("a", image);
    await pulled("b", image);
    await rig.images.remove(operation(), `${registry.host}/a:1`);
    for (const name of [view.id, `${registry.host}/a:1`, `${registry.host}/b:1`, view.repoDigests[0] ?? ""])
      expect(rig.images.find(name)).toBeNull();
    await rig.images.settled();
    expect(await rig.layerNames()).toEqual([]);
    expect(await readdir(join(rig.root, "images", "records"))).toEqual([]);
    expect(await readdir(join(rig.root, "images", "names"))).toEqual([]);
    expect(await readdir(join(rig.root, "content", "sha256"))).toEqual([]);
    expect(rig.images.usage()).toMatchObject({ usedBytes: 0, inodesUsed: 0 });
  });

  it("of what is unknown, malformed or being removed succeeds", async () => {
    const view = await pulled("a", imageOf(["x"]));
    for (const name of ["unknown", "!!", "", "sha256:00"]) await rig.images.remove(operation(), name);
    await Promise.all(
      Array.from({ length: 5 }, () => rig.images.remove(operation(), view.id).then(() => expect(rig.images.find(view.id)).toBeNull())),
    );
  });

  it("leaves the layers that another image has", async () => {
    const first = await pulled("a", imageOf(["shared", "one"]));
    const second = await pulled("b", imageOf(["shared", "two"]));
    await rig.images.remove(operation(), first.id);
    await rig.images.settled();
    expect(await rig.layerNames()).toEqual(second.chainIds.map((chainId) => chainId.slice(7)).sort());
  });

  it("and a pull at once give the image back whole", async () => {
    const image = imageOf(["x"]);
    const view = await pulled("a", image);
    await rig.images.remove(operation(), view.id);
    const again = await pulled("a", image);
    await rig.images.settled();
    expect(again.id).toBe(view.id);
    expect(existsSync(rig.images.lease(again, "c").lowerDirectories[0] ?? "")).toBe(true);
  });
});

describe("a lease", () => {
  it("keeps the layers of a removed image until it is released", async () => {
    const view = await pulled("a", imageOf(["x"]));
    const [directory = ""] = rig.images.lease(view, "c1").lowerDirectories;
    rig.images.lease(view, "c2");
    await rig.images.remove(operation(), view.id);
    await rig.images.settled();
    expect(rig.images.list()).toEqual([]);
    expect(existsSync(directory)).toBe(true);
    expect((await rejection(Promise.resolve().then(() => rig.images.lease(view, "c3")))).kind).toBe("not-found");
    rig.images.releaseLease("c1");
    await rig.images.settled();
    expect(existsSync(directory)).toBe(true);
    rig.images.releaseLease("c2");
    rig.images.releaseLease("c2");
    await rig.images.settled();
    expect(await rig.layerNames()).toEqual([]);
    expect(await readdir(join(rig.root, "images", "records"))).toEqual([]);
  });

  it("is restored after a restart, for a removed image too, and garbage goes only then", async () => {
    const kept = await pulled("a", imageOf(["x"]));
    const removed = await pulled("b", imageOf(["y"]));
    const dropped = await pulled("c", imageOf(["z"]));
    for (const view of [removed, dropped]) {
      rig.images.lease(view, `of ${view.id}`);
      await rig.images.remove(operation(), view.id);
    }
    await rig.images.settled();

    const after = await rig.restart();
    expect(after.list().map(({ id }) => id)).toEqual([kept.id]);
    const lease = after.restoreLease("c1", removed.id, removed.chainIds);
    expect(lease?.image.id).toBe(removed.id);
    expect(existsSync(lease?.lowerDirectories[0] ?? "")).toBe(true);
    await after.collectGarbage(operation());
    await after.settled();
    expect(await rig.layerNames()).toEqual([kept, removed].flatMap(({ chainIds }) => chainIds.map((id) => id.slice(7))).sort());
    after.releaseLease("c1");
    await after.settled();
    expect(await rig.layerNames()).toEqual(kept.chainIds.map((id) => id.slice(7)));
    expect(after.restoreLease("c2", dropped.id, dropped.chainIds)).toBeNull();
  });

  it("of an image that was pulled again belongs to it", async () => {
    const image = imageOf(["x"]);
    const view = await pulled("a", image);
    rig.images.lease(view, "c1");
    await rig.images.remove(operation(), view.id);
    const again = await pulled("a", image);
    rig.images.releaseLease("c1");
    await rig.images.settled();
    expect(rig.images.find(again.id)).not.toBeNull();
    expect(await rig.layerNames()).toHaveLength(1);
    expect(rig.fake.unpacking.started).toBe(1);
  });
});

describe("a restart", () => {
  it("finds images, names and usage as they were", async () => {
    const view = await pulled("team/pinned", imageOf(["x", "y"], { labels: { __proto__x: "1" }, stopSignal: "SIGQUIT" }));
    await rig.images.settled();
    const after = await rig.restart("boot-2");
    expect(after.list()).toEqual([view]);
    expect(view.pinned).toBe(true);
    expect(after.find(`${registry.host}/team/pinned:1`)).toEqual(view);
    expect(after.usage()).toMatchObject({ usedBytes: 2, inodesUsed: 4 });
  });

  it("in another boot drops layers that were not synced, and their images with them", async () => {
    let open: () => void = () => undefined;
    rig.fake.syncGate = new Promise((resolve) => {
      open = resolve;
    });
    const view = await pulled("a", imageOf(["x"]));
    expect(await layerState(view)).toBe("pending");
    expect((await rig.restart("boot-1")).list()).toHaveLength(1);
    const after = await rig.restart("boot-2");
    expect(after.list()).toEqual([]);
    expect(after.find(`${registry.host}/a:1`)).toBeNull();
    expect(after.usage().usedBytes).toBe(0);
    open();
    await after.settled();
    expect(await rig.layerNames()).toEqual([]);
  });

  it("in another boot keeps layers that were synced", async () => {
    const view = await pulled("a", imageOf(["x"]));
    await rig.images.settled();
    expect(rig.fake.syncs.count).toBe(1);
    expect(await layerState(view)).toBe("durable");
    expect((await rig.restart("boot-2")).list()).toHaveLength(1);
  });

  it("removes what a killed pull left, and damaged layers", async () => {
    const view = await pulled("a", imageOf(["x"]));
    await rig.images.settled();
    const layers = join(rig.root, "layers");
    await mkdir(join(layers, "tmp-0123/fs"), { recursive: true });
    await mkdir(join(layers, "trash-0123"), { recursive: true });
    await mkdir(join(layers, "f".repeat(64), "fs"), { recursive: true });
    await mkdir(join(layers, "e".repeat(64), "fs"), { recursive: true });
    await writeFile(join(layers, "e".repeat(64), "layer.json"), '{"format":1,"chainId":"sha256:other"}');
    const after = await rig.restart();
    await after.settled();
    expect(await rig.layerNames()).toEqual(view.chainIds.map((id) => id.slice(7)));
  });

  it("forgets an image whose layer has gone, and the pull brings it back", async () => {
    const image = imageOf(["x", "y"]);
    const view = await pulled("a", image);
    await rig.images.settled();
    await rm(join(rig.root, "layers", view.chainIds[1]?.slice(7) ?? ""), { recursive: true });
    const after = await rig.restart();
    expect(after.list()).toEqual([]);
    const again = await after.pull(operation(), { reference: `${registry.host}/a:1`, auth: null, runtimeHandler: "" });
    expect(again.id).toBe(view.id);
    expect(rig.fake.unpacking.started).toBe(3);
  });

  it("does not trust a stored document that was changed", async () => {
    const image = imageOf(["x"]);
    const view = await pulled("a", image);
    await writeFile(join(rig.root, "content", "sha256", view.id.slice(7)), "changed");
    const after = await rig.restart();
    expect((await after.pull(operation(), { reference: `${registry.host}/a:1`, auth: null, runtimeHandler: "" })).id).toBe(view.id);
    expect(registry.seen(image.config.digest)).toHaveLength(2);
  });
});

describe("secrets", () => {
  it("are in no file and no record", async () => {
    registry.basic = "user:s3cret-word";
    registry.add("a", "1", imageOf(["x"]));
    const auth = { username: "user", password: "s3cret-word", auth: "", serverAddress: "", identityToken: "", registryToken: "" };
    await rig.images.pull(operation(), { reference: `${registry.host}/a:1`, auth, runtimeHandler: "native" });
    await rig.images.settled();
    const encoded = Buffer.from("user:s3cret-word").toString("base64");
    for (const entry of await readdir(rig.root, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile()) continue;
      const text = await readFile(join(entry.parentPath, entry.name), "utf8");
      expect(text).not.toContain("s3cret-word");
      expect(text).not.toContain(encoded);
    }
  });
});
