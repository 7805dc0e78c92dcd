import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { parseReference, qualify, type Reference } from "../../../src/image/reference.ts";
import { parseChallenges } from "../../../src/image/registry/challenge.ts";
import { type Endpoint, findEndpoints } from "../../../src/image/registry/endpoints.ts";
import { checkPolicy } from "../../../src/image/registry/policy.ts";
import { findRegistry, readRegistriesConf } from "../../../src/image/registry/registries-conf.ts";
import { rejection } from "./rig.ts";

let directory: string;
const digest = `sha256:${"a".repeat(64)}`;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), "berth-registries-"));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

function reference(text: string): Reference {
  return qualify(parseReference(text), "docker.io");
}

async function conf(toml: string) {
  await writeFile(join(directory, "registries.conf"), toml);
  return readRegistriesConf(join(directory, "registries.conf"), join(directory, "registries.conf.d"));
}

async function endpoints(toml: string, text: string): Promise<readonly Endpoint[]> {
  return findEndpoints(await conf(toml), join(directory, "certs.d"), reference(text));
}

describe("registries.conf", () => {
  it("is empty where it is absent", async () => {
    const parsed = await readRegistriesConf(join(directory, "none"), join(directory, "none.d"));
    expect(parsed).toEqual({ unqualifiedSearchRegistries: [], aliases: {}, registries: [] });
  });

  it("lets drop-ins add and replace", async () => {
    await mkdir(join(directory, "registries.conf.d"));
    await writeFile(
      join(directory, "registries.conf.d", "20.conf"),
      '[[registry]]\nlocation="a.example"\nblocked=true\n[aliases]\n"x"="b.example/x"',
    );
    await writeFile(join(directory, "registries.conf.d", "10.conf"), 'unqualified-search-registries=["q.example"]');
    await writeFile(join(directory, "registries.conf.d", "99.txt"), "nonsense");
    const parsed = await conf('unqualified-search-registries=["p.example"]\n[[registry]]\nlocation="a.example"\ninsecure=true');
    expect(parsed.unqualifiedSearchRegistries).toEqual(["q.example"]);
    expect(parsed.aliases["x"]).toBe("b.example/x");
    expect(parsed.registries).toMatchObject([{ prefix: "a.example", blocked: true, insecure: false }]);
  });

  it("takes the longest prefix, at the boundary of a component", async () => {
    const parsed = await conf(
      ["a.example", "a.example/x", "*.b.example"].map((prefix) => `[[registry]]\nprefix="${prefix}"\nlocation="m.example"\n`).join(""),
    );
    expect(findRegistry(parsed, "a.example/x/y")?.prefix).toBe("a.example/x");
    expect(findRegistry(parsed, "a.example/xy")?.prefix).toBe("a.example");
    expect(findRegistry(parsed, "a.example.evil/x")).toBeNull();
    expect(findRegistry(parsed, "c.b.example/x")?.prefix).toBe("*.b.example");
    expect(findRegistry(parsed, "b.example/x")).toBeNull();
  });

  it.each(["x = ", '[[registry]]\nblocked="yes"\nlocation="a"', "[[registry]]\ninsecure=true", "unqualified-search-registries = 1"])(
    "a mistake in it is an error that names the file: %j",
    async (toml) => {
      const error = await rejection(conf(toml));
      expect(error.kind).toBe("failed-precondition");
      expect(error.message).toContain("registries.conf");
    },
  );
});

describe("endpoints", () => {
  it("are TLS on the host itself without configuration", async () => {
    expect(await endpoints("", "busybox")).toMatchObject([
      {
        base: "registry-1.docker.io/v2",
        host: "docker.io",
        repository: "library/busybox",
        schemes: ["https"],
        verifyTls: true,
        isMirror: false,
      },
    ]);
    // An address of this machine is no reason to do without it.
    expect(await endpoints("", "127.0.0.1:5000/a")).toMatchObject([{ schemes: ["https"], verifyTls: true }]);
  });

  it("put mirrors first and keep the path", async () => {
    const toml = `
[[registry]]
prefix = "registry.example"
location = "real.example/root"
[[registry.mirror]]
location = "127.0.0.1:5000"
insecure = true
[[registry.mirror]]
location = "m2.example/cache"
pull-from-mirror = "digest-only"
`;
    expect(
      (await endpoints(toml, "registry.example/team/app:1")).map(({ base, repository, schemes, isMirror }) => [
        base,
        repository,
        schemes,
        isMirror,
      ]),
    ).toEqual([
      ["127.0.0.1:5000/v2", "team/app", ["https", "http"], true],
      ["real.example/v2", "root/team/app", ["https"], false],
    ]);
    expect((await endpoints(toml, `registry.example/team/app@${digest}`)).map(({ repository }) => repository)).toEqual([
      "team/app",
      "cache/team/app",
      "root/team/app",
    ]);
  });

  it("obey mirror-by-digest-only and blocked", async () => {
    const toml = '[[registry]]\nlocation="a.example"\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation="m.example"\n';
    expect(await endpoints(toml, "a.example/x:1")).toHaveLength(1);
    expect(await endpoints(toml, `a.example/x@${digest}`)).toHaveLength(2);
    const error = await rejection(endpoints('[[registry]]\nlocation="a.example/x"\nblocked=true', "a.example/x/y:1"));
    expect(error).toMatchObject({ kind: "permission-denied", message: expect.stringContaining("a.example/x/y") });
  });

  it("come from hosts.toml where there is one", async () => {
    const hosts = join(directory, "certs.d", "registry.example");
    await mkdir(hosts, { recursive: true });
    await writeFile(join(hosts, "extra.crt"), "AUTHORITY");
    await writeFile(
      join(hosts, "hosts.toml"),
      `
server = "https://real.example"
[host."http://127.0.0.1:5000"]
capabilities = ["pull"]
[host."https://m.example/v2/cache"]
override_path = true
skip_verify = true
[host."https://m.example/v2/cache".header]
x-key = ["one"]
`,
    );
    const found = await endpoints('[[registry]]\nlocation="registry.example"\nblocked=false\n', "registry.example/a:1");
    expect(found.map(({ base, schemes, canResolve, verifyTls, isMirror }) => [base, schemes, canResolve, verifyTls, isMirror])).toEqual([
      ["127.0.0.1:5000/v2", ["http"], false, true, true],
      ["m.example/v2/cache", ["https"], true, false, true],
      ["real.example/v2", ["https"], true, true, false],
    ]);
    expect(found[1]?.headers).toEqual({ "x-key": "one" });
    expect(found[2]?.tls.authorities).toEqual(["AUTHORITY"]);
  });

  it.each(['server = "http://u:p@h"', '[host."x"]\ncapabilities = 3', '[host."http://h"]\n[host."http://h".header]\n"a b" = "c"'])(
    "refuse a mistaken hosts.toml: %j",
    async (toml) => {
      const hosts = join(directory, "certs.d", "registry.example");
      await mkdir(hosts, { recursive: true });
      await writeFile(join(hosts, "hosts.toml"), toml);
      expect(await rejection(endpoints("", "registry.example/a"))).toMatchObject({ kind: "failed-precondition" });
    },
  );
});

describe("policy.json", () => {
  const check = async (policy: unknown, text: string): Promise<void> => {
    await writeFile(join(directory, "policy.json"), typeof policy === "string" ? policy : JSON.stringify(policy));
    await checkPolicy(join(directory, "policy.json"), reference(text));
  };
  const accept = [{ type: "insecureAcceptAnything" }];
  const reject = [{ type: "reject" }];

  it("accepts where it is absent", async () => {
    await checkPolicy(join(directory, "none.json"), reference("a"));
  });

  it("takes the most specific scope", async () => {
    const policy = {
      default: reject,
      transports: { docker: { "a.example": accept, "a.example/x": reject, "a.example/x/y:1": accept, "*.b.example": accept } },
    };
    await check(policy, "a.example/z");
    await check(policy, "a.example/x/y:1");
    await check(policy, "c.b.example/z");
    for (const text of ["a.example/x/y:2", "a.example/x", "other.example/z"]) {
      expect(await rejection(check(policy, text))).toMatchObject({
        kind: "signature-validation-failed",
        message: expect.stringContaining("rejects"),
      });
    }
  });

  it.each([
    ["a signature that it cannot check", { default: [{ type: "signedBy", keyType: "GPGKeys" }] }, "not built yet"],
    ["a sigstore signature", { default: accept, transports: { docker: { "docker.io": [{ type: "sigstoreSigned" }] } } }, "not built yet"],
    ["one of several", { default: [{ type: "insecureAcceptAnything" }, { type: "reject" }] }, "rejects"],
    ["nothing at all", { default: [] }, "empty"],
    ["no default", {}, "malformed"],
    ["no JSON", "{", "malformed"],
  ])("refuses where it requires %s", async (_what, policy, why) => {
    expect(await rejection(check(policy, "busybox"))).toMatchObject({
      kind: "signature-validation-failed",
      message: expect.stringContaining(why),
    });
  });
});

describe("challenges", () => {
  const parse = (header: string) => parseChallenges(header).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);

  it.each([
    ["", []],
    ["Basic", [["basic", {}]]],
    [
      'Bearer realm="https://a/t",service="s",scope="repository:x:pull,push"',
      [["bearer", { realm: "https://a/t", service: "s", scope: "repository:x:pull,push" }]],
    ],
    [
      'Basic realm="a, b=c", Bearer Realm="d\\"e" , service = f',
      [
        ["basic", { realm: "a, b=c" }],
        ["bearer", { realm: 'd"e', service: "f" }],
      ],
    ],
    [
      'Negotiate, Basic realm="x"',
      [
        ["negotiate", {}],
        ["basic", { realm: "x" }],
      ],
    ],
    ['Bearer realm="unterminated', [["bearer", { realm: "unterminated" }]]],
    ['=,="', []],
  ])("%s", (header, expected) => {
    expect(parse(header)).toEqual(expected);
  });
});
