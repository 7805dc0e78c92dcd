// npm test, npm run test:STAGE: sets up, builds, runs the named stages and ends with one line
//
//     N passed, N failed, N skipped
//
// Exit code 1 when something failed or nothing ran. A stage that crashes, hangs or cannot be built is a failure of its own;
// every skip is printed with its reason. Options after the stage go to vitest (`npm run test:e2e -- -t name`).

import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, relative } from "node:path";
import { build, native as buildNative } from "./build.mjs";
import { goTools } from "./go-tools.mjs";
import { at, isRoot, main, run, say } from "./project.mjs";
import { setup } from "./setup.mjs";

const minutes = 60_000;

/**
 * `groups`: Debian packages beyond those that build. `root`: needs root, and runs in a network namespace of its own so that
 * bridges, addresses and NAT rules never touch the host's. `built`: runs against dist/. `tools`: Go programs. `nightly`: another
 * timeout for the long tier.
 */
const stages = {
  unit: { groups: [], timeout: 5 * minutes },
  native: { groups: ["run", "test"], timeout: 10 * minutes, ctest: true },
  e2e: { groups: ["run", "demo", "test"], timeout: 20 * minutes, root: true, built: true, tools: ["crictl"] },
  security: { groups: ["run", "demo", "test"], timeout: 15 * minutes, root: true, built: true },
  fault: { groups: ["run", "demo", "test"], timeout: 15 * minutes, root: true, built: true },
  conformance: { groups: ["run", "demo", "test"], timeout: 30 * minutes, root: true, built: true, tools: ["crictl", "critest"] },
  vm: { groups: ["run", "demo", "test", "vm"], timeout: 20 * minutes, nightly: 120 * minutes, built: true, script: "scripts/test-vm.mjs" },
};

/** What a stage name on the command line runs. Stages without a test yet are left out of the lists, not out of the table. */
const plans = {
  ...Object.fromEntries(Object.keys(stages).map((name) => [name, [name]])),
  all: ["unit", "native", "e2e", "security", "fault", "conformance"],
  nightly: ["unit", "native", "sanitized", "e2e", "security", "fault", "conformance", "vm"],
};

/** `npm test` has to fit CI; what is not reached by then counts as failed. The long tier may take the night. */
const budgets = { all: 42 * minutes, nightly: 8 * 60 * minutes };

const results = at("build/test-results");
const total = { passed: 0, failed: 0, skipped: 0 };

main(import.meta, async ([name = "all", ...rest]) => {
  const plan = plans[name];
  if (plan === undefined) {
    say(`test: no stage ${name}; there are ${Object.keys(plans).join(", ")}`);
    return 2;
  }
  const deadline = Date.now() + (budgets[name] ?? 60 * minutes);
  if (name === "nightly") process.env.BERTH_TIER = "nightly";
  try {
    await runPlan(
      plan.filter((stage) => name === stage || hasTests(stage)),
      deadline,
      rest,
    );
  } catch (error) {
    fail("test", error.message);
  }
  const ran = total.passed + total.failed;
  if (ran === 0) say("test: nothing ran");
  say(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  return total.failed > 0 || ran === 0 ? 1 : 0;
});

async function runPlan(plan, deadline, vitestOptions) {
  let able = plan.filter((stage) => {
    if (!stages[stage]?.root || isRoot) return true;
    skip(stage, "needs root");
    return false;
  });
  if (able.length === 0) return;
  const groups = new Set(["build", ...able.flatMap((stage) => stages[stage]?.groups ?? [])]);
  await timed("setup", () => setup([...groups]));
  const built = able.some((stage) => stages[stage]?.built);
  await timed("generate", () => build(["generate"]));
  try {
    await timed("build", () => build(["native", ...(built ? ["bundle"] : [])]));
  } catch (error) {
    // Unit tests run on sources alone, so they can still tell something.
    fail("build", error.message);
    able = able.filter((stage) => stage === "unit");
  }
  const tools = new Set(able.flatMap((stage) => stages[stage]?.tools ?? []));
  if (tools.size > 0) {
    await timed("go tools", async () => {
      try {
        for (const tool of await goTools([...tools])) if (tool.skipped !== null) skip(`the tests that need ${tool.name}`, tool.skipped);
      } catch (error) {
        // The other tests can still tell something.
        fail("go tools", error.message);
      }
    });
  }
  mkdirSync(results, { recursive: true });
  for (const stage of able) {
    const left = deadline - Date.now();
    if (left < 10_000) {
      fail(stage, "not run: the time for all stages is used up");
      continue;
    }
    const { timeout: usual = 60 * minutes, nightly = usual } = stages[stage] ?? {};
    const timeout = Math.min(process.env.BERTH_TIER === "nightly" ? nightly : usual, left);
    try {
      await timed(stage, () => runStage(stage, timeout, vitestOptions));
    } catch (error) {
      fail(stage, error.stack);
    }
  }
}

async function runStage(stage, timeout, vitestOptions) {
  if (stage === "sanitized") return runCtest(stage, await buildNative({ sanitize: "address,undefined" }), timeout);
  const { script, ctest } = stages[stage];
  if (script !== undefined) return runScript(stage, script, timeout);
  if (ctest) await runCtest(stage, at("build/native-build"), timeout);
  if (testFiles(stage).length > 0) await runVitest(stage, timeout, vitestOptions);
}

// --- vitest ---

async function runVitest(stage, timeout, options) {
  const report = `${results}/${stage}.json`;
  rmSync(report, { force: true });
  const reporters = [
    "--reporter=default",
    `--reporter=${at("scripts/vitest-skips.mjs")}`,
    "--reporter=json",
    `--outputFile.json=${report}`,
  ];
  const vitest = [process.execPath, at("node_modules/vitest/vitest.mjs"), "run", `--project=${stage}`, ...reporters, ...options];
  const [program, ...args] = stages[stage].root ? ["/usr/bin/unshare", "--net", "--", ...vitest] : vitest;
  const ended = await run(program, args, { timeout });
  const json = readJson(report);
  if (json === null)
    return fail(stage, ended.timedOut ? `took longer than ${minutesOf(timeout)}` : `vitest ended (${how(ended)}) without a report`);
  const counts = {
    passed: json.numPassedTests,
    // A file that cannot be loaded has no test that could fail.
    failed:
      json.numFailedTests +
      json.testResults.filter((file) => file.status === "failed" && !file.assertionResults.some((test) => test.status === "failed")).length,
    skipped: json.numPendingTests + json.numTodoTests,
  };
  add(counts);
  if (ended.code !== 0 && counts.failed === 0) fail(stage, `vitest ended with ${how(ended)} although no test failed`);
}

// --- ctest ---

async function runCtest(stage, tree, timeout) {
  if (!existsSync(`${tree}/CTestTestfile.cmake`)) return;
  const report = `${results}/${stage}-ctest.xml`;
  rmSync(report, { force: true });
  const parallel = String(availableParallelism());
  const ended = await run("ctest", ["--test-dir", tree, "--output-on-failure", "-j", parallel, "--output-junit", report], { timeout });
  const junit = readOr(report, "");
  const suite = /<testsuite\b[^>]*>/.exec(junit)?.[0];
  if (suite === undefined) {
    // ctest writes no report where there is no test.
    if (ended.code !== 0) fail(stage, `ctest ended (${how(ended)}) without a report`);
    return;
  }
  const attribute = (name) => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(suite)?.[1] ?? 0);
  const counts = { failed: attribute("failures"), skipped: attribute("skipped") + attribute("disabled") };
  add({ ...counts, passed: attribute("tests") - counts.failed - counts.skipped });
  for (const [, name, body] of junit.matchAll(/<testcase name="([^"]*)"[^>]*status="notrun"[^>]*>([\s\S]*?)<\/testcase>/g)) {
    const words = /<system-out>([\s\S]*?)<\/system-out>/.exec(body)?.[1]?.trim().split("\n").at(-1);
    say(`skipped: ${name}: ${words || "no reason given"}`);
  }
  if (ended.code !== 0 && counts.failed === 0) fail(stage, `ctest ended with ${how(ended)} although no test failed`);
}

// --- stages that are programs of their own ---

/** The program writes `{passed, failed, skipped}` to the file that BERTH_TEST_REPORT names. */
async function runScript(stage, script, timeout) {
  if (!existsSync(at(script))) return skip(stage, `${script} is not written yet`);
  const report = `${results}/${stage}.json`;
  rmSync(report, { force: true });
  const ended = await run(process.execPath, [at(script)], { timeout, env: { BERTH_TEST_REPORT: report } });
  const counts = readJson(report);
  if (counts === null) return fail(stage, `${script} ended (${how(ended)}) without a report`);
  add(counts);
  if (ended.code !== 0 && counts.failed === 0) fail(stage, `${script} ended with ${how(ended)} although no test failed`);
}

// --- counting and telling ---

function add(counts) {
  for (const key of Object.keys(total)) total[key] += counts[key];
}

function fail(what, why) {
  total.failed++;
  say(`failed: ${what}: ${why}`);
}

function skip(what, why) {
  total.skipped++;
  say(`skipped: ${what}: ${why}`);
}

async function timed(name, body) {
  const start = Date.now();
  say(`── ${name}`);
  await body();
  say(`── ${name}: ${((Date.now() - start) / 1000).toFixed(1)} s`);
}

function hasTests(stage) {
  if (stage === "sanitized" || stages[stage].ctest) return true;
  const { script } = stages[stage];
  return script === undefined ? testFiles(stage).length > 0 : existsSync(at(script));
}

function testFiles(stage) {
  if (!existsSync(at("test", stage))) return [];
  return readdirSync(at("test", stage), { recursive: true }).filter((file) => file.endsWith(".test.ts"));
}

const how = (ended) => ended.signal ?? `exit code ${ended.code}`;
const minutesOf = (ms) => `${Math.round(ms / minutes)} minutes`;

function readOr(file, otherwise) {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return otherwise;
  }
}

function readJson(file) {
  const text = readOr(file, null);
  if (text === null) return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    say(`test: ${relative(at(), file)} (${basename(file)}) is cut short: ${error.message}`);
    return null;
  }
}
