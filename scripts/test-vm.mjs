// npm run test:vm: boots a virtual machine with cgroup v2 alone, AppArmor and every capability, and runs there the native test programs
// and the vitest projects that `chosen` names. `scripts/test.mjs` starts it, so that everything is set up and built.
//
// Options go to the guest's vitest (`-t NAME`); words narrow the choice: `node scripts/test-vm.mjs native e2e/pod-lifecycle`.
// There is no KVM: the machine is emulated and everything in it takes ten to twenty times as long, hence a choice and not all.
// To look around there: `--run='COMMAND'` runs a shell command instead of the tests, `--with=PATH` brings a further path of the checkout,
// `--minutes=N` gives the machine more time or less.
// Writes `{passed, failed, skipped}` to the file that BERTH_TEST_REPORT names.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { createInterface } from "node:readline";
import { at, Failure, main, must, root, run, say, which } from "./project.mjs";
import { cache, makeImage, vmImages, whyNot } from "./vm-image.mjs";

const minutes = 60_000;

/**
 * What runs in the machine: what another hierarchy of cgroups, another kernel or an enforcing security module can make fail. The long tier
 * runs everything. `native`: programs of ctest; `files`: below test/, null for all of them; `names`: of the tests in chosen files.
 */
const nightly = process.env.BERTH_TIER === "nightly";
const projects = ["native", "e2e", "security"];
const chosen = {
  native: nightly ? /./ : /^(cgroup|cgroup_devices|pause|stages|sys)_test$/,
  files: nightly ? null : ["e2e/container-inside", "e2e/container-lifecycle", "security/apparmor"],
  names:
    "resources|statistics|frozen|want of memory|limits of|cgroup view|are the default ones|are there with its|devices and links|privileged container|profile",
};

/** How much slower than this machine its processor is taken to be; the tests stretch their patience by it. */
const slowness = 10;
let budget = (nightly ? 110 : 18) * minutes;
/** Further paths of the checkout that the machine gets. */
const extras = [];
const total = { passed: 0, failed: 0, skipped: 0 };

main(import.meta, async (args) => {
  const words = [];
  const options = [];
  let command = null;
  for (const arg of args) {
    const [, name, value] = /^--(run|with|minutes)=(.*)$/s.exec(arg) ?? [];
    if (name === "run") command = value;
    else if (name === "with") extras.push(value);
    else if (name === "minutes") budget = Number(value) * minutes;
    else (arg.startsWith("-") || options.at(-1) === "-t" ? options : words).push(arg);
  }
  const reason = whyNot();
  if (reason !== null) {
    skip("the virtual machine", reason);
  } else {
    const scratch = makeScratch();
    try {
      await runIn(scratch, command === null ? await planOf(words, options) : planOfCommand(command));
    } finally {
      rmSync(scratch, { recursive: true, force: true });
    }
  }
  if (process.env.BERTH_TEST_REPORT) writeFileSync(process.env.BERTH_TEST_REPORT, JSON.stringify(total));
  say(`vm: ${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  return total.failed > 0 ? 1 : 0;
});

/** On the checkout's file system, so that files get there by hard links. Gone when this process ends, however it does. */
function makeScratch() {
  mkdirSync(cache, { recursive: true });
  for (const name of readdirSync(cache).filter((entry) => entry.startsWith("run-"))) {
    // A run that was killed could not clean up.
    if (!existsSync(`/proc/${name.split("-")[1]}`)) rmSync(join(cache, name), { recursive: true, force: true });
  }
  const scratch = mkdtempSync(join(cache, `run-${process.pid}-`));
  process.once("exit", () => rmSync(scratch, { recursive: true, force: true }));
  return scratch;
}

// --- what to run ---

async function planOf(words, options) {
  // Words choose for themselves, also what is left out otherwise.
  const wanted = (name, isChosen) => (words.length === 0 ? isChosen : words.some((word) => name.startsWith(word)));
  const native = (await nativeTests()).filter(({ name }) => wanted(`ctest/${name}`, chosen.native.test(name)));
  const present = projects.flatMap(testFiles);
  for (const file of chosen.files ?? []) if (!present.includes(file)) throw new Failure(`vm: there is no test/${file}.test.ts`);
  const files = present
    .filter((file) => wanted(file, chosen.files === null || chosen.files.includes(file)))
    .map((file) => `test/${file}.test.ts`);
  const narrowed = words.length > 0 || options.length > 0 || nightly;
  const vitest = { projects, files, timeout: budget - minutes, options: narrowed ? options : ["-t", chosen.names] };
  return { native, vitest };
}

function planOfCommand(command) {
  const test = { name: command, command: ["/bin/bash", "-c", command], timeout: budget, skipCode: 77, show: true };
  return { native: [test], vitest: { projects, files: [], timeout: budget, options: [] } };
}

/** `<project>/<name>` of every file of tests. */
function testFiles(project) {
  if (!existsSync(at("test", project))) return [];
  return readdirSync(at("test", project), { recursive: true })
    .filter((file) => file.endsWith(".test.ts"))
    .map((file) => `${project}/${file.slice(0, -".test.ts".length)}`)
    .sort();
}

/** What ctest would run, as `{name, command, timeout, skipCode}`. */
async function nativeTests() {
  const tree = at("build/native-build");
  if (!existsSync(join(tree, "CTestTestfile.cmake"))) return [];
  const { stdout } = await must("ctest", ["--test-dir", tree, "--show-only=json-v1"], { capture: true });
  return JSON.parse(stdout.slice(stdout.indexOf("{"))).tests.map(({ name, command, properties }) => {
    const property = (wanted) => properties.find((entry) => entry.name === wanted)?.value;
    return {
      name,
      command,
      timeout: Number(property("TIMEOUT") ?? 60) * 1000 * slowness,
      skipCode: Number(property("SKIP_RETURN_CODE")?.[0] ?? 77),
    };
  });
}

// --- the machine ---

async function runIn(scratch, plan) {
  const { kernel, root: rootImage, modules } = await vmImages();
  const packed = Date.now();
  const project = await packProject(scratch, plan);
  const results = join(scratch, "results.tar");
  writeFileSync(results, "");
  truncateSync(results, 64 * 1024 * 1024);
  say(`vm: project packed in ${((Date.now() - packed) / 1000).toFixed(1)} s`);
  const booted = Date.now();
  const timedOut = await boot({ kernel, disks: [rootImage, project, modules], results });
  say(`vm: the machine ran ${((Date.now() - booted) / 1000).toFixed(0)} s`);
  if (timedOut) fail("the virtual machine", `took longer than ${budget / minutes} minutes`);
  await collect(scratch, results, plan);
}

/** The files that tests read, and nothing else: an ext4 image of the checkout. */
async function packProject(scratch, plan) {
  const staging = join(scratch, "project");
  mkdirSync(join(staging, "node_modules"), { recursive: true });
  const parts = ["package.json", "tsconfig.json", "vitest.config.ts", "src", "api", "scripts", "test", "deploy", "bin", "dist"];
  const built = ["build/generated", "build/native", "build/native-build/bin", ".cache/tools"];
  for (const part of [...parts, ...built, ...extras].filter((name) => existsSync(at(name)))) {
    const parent = join(staging, part, "..");
    mkdirSync(parent, { recursive: true });
    await must("cp", ["-al", at(part), parent], { capture: true });
  }
  for (const { command, show } of plan.native) {
    if (show) continue;
    if (command === undefined) throw new Failure("vm: the native tests are not built: npm run build:native");
    const path = relative(root, command[0]);
    if (!path.startsWith("build/native-build/bin/")) throw new Failure(`vm: ${path} is not where native tests are expected`);
  }
  writeFileSync(join(staging, "vm-plan.json"), JSON.stringify(plan));
  const image = join(scratch, "project.img");
  await makeImage(staging, image, { spare: 256 * 1024 * 1024 });
  return image;
}

/** The shell waits: the kernel finds all but the first disk while it starts the first process already. */
const commandLine = [
  "root=/dev/nvme0n1 rootfstype=ext4 rw console=ttyS0 quiet panic=-1 mitigations=off",
  "apparmor=1 security=apparmor psi=1 systemd.unified_cgroup_hierarchy=1",
  `berth.project=${root} berth.results=/dev/nvme0n4 berth.slowness=${slowness}`,
  'init=/bin/busybox -- sh -c "mount -t devtmpfs dev /dev; n=0; until [ -b /dev/nvme0n4 ] || [ $((n+=1)) -gt 200 ]; do sleep 0.1; done; mount -t ext4 -o noatime /dev/nvme0n2 /mnt; exec /mnt/test/vm/init"',
].join(" ");

/** Shows what the guest says. Resolves to whether its time was over. */
function boot({ kernel, disks, results }) {
  const drive = (file, n, options) => [
    ...["-drive", `if=none,id=disk${n},file=${file},format=raw,cache=unsafe${options}`],
    ...["-device", `nvme-ns,drive=disk${n},nsid=${n}`],
  ];
  const args = [
    ...["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"],
    ...["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"],
    ...["-kernel", kernel, "-append", commandLine, "-device", "nvme,id=nvme0,serial=berth"],
    ...disks.flatMap((file, i) => drive(file, i + 1, ",snapshot=on")),
    ...drive(results, disks.length + 1, ""),
  ];
  return new Promise((resolve, reject) => {
    const qemu = spawn(which("qemu-system-x86_64"), args, { stdio: ["ignore", "pipe", "inherit"] });
    let timedOut = false;
    const kill = () => qemu.kill("SIGKILL");
    const timer = setTimeout(() => {
      timedOut = true;
      kill();
    }, budget);
    process.once("exit", kill);
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, kill);
    createInterface({ input: qemu.stdout }).on("line", (line) => say(line.replace(/\r/g, "")));
    qemu.once("error", reject);
    qemu.once("close", (code, signal) => {
      clearTimeout(timer);
      process.off("exit", kill);
      for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.off(signal, kill);
      if (code !== 0 && !timedOut) reject(new Failure(`vm: qemu ended with ${signal ?? `code ${code}`}`));
      else resolve(timedOut);
    });
  });
}

// --- what came of it ---

async function collect(scratch, archive, plan) {
  const directory = join(scratch, "results");
  mkdirSync(directory);
  await run("tar", ["-xf", archive, "-C", directory], { capture: true });
  const native = readJson(join(directory, "native.json")) ?? [];
  for (const { name } of plan.native) {
    const found = native.find((entry) => entry.name === name);
    if (found === undefined) fail(name, "not run: the machine ended before");
    else total[found.outcome]++;
  }
  const { files } = plan.vitest;
  if (files.length > 0) {
    const report = readJson(join(directory, "vitest.json")) ?? { passed: 0, failed: [], skipped: [], files: 0 };
    total.passed += report.passed;
    total.failed += report.failed.length;
    total.skipped += report.skipped.length;
    for (const name of report.failed) say(`failed: ${name}`);
    if (report.files < files.length) fail("vitest", `${report.files} of ${files.length} files of tests were run`);
  }
  if (total.failed > 0) {
    mkdirSync(at("build/test-results"), { recursive: true });
    await run("cp", ["-r", `${directory}/.`, at("build/test-results/vm")], { capture: true });
  }
}

function readJson(file) {
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch {
    return null;
  }
}

function fail(what, why) {
  total.failed++;
  say(`failed: ${what}: ${why}`);
}

function skip(what, why) {
  total.skipped++;
  say(`skipped: ${what}: ${why}`);
}
