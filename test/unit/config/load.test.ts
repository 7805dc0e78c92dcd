import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DomainError } from "../../../src/base/errors.ts";
import { dropInDirectory, loadConfig } from "../../../src/config/load.ts";
import { configurationReference, printConfig } from "../../../src/config/print.ts";
import { optionSpecs } from "../../../src/config/schema.ts";

let directory: string;
let path: string;
const load = (sets: string[] = []) => loadConfig({ path, required: false, sets });

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "berth-config-"));
  path = join(directory, "berth.toml");
});
afterEach(() => rmSync(directory, { recursive: true }));

describe("loadConfig", () => {
  it("takes the defaults where there is no file", () => {
    const { config, files } = load();
    expect(files).toEqual([]);
    expect(config.api.socket).toBe("/run/berth/berth.sock");
    expect(config.runtime.handlers).toEqual({ native: { type: "native", path: "", root: "" } });
    expect(Object.isFrozen(config.runtime.handlers)).toBe(true);
  });

  it("lets drop-ins win over the file by name, and --set over both", () => {
    writeFileSync(path, '[log]\nlevel = "warn"\n[api]\nmax_message_bytes = 1\ndefault_timeout_ms = 1\n');
    mkdirSync(dropInDirectory(path));
    writeFileSync(join(dropInDirectory(path), "20.toml"), "api.default_timeout_ms = 20\n");
    writeFileSync(join(dropInDirectory(path), "10.toml"), "api.default_timeout_ms = 10\napi.max_message_bytes = 10\n");
    writeFileSync(join(dropInDirectory(path), "30.txt"), "nonsense");
    const { config, origins } = load(["log.level=debug"]);
    expect(config.log.level).toBe("debug");
    expect(config.api.maxMessageBytes).toBe(10);
    expect(config.api.defaultTimeoutMs).toBe(20);
    expect(origins.get("log.level")).toBe("--set");
    expect(origins.get("api.default_timeout_ms")).toBe(join(dropInDirectory(path), "20.toml"));
  });

  it.each([
    ["log.levle = 'warn'", /unknown option log\.levle; did you mean log\.level\?/],
    ["nonsense_without_neighbour = 1", /unknown option nonsense_without_neighbour$/],
    ["log.level = 'loud'", /log\.level: .*"loud"/],
    ["api.max_message_bytes = -1", /api\.max_message_bytes/],
    ["api.max_message_bytes = 'big'", /api\.max_message_bytes/],
    ["root = 'relative'", /root: must be an absolute path/],
    ["[runtime.handlers.runc]\ntype = 'command'", /runtime\.handlers\.runc: a command handler needs a path/],
    ["runtime.default_handler = 'kata'", /default_handler "kata" is not in runtime\.handlers/],
    ["runtime.monitor_cgroup = '/berth-pods/monitors'", /must not be below/],
    ["root = '/a'\nrun_root = '/a'", /must differ/],
    ["root = ", /is not valid TOML/],
  ])("refuses %j and says why", (text, message) => {
    writeFileSync(path, text);
    expect(load).toThrow(message);
    expect(load).toThrow(DomainError);
  });

  it("refuses a named file that is missing", () => {
    expect(() => loadConfig({ path, required: true, sets: [] })).toThrow(/cannot be read: ENOENT/);
  });

  it("refuses --set without a value", () => {
    expect(() => load(["log.level"])).toThrow(/is not key=value/);
  });

  it("keeps the native handler beside configured ones", () => {
    const { config } = load(["runtime.handlers={runc={type='command',path='/usr/sbin/runc'}}"]);
    expect(Object.keys(config.runtime.handlers)).toEqual(["native", "runc"]);
  });
});

describe("printConfig", () => {
  it("prints what loadConfig reads back to the same configuration", () => {
    const first = load(["log.level=debug", "image.pinned=['a','b']", "runtime.handlers={runc={type='command',path='/usr/sbin/runc'}}"]);
    writeFileSync(path, printConfig(first));
    expect(load().config).toEqual(first.config);
  });

  it("documents every key", () => {
    const text = configurationReference();
    for (const spec of optionSpecs) expect(text).toContain(`\`${spec.key}\``);
  });
});
