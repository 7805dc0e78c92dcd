// node scripts/check-drift.mjs [ROOT]: what the documents say about the project is compared with the project.
//
// - README.md, AGENTS.md, CHANGELOG.md, SPECIFICATION.md and docs/**: links and paths in `code` lead somewhere, commands exist;
// - package-lock.json: names no registry and has an entry for every platform's optional package, without which npm ci refuses it;
// - docs/dependencies.md: exactly the npm, Debian and Go dependencies that the project has, with the versions it has;
// - SPECIFICATION.md: a table whose rows hold numbers has a column "Shown by", and every such row names there, in `code`,
//   a test file (`test/…`) or a benchmark (`npm run bench -- WORK`) that exists.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { packages } from "./packages.mjs";
import { main, say, root as thisCheckout } from "./project.mjs";

/** Made by a build, so a clean checkout does not hold it. */
const made = /^(build|dist|node_modules|\.cache|bench\/results)(\/|$)/;

/** Checks a checkout and returns what has drifted, each one line of text. */
export function checkDrift(root) {
  const scripts = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).scripts;
  const documents = ["README.md", "AGENTS.md", "CHANGELOG.md", "SPECIFICATION.md", ...markdownBelow(root, "docs")];
  return [
    ...documents.filter((file) => existsSync(join(root, file))).flatMap((file) => checkReferences(root, file, scripts)),
    ...checkLock(root),
    ...checkDependencies(root),
    ...checkSpecification(root),
  ];
}

function markdownBelow(root, folder) {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { recursive: true })
    .filter((file) => file.endsWith(".md"))
    .map((file) => join(folder, file))
    .sort();
}

// --- paths, links and commands ---

function checkReferences(root, file, scripts) {
  const offences = [];
  const text = readFileSync(join(root, file), "utf8");
  const lineAt = (index) => text.slice(0, index).split("\n").length;
  const places = new Set(readdirSync(root));
  for (const match of text.matchAll(/(?<!!)\[[^\]]*\]\(([^)\s]+)\)/g)) {
    const target = match[1].split("#")[0];
    if (target === "" || /^[a-z]+:/.test(target)) continue;
    const path = normalize(join(dirname(file), target));
    if (!made.test(path) && !existsSync(join(root, path)))
      offences.push(`${file}:${lineAt(match.index)}: link to ${target}, which is not there`);
  }
  for (const match of text.matchAll(/\bnpm run ([a-z][\w:-]*)|\bnpm (test|start)\b/g)) {
    const name = match[1] ?? match[2];
    if (!(name in scripts)) offences.push(`${file}:${lineAt(match.index)}: npm run ${name} is no script of package.json`);
  }
  for (const match of text.matchAll(/`([^`\n]+)`/g)) {
    const path = match[1].replace(/^\.\//, "").replace(/:\d+$/, "").replace(/\/$/, "");
    const first = path.split("/")[0];
    // Only what begins like a path of the checkout is one; patterns and placeholders name no single file.
    if (!/^[\w.@/-]+$/.test(path) || made.test(path)) continue;
    const claims = path.includes("/") ? places.has(first) : /^[A-Z][\w-]*\.(md|txt)$/.test(path) || /\.(mjs|config\.ts)$/.test(path);
    if (!claims || existsSync(join(root, path)) || existsSync(join(root, dirname(file), path))) continue;
    if (!path.includes("/") && isSomewhere(root, path)) continue;
    offences.push(`${file}:${lineAt(match.index)}: \`${match[1]}\` is not there`);
  }
  return offences;
}

/** Whether a bare file name is the name of some file that is not made: prose may leave out the folder. */
function isSomewhere(root, name) {
  return readdirSync(root, { withFileTypes: true }).some((entry) => {
    if (entry.name === name) return true;
    if (!entry.isDirectory() || made.test(entry.name) || entry.name.startsWith(".")) return false;
    return readdirSync(join(root, entry.name), { recursive: true }).some((file) => file.split("/").at(-1) === name);
  });
}

// --- the lock file ---

function checkLock(root) {
  const file = "package-lock.json";
  if (!existsSync(join(root, file))) return [`${file} is not there`];
  const entries = JSON.parse(readFileSync(join(root, file), "utf8")).packages;
  const offences = [];
  for (const [path, entry] of Object.entries(entries)) {
    if (entry.resolved !== undefined) offences.push(`${file}: ${path} names where it was fetched from`);
    for (const name of Object.keys(entry.optionalDependencies ?? {})) {
      if (path !== "" && lookUp(entries, path, name) === null) offences.push(`${file}: ${name}, optional for ${path}, has no entry`);
    }
  }
  return offences;
}

/** Where Node.js would find a package from inside another one: its own node_modules, then those of the folders above. */
function lookUp(entries, from, name) {
  for (let base = from; ; ) {
    const path = `${base === "" ? "" : `${base}/`}node_modules/${name}`;
    if (path in entries) return path;
    if (base === "") return null;
    base = base.includes("/node_modules/") ? base.slice(0, base.lastIndexOf("/node_modules/")) : "";
  }
}

// --- dependencies ---

function checkDependencies(root) {
  const file = "docs/dependencies.md";
  if (!existsSync(join(root, file))) return [`${file} is not there`];
  const rows = readFileSync(join(root, file), "utf8")
    .split("\n")
    .map(cells)
    .filter((row) => row !== null);
  const listed = new Map(rows.map((row) => [row[0].replaceAll("`", ""), row]));
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const wanted = new Map(Object.entries({ ...manifest.dependencies, ...manifest.devDependencies }));
  for (const entry of packages) wanted.set(entry.name, null);
  for (const folder of ["test/tools", ...folders(root, "test/tools")]) {
    const goMod = join(root, folder, "go.mod");
    if (!existsSync(goMod)) continue;
    for (const [module, version] of directRequirements(readFileSync(goMod, "utf8"))) wanted.set(`${module} (${folder})`, version);
  }
  const offences = [];
  for (const [name, version] of wanted) {
    const row = listed.get(name);
    if (row === undefined) offences.push(`${file}: ${name} is missing`);
    else if (version !== null && row[1] !== version) offences.push(`${file}: ${name} is ${version}, not ${row[1]}`);
    else if ((row.at(-1) ?? "").length < 5) offences.push(`${file}: ${name} has no reason`);
  }
  for (const name of listed.keys()) {
    if (!wanted.has(name) && !/^(Package|Module|-+)/.test(name)) offences.push(`${file}: ${name} is no dependency any more`);
  }
  return offences;
}

const folders = (root, folder) =>
  existsSync(join(root, folder))
    ? readdirSync(join(root, folder), { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? [join(folder, entry.name)] : []))
    : [];

function directRequirements(goMod) {
  const found = [];
  for (const line of goMod.split("\n")) {
    const match = /^\s*(?:require\s+)?([\w.-]+\.[\w.-]+\/\S+)\s+(v\S+)\s*$/.exec(line);
    if (match && !line.includes("=>")) found.push([match[1], match[2]]);
  }
  return found;
}

// --- the specification's numbers ---

function checkSpecification(root) {
  const file = "SPECIFICATION.md";
  if (!existsSync(join(root, file))) return [];
  const offences = [];
  let header = null;
  for (const [index, line] of readFileSync(join(root, file), "utf8").split("\n").entries()) {
    const row = cells(line);
    if (row === null) {
      header = null;
    } else if (header === null) {
      header = row;
    } else if (!/^[-:\s|]+$/.test(line) && row.some((cell, i) => /\d/.test(cell) && header[i] !== "Shown by")) {
      const proof = row[header.indexOf("Shown by")];
      if (proof === undefined) offences.push(`${file}:${index + 1}: numbers without a column "Shown by"`);
      else if (!namesProof(root, proof)) offences.push(`${file}:${index + 1}: "${proof}" names no test or benchmark that exists`);
    }
  }
  return offences;
}

function namesProof(root, text) {
  const names = [...text.matchAll(/`([^`]+)`/g)].map((match) => match[1]);
  const proofs = names.flatMap((name) => {
    const bench = /^npm run bench -- (\w[\w-]*)/.exec(name);
    if (bench) return [`test/bench/${bench[1]}.ts`];
    return /^test\/\S+\.\w+$/.test(name) ? [name] : [];
  });
  return proofs.length > 0 && proofs.every((path) => existsSync(join(root, path)));
}

/** The cells of a Markdown table row, or null for another line. */
function cells(line) {
  const text = line.trim();
  if (!text.startsWith("|") || !text.endsWith("|")) return null;
  return text
    .slice(1, -1)
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim());
}

main(import.meta, async ([root = thisCheckout]) => {
  const offences = checkDrift(root);
  for (const offence of offences) say(offence);
  if (offences.length > 0)
    say(`check-drift: ${offences.length} offence${offences.length === 1 ? "" : "s"} in ${relative(process.cwd(), root) || "."}`);
  return offences.length > 0 ? 1 : 0;
});
