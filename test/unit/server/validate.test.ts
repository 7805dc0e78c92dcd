import { describe, expect, test } from "vitest";
import {
  checkCgroupParent,
  checkHostname,
  checkId,
  checkLogDirectory,
  checkLogPath,
  checkName,
  checkWord,
} from "../../../src/server/validate.ts";

type Check = (text: string, field: string) => string;
const refused = (check: Check, text: string) =>
  expect(() => check(text, "f.g"), JSON.stringify(text)).toThrow(
    expect.objectContaining({ kind: "invalid-argument", message: expect.stringMatching(/^f\.g /) }),
  );
const hostile = ["../x", "a/../b", "a/..", "..", "a\0", "a\nb", "a b", "ü", "\u202e", "$(x)", "a;b", "a'b", '"', "*", "{}", "%s"];

describe("names, uids and namespaces", () => {
  test.each(["web", "web-0.ns_1", "kube-proxy-node.example", "8f3c1e9a-0b7d", "PodSandbox-1", "0", "a".repeat(253), "_x"])("%s", (text) => {
    expect(checkName(text, "f.g")).toBe(text);
  });
  test.each(["", ".", ".hidden", "-flag", "a/b", "a:b", "a".repeat(254), "a\n", ...hostile])("%j is refused", (text) => {
    refused(checkName, text);
  });
});

describe("log paths", () => {
  test.each(["", "main/0.log", "busybox.log", "a/b/c/1.log", "nginx_1.log", "a..b/0.log", "./x.log"])("%j", (text) => {
    expect(checkLogPath(text, "f.g")).toBe(text);
  });
  test.each(["/abs.log", "a/../../etc/passwd", "-x", "a".repeat(1025), ...hostile])("%j is refused", (text) => {
    refused(checkLogPath, text);
  });
});

describe("log directories", () => {
  test.each(["", "/", "/var/log/pods/default_web_8f3c-1e9a", "/tmp/berth.x/logs"])("%j", (text) => {
    expect(checkLogDirectory(text, "f.g")).toBe(text);
  });
  test.each(["relative", "/var/../etc", "/..", "/a b", "/a\n", "/a\0", "/ü"])("%j is refused", (text) => {
    refused(checkLogDirectory, text);
  });
});

describe("cgroup parents", () => {
  test.each(["", "/kubepods/burstable/pod8f3c", "kubepods-burstable-pod8f3c_1e9a.slice", "/test.slice", "dev-disk\\x2duuid.slice"])(
    "%j",
    (text) => {
      expect(checkCgroupParent(text, "f.g")).toBe(text);
    },
  );
  test.each(["/a/../b", "..", "/a b", "/a\n", "/a\0"])("%j is refused", (text) => {
    refused(checkCgroupParent, text);
  });
});

describe("host names and words of resolv.conf", () => {
  test("host names", () => {
    for (const text of ["", "web-0", "node.example", "a".repeat(64), "under_score"]) expect(checkHostname(text, "f.g")).toBe(text);
    for (const text of ["a".repeat(65), "-a", ".a", "a b", "a\nb", "ü", "a/b"]) refused(checkHostname, text);
  });
  test("words", () => {
    for (const text of ["10.96.0.10", "fd00::a", "svc.cluster.local", "ndots:5", "."]) expect(checkWord(text, "f.g")).toBe(text);
    for (const text of ["", "a b", "a\nb", "a\tb", "a\u007f", "#x", "a;b", "a\u2028b"]) refused(checkWord, text);
  });
});

describe("ids", () => {
  test("hex, prefixes and names that are nobody's are looked up; anything else is refused", () => {
    for (const text of ["a".repeat(64), "5f", "no-such-container", "sha256:ab"]) expect(checkId(text, "f.g")).toBe(text);
    for (const text of ["", ...hostile, "/a", "a".repeat(257)]) refused(checkId, text);
  });
  test("a long value is cut in the message and quoted", () => {
    expect(() => checkId(`\n${"x".repeat(10_000)}`, "id")).toThrow(/^id is not an id: "\\nx{127}…"$/);
  });
});
