// npm run build [-- generate|native|bundle …]: builds what is out of date; without a word, everything.
//
//   generate  api/cri and api/monitor  → build/generated/ (JavaScript, types, C++ headers)
//   native    CMake and Ninja          → build/native/ {berth.node, berth-monitor, berth-pause, berth-unpack, berth-oci}
//   bundle    src/cli/main.ts, workers → dist/*.mjs, with the native products beside them in dist/native/
//
// dist/ and bin/ together are what gets installed.

import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism } from "node:os";
import { basename, join, relative } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { at, Failure, main, must, run, say } from "./project.mjs";
import { setup } from "./setup.mjs";

const parts = { generate, native: () => native(), bundle };

/** The native products, as dist/native/ and the daemon know them. */
export const products = ["berth.node", "berth-monitor", "berth-pause", "berth-unpack", "berth-oci"];

/** Builds the named parts in their order. Only one build runs in a checkout at a time; a second one waits. */
export async function build(wanted = Object.keys(parts)) {
  for (const part of wanted) {
    if (!(part in parts)) throw new Failure(`build: no part ${part}; there are ${Object.keys(parts).join(", ")}`);
  }
  const release = await takeLock();
  try {
    for (const [part, body] of Object.entries(parts)) if (wanted.includes(part)) await body();
  } finally {
    release();
  }
}

async function takeLock() {
  mkdirSync(at("build"), { recursive: true });
  const lock = at("build/.lock");
  for (let told = false; ; ) {
    try {
      writeFileSync(lock, `${process.pid}\n`, { flag: "wx" });
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    }
    const holder = Number(readFileOr(lock, "").trim());
    if (holder > 0 && !isAlive(holder)) rmSync(lock, { force: true });
    else {
      if (!told) say(`build: waiting for another build (process ${holder || "unknown"})`);
      told = true;
      await sleep(300);
    }
  }
  const release = () => rmSync(lock, { force: true });
  process.once("exit", release);
  return () => {
    process.off("exit", release);
    release();
  };
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

const readFileOr = (path, otherwise) => {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return otherwise;
  }
};

// --- generate ---

async function generate() {
  for (const name of ["cri", "monitor"]) {
    const script = ["mjs", "ts"].map((ext) => at("api", name, `generate.${ext}`)).find(existsSync);
    if (script === undefined) continue;
    const stamp = at("build/generated", `.${name}.stamp`);
    const now = digestOf([...filesBelow(at("api", name)), at("package-lock.json")]);
    if (readFileOr(stamp, "") === now) continue;
    say(`build: generating from api/${name}`);
    mkdirSync(at("build/generated"), { recursive: true });
    await must(process.execPath, [script.endsWith(".ts") ? await runnable(script) : script]);
    writeFileSync(stamp, now);
  }
}

/** A TypeScript program of the project as one JavaScript file that Node runs, packages left outside. */
export async function runnable(script) {
  const { build: esbuild } = await import("esbuild");
  const outfile = at("build/scripts", `${relative(at(), script).replaceAll("/", "-").replace(/\.ts$/, "")}.mjs`);
  await esbuild({
    entryPoints: [script],
    outfile,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    packages: "external",
    sourcemap: "inline",
    logLevel: "warning",
  });
  return outfile;
}

function filesBelow(directory) {
  return readdirSync(directory, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}

function digestOf(files) {
  const hash = createHash("sha256");
  for (const file of files) hash.update(relative(at(), file)).update("\0").update(readFileSync(file)).update("\0");
  return hash.digest("hex");
}

// --- native ---

/** `sanitize` (for example "address,undefined") makes a second build tree and a second output directory, build/native-sanitized. */
export async function native({ sanitize = null } = {}) {
  const suffix = sanitize === null ? "" : "-sanitized";
  const tree = at(`build/native-build${suffix}`);
  if (!existsSync(join(tree, "build.ninja"))) {
    const definitions = [`-DBERTH_OUTPUT_DIR=${at(`build/native${suffix}`)}`, `-DBERTH_SANITIZE=${sanitize ?? "OFF"}`];
    say(`build: configuring ${relative(at(), tree)}`);
    const configured = await run("cmake", ["-S", at(), "-B", tree, "-G", "Ninja", ...definitions], { capture: true });
    if (configured.code !== 0) {
      // A half-configured tree would be taken for a configured one next time.
      rmSync(join(tree, "build.ninja"), { force: true });
      throw new Failure(`cmake failed:\n${configured.stdout}${configured.stderr}`);
    }
  }
  const built = await run("ninja", ["-C", tree, "-j", String(availableParallelism()), "--quiet"], { capture: true });
  if (built.code !== 0) throw new Failure(`ninja failed:\n${built.stdout}${built.stderr}`);
  return tree;
}

// --- bundle ---

async function bundle() {
  const { build: esbuild } = await import("esbuild");
  const entry = at("src/cli/main.ts");
  if (!existsSync(entry)) throw new Failure("build: src/cli/main.ts is not there");
  const workers = filesBelow(at("src")).filter((file) => file.endsWith("-worker.ts"));
  const entryPoints = Object.fromEntries([["berth", entry], ...workers.map((file) => [basename(file, ".ts"), file])]);
  const result = await esbuild({
    entryPoints,
    outdir: at("dist"),
    outExtension: { ".js": ".mjs" },
    // What is imported dynamically (the Kubernetes client) becomes a chunk that is read when it is first needed.
    splitting: true,
    chunkNames: "chunk-[hash]",
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    sourcemap: "linked",
    legalComments: "none",
    metafile: true,
    logLevel: "warning",
    define: { "process.env.NODE_ENV": '"production"', BERTH_VERSION: JSON.stringify(versionOfPackage()) },
    // Bundled CommonJS packages ask for these three.
    banner: {
      js: [
        "import { createRequire as berthCreateRequire } from 'node:module';",
        "import { dirname as berthDirname } from 'node:path';",
        "import { fileURLToPath as berthFileURLToPath } from 'node:url';",
        "const require = berthCreateRequire(import.meta.url);",
        "const __filename = berthFileURLToPath(import.meta.url);",
        "const __dirname = berthDirname(__filename);",
      ].join("\n"),
    },
  });
  const written = new Set(Object.keys(result.metafile.outputs).map((file) => basename(file)));
  for (const name of readdirSync(at("dist"))) {
    if (/\.mjs(\.map)?$/.test(name) && !written.has(name)) rmSync(at("dist", name));
  }
  copyProducts();
}

const versionOfPackage = () => JSON.parse(readFileSync(at("package.json"), "utf8")).version;

function copyProducts() {
  mkdirSync(at("dist/native"), { recursive: true });
  for (const name of products) {
    const from = at("build/native", name);
    const to = at("dist/native", name);
    if (!existsSync(from)) {
      rmSync(to, { force: true });
      continue;
    }
    const [source, target] = [statSync(from), statSync(to, { throwIfNoEntry: false })];
    if (target && target.size === source.size && target.mtimeMs >= source.mtimeMs) continue;
    // By rename: a program that is running cannot be written to, and a running daemon keeps its own.
    copyFileSync(from, `${to}.new`);
    chmodSync(`${to}.new`, 0o755);
    renameSync(`${to}.new`, to);
  }
}

main(import.meta, async (args) => {
  await setup(["build"]);
  await build(args.length > 0 ? args : undefined);
});
