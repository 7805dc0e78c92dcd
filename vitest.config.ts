import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

/** Everything takes longer in an emulated machine: see test/support/patience.ts. */
const seconds = 1000 * Math.max(1, Number(process.env["BERTH_TEST_SLOWNESS"] ?? 1));

/**
 * Files that have not passed as a whole yet: they run by name and in the nightly tier, not in CI. A file leaves this list
 * when all its tests pass.
 */
const unsettled = [
  "e2e/restart",
  "e2e/image",
  "e2e/streaming",
  "e2e/bad-input",
  "e2e/crictl",
  "e2e/exec-count",
  "unit/streaming/service",
].map((name) => `test/${name}.test.ts`);
const withUnsettled =
  process.env["BERTH_TIER"] === "nightly" || process.argv.some((arg) => unsettled.some((file) => file.includes(`/${arg}.`)));

/** A project's tests are the `*.test.ts` below test/<name>. With `node` they run against a whole node: see test/support/node.ts. */
const project = (name: string, timeout: number, serial: boolean, node = false) => ({
  extends: true as const,
  test: {
    name,
    include: [`test/${name}/**/*.test.ts`],
    exclude: withUnsettled ? [] : unsettled,
    testTimeout: timeout,
    hookTimeout: Math.max(timeout, 20 * seconds),
    // What takes the real kernel, the real ports and the real CNI state has the machine to itself.
    fileParallelism: !serial,
    globalSetup: node ? ["test/support/node-setup.ts"] : [],
  },
});

export default defineConfig({
  test: {
    // A process per file: the addon and signal handling want a main thread of their own.
    pool: "forks",
    passWithNoTests: true,
    restoreMocks: true,
    env: { BERTH_TOOLS: fileURLToPath(new URL(".cache/tools", import.meta.url)) },
    projects: [
      project("unit", 10 * seconds, false),
      project("native", 30 * seconds, true),
      project("e2e", 90 * seconds, true, true),
      project("security", 120 * seconds, true, true),
      project("fault", 120 * seconds, true, true),
      project("conformance", 1200 * seconds, true, true),
    ],
  },
});
