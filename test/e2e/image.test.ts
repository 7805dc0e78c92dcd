/** Images: pulled, unpacked, named, removed; from registries that behave and from those that do not. */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterEach, beforeAll, describe, expect, inject, test } from "vitest";
import type { AuthConfigInput, Image } from "../../api/cri/service-definition.ts";
import { status, toBigInt } from "../support/cri-client.ts";
import {
  type BuiltImage,
  buildImage,
  buildIndex,
  descriptorOf,
  digestOf,
  hostArchitecture,
  jsonBlob,
  type Layer,
  layerFrom,
  layerFromTar,
  mediaTypes,
  pushImage,
} from "../support/image-builder.ts";
import { failure, sleep, until, useNode } from "../support/node.ts";
import { freePort } from "../support/registry.ts";
import { ScriptedRegistry } from "../support/scripted-registry.ts";
import { tarOf } from "../support/tar-builder.ts";
import { hostNetwork } from "../support/workloads.ts";

const own = new ScriptedRegistry();
const other = new ScriptedRegistry();
const closedPort = await freePort();
await own.start();
await other.start();

const node = useNode("images", {
  insecureRegistries: [own.host, other.host, `127.0.0.1:${closedPort}`],
  sets: ["image.progress_timeout_ms=1500"],
  prepare: ({ registriesConfig }) => {
    mkdirSync(`${registriesConfig}.d`, { recursive: true });
    const text = `[[registry]]
location = "mirrored.test"
insecure = true
[[registry.mirror]]
location = "127.0.0.1:${closedPort}"
insecure = true
[[registry.mirror]]
location = "${own.host}"
insecure = true
`;
    writeFileSync(join(`${registriesConfig}.d`, "50-mirror.conf"), text);
  },
});

let shared: BuiltImage;
let base: Layer;

beforeAll(async () => {
  base = await layerFrom((directory) => {
    mkdirSync(join(directory, "etc"));
    writeFileSync(join(directory, "etc/os"), "base\n");
  });
  shared = buildImage([base], { cmd: ["/no"] });
  return () => {
    own.stop();
    other.stop();
  };
});

afterEach(async () => {
  own.behaviour = {};
  other.behaviour = {};
  own.requests.length = 0;
  const { images } = await node.images.ListImages({});
  for (const { id } of images) if (id !== node.image) await node.images.RemoveImage({ image: { image: id } });
  own.endIdle();
  other.endIdle();
});

async function pull(reference: string, auth?: AuthConfigInput): Promise<string> {
  const { imageRef } = await node.images.PullImage({ image: { image: reference }, ...(auth ? { auth } : {}) });
  return imageRef;
}

async function imageOf(reference: string): Promise<Image | null> {
  return (await node.images.ImageStatus({ image: { image: reference } })).image;
}

/** The shared image with one more layer on top, under a name of its own; output of a script in it. */
async function inImage(layers: readonly Layer[], script: string, options = {}): Promise<string> {
  const busybox = await busyboxLayers();
  const image = buildImage([...busybox, ...layers], options);
  own.add("test/on-top", "1", image);
  const imageRef = await pull(`${own.host}/test/on-top:1`);
  const pod = await node.runPod({}, hostNetwork);
  const container = await pod.runContainer(["sh", "-c", script], { image: { image: imageRef } }, { supplementalGroups: [] });
  const state = await container.exited();
  const output = await container.output();
  if (state.exitCode !== 0) throw new Error(`the script ended with ${state.exitCode}: ${output.stdout}${output.stderr}`);
  await pod.remove();
  return output.stdout;
}

/** Layers of the shared image, read back from the shared registry. */
async function busyboxLayers(): Promise<Layer[]> {
  const host = inject("registryHost");
  const url = `http://${host}/v2/berth/busybox`;
  const manifest = (await (await fetch(`${url}/manifests/1.35`, { headers: { accept: mediaTypes.ociManifest } })).json()) as {
    config: { digest: string };
    layers: { mediaType: string; digest: string; size: number }[];
  };
  const blob = async (digest: string): Promise<Buffer> => Buffer.from(await (await fetch(`${url}/blobs/${digest}`)).arrayBuffer());
  const config = JSON.parse((await blob(manifest.config.digest)).toString()) as { rootfs: { diff_ids: string[] } };
  return Promise.all(
    manifest.layers.map(async (layer, index) => ({
      ...layer,
      data: await blob(layer.digest),
      diffId: config.rootfs.diff_ids[index] ?? "",
    })),
  );
}

describe("PullImage", () => {
  test("by tag gives the image's id, and the image its names", async () => {
    own.add("team/app", "1.0", shared);
    const id = await pull(`${own.host}/team/app:1.0`);
    expect(id).toBe(shared.config.digest);
    const image = await imageOf(`${own.host}/team/app:1.0`);
    expect(image).toMatchObject({
      id,
      repoTags: [`${own.host}/team/app:1.0`],
      repoDigests: [`${own.host}/team/app@${shared.manifest.digest}`],
    });
    expect(toBigInt(image?.size ?? { low: 0, high: 0, unsigned: true })).toBeGreaterThan(0n);
    for (const name of [id, id.replace("sha256:", ""), id.slice(7, 25), `${own.host}/team/app@${shared.manifest.digest}`]) {
      expect((await imageOf(name))?.id, name).toBe(id);
    }
    expect(await imageOf(`${own.host}/team/app:2.0`)).toBeNull();
  });

  test("by digest gives an image without a tag, which runs", async () => {
    own.add("team/app", "1.0", shared);
    const reference = `${own.host}/team/app@${shared.manifest.digest}`;
    expect(await pull(reference)).toBe(shared.config.digest);
    expect(await imageOf(reference)).toMatchObject({ repoTags: [], repoDigests: [reference] });
  });

  test("by tag and digest checks the digest", async () => {
    own.add("team/app", "1.0", shared);
    expect(await pull(`${own.host}/team/app:1.0@${shared.manifest.digest}`)).toBe(shared.config.digest);
    const wrong = `${own.host}/team/app@sha256:${"0".repeat(64)}`;
    await failure(pull(wrong), status.NOT_FOUND, "team/app");
  });

  test("without a tag means latest", async () => {
    own.add("team/app", "latest", shared);
    await pull(`${own.host}/team/app`);
    expect((await imageOf(`${own.host}/team/app:latest`))?.repoTags).toEqual([`${own.host}/team/app:latest`]);
  });

  test("of a tag that has moved takes the tag from the old image", async () => {
    own.add("team/app", "1.0", shared);
    const first = await pull(`${own.host}/team/app:1.0`);
    own.add("team/app", "1.0", buildImage([base], { cmd: ["/other"] }));
    const second = await pull(`${own.host}/team/app:1.0`);
    expect(second).not.toBe(first);
    expect((await imageOf(`${own.host}/team/app:1.0`))?.id).toBe(second);
    expect((await imageOf(first))?.repoTags).toEqual([]);
  });

  test("of an image that is there asks the registry and downloads no layer", async () => {
    own.add("team/app", "1.0", shared);
    await pull(`${own.host}/team/app:1.0`);
    own.requests.length = 0;
    await pull(`${own.host}/team/app:1.0`);
    expect(own.requests.length).toBeGreaterThan(0);
    expect(own.downloads(base.digest)).toBe(0);
  });

  test("a second name of the same image is added", async () => {
    own.add("team/app", "1.0", shared);
    other.add("mirror/app", "x", shared);
    const id = await pull(`${own.host}/team/app:1.0`);
    expect(await pull(`${other.host}/mirror/app:x`)).toBe(id);
    const image = await imageOf(id);
    expect([...(image?.repoTags ?? [])].sort()).toEqual([`${own.host}/team/app:1.0`, `${other.host}/mirror/app:x`].sort());
    expect(image?.repoDigests).toHaveLength(2);
  });

  test("takes Docker's manifests as well", async () => {
    own.add("docker/app", "1", buildImage([base], { docker: true, cmd: ["/x"] }));
    expect(await pull(`${own.host}/docker/app:1`)).toMatch(/^sha256:/);
  });

  test("picks this machine's image from an index", async () => {
    const foreign = buildImage([base], { cmd: ["/foreign"], architecture: "s390x" });
    const mine = buildImage([base], { cmd: ["/mine"] });
    own.add("multi/app", "foreign", foreign);
    own.add("multi/app", "mine", mine);
    const platform = (image: BuiltImage, architecture: string) => ({
      ...descriptorOf(image.manifest),
      platform: { os: "linux", architecture },
    });
    own.addManifest("multi/app", "1", buildIndex([platform(foreign, "s390x"), platform(mine, hostArchitecture())]));
    expect(await pull(`${own.host}/multi/app:1`)).toBe(mine.config.digest);
    own.addManifest("multi/app", "2", buildIndex([platform(foreign, "s390x")]));
    await failure(pull(`${own.host}/multi/app:2`), status.NOT_FOUND, "multi/app:2", hostArchitecture());
  });

  test("from a real registry works as well as from this one", async () => {
    await pushImage(inject("registryHost"), "real/app", "1", shared);
    expect(await pull(`${inject("registryHost")}/real/app:1`)).toBe(shared.config.digest);
  });

  test("asks a mirror first, passes over one that is not there, and keeps the image's own name", async () => {
    own.add("team/app", "1.0", shared);
    await pull("mirrored.test/team/app:1.0");
    expect((await imageOf("mirrored.test/team/app:1.0"))?.repoTags).toEqual(["mirrored.test/team/app:1.0"]);
    expect(own.requests.some((line) => line.includes("team/app"))).toBe(true);
  });

  test("five at once are one", async () => {
    const layer = layerFromTar(tarOf([{ name: "blob", data: randomBytes(3 << 20) }]), "none");
    own.add("big/app", "1", buildImage([layer]));
    own.behaviour = { intercept: slowly(layer.digest, 200) };
    const ids = await Promise.all(Array.from({ length: 5 }, () => pull(`${own.host}/big/app:1`)));
    expect(new Set(ids).size).toBe(1);
    expect(own.downloads(layer.digest)).toBe(1);
  });

  test("a layer that two images share is downloaded once, even by two pulls at a time", async () => {
    const layer = layerFromTar(tarOf([{ name: "common", data: randomBytes(1 << 20) }]));
    own.add("one/app", "1", buildImage([layer], { cmd: ["/one"] }));
    own.add("two/app", "1", buildImage([layer], { cmd: ["/two"] }));
    own.behaviour = { intercept: slowly(layer.digest, 150) };
    await Promise.all([pull(`${own.host}/one/app:1`), pull(`${own.host}/two/app:1`)]);
    expect(own.downloads(layer.digest)).toBe(1);
  });

  test("that one of two callers abandons goes on for the other", async () => {
    const layer = layerFromTar(tarOf([{ name: "abandoned", data: randomBytes(1 << 20) }]));
    own.add("left/app", "1", buildImage([layer]));
    own.behaviour = { intercept: slowly(layer.digest, 400) };
    const stays = pull(`${own.host}/left/app:1`);
    await sleep(50);
    const leaves = node.images.PullImage({ image: { image: `${own.host}/left/app:1` } }, { timeoutMs: 100 });
    await failure(leaves, status.DEADLINE_EXCEEDED);
    expect(await stays).toMatch(/^sha256:/);
  });

  test("that everybody has abandoned ends and leaves nothing", async () => {
    const layer = layerFromTar(tarOf([{ name: "given-up", data: randomBytes(1 << 20) }]));
    own.add("left/app", "2", buildImage([layer]));
    own.behaviour = { intercept: slowly(layer.digest, 60_000) };
    const call = node.images.PullImage({ image: { image: `${own.host}/left/app:2` } }, { timeoutMs: 200 });
    await failure(call, status.DEADLINE_EXCEEDED);
    await until(
      "the pull has ended",
      async () => (await node.operations()).length === 0,
      () => node.operations(),
    );
    expect(await imageOf(`${own.host}/left/app:2`)).toBeNull();
  });
});

/** Withholds one blob for a while. */
function slowly(digest: string, ms: number) {
  return (request: IncomingMessage, response: ServerResponse): boolean => {
    if (!request.url?.endsWith(digest)) return false;
    const data = own.blobs.get(digest) ?? Buffer.alloc(0);
    response.writeHead(200, { "content-length": data.length });
    response.flushHeaders();
    const trickle = setInterval(() => response.writable && response.write(Buffer.alloc(0)), 500);
    setTimeout(() => {
      clearInterval(trickle);
      response.end(data);
    }, ms).unref();
    return true;
  };
}

describe("credentials", () => {
  const auth = { user: "alice", password: "sesame:and more" };

  test.each(["basic", "bearer"] as const)("%s: the right ones are let in, in each form of the request", async (kind) => {
    own.add("private/app", "1", shared);
    own.behaviour = { auth: { kind, ...auth } };
    const reference = `${own.host}/private/app:1`;
    await pull(reference, { username: auth.user, password: auth.password });
    await pull(reference, { auth: Buffer.from(`${auth.user}:${auth.password}`).toString("base64") });
    await pull(reference, { auth: Buffer.from(`${auth.user}:${auth.password}`).toString("base64"), serverAddress: own.host });
  });

  test.each(["basic", "bearer"] as const)("%s: none or wrong ones are refused, and never told", async (kind) => {
    own.add("private/app", "2", shared);
    own.behaviour = { auth: { kind, ...auth } };
    const reference = `${own.host}/private/app:2`;
    const error = await failure(
      pull(reference, { username: auth.user, password: "not-this-secret" }),
      status.UNAUTHENTICATED,
      "private/app:2",
    );
    expect(error.details).not.toContain("not-this-secret");
    await failure(pull(reference), status.UNAUTHENTICATED, "private/app:2");
    expect(await imageOf(reference)).toBeNull();
    expect(node.daemon.log()).not.toContain("not-this-secret");
    expect(node.daemon.log()).not.toContain(auth.password);
  });

  test("are really checked though the image is there", async () => {
    own.add("private/app", "3", shared);
    await pull(`${own.host}/private/app:3`);
    own.behaviour = { auth: { kind: "basic", ...auth } };
    await failure(pull(`${own.host}/private/app:3`, { username: "alice", password: "wrong" }), status.UNAUTHENTICATED);
  });

  test("anonymous token: a bearer registry that gives everybody one", async () => {
    own.add("public/app", "1", shared);
    own.behaviour = { auth: { kind: "bearer", user: "", password: "" } };
    await pull(`${own.host}/public/app:1`);
  });

  test("go to the registry that they are for and to no other", async () => {
    own.add("private/app", "4", buildImage([layerFromTar(tarOf([{ name: "redirected", data: Buffer.from("x") }]))]));
    own.behaviour = {
      auth: { kind: "basic", ...auth },
      intercept: (request, response) => {
        if (!request.url?.includes("/blobs/")) return false;
        response.writeHead(307, { location: `http://${other.host}${request.url}` }).end();
        return true;
      },
    };
    for (const [digest, data] of own.blobs) other.blobs.set(digest, data);
    const seen: (string | undefined)[] = [];
    other.behaviour = {
      intercept: (request) => {
        seen.push(request.headers.authorization);
        return false;
      },
    };
    await pull(`${own.host}/private/app:4`, { username: auth.user, password: auth.password });
    expect(seen.length).toBeGreaterThan(0);
    expect(seen.every((header) => header === undefined)).toBe(true);
  });
});

describe("layers", () => {
  test.each(["gzip", "zstd", "none"] as const)("%s ones are unpacked", async (compression) => {
    const layer = layerFromTar(tarOf([{ name: "compressed", data: Buffer.from(`${compression}\n`) }]), compression);
    expect(await inImage([layer], "cat /compressed")).toBe(`${compression}\n`);
  });

  test("ownership, modes, setuid, times, links, device numbers and names are as in the archive", async () => {
    const layer = layerFromTar(
      tarOf([
        { name: "t/", type: "5", mode: 0o751, uid: 5, gid: 6 },
        { name: "t/file", data: Buffer.from("data\n"), mode: 0o640, uid: 1234, gid: 4321 },
        { name: "t/setuid", data: Buffer.from("x"), mode: 0o4755, uid: 33, gid: 33 },
        { name: "t/setgid", data: Buffer.from("x"), mode: 0o2755, uid: 33, gid: 50 },
        { name: "t/sticky/", type: "5", mode: 0o1777 },
        { name: "t/symlink", type: "2", link: "file", uid: 7, gid: 8 },
        { name: "t/absolute", type: "2", link: "/t/file" },
        { name: "t/hardlink", type: "1", link: "t/file" },
        { name: "t/fifo", type: "6", mode: 0o600 },
        { name: "t/漢字 name", data: Buffer.from("x") },
        { name: "t/big-id", data: Buffer.from("x"), pax: { uid: Buffer.from("3000000"), gid: Buffer.from("3000001") } },
      ]),
    );
    const output = await inImage(
      [layer],
      "cd /t; stat -c '%a %u:%g %Y %n' . file setuid setgid sticky 'symlink' '漢字 name' big-id; cat absolute; readlink symlink; [ file -ef hardlink ] && echo same; test -p fifo && echo fifo; stat -c %h file",
    );
    expect(output.split("\n")).toEqual([
      "751 5:6 1700000000 .",
      "640 1234:4321 1700000000 file",
      "4755 33:33 1700000000 setuid",
      "2755 33:50 1700000000 setgid",
      "1777 0:0 1700000000 sticky",
      "777 7:8 1700000000 symlink",
      "644 0:0 1700000000 漢字 name",
      "644 3000000:3000001 1700000000 big-id",
      "data",
      "file",
      "same",
      "fifo",
      "2",
      "",
    ]);
  });

  test("extended attributes and file capabilities are kept, the runtime's own and trusted ones are not", async () => {
    const capability = Buffer.from("0100000200040000000000000000000000000000", "hex");
    const layer = layerFromTar(
      tarOf([
        {
          name: "marked",
          data: Buffer.from("x"),
          mode: 0o755,
          pax: {
            "SCHILY.xattr.user.note": Buffer.from("hello"),
            "SCHILY.xattr.security.capability": capability,
            "SCHILY.xattr.trusted.overlay.redirect": Buffer.from("/etc"),
          },
        },
      ]),
    );
    own.add("test/attributes", "1", buildImage([layer]));
    await pull(`${own.host}/test/attributes:1`);
    const path = execFileSync("find", [node.directories.root, "-name", "marked"], { encoding: "utf8" }).trim();
    const dump = execFileSync("getfattr", ["-d", "-m", "-", "-e", "hex", path], { encoding: "utf8" });
    expect(dump).toContain(`user.note=0x${Buffer.from("hello").toString("hex")}`);
    expect(dump).toContain(`security.capability=0x${capability.toString("hex")}`);
    expect(dump).not.toContain("overlay.redirect");
  });

  test("whiteouts and opaque directories hide what is below", async () => {
    const lower = layerFromTar(
      tarOf([
        { name: "d/", type: "5", mode: 0o755 },
        { name: "d/gone", data: Buffer.from("lower") },
        { name: "d/kept", data: Buffer.from("lower") },
        { name: "opaque/", type: "5", mode: 0o755 },
        { name: "opaque/old", data: Buffer.from("lower") },
        { name: "replaced/", type: "5", mode: 0o755 },
        { name: "replaced/inside", data: Buffer.from("lower") },
        { name: "tree/", type: "5", mode: 0o755 },
        { name: "tree/sub/", type: "5", mode: 0o755 },
        { name: "tree/sub/leaf", data: Buffer.from("lower") },
      ]),
    );
    const upper = layerFromTar(
      tarOf([
        { name: "d/.wh.gone" },
        { name: "opaque/", type: "5", mode: 0o755 },
        { name: "opaque/new", data: Buffer.from("upper") },
        { name: "opaque/.wh..wh..opq" },
        { name: "replaced", data: Buffer.from("a file now") },
        { name: ".wh.tree" },
      ]),
    );
    const output = await inImage(
      [lower, upper],
      "ls -A /d /opaque; cat /replaced; echo; ls -d /tree 2>/dev/null || echo no tree; find / -xdev -name '.wh.*' | wc -l",
    );
    expect(output).toBe("/d:\nkept\n\n/opaque:\nnew\na file now\nno tree\n0\n");
  });

  test("the same directory in several layers is merged, the last one's mode holds", async () => {
    const one = layerFromTar(
      tarOf([
        { name: "m/", type: "5", mode: 0o700 },
        { name: "m/a", data: Buffer.from("1") },
      ]),
    );
    const two = layerFromTar(
      tarOf([
        { name: "m/", type: "5", mode: 0o755 },
        { name: "m/b", data: Buffer.from("2") },
        { name: "m/a", data: Buffer.from("3") },
      ]),
    );
    expect(await inImage([one, two], "cat /m/a /m/b; stat -c ' %a' /m")).toBe("32 755\n");
  });

  test("sixty of them", async () => {
    const layers = Array.from({ length: 60 }, (_, i) =>
      layerFromTar(
        tarOf([
          { name: "many/", type: "5", mode: 0o755 },
          { name: `many/${i}`, data: Buffer.from(`${i}\n`) },
          { name: "last", data: Buffer.from(`${i}\n`) },
        ]),
      ),
    );
    expect(await inImage(layers, "ls /many | wc -l; cat /last /many/0 /many/59")).toBe("60\n59\n0\n59\n");
  });

  test("the image's configuration holds: entrypoint, command, environment, directory, user, stop signal", async () => {
    const busybox = await busyboxLayers();
    const image = buildImage(busybox, {
      entrypoint: ["sh", "-c", 'echo "$0 $FROM $(pwd) $(id -u):$(id -g) $(id -G)"'],
      cmd: ["argument"],
      env: ["PATH=/bin", "FROM=image"],
      workingDir: "/var/log",
      user: "nobody:staff",
      stopSignal: "SIGINT",
    });
    own.add("test/config", "1", image);
    const imageRef = await pull(`${own.host}/test/config:1`);
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer([], { image: { image: imageRef } });
    await container.exited();
    expect((await container.output()).stdout).toBe("argument image /var/log 65534:50 50\n");
    const withArgs = await pod.runContainer([], {
      image: { image: imageRef },
      args: ["given"],
      envs: [{ key: "FROM", value: Buffer.from("request") }],
    });
    await withArgs.exited();
    expect((await withArgs.output()).stdout).toMatch(/^given request /);
    expect(await imageOf(imageRef)).toMatchObject({ username: "nobody" });
  });
});

describe("broken images and registries", () => {
  const damaged = async (repository: string, change: (layer: Layer) => Layer, ...texts: (string | RegExp)[]): Promise<void> => {
    const layer = layerFromTar(tarOf([{ name: "file", data: randomBytes(200_000) }]));
    const bad = change(layer);
    const image = buildImage([bad]);
    own.add(repository, "1", image);
    own.blobs.set(bad.digest, bad.data);
    const files = countFiles();
    await failure(pull(`${own.host}/${repository}:1`), status.DATA_LOSS, `${repository}:1`, ...texts);
    expect(await imageOf(`${own.host}/${repository}:1`)).toBeNull();
    await until("nothing of it is left", () => countFiles() === files, countFiles);
  };

  test("a layer of another content than its digest says", async () => {
    await damaged(
      "bad/digest",
      (layer) => ({ ...layer, data: Buffer.concat([layer.data.subarray(0, -1), Buffer.from([(layer.data.at(-1) ?? 0) ^ 1])]) }),
      "digest",
    );
  });

  test("a layer of another size than its descriptor says", async () => {
    await damaged("bad/size", (layer) => ({ ...layer, size: layer.size + 7 }), /size|bytes/);
  });

  test("a layer of another content than its diff id says", async () => {
    await damaged("bad/diff", (layer) => ({ ...layer, diffId: `sha256:${"1".repeat(64)}` }), /diff/);
  });

  test("a gzip stream that is cut off", async () => {
    await damaged("bad/gzip", (layer) => {
      const data = layer.data.subarray(0, layer.data.length - 1000);
      return { ...layer, data, size: data.length, digest: digestOf(data) };
    });
  });

  test("a gzip stream with a tar that is cut off", async () => {
    await damaged("bad/tar", (layer) => {
      const archive = tarOf([{ name: "file", data: Buffer.alloc(100_000) }]).subarray(0, 60_000);
      const data = gzipSync(archive);
      return { ...layer, data, size: data.length, digest: digestOf(data), diffId: digestOf(archive) };
    });
  });

  test("something else than an archive", async () => {
    await damaged("bad/noise", (layer) => {
      const data = randomBytes(5000);
      return { ...layer, data, size: data.length, digest: digestOf(data), diffId: digestOf(data), mediaType: mediaTypes.ociLayer };
    });
  });

  test("a layer that leads out of its directory", async () => {
    const layer = layerFromTar(
      tarOf([
        { name: "../../escaped", data: Buffer.from("x") },
        { name: "/absolute-is-inside", data: Buffer.from("x") },
        { name: "link", type: "2", link: "/tmp" },
        { name: "link/berth-escaped", data: Buffer.from("x") },
      ]),
    );
    own.add("bad/escape", "1", buildImage([layer]));
    await pull(`${own.host}/bad/escape:1`).catch(() => undefined);
    expect(statSync("/tmp/berth-escaped", { throwIfNoEntry: false })).toBeUndefined();
    expect(statSync(join(node.directories.root, "escaped"), { throwIfNoEntry: false })).toBeUndefined();
    expect(
      execFileSync("find", [node.directories.base, "-name", "escaped", "-not", "-path", "*/image/*"], { encoding: "utf8" }),
    ).not.toMatch(/^\S+lib\/escaped/m);
  });

  test("a configuration that is no JSON, and one that is too many", async () => {
    const config = { ...jsonBlob(mediaTypes.ociConfig, {}), data: Buffer.from("{ this is no json") };
    const described = { ...config, digest: digestOf(config.data), size: config.data.length };
    own.blobs.set(described.digest, described.data);
    own.blobs.set(base.digest, base.data);
    own.addManifest(
      "bad/config",
      "1",
      jsonBlob(mediaTypes.ociManifest, {
        schemaVersion: 2,
        mediaType: mediaTypes.ociManifest,
        config: descriptorOf(described),
        layers: [descriptorOf(base)],
      }),
    );
    await expect(pull(`${own.host}/bad/config:1`)).rejects.toThrow(/bad\/config:1/);
    // Two layers in the manifest, one diff id in the configuration.
    const one = buildImage([base]);
    own.blobs.set(one.config.digest, one.config.data);
    own.addManifest(
      "bad/config",
      "2",
      jsonBlob(mediaTypes.ociManifest, {
        schemaVersion: 2,
        mediaType: mediaTypes.ociManifest,
        config: descriptorOf(one.config),
        layers: [descriptorOf(base), descriptorOf(base)],
      }),
    );
    await expect(pull(`${own.host}/bad/config:2`)).rejects.toThrow(/bad\/config:2/);
  });

  test("a manifest that is not there is NOT_FOUND and names the image", async () => {
    await failure(pull(`${own.host}/no/such:1`), status.NOT_FOUND, `${own.host}/no/such:1`);
  });

  test("a registry that does not answer is RegistryUnavailable", async () => {
    const error = await failure(pull(`127.0.0.1:${closedPort}/x/y:1`), status.UNKNOWN, `127.0.0.1:${closedPort}/x/y:1`);
    expect(error.details).toMatch(/^RegistryUnavailable/);
    const nameless = await failure(pull("no-such-host.invalid/x:1"), status.UNKNOWN, "no-such-host.invalid");
    expect(nameless.details).toMatch(/^RegistryUnavailable/);
  });

  test("a registry that answers 503, 429 and then recovers is asked again; one that stays at 503 is RegistryUnavailable", async () => {
    own.add("shaky/app", "1", shared);
    let failures = 2;
    own.behaviour = {
      intercept: (_request, response) => {
        if (failures <= 0) return false;
        failures -= 1;
        response.writeHead(failures === 1 ? 503 : 429, { "retry-after": "0" }).end("busy");
        return true;
      },
    };
    const outcome = await pull(`${own.host}/shaky/app:1`).catch((error: Error) => error.message);
    expect(outcome).toMatch(/^sha256:|RegistryUnavailable/);
    own.behaviour = {
      intercept: (_request, response) => {
        response.writeHead(503).end("down");
        return true;
      },
    };
    const error = await failure(pull(`${own.host}/shaky/app:2`), status.UNKNOWN, "shaky/app:2");
    expect(error.details).toMatch(/^RegistryUnavailable/);
  });

  test("a download that breaks off is resumed or begun anew", async () => {
    const layer = layerFromTar(tarOf([{ name: "interrupted", data: randomBytes(2 << 20) }]), "none");
    own.add("broken/app", "1", buildImage([layer]));
    let breaks = 1;
    own.behaviour = {
      intercept: (request, response) => {
        if (!request.url?.endsWith(layer.digest) || breaks <= 0) return false;
        breaks -= 1;
        response.writeHead(200, { "content-length": layer.data.length });
        response.write(layer.data.subarray(0, 1 << 20), () => response.destroy());
        return true;
      },
    };
    expect(await pull(`${own.host}/broken/app:1`)).toMatch(/^sha256:/);
    expect(breaks).toBe(0);
  });

  test("a download that stands still is given up", async () => {
    const layer = layerFromTar(tarOf([{ name: "stalled", data: randomBytes(1 << 20) }]), "none");
    own.add("stalled/app", "1", buildImage([layer]));
    own.behaviour = {
      intercept: (request, response) => {
        if (!request.url?.endsWith(layer.digest)) return false;
        response.writeHead(200, { "content-length": layer.data.length });
        response.write(layer.data.subarray(0, 1000));
        return true;
      },
    };
    const error = await failure(pull(`${own.host}/stalled/app:1`), status.UNKNOWN, "stalled/app:1");
    expect(error.details).toMatch(/^RegistryUnavailable/);
  }, 60_000);

  test("references that are none are INVALID_ARGUMENT", async () => {
    for (const reference of [
      "host.test/UPPER",
      "a b",
      "host/x:tag:tag",
      "x@sha256:short",
      "../x",
      `${own.host}/`,
      "x".repeat(300),
      "host/x\n",
    ]) {
      await failure(pull(reference), status.INVALID_ARGUMENT);
    }
    await failure(node.images.PullImage({ image: { image: "" } }), status.INVALID_ARGUMENT);
    await failure(node.images.PullImage({}), status.INVALID_ARGUMENT);
    await failure(
      node.images.PullImage({ image: { image: `${own.host}/x:1`, runtimeHandler: "no-such-handler" } }),
      status.INVALID_ARGUMENT,
      "no-such-handler",
    );
  });
});

describe("RemoveImage", () => {
  test("by one of its tags removes it with all its names and files", async () => {
    own.add("team/app", "1", shared);
    own.add("team/app", "2", shared);
    const files = countFiles();
    await pull(`${own.host}/team/app:1`);
    const id = await pull(`${own.host}/team/app:2`);
    expect(countFiles()).toBeGreaterThan(files);
    await node.images.RemoveImage({ image: { image: `${own.host}/team/app:1` } });
    expect(await imageOf(id)).toBeNull();
    expect(await imageOf(`${own.host}/team/app:2`)).toBeNull();
    await until("its files are gone", () => countFiles() === files, countFiles);
  });

  test("of an unknown image succeeds", async () => {
    await node.images.RemoveImage({ image: { image: `${own.host}/no/such:1` } });
    await node.images.RemoveImage({ image: { image: `sha256:${"0".repeat(64)}` } });
  });

  test("of an image in use leaves the container running, its files go with it", async () => {
    const layer = layerFromTar(tarOf([{ name: "mine", data: Buffer.from("still here\n") }]));
    own.add("used/app", "1", buildImage([...(await busyboxLayers()), layer]));
    const files = countFiles();
    const imageRef = await pull(`${own.host}/used/app:1`);
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "1000"], { image: { image: imageRef } });
    await node.images.RemoveImage({ image: { image: imageRef } });
    expect(await imageOf(imageRef)).toBeNull();
    expect(await container.run("cat", "/mine")).toBe("still here\n");
    await pod.remove();
    await until("its files are gone", () => countFiles() === files, countFiles);
  });

  test("keeps the layers that another image has", async () => {
    own.add("one/app", "1", shared);
    own.add("two/app", "1", buildImage([base], { cmd: ["/two"] }));
    const [one, two] = [await pull(`${own.host}/one/app:1`), await pull(`${own.host}/two/app:1`)];
    await node.images.RemoveImage({ image: { image: one } });
    own.requests.length = 0;
    expect(await pull(`${own.host}/two/app:1`)).toBe(two);
    expect(own.downloads(base.digest)).toBe(0);
  });
});

describe("ListImages and ImageFsInfo", () => {
  test("list all, or the one that the filter names", async () => {
    own.add("team/app", "1", shared);
    const id = await pull(`${own.host}/team/app:1`);
    const ids = async (image?: string): Promise<string[]> =>
      (await node.images.ListImages(image === undefined ? {} : { filter: { image: { image } } })).images.map((one) => one.id).sort();
    expect(await ids()).toEqual([id, node.image].sort());
    expect(await ids(`${own.host}/team/app:1`)).toEqual([id]);
    expect(await ids(id)).toEqual([id]);
    expect(await ids(`${own.host}/team/app:9`)).toEqual([]);
  });

  test("tell what is really used, and of which file system", async () => {
    const usage = async () => {
      const { imageFilesystems } = await node.images.ImageFsInfo({});
      expect(imageFilesystems).toHaveLength(1);
      const [one] = imageFilesystems;
      return {
        bytes: Number(toBigInt(one?.usedBytes?.value ?? { low: 0, high: 0, unsigned: true })),
        inodes: Number(toBigInt(one?.inodesUsed?.value ?? { low: 0, high: 0, unsigned: true })),
        mountpoint: one?.fsId?.mountpoint ?? "",
      };
    };
    const before = await usage();
    expect(node.directories.root.startsWith(before.mountpoint) || before.mountpoint.startsWith(node.directories.root)).toBe(true);
    const onDisk = Number(execFileSync("du", ["-s", "-B1", node.directories.root], { encoding: "utf8" }).split("\t")[0]);
    expect(before.bytes).toBeGreaterThan(onDisk * 0.5);
    expect(before.bytes).toBeLessThan(onDisk * 1.5);
    const size = 5 << 20;
    own.add("big/app", "2", buildImage([layerFromTar(tarOf([{ name: "big", data: randomBytes(size) }]))]));
    const id = await pull(`${own.host}/big/app:2`);
    const after = await usage();
    expect(after.bytes - before.bytes).toBeGreaterThan(size * 0.9);
    expect(after.bytes - before.bytes).toBeLessThan(size * 1.3);
    expect(after.inodes).toBeGreaterThan(before.inodes);
    await node.images.RemoveImage({ image: { image: id } });
    expect(await usage()).toEqual(before);
  });
});

test("a container is created from the name of an image as well as from its id", async () => {
  const pod = await node.runPod({}, hostNetwork);
  const container = await pod.runContainer(["sleep", "100"], { image: { image: node.reference } });
  const state = await container.status();
  expect(state.imageRef).toBe(node.image);
  expect(state.imageId).toBe(node.image);
});

function countFiles(): number {
  return readdirSync(node.directories.root, { recursive: true }).length;
}
