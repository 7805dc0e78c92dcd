import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

const checkout = new URL("../../../", import.meta.url).pathname;
let root = "";

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "berth-drift-"));
  // What the dependency checks need; the rest of each checkout is the test's own.
  for (const file of ["package.json", "package-lock.json", "docs/dependencies.md"]) put(file, readFileSync(join(checkout, file), "utf8"));
  cpSync(join(checkout, "test/tools"), join(root, "test/tools"), { recursive: true });
  mkdirSync(join(root, "unpack"));
});
afterEach(() => rmSync(root, { recursive: true }));

function put(path: string, text: string): void {
  mkdirSync(join(root, dirname(path)), { recursive: true });
  writeFileSync(join(root, path), text);
}

function offences(): string[] {
  const { stdout, status } = spawnSync(process.execPath, [join(checkout, "scripts/check-drift.mjs"), root], { encoding: "utf8" });
  const lines = stdout.split("\n").filter((line) => line !== "" && !line.startsWith("check-drift:"));
  expect(status).toBe(lines.length > 0 ? 1 : 0);
  return lines;
}

describe("references", () => {
  it("accepts paths, links and commands that exist, patterns, and what a build makes", () => {
    put("docs/a.md", "");
    put("AGENTS.md", "`docs/a.md`, [a](docs/a.md#top), [web](https://example.org/x), `docs/*.md`, `dist/native`, `npm run check`\n");
    expect(offences()).toEqual([]);
  });

  it("reports a path, a link and a command that do not, with their line", () => {
    put("AGENTS.md", "x\n`docs/gone.md` [y](docs/b.md)\n`npm run fly`\n`NOWHERE.md`\n");
    expect(offences()).toEqual([
      "AGENTS.md:2: link to docs/b.md, which is not there",
      "AGENTS.md:3: npm run fly is no script of package.json",
      "AGENTS.md:2: `docs/gone.md` is not there",
      "AGENTS.md:4: `NOWHERE.md` is not there",
    ]);
  });
});

describe("dependencies", () => {
  const edit = (from: string, to: string): void => {
    const path = join(root, "docs/dependencies.md");
    const text = readFileSync(path, "utf8");
    expect(text).toContain(from);
    writeFileSync(path, text.replace(from, to));
  };

  it("reports another version, a missing package and one that is gone", () => {
    edit("| `ws` | 8.23.0 |", "| `ws` | 8.22.0 |");
    edit("| `strace` |", "| `ltrace` |");
    expect(offences()).toEqual([
      "docs/dependencies.md: ws is 8.23.0, not 8.22.0",
      "docs/dependencies.md: strace is missing",
      "docs/dependencies.md: ltrace is no dependency any more",
    ]);
  });

  it("reports a lock file that names its registry or lacks a platform", () => {
    const lock = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8"));
    lock.packages["node_modules/ws"].resolved = "https://registry.example/ws.tgz";
    delete lock.packages["node_modules/@biomejs/cli-darwin-x64"];
    put("package-lock.json", JSON.stringify(lock));
    expect(offences()).toEqual([
      "package-lock.json: @biomejs/cli-darwin-x64, optional for node_modules/@biomejs/biome, has no entry",
      "package-lock.json: node_modules/ws names where it was fetched from",
    ]);
  });
});

describe("the specification's numbers", () => {
  it("accepts rows whose proof exists, and rows without numbers", () => {
    put("test/e2e/exec-count.test.ts", "");
    put("test/bench/pod.ts", "");
    put(
      "SPECIFICATION.md",
      "| What | Value | Shown by |\n|---|---|---|\n| execs | 1 | `test/e2e/exec-count.test.ts` |\n| run | 6 ms | `npm run bench -- pod` |\n| a | b | |\n",
    );
    expect(offences()).toEqual([]);
  });

  it("reports a number that nothing shows and a table that does not say", () => {
    put(
      "SPECIFICATION.md",
      "| What | Value | Shown by |\n|---|---|---|\n| run | 6 ms | `npm run bench -- pods` |\n\n| What | Value |\n|---|---|\n| x | 3 |\n",
    );
    expect(offences()).toEqual([
      'SPECIFICATION.md:3: "`npm run bench -- pods`" names no test or benchmark that exists',
      'SPECIFICATION.md:7: numbers without a column "Shown by"',
    ]);
  });
});
