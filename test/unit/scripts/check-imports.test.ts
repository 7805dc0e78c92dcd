import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

const script = new URL("../../../scripts/check-imports.mjs", import.meta.url).pathname;
let root = "";

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "berth-imports-"));
});
afterEach(() => rmSync(root, { recursive: true }));

/** Writes a small checkout, checks it, and returns the offences. */
function offences(files: Record<string, string>): string[] {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(root, dirname(path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  const { stdout, status } = spawnSync(process.execPath, [script, root], { encoding: "utf8" });
  const lines = stdout.split("\n").filter((line) => line !== "" && !line.startsWith("check-imports:"));
  expect(status).toBe(lines.length > 0 ? 1 : 0);
  return lines;
}

describe("TypeScript rooms", () => {
  it("accepts what goes to the right, and base and operation everywhere", () => {
    expect(
      offences({
        "src/server/run.ts": 'import { a } from "../sandbox/run.ts";\nimport type { b } from "../base/errors.ts";\n',
        "src/sandbox/run.ts": 'import { k } from "../kernel/contract.ts";\nimport { o } from "../operation/context.ts";\n',
        "src/kernel/contract.ts": "",
        "src/operation/context.ts": 'import "../base/errors.ts";\n',
        "src/base/errors.ts": "",
      }),
    ).toEqual([]);
  });

  it("refuses what goes to the left, types included, and names the line", () => {
    const files = { "src/kernel/load.ts": 'import "node:fs";\n\nimport type { X } from "../sandbox/run.ts";\n', "src/sandbox/run.ts": "" };
    expect(offences(files)).toEqual(["src/kernel/load.ts:3: kernel may not import sandbox (src/sandbox/run.ts)"]);
  });

  it("sees imports over several lines, dynamic ones and re-exports, not those in comments", () => {
    const files = {
      "src/image/pull.ts":
        'import {\n  a,\n  b,\n} from "../server/a.ts";\nexport * from "../cli/b.ts";\nawait import("../oci/c.ts");\n// import "../daemon/d.ts";\n',
      "src/server/a.ts": "",
      "src/cli/b.ts": "",
      "src/oci/c.ts": "",
    };
    expect(offences(files)).toEqual([
      "src/image/pull.ts:1: image may not import server (src/server/a.ts)",
      "src/image/pull.ts:5: image may not import cli (src/cli/b.ts)",
      "src/image/pull.ts:6: image may not import oci (src/oci/c.ts)",
    ]);
  });

  it("lets only server see generated CRI types and only kernel load the addon", () => {
    const files = {
      "src/server/list.ts": 'import { runtime } from "../../build/generated/cri/runtime.js";\n',
      "src/container/list.ts": 'import { runtime } from "../../build/generated/cri/runtime.js";\n',
      "src/kernel/load.ts": "process.dlopen(module, path);\n",
      "src/oci/run.ts": "process.dlopen(module, path);\n",
    };
    expect(offences(files)).toEqual([
      "src/container/list.ts:1: container may not import api/cri (build/generated/cri/runtime.js)",
      "src/oci/run.ts:1: only src/kernel loads the addon",
    ]);
  });

  it("reports circles among the lowest rooms, types included", () => {
    const files = {
      "src/state/a.ts": 'import type { B } from "../config/b.ts";\n',
      "src/config/b.ts": 'import "../state/c.ts";\n',
      "src/state/c.ts": "",
    };
    expect(offences(files)).toEqual(["circle: src/config → src/state (src/config/b.ts:1), src/state → src/config (src/state/a.ts:1)"]);
  });

  it("reports circles among sibling folders of one room", () => {
    const files = {
      "src/oci/spec/a.ts": 'import type { B } from "../handlers/b.ts";\n',
      "src/oci/handlers/b.ts": 'import { c } from "../spec/c.ts";\n',
      "src/oci/spec/c.ts": "",
    };
    expect(offences(files)).toEqual([
      "circle: src/oci/handlers → src/oci/spec (src/oci/handlers/b.ts:1), src/oci/spec → src/oci/handlers (src/oci/spec/a.ts:1)",
    ]);
  });

  it("accepts a folder and the folders below it, as long as no two files need one another", () => {
    const files = {
      "src/oci/run.ts": 'import "./spec/build.ts";\n',
      "src/oci/spec/build.ts": 'import { x } from "../ids.ts";\nimport type { T } from "../run.ts";\n',
      "src/oci/ids.ts": "",
    };
    expect(offences(files)).toEqual([]);
    expect(offences({ ...files, "src/oci/ids.ts": 'import { b } from "./spec/build.ts";\n' })).toEqual([
      "circle: src/oci/ids.ts → src/oci/spec/build.ts (src/oci/ids.ts:1), src/oci/spec/build.ts → src/oci/ids.ts (src/oci/spec/build.ts:1)",
    ]);
  });

  it("refuses a room that the table does not know and a file that is not there", () => {
    expect(offences({ "src/misc/a.ts": "", "src/base/a.ts": 'import "./b.ts";\n' })).toEqual([
      "src/base/a.ts:1: src/base/b.ts is not there",
      "src/misc/a.ts: src/misc is no room of the import table",
    ]);
  });
});

describe("C++ rooms", () => {
  it("lets programs include core and not one another", () => {
    const files = {
      "core/base/fd.h": "",
      "conmon/loop.h": '#include "core/base/fd.h"\n',
      "addon/spawn.cc": '#include <vector>\n#include "core/base/fd.h"\n#include "conmon/loop.h"\n',
      "core/sys/mount.cc": '#include "conmon/loop.h"\n',
    };
    expect(offences(files)).toEqual([
      "core/sys/mount.cc:1: core may not include conmon (conmon/loop.h)",
      "addon/spawn.cc:3: addon may not include conmon (conmon/loop.h)",
    ]);
  });

  it("reports circles among the folders of core", () => {
    const files = { "core/plan/a.h": '#include "core/spec/b.h"\n', "core/spec/b.h": '#include "core/plan/a.h"\n' };
    expect(offences(files)).toEqual(["circle: core/plan → core/spec (core/plan/a.h:1), core/spec → core/plan (core/spec/b.h:1)"]);
  });
});
