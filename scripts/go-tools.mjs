// node scripts/go-tools.mjs [NAME…]: builds the Go programs that the tests use into .cache/tools/. Each is pinned by a
// go.mod under test/tools and built again only when that, or the way it is built, changes.
//
// A module of its own per version line: what must agree on one set of dependencies shares test/tools/go.mod; a program
// that needs another version of a module which is there already gets a directory below it with a go.mod of its own.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { at, Failure, main, run, say, which } from "./project.mjs";

/**
 * `version` is the pinned module whose version goes into the variable `stamp`; `test` marks a program that Go builds
 * as a test binary. `wanted` tools are built by `npm test`; the others by name.
 */
const tools = [
  {
    name: "crictl",
    module: "test/tools",
    package: "sigs.k8s.io/cri-tools/cmd/crictl",
    version: "sigs.k8s.io/cri-tools",
    stamp: "sigs.k8s.io/cri-tools/pkg/version.Version",
    wanted: true,
  },
  {
    name: "critest",
    module: "test/tools/critest",
    package: "sigs.k8s.io/cri-tools/cmd/critest",
    version: "sigs.k8s.io/cri-tools",
    stamp: "sigs.k8s.io/cri-tools/pkg/version.Version",
    test: true,
    wanted: false,
  },
];

/** Where the finished programs are; tests find them by this path or by BERTH_TOOLS. */
export const toolsDirectory = at(".cache/tools");

/**
 * Builds the named tools (by default those that `npm test` wants) and returns `{name, path, skipped}` for each: `skipped`
 * is the reason why a tool could not be had on this machine, null when it is there.
 */
export async function goTools(names = tools.filter((tool) => tool.wanted).map((tool) => tool.name)) {
  const results = [];
  for (const name of names) {
    const tool = tools.find((candidate) => candidate.name === name);
    if (tool === undefined) throw new Failure(`go-tools: no tool ${name}; there are ${tools.map((entry) => entry.name).join(", ")}`);
    results.push({ name, path: `${toolsDirectory}/${name}`, skipped: await buildTool(tool) });
  }
  return results;
}

async function buildTool(tool) {
  const path = `${toolsDirectory}/${tool.name}`;
  const stampFile = `${toolsDirectory}/.${tool.name}.stamp`;
  const inputs = ["go.mod", "go.sum"].map((file) => readFileSync(at(tool.module, file), "utf8"));
  const stamp = createHash("sha256")
    .update(JSON.stringify([tool, inputs, process.arch]))
    .digest("hex");
  if (existsSync(path) && readStamp(stampFile) === stamp) return null;

  const go = which("go") ?? (existsSync("/usr/local/go/bin/go") ? "/usr/local/go/bin/go" : null);
  if (go === null) return `no Go toolchain on this machine to build ${tool.name} with`;
  const wantedGo = /^go (\S+)/m.exec(inputs[0])?.[1] ?? "0";
  // GOFLAGS of the machine may name a module mode; this module is always taken as it is locked.
  const env = { GOFLAGS: "-mod=readonly -buildvcs=false", GOTOOLCHAIN: "local", GOWORK: "off", CGO_ENABLED: "0" };
  const cwd = at(tool.module);
  const have = (await run(go, ["env", "GOVERSION"], { cwd: at(), env, capture: true })).stdout.trim().replace(/^go/, "");
  if (!isAtLeast(have, wantedGo)) return `Go ${have || "of unknown version"} is older than the ${wantedGo} that ${tool.name} needs`;

  say(`go-tools: building ${tool.name}`);
  mkdirSync(toolsDirectory, { recursive: true });
  const version = versionOf(inputs[0], tool.version);
  const flags = ["-trimpath", "-ldflags", `-s -w -X ${tool.stamp}=${version.replace(/^v/, "")}`, "-o", `${path}.new`];
  const fetched = await run(go, ["mod", "download"], { cwd, env, capture: true, timeout: 10 * 60_000 });
  if (fetched.code !== 0) return `the modules of ${tool.name} cannot be fetched: ${lastLine(fetched)}`;
  const built = await run(go, tool.test ? ["test", "-c", ...flags, tool.package] : ["build", ...flags, tool.package], {
    cwd,
    env,
    capture: true,
    timeout: 20 * 60_000,
  });
  if (built.code !== 0) {
    rmSync(`${path}.new`, { force: true });
    throw new Failure(`go-tools: ${tool.name} does not build:\n${built.stdout}${built.stderr}`);
  }
  renameSync(`${path}.new`, path);
  writeFileSync(stampFile, stamp);
  return null;
}

function readStamp(file) {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return null;
  }
}

/** The version that a go.mod requires of a module. */
function versionOf(goMod, module) {
  for (const line of goMod.split("\n")) {
    const words = line
      .replace(/^\s*require\s+/, "")
      .trim()
      .split(/\s+/);
    if (words[0] === module && words[1]?.startsWith("v")) return words[1];
  }
  throw new Failure(`go-tools: ${module} is not in go.mod`);
}

/** Compares dotted version numbers. */
function isAtLeast(have, wanted) {
  const [left, right] = [have, wanted].map((version) => version.split(".").map((part) => Number.parseInt(part, 10) || 0));
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    if ((left[i] ?? 0) !== (right[i] ?? 0)) return (left[i] ?? 0) > (right[i] ?? 0);
  }
  return have !== "";
}

const lastLine = (result) => `${result.stdout}${result.stderr}`.trim().split("\n").at(-1) ?? "";

main(import.meta, async (args) => {
  const results = await goTools(args.length > 0 ? args : undefined);
  for (const { name, path, skipped } of results)
    say(skipped === null ? `go-tools: ${name} is ${path}` : `go-tools: ${name} skipped: ${skipped}`);
});
