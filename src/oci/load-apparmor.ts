/** Loads the built-in AppArmor profile into the kernel, so that containers can run under it from the first one on. */
import { access, constants, readFile } from "node:fs/promises";
import { DomainError, describeError } from "../base/errors.ts";
import type { Kernel } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";
import { readLoadedProfiles } from "./spec/apparmor.ts";
import { defaultAppArmorProfile } from "./spec/apparmor-profile.ts";

/** The name under which the built-in profile is loaded. Any other one is the operator's, who loads it. */
export const builtInProfile = "berth-default";

export interface LoadAppArmorOptions {
  readonly kernel: Pick<Kernel, "features" | "runProgram">;
  /** The default profile of the configuration; empty for none. */
  readonly profile: string;
  /** Absolute path of apparmor_parser; empty where Berth is to load nothing. */
  readonly parser: string;
  readonly loaded?: () => Promise<ReadonlySet<string>>;
  /** Where the parser finds what profiles include. */
  readonly policyDirectory?: string;
  /** The label that the daemon runs under, as /proc/self/attr says it. */
  readonly ownLabel?: () => Promise<string>;
}

const parserTimeoutMs = 20_000;
const maxOutputBytes = 64 * 1024;

/**
 * Resolves to what containers get: "unsupported" without AppArmor, "none" where the configuration wants none or the profile is not there,
 * "present" where somebody else loaded it, "loaded" where this call did. A profile of an older version is replaced, also for the
 * containers that run under it. Only what keeps the built-in profile from being loaded is an error (failed-precondition); the daemon
 * serves without it, and containers that ask for the default profile are refused.
 */
export async function loadDefaultAppArmorProfile(
  op: Operation,
  options: LoadAppArmorOptions,
): Promise<"unsupported" | "none" | "present" | "loaded"> {
  if (!options.kernel.features().appArmor) return "unsupported";
  if (options.profile === "") return "none";
  const present = (await op.race((options.loaded ?? readLoadedProfiles)())).has(options.profile);
  const parserThere = options.parser !== "" && (await isThere(options.parser, constants.X_OK));
  if (options.profile !== builtInProfile || !parserThere) return present ? "present" : missing(options, parserThere);
  const text = defaultAppArmorProfile({
    name: options.profile,
    daemonProfile: await op.race((options.ownLabel ?? readOwnLabel)()).then(profileOf),
    pinAbi: await isThere(`${options.policyDirectory ?? "/etc/apparmor.d"}/abi/3.0`, constants.R_OK),
  });
  await runParser(op, options, text);
  return "loaded";
}

function missing({ profile, parser }: LoadAppArmorOptions, parserThere: boolean): "none" {
  // Neither is a fault of the host's: another profile is the operator's to load, and so is every one where the parser is configured away.
  if (profile !== builtInProfile || parser === "") return "none";
  if (!parserThere)
    throw new DomainError("failed-precondition", `AppArmor profile ${profile} is not loaded: there is no program ${parser}`);
  return "none";
}

async function runParser(op: Operation, { kernel, parser, profile }: LoadAppArmorOptions, text: string): Promise<void> {
  const program = kernel.runProgram({
    path: parser,
    // The cache of the distribution knows files by their path; this text has none.
    args: [parser, "--replace", "--skip-cache", "--quiet"],
    env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"],
    cwd: "/",
    stdin: Buffer.from(text),
    maxOutputBytes,
    timeoutMs: Math.max(1, Math.min(parserTimeoutMs, op.remainingMs ?? parserTimeoutMs)),
  });
  const kill = (): void => program.kill();
  op.signal.addEventListener("abort", kill, { once: true });
  const outcome = await program.result
    .catch((error: unknown) => {
      throw new DomainError("failed-precondition", `${parser} could not be run: ${describeError(error)}`, { cause: error });
    })
    .finally(() => op.signal.removeEventListener("abort", kill));
  op.throwIfAborted();
  if (outcome.exitCode === 0) return;
  const said = Buffer.concat([outcome.stderr, outcome.stdout]).toString("utf8").trim();
  const how = outcome.timedOut ? "did not finish in time" : `ended with ${outcome.exitCode ?? `signal ${outcome.signal}`}`;
  throw new DomainError("failed-precondition", `AppArmor profile ${profile}: ${parser} ${how}${said === "" ? "" : `: ${said}`}`);
}

/** `name (mode)` or `unconfined`; null where no rule can or needs to name it. */
function profileOf(label: string): string | null {
  const name = label.replace(/ \([a-z]+\)$/, "");
  return name === "" || name === "unconfined" || !/^[\w./:+@-]+$/.test(name) ? null : name;
}

/** The older file is that of whichever security module comes first. */
async function readOwnLabel(): Promise<string> {
  const text = await readFile("/proc/self/attr/apparmor/current", "utf8").catch(() =>
    readFile("/proc/self/attr/current", "utf8").catch(() => ""),
  );
  return text.replace(/[\n\0]+$/, "");
}

function isThere(path: string, mode: number): Promise<boolean> {
  return access(path, mode).then(
    () => true,
    () => false,
  );
}
