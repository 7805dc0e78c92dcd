import { describe, expect, it } from "vitest";
import { formatReference, parseReference, qualify } from "../../../src/image/reference.ts";

const digest = `sha256:${"a".repeat(64)}`;

function full(text: string): string {
  const parsed = parseReference(text);
  return formatReference(qualify(parsed, "docker.io"));
}

describe("image references", () => {
  it.each([
    ["busybox", "docker.io/library/busybox:latest"],
    ["busybox:1.36", "docker.io/library/busybox:1.36"],
    ["a/b", "docker.io/a/b:latest"],
    ["docker.io/busybox", "docker.io/library/busybox:latest"],
    ["index.docker.io/library/busybox", "docker.io/library/busybox:latest"],
    ["localhost/a", "localhost/a:latest"],
    ["localhost:5000/a/b:tag", "localhost:5000/a/b:tag"],
    ["example.com/a", "example.com/a:latest"],
    ["example.com:80/a_b/c__d/e-f---g.h:V1.2_x-y", "example.com:80/a_b/c__d/e-f---g.h:V1.2_x-y"],
    ["[::1]:5000/a", "[::1]:5000/a:latest"],
    ["EXAMPLE/a", "EXAMPLE/a:latest"],
    [`a@${digest}`, `docker.io/library/a@${digest}`],
    [`example.com/a:tag@${digest}`, `example.com/a@${digest}`],
    [`${"a".repeat(128)}`, `docker.io/library/${"a".repeat(128)}:latest`],
  ])("%s means %s", (text, expected) => {
    expect(full(text)).toBe(expected);
  });

  it.each([
    ["", "empty"],
    ["A", "lower-case"],
    ["a//b", "malformed"],
    ["/a", "malformed"],
    ["a/", "malformed"],
    ["-a", "malformed"],
    ["a..b", "malformed"],
    ["a___b", "malformed"],
    ["a/../b", "malformed"],
    ["a:", "tag"],
    ["a:-b", "tag"],
    [`a:${"t".repeat(129)}`, "tag"],
    ["a@sha256:abc", "digest"],
    [`a@sha256:${"A".repeat(64)}`, "digest"],
    [`a@sha512:${"a".repeat(128)}`, "digest"],
    [`a@${digest}@${digest}`, "digest"],
    ["exa mple.com/a", "host"],
    ["-x.com/a", "host"],
    ["host:99x/a", "host"],
    [`${"a".repeat(64)}`, "image id"],
    ["a\n", "malformed"],
    ["a/b\u0000", "malformed"],
    [`example.com/${"a/".repeat(130)}a`, "longer"],
  ])("%j is refused because of its %s", (text, why) => {
    expect(() => parseReference(text)).toThrow(
      expect.objectContaining({ kind: "invalid-argument", message: expect.stringContaining(why) }),
    );
  });

  it("keeps a short name short until a registry is chosen", () => {
    const parsed = parseReference("team/app:1");
    expect(parsed.host).toBeNull();
    expect(formatReference(qualify(parsed, "registry.example:5000"))).toBe("registry.example:5000/team/app:1");
  });
});
