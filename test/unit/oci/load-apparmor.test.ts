import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { silentLogger } from "../../../src/base/log.ts";
import type { Kernel, ProgramArgs, ProgramResult } from "../../../src/kernel/contract.ts";
import { type LoadAppArmorOptions, loadDefaultAppArmorProfile } from "../../../src/oci/load-apparmor.ts";
import { backgroundOperation, type Operation } from "../../../src/operation/context.ts";

let directory = "";
let parser = "";
let calls: ProgramArgs[] = [];
let op: Operation;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "berth-apparmor-"));
  parser = join(directory, "parser");
  writeFileSync(parser, "", { mode: 0o755 });
  calls = [];
  op = backgroundOperation("test", silentLogger(), 5000);
});
afterEach(() => {
  op.dispose();
  rmSync(directory, { recursive: true });
});

const nothing = new Uint8Array();

function kernel(result: Partial<ProgramResult> = {}, appArmor = true): Pick<Kernel, "features" | "runProgram"> {
  return {
    features: () => ({ appArmor }) as ReturnType<Kernel["features"]>,
    runProgram(args) {
      calls.push(args);
      const whole = { exitCode: 0, signal: null, stdout: nothing, stderr: nothing, timedOut: false, outputExceeded: false, ...result };
      return { result: Promise.resolve(whole), kill: () => undefined };
    },
  };
}

const load = (changes: Partial<LoadAppArmorOptions> = {}): ReturnType<typeof loadDefaultAppArmorProfile> =>
  loadDefaultAppArmorProfile(op, {
    kernel: kernel(),
    profile: "berth-default",
    parser,
    loaded: async () => new Set(),
    policyDirectory: directory,
    ownLabel: async () => "unconfined",
    ...changes,
  });

describe("loading the AppArmor profile", () => {
  it("hands the text to the parser, also over a loaded one", async () => {
    expect(await load({ loaded: async () => new Set(["berth-default"]), ownLabel: async () => "/usr/bin/node (enforce)" })).toBe("loaded");
    expect(calls).toHaveLength(1);
    expect(calls[0]).toMatchObject({ path: parser, args: [parser, "--replace", "--skip-cache", "--quiet"] });
    const text = Buffer.from(calls[0]?.stdin ?? nothing).toString();
    expect(text).toContain('profile "berth-default"');
    expect(text).toContain('peer="/usr/bin/node"');
    expect(text).not.toContain("abi <");
  });

  it("does nothing without AppArmor, without a profile, or for one of the operator's", async () => {
    expect(await load({ kernel: kernel({}, false) })).toBe("unsupported");
    expect(await load({ profile: "" })).toBe("none");
    expect(await load({ profile: "mine" })).toBe("none");
    expect(await load({ profile: "mine", loaded: async () => new Set(["mine"]) })).toBe("present");
    expect(await load({ parser: "" })).toBe("none");
    expect(calls).toEqual([]);
  });

  it("takes a loaded profile where there is no parser, and says so where there is neither", async () => {
    const gone = join(directory, "absent");
    expect(await load({ parser: gone, loaded: async () => new Set(["berth-default"]) })).toBe("present");
    await expect(load({ parser: gone })).rejects.toMatchObject({ kind: "failed-precondition", message: expect.stringContaining(gone) });
  });

  it("tells what the parser said", async () => {
    const failing = kernel({ exitCode: 1, stderr: Buffer.from("Permission denied; attempted to load a profile while confined?\n") });
    await expect(load({ kernel: failing })).rejects.toMatchObject({
      kind: "failed-precondition",
      message: expect.stringMatching(/ended with 1: Permission denied/),
    });
  });
});
