// npm run check: everything that can be told without root and in under a minute. All checks run; the failed ones are named at the end.

import { build } from "./build.mjs";
import { at, main, run, say } from "./project.mjs";
import { setup } from "./setup.mjs";

const node = process.execPath;

const checks = [
  ["format and lint", node, [at("node_modules/@biomejs/biome/bin/biome"), "check", "--error-on-warnings", at()]],
  ["types", node, [at("node_modules/typescript/bin/tsc"), "-p", at()]],
  ["imports", node, [at("scripts/check-imports.mjs")]],
  ["documents", node, [at("scripts/check-drift.mjs")]],
  ["unit tests", node, [at("node_modules/vitest/vitest.mjs"), "run", "--project=unit"]],
];

main(import.meta, async () => {
  await setup(["build"]);
  // Types and unit tests read what is generated.
  await build(["generate"]);
  const failed = [];
  for (const [name, command, args] of checks) {
    const start = Date.now();
    const { code } = await run(command, args, { timeout: 5 * 60_000 });
    say(`── ${name}: ${code === 0 ? "good" : "FAILED"} (${((Date.now() - start) / 1000).toFixed(1)} s)`);
    if (code !== 0) failed.push(name);
  }
  if (failed.length > 0) say(`check: failed: ${failed.join(", ")}`);
  return failed.length > 0 ? 1 : 0;
});
