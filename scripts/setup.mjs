// npm run setup [-- GROUP…]: the Debian packages and the npm packages that Berth needs, installed where that is allowed.
// Says which and why; where it may not install, prints the command to run and exits 1. Without a group: all of them.

import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { groups, packages } from "./packages.mjs";
import { at, Failure, isRoot, main, must, run, say, which } from "./project.mjs";

/** Brings the machine to where the named groups can be used. Quick and silent where nothing is missing. */
export async function setup(wanted = Object.keys(groups)) {
  for (const group of wanted) {
    if (!(group in groups)) throw new Failure(`setup: no group ${group}; there are ${Object.keys(groups).join(", ")}`);
  }
  checkNode();
  await installDebianPackages(wanted);
  await installNpmPackages();
}

function checkNode() {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  if (major < 20 || (major === 20 && minor < 11)) throw new Failure(`Berth needs Node.js 20.11 or newer, this is ${process.versions.node}`);
}

// --- Debian ---

async function installDebianPackages(wanted) {
  const needed = packages.filter((entry) => wanted.includes(entry.group));
  const installed = await installedAmong(needed.flatMap((entry) => entry.oneOf ?? [entry.name]));
  const missing = needed.filter((entry) => !(entry.oneOf ?? [entry.name]).some((name) => installed.has(name)));
  if (missing.length === 0) return;

  const names = missing.map((entry) => entry.name);
  const widest = Math.max(...names.map((name) => name.length));
  const list = missing.map((entry) => `  ${entry.name.padEnd(widest)}  ${entry.why} (${groups[entry.group]})`).join("\n");
  const install = ["install", "-y", "--no-install-recommends", ...names];
  if (!isRoot || !which("apt-get") || installed.unknown) {
    const why = installed.unknown ? "this is no Debian system" : isRoot ? "there is no apt-get here" : "only root may install them";
    throw new Failure(
      `Missing packages:\n${list}\n\nThey are not installed, because ${why}. On Debian 12, run:\n\n` +
        `  sudo apt-get update && sudo apt-get ${install.join(" ")}\n`,
    );
  }
  say(`Installing ${names.length} Debian package${names.length === 1 ? "" : "s"}:\n${list}`);
  const fresh = await haveAptLists();
  if (!fresh) await apt(["update"]);
  await withoutServices(async () => {
    try {
      await apt(install);
    } catch (error) {
      if (!fresh) throw error;
      say("setup: apt-get install failed; once more with fresh package lists");
      await apt(["update"]);
      await apt(install);
    }
  });
}

/** Which of these packages dpkg calls installed. `unknown` is set where there is no dpkg to ask. */
async function installedAmong(names) {
  // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own placeholders
  const result = await run("dpkg-query", ["-W", "-f", "${binary:Package} ${db:Status-Abbrev}\n", ...names], { capture: true });
  const found = new Set();
  found.unknown = result.code === 127;
  for (const line of result.stdout.split("\n")) {
    const [name = "", state] = line.trim().split(/\s+/);
    if (state === "ii") found.add(name.split(":")[0]);
  }
  return found;
}

async function haveAptLists() {
  const entries = await readdir("/var/lib/apt/lists").catch(() => []);
  return entries.some((name) => name.endsWith("_Packages") || name.includes("_Packages."));
}

async function apt(args) {
  const env = { DEBIAN_FRONTEND: "noninteractive", LC_ALL: "C.UTF-8" };
  await must("apt-get", ["-q", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=120", ...args], { env, capture: true });
}

/**
 * Packages such as docker-registry and containerd start a daemon when they are installed. Berth starts its own private
 * ones, so the usual policy file keeps the packages' from starting meanwhile; one that is there already is left alone.
 */
async function withoutServices(body) {
  const policy = "/usr/sbin/policy-rc.d";
  if (existsSync(policy)) return body();
  writeFileSync(policy, "#!/bin/sh\n# Made by Berth’s setup for the time of one apt-get run.\nexit 101\n", { mode: 0o755 });
  const remove = () => rmSync(policy, { force: true });
  process.once("exit", remove);
  try {
    await body();
  } finally {
    remove();
    process.off("exit", remove);
  }
}

// --- npm ---

async function installNpmPackages() {
  const reason = await staleReason();
  if (reason === null) return;
  say(`Installing npm packages: ${reason}`);
  await must("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], { capture: true });
}

/** Why node_modules does not hold what the lock file says, or null. npm's own record of what it installed is compared entry by entry. */
async function staleReason() {
  const installed = await readFile(at("node_modules/.package-lock.json"), "utf8").catch(() => null);
  if (installed === null) return "node_modules is absent";
  const have = JSON.parse(installed).packages;
  const want = JSON.parse(readFileSync(at("package-lock.json"), "utf8")).packages;
  for (const [path, entry] of Object.entries(want)) {
    if (path === "" || entry.link) continue;
    const present = have[path];
    if (present === undefined ? !entry.optional && !entry.peer : present.version !== entry.version) {
      return `${path} is ${present?.version ?? "absent"}, the lock file says ${entry.version}`;
    }
  }
  return null;
}

main(import.meta, async (args) => {
  await setup(args.length > 0 ? args : undefined);
  say("setup: everything needed is there");
});
