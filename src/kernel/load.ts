/**
 * Loads the addon, the only native code in the daemon's process. Purpose: hand out a `Kernel` (contract.ts) that is known to
 * be complete. Owns nothing: handles belong to those who asked for them. Imports base alone.
 *
 * While calls are under way the event loop stays alive; waiting for an exit (`ProcessHandle.exited`) and listening on a
 * monitor's connection do not keep it.
 */
import { existsSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { DomainError } from "../base/errors.ts";
import type { Kernel } from "./contract.ts";
import { makeSystemError } from "./errors.ts";

/** The contract's functions by name: an interface has no names at run time. The two checks below keep it equal to it. */
export const kernelFunctions = [
  "features",
  "programDigests",
  "writeFileAtomic",
  "removeTree",
  "makeDirectories",
  "syncFilesystem",
  "filesystemUsage",
  "treeUsage",
  "readInRoot",
  "listMounts",
  "mountOverlay",
  "openTree",
  "attachMount",
  "unmount",
  "mountTmpfs",
  "startPause",
  "pinNamespace",
  "unpinNamespace",
  "createNetworkNamespace",
  "openProcess",
  "runProgram",
  "createCgroup",
  "openCgroup",
  "updateCgroup",
  "cgroupStats",
  "cgroupProcesses",
  "killCgroup",
  "freezeCgroup",
  "removeCgroup",
  "removeEmptyCgroup",
  "openCgroupEvents",
  "listCgroups",
  "createPipe",
  "createSocketPair",
  "dialInNamespace",
  "interfaceStats",
  "compileCreatePlan",
  "compileExecPlan",
  "spawnMonitor",
  "connectMonitor",
  "collectPipe",
  "openNull",
  "openLog",
  "spawnUnpack",
] as const satisfies readonly (keyof Kernel)[];

/** A function of the contract that the list lacks makes this type an error. */
type Missing = Exclude<keyof Kernel, (typeof kernelFunctions)[number]>;
const nothingMissing: [Missing] extends [never] ? true : Missing = true;

interface Addon extends Kernel {
  setErrorFactory(factory: typeof makeSystemError): void;
}

const fileName = "berth.node";

/**
 * Where the addon may be: `BERTH_NATIVE_DIR` alone where it is set, else beside the bundle (`dist/native/`), else the build
 * tree of the sources (`build/native/`).
 */
export function addonCandidates(environment: NodeJS.ProcessEnv = process.env, here: string = fileURLToPath(import.meta.url)): string[] {
  const chosen = environment["BERTH_NATIVE_DIR"];
  if (chosen !== undefined && chosen !== "") return [join(chosen, fileName)];
  const directory = dirname(here);
  return [join(directory, "native", fileName), join(directory, "..", "..", "build", "native", fileName)];
}

/** Throws `failed-precondition` where there is no addon, it cannot be loaded, or it is not of this version of the contract. */
export function loadKernel(environment: NodeJS.ProcessEnv = process.env): Kernel {
  const candidates = addonCandidates(environment);
  const found = candidates.find((path) => existsSync(path));
  if (found === undefined) {
    throw new DomainError("failed-precondition", `the native addon is missing: ${candidates.join(" and ")} do not exist (npm run build)`);
  }
  const addon = requireAddon(realpathSync(found));
  checkFunctions(Object.keys(addon), found);
  addon.setErrorFactory(makeSystemError);
  return addon;
}

function requireAddon(path: string): Addon {
  try {
    return createRequire(import.meta.url)(path) as Addon;
  } catch (error) {
    throw new DomainError("failed-precondition", `the native addon ${path} cannot be loaded`, { cause: error });
  }
}

/** An addon of another build than these sources is found out here, not in the middle of a pod. */
export function checkFunctions(offered: readonly string[], path: string): void {
  const expected: ReadonlySet<string> = new Set([...(nothingMissing ? kernelFunctions : []), "setErrorFactory"]);
  const missing = [...expected].filter((name) => !offered.includes(name));
  const unknown = offered.filter((name) => !expected.has(name));
  if (missing.length === 0 && unknown.length === 0) return;
  const parts = [
    ...(missing.length > 0 ? [`lacks ${missing.join(", ")}`] : []),
    ...(unknown.length > 0 ? [`has the unknown ${unknown.join(", ")}`] : []),
  ];
  throw new DomainError("failed-precondition", `the native addon ${path} is of another version: it ${parts.join(" and ")} (npm run build)`);
}
