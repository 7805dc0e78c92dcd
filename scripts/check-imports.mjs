// node scripts/check-imports.mjs [ROOT]: holds the imports of src/** and the includes of the C++ rooms to the one-way
// one-way table below, and forbids circles between folders and between files. Prints each offence as file:line.

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize, relative } from "node:path";
import { main, say, root as thisCheckout } from "./project.mjs";

/** What every room of src/ may import beside itself, `base` and `operation`. `api/…` means what is generated from it, too. */
const rooms = {
  cli: ["daemon", "config"],
  daemon: ["server", "container", "sandbox", "image", "oci", "streaming", "metrics", "state", "config", "kernel"],
  server: ["api/cri", "container", "sandbox", "image", "streaming", "metrics", "config"],
  container: ["sandbox", "image", "oci", "state", "kernel", "config"],
  sandbox: ["oci", "state", "kernel", "config"],
  image: ["state", "kernel", "config"],
  oci: ["kernel", "config", "api/monitor"],
  // The lowest rooms may use one another, as long as that makes no circle.
  streaming: ["metrics", "state", "config", "kernel"],
  metrics: ["streaming", "state", "config", "kernel"],
  state: ["streaming", "metrics", "config", "kernel"],
  config: ["streaming", "metrics", "state", "kernel"],
  kernel: ["streaming", "metrics", "state", "config"],
  operation: [],
  base: [],
};
const everywhere = { base: [], operation: ["base"] };

/** What the C++ rooms may include beside themselves. */
const nativeRooms = { core: [], conmon: ["core", "api/monitor"], addon: ["core"], unpack: ["core"], ocirun: ["core"] };

/** Checks a checkout and returns the offences, each one line of text. */
export function checkImports(root) {
  return [...checkTypeScript(root), ...checkNative(root)];
}

// --- TypeScript ---

function checkTypeScript(root) {
  const offences = [];
  const edges = [];
  for (const file of filesBelow(root, "src", [".ts"])) {
    const room = file.split("/")[1];
    if (!(room in rooms)) {
      offences.push(`${file}: src/${room} is no room of the import table`);
      continue;
    }
    for (const use of importsOf(readFileSync(join(root, file), "utf8"))) {
      const place = `${file}:${use.line}`;
      if (/\.node$/.test(use.name) || use.loadsAddon) {
        if (room !== "kernel") offences.push(`${place}: only src/kernel loads the addon`);
        continue;
      }
      if (!use.name.startsWith(".")) continue;
      const target = normalize(join(dirname(file), use.name));
      const to = roomOf(target);
      if (to === null) {
        if (target !== "package.json") offences.push(`${place}: ${target} lies outside src/ and api/`);
        continue;
      }
      if (!existsSync(join(root, target)) && !target.startsWith("build/generated/")) offences.push(`${place}: ${target} is not there`);
      const allowed = everywhere[room] ?? [...rooms[room], ...Object.keys(everywhere)];
      if (to !== room && !allowed.includes(to)) offences.push(`${place}: ${room} may not import ${to} (${target})`);
      else if (target.startsWith("src/")) edges.push({ from: file, to: target, place, typeOnly: use.typeOnly });
    }
  }
  // Between rooms even types must not go in a circle. Inside a room a folder and the folders below it belong together, so
  // there only siblings count, and files whose code needs one another.
  offences.push(...circles(edges, roomPath));
  const inside = edges.filter((edge) => roomPath(edge.from) === roomPath(edge.to));
  offences.push(
    ...circles(
      inside.filter((edge) => !isAbove(dirname(edge.from), dirname(edge.to))),
      dirname,
    ),
  );
  offences.push(
    ...circles(
      inside.filter((edge) => !edge.typeOnly),
      (file) => file,
    ),
  );
  return offences;
}

const roomPath = (file) => file.split("/").slice(0, 2).join("/");

/** Whether one of two folders lies in the other. */
const isAbove = (a, b) => `${a}/`.startsWith(`${b}/`) || `${b}/`.startsWith(`${a}/`);

function roomOf(target) {
  const parts = target.split("/");
  if (parts[0] === "src") return parts[1];
  if (parts[0] === "api") return `api/${parts[1]}`;
  if (parts[0] === "build" && parts[1] === "generated") return `api/${parts[2]?.replace(/\..*$/, "")}`;
  return null;
}

/** The module names that a file imports: `{name, line, typeOnly, loadsAddon}`. Whole-line comments do not count. */
export function importsOf(source) {
  const text = source.replace(/^[ \t]*(\/\/|\/\*|\*).*$/gm, "");
  const found = [];
  const lineAt = (index) => text.slice(0, index).split("\n").length;
  const add = (match, name, typeOnly, loadsAddon = false) => found.push({ name, line: lineAt(match.index), typeOnly, loadsAddon });
  for (const match of text.matchAll(/^[ \t]*(import|export)\s+(type\s)?(?:[^"';]*?\sfrom\s*)?["']([^"'\n]+)["']/gm)) {
    add(match, match[3], match[2] !== undefined);
  }
  for (const match of text.matchAll(/\b(?:import|require)\(\s*["']([^"'\n]+)["']/g)) add(match, match[1], false);
  for (const match of text.matchAll(/\bprocess\.dlopen\b|\bcreateRequire\(/g)) add(match, match[0], false, true);
  return found;
}

// --- C++ ---

function checkNative(root) {
  const offences = [];
  const edges = [];
  for (const room of Object.keys(nativeRooms)) {
    for (const file of filesBelow(root, room, [".h", ".hpp", ".cc", ".cpp", ".c"])) {
      const source = readFileSync(join(root, file), "utf8");
      for (const match of source.matchAll(/^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"/gm)) {
        const place = `${file}:${source.slice(0, match.index).split("\n").length}`;
        const target = resolveInclude(root, file, match[1]);
        if (target === null) {
          // A header of an npm package or of a generator that has not run; system headers use angle brackets.
          if (match[1].includes("..")) offences.push(`${place}: ${match[1]} is not there`);
          continue;
        }
        const to = target.startsWith("build/generated/") ? roomOf(target) : target.split("/")[0];
        if (to !== room && !nativeRooms[room].includes(to)) offences.push(`${place}: ${room} may not include ${to} (${target})`);
        else if (to === room) edges.push({ from: file, to: target, place });
      }
    }
  }
  offences.push(...circles(edges, dirname));
  return offences;
}

function resolveInclude(root, file, name) {
  for (const base of [dirname(file), ".", "build/generated"]) {
    const target = normalize(join(base, name));
    if (existsSync(join(root, target))) return target;
  }
  return null;
}

// --- shared ---

/** One offence for every circle among the folders (or files) that `folderOf` gives, naming an import for each of its steps. */
function circles(edges, folderOf) {
  const graph = new Map();
  for (const edge of edges) {
    const [from, to] = [folderOf(edge.from), folderOf(edge.to)];
    if (from === to) continue;
    if (!graph.has(from)) graph.set(from, new Map());
    if (!graph.get(from).has(to)) graph.get(from).set(to, edge.place);
  }
  const offences = [];
  const done = new Set();
  const visit = (folder, path) => {
    const start = path.indexOf(folder);
    if (start >= 0) {
      const circle = [...path.slice(start), folder];
      const steps = circle.slice(1).map((to, i) => `${circle[i]} → ${to} (${graph.get(circle[i]).get(to)})`);
      offences.push(`circle: ${steps.join(", ")}`);
      return;
    }
    if (done.has(folder)) return;
    for (const next of graph.get(folder)?.keys() ?? []) visit(next, [...path, folder]);
    done.add(folder);
  };
  for (const folder of graph.keys()) visit(folder, []);
  return offences;
}

function filesBelow(root, folder, endings) {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && endings.some((ending) => entry.name.endsWith(ending)))
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
}

main(import.meta, async ([root = thisCheckout]) => {
  const offences = checkImports(root);
  for (const offence of offences) say(offence);
  if (offences.length > 0) say(`check-imports: ${offences.length} offence${offences.length === 1 ? "" : "s"}`);
  return offences.length > 0 ? 1 : 0;
});
