// Runs in the virtual machine: the native test programs, then vitest, as the plan beside the project says. Writes into the directory
// of its argument `native.json` ([{name, outcome, reason, seconds}]) and `vitest.json` (test/vm/reporter.mjs).

import { spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";

const results = process.argv[2] ?? "/run/results";
const root = resolve(import.meta.dirname, "../..");
const plan = JSON.parse(readFileSync(join(root, "vm-plan.json"), "utf8"));
const say = (text) => process.stdout.write(`${text}\n`);
const seconds = (since) => Math.round((performance.now() - since) / 100) / 10;

/** Resolves to `{code, signal, timedOut, output}`; the whole process group ends with the time. Through pipes: the console is no terminal to draw on. */
function run(command, args, { timeout, show = false }) {
  return new Promise((done) => {
    const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"], detached: true });
    let text = "";
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (data) => {
        if (show) process.stdout.write(data);
        else text += data;
      });
    }
    let timedOut = false;
    const end = () => {
      try {
        process.kill(-child.pid, "SIGKILL");
      } catch {
        // Nobody is left in the group.
      }
    };
    const timer = setTimeout(() => {
      timedOut = true;
      end();
    }, timeout);
    const finish = (code, signal) => {
      clearTimeout(timer);
      done({ code, signal, timedOut, output: text });
    };
    child.on("error", (error) => {
      text += `${error.message}\n`;
      finish(127, null);
    });
    child.on("close", finish);
  });
}

async function runNative() {
  const outcomes = [];
  for (const { name, command, timeout, skipCode, show } of plan.native) {
    const since = performance.now();
    const ended = await run(command[0], command.slice(1), { timeout, show });
    const outcome = ended.code === 0 ? "passed" : ended.code === skipCode ? "skipped" : "failed";
    const how = ended.timedOut ? `took longer than ${timeout / 1000} s` : (ended.signal ?? `exit code ${ended.code}`);
    const reason =
      outcome === "skipped" ? (ended.output.trim().split("\n").at(-1) ?? "no reason given") : outcome === "failed" ? how : null;
    outcomes.push({ name, outcome, reason, seconds: seconds(since) });
    say(`vm: ${outcome}: ${name}${reason === null ? "" : `: ${reason}`} (${seconds(since)} s)`);
    if (outcome === "failed") say(ended.output.trim().split("\n").slice(-150).join("\n"));
    writeFileSync(join(results, "native.json"), JSON.stringify(outcomes));
  }
}

/** In a network namespace of its own, as everywhere. */
async function runVitest({ projects, files, timeout, options }) {
  const since = performance.now();
  const vitest = [
    join(root, "node_modules/vitest/vitest.mjs"),
    "run",
    ...projects.map((project) => `--project=${project}`),
    `--reporter=${join(root, "test/vm/reporter.mjs")}`,
    ...options,
    ...files,
  ];
  process.env.BERTH_VM_REPORT = join(results, "vitest.json");
  const ended = await run("unshare", ["--net", "--", process.execPath, ...vitest], { timeout, show: true });
  say(`vm: vitest: ${seconds(since)} s${ended.timedOut ? ", ended because its time was over" : ""}`);
}

say(`vm: Node.js ${process.version} started after ${readFileSync("/proc/uptime", "utf8").split(" ")[0]} s`);
if (existsSync("/sys/kernel/security/apparmor/profiles")) say("vm: AppArmor is on");
await runNative();
if (plan.vitest.files.length > 0) await runVitest(plan.vitest);
