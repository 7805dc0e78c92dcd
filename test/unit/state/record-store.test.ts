import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { rename, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { silentLogger } from "../../../src/base/log.ts";
import { IdIndex } from "../../../src/state/name-index.ts";
import { type RecordCodec, RecordStore } from "../../../src/state/record-store.ts";

interface Thing {
  readonly name: string;
  readonly atNs: bigint;
}
const codec: RecordCodec<Thing> = {
  kind: "thing",
  version: 2,
  encode: ({ name, atNs }) => ({ name, atNs: atNs.toString() }),
  decode: (data, version) => {
    const { name, atNs } = data as { name: string; atNs: string };
    return { name: version === 1 ? `old ${name}` : name, atNs: BigInt(atNs) };
  },
};
const kernel = {
  async writeFileAtomic({ path, data }: { path: string; data: Uint8Array }) {
    await writeFile(`${path}.tmp`, data);
    await rename(`${path}.tmp`, path);
  },
};
let directory: string;
const open = (kind: RecordCodec<Thing> = codec) =>
  new RecordStore<Thing>({ directory, codec: kind, kernel, log: silentLogger(), durable: false });
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "berth-records-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

describe("RecordStore", () => {
  it("finds after a restart what was put and not what was deleted", async () => {
    const store = open();
    await store.load();
    await store.put("a", { name: "first", atNs: 1n << 60n });
    await store.put("b", { name: "second", atNs: 0n });
    await store.delete("b");
    const again = open();
    expect(await again.load()).toEqual([]);
    expect(again.values()).toEqual([{ name: "first", atNs: 1n << 60n }]);
  });

  it("keeps the last of many concurrent writes of one key", async () => {
    const store = open();
    await store.load();
    await Promise.all(Array.from({ length: 50 }, (_, index) => store.put("a", { name: String(index), atNs: 0n })));
    const again = open();
    await again.load();
    expect(again.get("a")?.name).toBe("49");
  });

  it.each([
    ["torn", (text: string) => text.slice(0, text.length / 2)],
    ["changed", (text: string) => text.replace("first", "forst")],
    ["of another kind", (text: string) => text.replace('"thing"', '"other"')],
    ["of a newer version", (text: string) => text.replace('"version":2', '"version":3')],
    ["empty", () => ""],
  ])("moves a record aside that is %s, and loads the others", async (_what, damage) => {
    const store = open();
    await store.load();
    await store.put("a", { name: "first", atNs: 0n });
    await store.put("b", { name: "second", atNs: 0n });
    const path = join(directory, "a.json");
    writeFileSync(path, damage(readFileSync(path, "utf8")));
    const again = open();
    expect(await again.load()).toEqual(["a"]);
    expect(again.keys()).toEqual(["b"]);
    expect(readdirSync(directory).sort()).toEqual(["a.json.damaged", "b.json"]);
  });

  it("reads the version before", async () => {
    const store = open({ ...codec, version: 1 });
    await store.load();
    await store.put("a", { name: "first", atNs: 0n });
    const again = open();
    await again.load();
    expect(again.get("a")?.name).toBe("old first");
  });

  it("sweeps temporary files that a crash left", async () => {
    writeFileSync(join(directory, "a.json.tmp123"), "half");
    await open().load();
    expect(readdirSync(directory)).toEqual([]);
  });

  it("refuses a key that is not a plain file name", async () => {
    await expect(open().put("../a", { name: "", atNs: 0n })).rejects.toThrow(/cannot be a record's key/);
  });
});

describe("IdIndex", () => {
  const index = new IdIndex("container");
  const id = (digit: string) => digit.repeat(64);
  index.add(id("a"));
  index.add(`${"a".repeat(10)}${"b".repeat(54)}`);
  index.add(id("c"));

  it("finds by full id and by unique prefix", () => {
    expect(index.resolve(id("c"))).toBe(id("c"));
    expect(index.resolve("ccc")).toBe(id("c"));
    expect(index.resolve("d")).toBeNull();
    expect(index.resolve("")).toBeNull();
  });

  it("refuses a prefix that fits several", () => {
    expect(() => index.resolve("aaa")).toThrow(/container id prefix "aaa" is ambiguous/);
  });
});
