/**
 * Runs one CNI plugin for one command (CNI specification 1.1, section 2): environment, configuration on stdin, result or
 * error as JSON on stdout. A plugin that hangs or floods is killed with its process group.
 */
import { constants } from "node:fs";
import { access } from "node:fs/promises";
import { join } from "node:path";
import { DomainError, describeError, type ErrorKind } from "../../base/errors.ts";
import type { BerthConfig } from "../../config/types.ts";
import type { Kernel } from "../../kernel/contract.ts";
import type { Operation } from "../../operation/context.ts";
import type { NetworkPod } from "./attachment.ts";
import type { NetworkPlugin } from "./config.ts";
import { type JsonObject, parseObject, text } from "./json.ts";

export type NetworkCommand = "ADD" | "DEL" | "STATUS" | "GC";

export interface InvokeDeps {
  readonly kernel: Pick<Kernel, "runProgram">;
  readonly config: BerthConfig["network"];
}

export interface Invocation {
  readonly command: NetworkCommand;
  readonly network: string;
  readonly cniVersion: string;
  readonly plugin: NetworkPlugin;
  /** Absent for STATUS and GC. */
  readonly target: { readonly pod: NetworkPod; readonly networkNamespace: string; readonly interfaceName: string } | null;
  /** Added to the plugin's configuration: prevResult, runtimeConfig, … */
  readonly extra: JsonObject;
}

/** What plugins may look up programs in; nothing of the daemon's own environment reaches them. */
const pluginPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/** "Try again later" (section 5 of the specification). */
const codeTryAgainLater = 11;
const stderrTail = 1000;

/** The first of the plugin directories that has the program; null where none has. */
export async function findPlugin(directories: readonly string[], type: string): Promise<string | null> {
  for (const directory of directories) {
    const path = join(directory, type);
    const found = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return path;
  }
  return null;
}

/** The plugin's JSON answer; null where it wrote nothing. Failures name plugin, network and what the plugin said. */
export async function invokePlugin(op: Operation, deps: InvokeDeps, invocation: Invocation): Promise<JsonObject | null> {
  const { plugin, command, network } = invocation;
  const who = `CNI plugin ${JSON.stringify(plugin.type)} (network ${JSON.stringify(network)}) ${command}`;
  const { pluginDirectories, pluginTimeoutMs, maxPluginOutputBytes } = deps.config;
  const path = await findPlugin(pluginDirectories, plugin.type);
  if (path === null) throw new DomainError("failed-precondition", `${who}: no such program in ${pluginDirectories.join(", ")}`);
  op.throwIfAborted();
  const timeoutMs = Math.max(1, Math.ceil(Math.min(pluginTimeoutMs, op.remainingMs ?? pluginTimeoutMs)));
  const program = deps.kernel.runProgram({
    path,
    args: [path],
    env: environment(invocation, pluginDirectories),
    cwd: "/",
    stdin: Buffer.from(JSON.stringify({ ...plugin.conf, cniVersion: invocation.cniVersion, name: network, ...invocation.extra })),
    maxOutputBytes: maxPluginOutputBytes,
    timeoutMs,
  });
  // The result is awaited after the kill, too: the plugin must not still be at work when DEL runs.
  const kill = (): void => program.kill();
  op.signal.addEventListener("abort", kill, { once: true });
  const outcome = await program.result
    .catch((error: unknown) => {
      throw new DomainError("internal", `${who}: ${path} could not be run: ${describeError(error)}`, { cause: error });
    })
    .finally(() => op.signal.removeEventListener("abort", kill));
  if (op.signal.aborted) {
    const reason: unknown = op.signal.reason;
    const kind: ErrorKind = reason instanceof DomainError ? reason.kind : "cancelled";
    throw new DomainError(kind, `${who} was killed: ${describeError(reason)}`, { cause: reason });
  }
  if (outcome.timedOut) throw new DomainError("deadline-exceeded", `${who} did not finish within ${timeoutMs} ms and was killed`);
  if (outcome.outputExceeded) throw new DomainError("internal", `${who} wrote more than ${maxPluginOutputBytes} bytes and was killed`);
  const output = Buffer.from(outcome.stdout).toString("utf8").trim();
  if (outcome.exitCode !== 0) throw pluginError(who, outcome, output);
  if (output === "") return null;
  const result = parseObject(output);
  if (!result) throw new DomainError("internal", `${who} succeeded, but its output is not a JSON object`);
  return result;
}

function environment(invocation: Invocation, pluginDirectories: readonly string[]): string[] {
  const env = [`CNI_COMMAND=${invocation.command}`, `CNI_PATH=${pluginDirectories.join(":")}`, `PATH=${pluginPath}`];
  const { target } = invocation;
  if (!target) return env;
  const { pod } = target;
  const args = [
    "IgnoreUnknown=1",
    `K8S_POD_NAMESPACE=${pod.namespace}`,
    `K8S_POD_NAME=${pod.name}`,
    `K8S_POD_INFRA_CONTAINER_ID=${pod.id}`,
    `K8S_POD_UID=${pod.uid}`,
  ];
  return [
    ...env,
    `CNI_CONTAINERID=${pod.id}`,
    `CNI_NETNS=${target.networkNamespace}`,
    `CNI_IFNAME=${target.interfaceName}`,
    `CNI_ARGS=${args.join(";")}`,
  ];
}

function pluginError(
  who: string,
  outcome: { readonly exitCode: number | null; readonly signal: number | null; readonly stderr: Uint8Array },
  output: string,
): DomainError {
  const error = parseObject(output);
  const code = error?.["code"];
  if (error && (typeof code === "number" || text(error["msg"]) !== "")) {
    const details = text(error["details"]) === "" ? "" : ` (${text(error["details"])})`;
    const kind: ErrorKind = code === codeTryAgainLater ? "unavailable" : "internal";
    return new DomainError(kind, `${who} failed with code ${String(code ?? "?")}: ${text(error["msg"])}${details}`);
  }
  const how = outcome.signal === null ? `exit code ${outcome.exitCode}` : `signal ${outcome.signal}`;
  const said = Buffer.from(outcome.stderr).toString("utf8").trim().slice(-stderrTail) || output.slice(0, stderrTail);
  return new DomainError("internal", `${who} failed with ${how}${said === "" ? "" : `: ${said}`}`);
}
