import { describe, expect, it } from "vitest";
import { DomainError, SystemError } from "../../../src/base/errors.ts";
import { silentLogger } from "../../../src/base/log.ts";
import type { FdHandle } from "../../../src/kernel/contract.ts";
import { type AccountFiles, readAccountFiles, resolveUser, type UserRequest } from "../../../src/oci/spec/user.ts";
import { Operation } from "../../../src/operation/context.ts";

const passwd = [
  "# accounts",
  "root:x:0:0:root:/root:/bin/sh",
  "www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin",
  "default-user:x:1000:1000::/home/default-user:/bin/sh",
  "default-user:x:0:0:second line of a name:/root:/bin/sh",
  "broken:x:notanumber:0::/:",
  "overflow:x:4294967296:0::/:",
  "unchanged:x:4294967295:0::/:",
  "",
].join("\n");
const group = [
  "root:x:0:",
  "www-data:x:33:",
  "default-group:x:1000:",
  "extra:x:50000:default-user,other",
  "more:x:60000:other",
  "nobodys:x:bad:default-user",
].join("\n");
const files: AccountFiles = { passwd, group };

const base: UserRequest = { imageUser: "", runAsUser: null, runAsUsername: "", runAsGroup: null, supplementalGroups: [], policy: "merge" };
const resolve = (changes: Partial<UserRequest>, of: AccountFiles = files) => resolveUser({ ...base, ...changes }, of);
const kind = (changes: Partial<UserRequest>, of: AccountFiles = files): string => {
  try {
    resolve(changes, of);
    return "no error";
  } catch (error) {
    return error instanceof DomainError ? error.kind : String(error);
  }
};

describe("the user of a container", () => {
  it.each<[string, Partial<UserRequest>, { uid: number; gid: number; groups: number[]; home: string }]>([
    ["nothing is root", {}, { uid: 0, gid: 0, groups: [0], home: "/root" }],
    ["image name", { imageUser: "www-data" }, { uid: 33, gid: 33, groups: [33], home: "/var/www" }],
    ["image uid", { imageUser: "1000" }, { uid: 1000, gid: 1000, groups: [1000, 50000], home: "/home/default-user" }],
    ["image uid without an account", { imageUser: "1002" }, { uid: 1002, gid: 0, groups: [0], home: "/" }],
    ["image uid and gid", { imageUser: "1003:1004" }, { uid: 1003, gid: 1004, groups: [1004], home: "/" }],
    ["image name and gid", { imageUser: "www-data:1004" }, { uid: 33, gid: 1004, groups: [1004], home: "/var/www" }],
    ["image name and group name", { imageUser: "www-data:extra" }, { uid: 33, gid: 50000, groups: [50000], home: "/var/www" }],
    ["a uid with an empty group", { imageUser: "33:" }, { uid: 33, gid: 33, groups: [33], home: "/var/www" }],
    [
      "the request's uid wins",
      { imageUser: "www-data", runAsUser: 1000 },
      { uid: 1000, gid: 1000, groups: [1000, 50000], home: "/home/default-user" },
    ],
    ["uid 0 is a uid", { imageUser: "www-data", runAsUser: 0 }, { uid: 0, gid: 0, groups: [0], home: "/root" }],
    ["the request's name", { runAsUsername: "www-data" }, { uid: 33, gid: 33, groups: [33], home: "/var/www" }],
    ["the request's group", { runAsUser: 1001, runAsGroup: 1002 }, { uid: 1001, gid: 1002, groups: [1002], home: "/" }],
    [
      "the first of two lines with one name",
      { runAsUsername: "default-user" },
      { uid: 1000, gid: 1000, groups: [1000, 50000], home: "/home/default-user" },
    ],
    ["the largest id", { imageUser: "4294967294" }, { uid: 4294967294, gid: 0, groups: [0], home: "/" }],
  ])("%s", (_name, changes, expected) => {
    expect(resolve(changes)).toMatchObject(expected);
  });

  it("has the groups that the policy says, the primary one among them, ascending", () => {
    const asked = { runAsUser: 1000, supplementalGroups: [1234] };
    expect(resolve({ ...asked, policy: "merge" }).groups).toEqual([1000, 1234, 50000]);
    expect(resolve({ ...asked, policy: "strict" }).groups).toEqual([1000, 1234]);
    expect(resolve({ ...asked, runAsGroup: 7, policy: "merge" }).groups).toEqual([7, 1234, 50000]);
  });

  it.each([
    "4294967296",
    "4294967295",
    "99999999999999999999",
    "-1",
    "+1",
    ":1000",
    "nobody-here",
    "broken",
    "overflow",
    "unchanged",
    "a\nb",
    "1000:nogroup",
    "33:4294967295",
    "33:-1",
  ])("refuses %j", (imageUser) => expect(kind({ imageUser })).toBe("invalid-argument"));

  it("never takes a number for a name", () => {
    const hostile: AccountFiles = { passwd: "1:x:0:0:root in disguise:/root:/bin/sh\n1000:x:0:0::/root:\n", group: "5:x:0:\n" };
    expect(resolve({ imageUser: "1" }, hostile)).toMatchObject({ uid: 1, gid: 0 });
    expect(resolve({ imageUser: "1:" }, hostile)).toMatchObject({ uid: 1 });
    expect(resolve({ runAsUser: 1000 }, hostile).uid).toBe(1000);
    expect(resolve({ imageUser: "1:5" }, hostile)).toMatchObject({ uid: 1, gid: 5 });
  });

  it("refuses a group without a user, and a user by id and by name", () => {
    expect(kind({ runAsGroup: 1000 })).toBe("invalid-argument");
    expect(kind({ runAsGroup: 1000, imageUser: "www-data" })).toBe("invalid-argument");
    expect(kind({ runAsUser: 1, runAsUsername: "root" })).toBe("invalid-argument");
    expect(kind({ runAsUser: 4294967295 })).toBe("invalid-argument");
    expect(kind({ supplementalGroups: [4294967295] })).toBe("invalid-argument");
  });

  it("does without account files", () => {
    const none: AccountFiles = { passwd: null, group: null };
    expect(resolve({}, none)).toMatchObject({ uid: 0, gid: 0, home: "/root" });
    expect(kind({ imageUser: "root" }, none)).toBe("invalid-argument");
  });

  it("refuses a home directory with a control byte, which would forge a line of its own", () => {
    expect(kind({ imageUser: "evil" }, { passwd: "evil:x:5:5::/home\u0007x:/bin/sh\n", group: null })).toBe("invalid-argument");
  });

  it("passes over lines too long to be lines", () => {
    const long = `long:x:5:5:${"x".repeat(300 << 10)}:/:\nwww-data:x:33:33::/var/www:\n`;
    expect(kind({ imageUser: "long" }, { passwd: long, group: null })).toBe("invalid-argument");
    expect(resolve({ imageUser: "www-data" }, { passwd: long, group: null }).uid).toBe(33);
  });
});

describe("reading the account files", () => {
  const op = (): Operation => new Operation({ name: "test", log: silentLogger(), timeoutMs: 1_000 });
  const root: FdHandle = { number: 3, release: () => 3, close: () => undefined };

  it.each(["ENOTSUP", "EFBIG", "ELOOP"])("blames the image for %s", async (errno) => {
    const kernel = { readInRoot: () => Promise.reject(new SystemError({ errno, syscall: "openat2", path: "etc/passwd", step: "read" })) };
    await expect(readAccountFiles(op(), kernel, root)).rejects.toMatchObject({ kind: "invalid-argument" });
  });

  it("passes a cap and the root along, and keeps what the kernel says otherwise", async () => {
    const caps: number[] = [];
    const kernel = { readInRoot: async ({ maxBytes }: { maxBytes: number }) => (caps.push(maxBytes) === 1 ? Buffer.from("a") : null) };
    expect(await readAccountFiles(op(), kernel, root)).toEqual({ passwd: "a", group: null });
    expect(caps).toEqual([10 << 20, 10 << 20]);
    const failing = { readInRoot: () => Promise.reject(new SystemError({ errno: "EIO", syscall: "read", path: "", step: "read" })) };
    await expect(readAccountFiles(op(), failing, root)).rejects.toBeInstanceOf(SystemError);
  });
});
