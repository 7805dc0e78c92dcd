import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { parseNetworkConfig, scanNetworkConfig, versionAtLeast } from "../../../../src/sandbox/network/config.ts";

let directory: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "berth-cni-"));
});

afterEach(() => {
  rmSync(directory, { recursive: true, force: true });
});

const write = (name: string, content: unknown): void =>
  writeFileSync(join(directory, name), typeof content === "string" ? content : JSON.stringify(content));
const conflist = (name: string): object => ({ cniVersion: "1.0.0", name, plugins: [{ type: "bridge" }] });

test("the first valid file by name is the network; the ones before it are named as problems", async () => {
  write("30-c.conflist", conflist("c"));
  write("10-a.conflist", "{ torn");
  write("20-b.conf", { cniVersion: "0.3.1", name: "b", type: "ptp", capabilities: { portMappings: true, dns: false } });
  write("05-ignored.txt", "x");
  const scan = await scanNetworkConfig(directory);
  expect(scan.network).toMatchObject({
    name: "b",
    cniVersion: "0.3.1",
    source: join(directory, "20-b.conf"),
    plugins: [{ type: "ptp", capabilities: ["portMappings"] }],
  });
  expect(scan.problems).toEqual([`${join(directory, "10-a.conflist")}: it is not a JSON object`]);
});

test("why there is none is said", async () => {
  expect((await scanNetworkConfig(join(directory, "absent"))).problems).toEqual([`${join(directory, "absent")} does not exist`]);
  expect((await scanNetworkConfig(directory)).problems).toEqual([`${directory} has no .conflist, .conf or .json file`]);
  mkdirSync(join(directory, "10-x.conflist"));
  expect((await scanNetworkConfig(directory)).problems).toEqual([`${join(directory, "10-x.conflist")}: it is not a regular file`]);
});

test("the signature changes with what is there, also behind the chosen file", async () => {
  write("10-a.conflist", conflist("a"));
  const first = await scanNetworkConfig(directory);
  expect((await scanNetworkConfig(directory)).signature).toBe(first.signature);
  write("20-b.conflist", conflist("b"));
  const second = await scanNetworkConfig(directory);
  expect(second.signature).not.toBe(first.signature);
  write("10-a.conflist", conflist("aa"));
  expect((await scanNetworkConfig(directory)).signature).not.toBe(second.signature);
});

test.each<[string, unknown, RegExp]>([
  ["no object", [], /not a JSON object/],
  ["no name", { cniVersion: "1.0.0", plugins: [{ type: "bridge" }] }, /name null is not a network name/],
  ["a name that is a path", { cniVersion: "1.0.0", name: "../x", plugins: [{ type: "bridge" }] }, /not a network name/],
  ["no version", { name: "x", plugins: [{ type: "bridge" }] }, /no cniVersion; supported: 0\.3\.0/],
  ["an old version", { cniVersion: "0.2.0", name: "x", plugins: [{ type: "bridge" }] }, /cniVersion "0\.2\.0"; supported/],
  ["no plugins", { cniVersion: "1.0.0", name: "x", plugins: [] }, /no plugins/],
  ["plugins that are none", { cniVersion: "1.0.0", name: "x", plugins: ["bridge"] }, /plugins\[0\] is not an object/],
  ["a plugin without a type", { cniVersion: "1.0.0", name: "x", plugins: [{ type: "bridge" }, {}] }, /plugins\[1\] has no type/],
  [
    "a type that is a path",
    { cniVersion: "1.0.0", name: "x", plugins: [{ type: "../../bin/sh" }] },
    /type "..\/..\/bin\/sh" is not a file name/,
  ],
  ["a type of dots", { cniVersion: "1.0.0", name: "x", plugins: [{ type: ".." }] }, /is not a file name/],
  [
    "capabilities that are none",
    { cniVersion: "1.0.0", name: "x", plugins: [{ type: "a", capabilities: [] }] },
    /capabilities is not an object/,
  ],
])("a list with %s is refused with the reason", (_what, content, message) => {
  expect(() => parseNetworkConfig(JSON.stringify(content), "/etc/cni/net.d/10-x.conflist")).toThrow(
    expect.objectContaining({ kind: "invalid-argument", message: expect.stringMatching(message) }),
  );
});

test("of several offered versions the newest known one is spoken", () => {
  const parse = (versions: object): string =>
    parseNetworkConfig(JSON.stringify({ name: "x", plugins: [{ type: "a" }], ...versions }), "x.conflist").cniVersion;
  expect(parse({ cniVersion: "0.4.0", cniVersions: ["0.4.0", "1.1.0", "9.0.0"] })).toBe("1.1.0");
  expect(parse({ cniVersion: "9.0.0", cniVersions: ["0.3.1", "1.0.0"] })).toBe("1.0.0");
});

test("flags may be text", () => {
  const parse = (disableGC: unknown): boolean =>
    parseNetworkConfig(JSON.stringify({ cniVersion: "1.1.0", name: "x", disableGC, plugins: [{ type: "a" }] }), "x.conflist").disableGc;
  expect([true, "True", false, "no", undefined].map(parse)).toEqual([true, true, false, false, false]);
});

test("versions compare by number", () => {
  expect(versionAtLeast("1.1.0", "1.1.0")).toBe(true);
  expect(versionAtLeast("1.10.0", "1.9.0")).toBe(true);
  expect(versionAtLeast("0.4.0", "1.1.0")).toBe(false);
});

test("the shipped network is valid", async () => {
  const path = new URL("../../../../deploy/cni/10-berth.conflist", import.meta.url);
  const network = parseNetworkConfig(await readFile(path, "utf8"), "10-berth.conflist");
  expect(network.plugins.map(({ type }) => type)).toEqual(["bridge", "portmap"]);
  expect(network.plugins[0]?.conf).toMatchObject({ ipMasq: true, ipam: { type: "host-local" } });
  expect(network.plugins[1]?.capabilities).toEqual(["portMappings"]);
});
