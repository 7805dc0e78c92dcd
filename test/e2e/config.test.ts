/** The `berth` command beside `serve`: config, version, check, status. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parse } from "smol-toml";
import { afterAll, describe, expect, test } from "vitest";
import { dist } from "../support/daemon.ts";
import { until, useNode } from "../support/node.ts";

const node = useNode("config", { pull: false, network: false });

const directory = mkdtempSync(join(tmpdir(), "berth-config-"));
const file = join(directory, "berth.toml");
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function berth(...args: readonly string[]): { code: number | null; stdout: string; stderr: string } {
  const {
    status: code,
    stdout,
    stderr,
  } = spawnSync(process.execPath, [join(dist, "berth.mjs"), ...args], { encoding: "utf8", timeout: 20_000 });
  return { code, stdout, stderr };
}

describe("berth config", () => {
  test("prints the effective configuration as TOML that it reads again", () => {
    writeFileSync(file, 'run_root = "/run/elsewhere"\n[log]\nlevel = "warn"\n');
    const first = berth("config", "--config", file);
    expect(first.stderr).toBe("");
    expect(first.code).toBe(0);
    const parsed = parse(first.stdout) as Record<string, Record<string, unknown>>;
    expect(parsed["run_root"]).toBe("/run/elsewhere");
    expect(parsed["log"]?.["level"]).toBe("warn");
    expect(parsed["api"]?.["socket"]).toBe("/run/berth/berth.sock");
    writeFileSync(file, first.stdout);
    expect(parse(berth("config", "--config", file).stdout)).toEqual(parsed);
  });

  test("flags win over files", () => {
    writeFileSync(file, '[log]\nlevel = "warn"\n');
    const { stdout } = berth("config", "--config", file, "--set", "log.level=debug", "--set", "runtime.pids_limit=77");
    const parsed = parse(stdout) as Record<string, Record<string, unknown>>;
    expect([parsed["log"]?.["level"], parsed["runtime"]?.["pids_limit"]]).toEqual(["debug", 77]);
  });

  test("prints defaults and a reference", () => {
    expect(parse(berth("config", "--default").stdout)).toMatchObject({ root: "/var/lib/berth" });
    expect(berth("config", "--reference").stdout).toMatch(/\| `?api\.socket`? \|/);
  });

  test.each([
    ["an unknown key", "[log]\nlevle = 'x'\n", /levle/],
    ["a wrong type", "[metrics]\nenabled = 'yes'\n", /metrics\.enabled/],
    ["a value that is not allowed", "[log]\nlevel = 'loud'\n", /log\.level/],
    ["a relative path", "root = 'here'\n", /root.*absolute/s],
    ["no TOML", "root = \n", /berth\.toml/],
  ])("refuses %s with exit code 2 and a message that names it", (_title, text, message) => {
    writeFileSync(file, text);
    for (const command of ["config", "serve"]) {
      const { code, stderr, stdout } = berth(command, "--config", file);
      expect(code, command).toBe(2);
      expect(stderr).toMatch(message);
      expect(stderr).not.toMatch(/\n\s+at /);
      expect(stdout).toBe("");
    }
  });

  test("refuses a bad flag and a missing file by name", () => {
    writeFileSync(file, "");
    expect(berth("config", "--config", file, "--set", "no.such=1")).toMatchObject({ code: 2, stderr: expect.stringContaining("no.such") });
    expect(berth("config", "--config", "/no/such.toml")).toMatchObject({ code: 2, stderr: expect.stringContaining("/no/such.toml") });
  });
});

describe("drop-ins", () => {
  test("are read by name, each over the one before", () => {
    writeFileSync(file, '[log]\nlevel = "warn"\nformat = "text"\n');
    const drops = file.replace(/\.toml$/, ".conf.d");
    mkdirSync(drops);
    writeFileSync(join(drops, "20-b.toml"), '[log]\nlevel = "error"\n');
    writeFileSync(join(drops, "10-a.toml"), '[log]\nlevel = "info"\n');
    writeFileSync(join(drops, "30-ignored.txt"), '[log]\nlevel = "trace"\n');
    const { log } = parse(berth("config", "--config", file).stdout) as { log: Record<string, unknown> };
    expect(log).toMatchObject({ level: "error", format: "text" });
    rmSync(drops, { recursive: true });
  });
});

test("berth version", () => {
  expect(berth("version").stdout).toMatch(/^berth \d+\.\d+\.\d+\S* \(CRI runtime\.v1, Node\.js v20/);
  expect(JSON.parse(berth("version", "--json").stdout)).toMatchObject({ cri: "runtime.v1" });
});

test("berth check tells what the host has, and fails where it cannot work", () => {
  writeFileSync(file, "");
  const good = berth("check", "--config", file);
  expect(good.code).toBe(0);
  expect(good.stdout).toMatch(/^ok +kernel \d/m);
  expect(good.stdout).toMatch(/CNI/);
  expect(good.stdout).not.toMatch(/^error/m);
  writeFileSync(file, "root = 3\n");
  const bad = berth("check", "--config", file);
  expect([bad.code, bad.stdout]).toEqual([1, expect.stringMatching(/^error .*root/m)]);
});

test("berth status asks the running daemon; without one it says so", () => {
  const asked = berth("status", "--config", node.directories.configFile);
  expect(asked.stdout).toMatch(/^RuntimeReady: yes$/m);
  expect(asked.stdout).toMatch(/^NetworkReady: no \(NetworkPluginNotReady/m);
  expect(asked.code).toBe(1);
  expect(JSON.parse(berth("status", "--json", "--config", node.directories.configFile).stdout)).toMatchObject({
    sandboxes: 0,
    containers: 0,
  });
  writeFileSync(file, `[api]\nsocket = "${join(directory, "nobody.sock")}"\n`);
  expect(berth("status", "--config", file)).toMatchObject({ code: 1, stderr: expect.stringContaining("nobody.sock") });
});

test("berth serve that gets no socket fails with one line", () => {
  writeFileSync(
    file,
    `root = "${join(directory, "root")}"\nrun_root = "${join(directory, "run")}"\n[api]\nsocket = "${join(directory, "x".repeat(120))}"\n[metrics]\nenabled = false\n`,
  );
  const { code, stderr } = berth("serve", "--config", file);
  expect(code).not.toBe(0);
  expect(stderr).toMatch(/socket path .* is longer than/);
});

test("an unknown command or flag is refused with help", () => {
  expect(berth("no-such-command").code).not.toBe(0);
  expect(berth("serve", "--no-such-flag")).toMatchObject({ code: 1, stderr: expect.stringContaining("--no-such-flag") });
});

test("the socket and its directory are for root and its group alone", () => {
  expect(statSync(node.directories.socket).mode & 0o777).toBe(0o660);
  expect(statSync(node.directories.runRoot).mode & 0o777).toBe(0o750);
  expect(statSync(node.directories.root).mode & 0o777).toBe(0o700);
});

test("SIGHUP reloads what can be reloaded; a configuration that is not valid changes nothing", async () => {
  const original = readFileSync(node.directories.configFile, "utf8");
  try {
    writeFileSync(node.directories.configFile, original.replace('level = "debug"', 'level = "trace"'));
    node.daemon.process.kill("SIGHUP");
    await until("it is reloaded", () => /"level":"trace".*configuration reloaded/.test(node.daemon.log()));
    await node.runtime.Version({});
    writeFileSync(node.directories.configFile, "this is = = no toml");
    node.daemon.process.kill("SIGHUP");
    await until("it is refused", () => node.daemon.log().includes("not reloaded"));
    await node.runtime.Version({});
  } finally {
    writeFileSync(node.directories.configFile, original);
    node.daemon.process.kill("SIGHUP");
  }
});
