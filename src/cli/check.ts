/** `berth check`: whether this host can run containers, in one line for each finding; exit code 1 where it cannot. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { describeError } from "../base/errors.ts";
import { type ConfigSources, loadConfig } from "../config/load.ts";
import type { BerthConfig } from "../config/types.ts";
import type { KernelFeatures } from "../kernel/contract.ts";
import { loadKernel } from "../kernel/load.ts";

export interface Finding {
  readonly level: "ok" | "note" | "error";
  readonly text: string;
}

export async function checkHost(sources: ConfigSources): Promise<void> {
  const findings = gather(sources);
  for (const { level, text } of findings) process.stdout.write(`${level.padEnd(5)} ${text}\n`);
  if (findings.some((finding) => finding.level === "error")) process.exitCode = 1;
}

function gather(sources: ConfigSources): Finding[] {
  let config: BerthConfig;
  try {
    config = loadConfig(sources).config;
  } catch (error) {
    return [{ level: "error", text: describeError(error) }];
  }
  try {
    return [...kernelFindings(loadKernel().features()), ...networkFindings(config)];
  } catch (error) {
    return [{ level: "error", text: `the native core does not load: ${describeError(error)}` }, ...networkFindings(config)];
  }
}

/** What the core cannot do without, and what costs a feature. */
export function kernelFindings(features: KernelFeatures): Finding[] {
  const findings: Finding[] = [
    { level: "ok", text: `kernel ${features.release}, cgroup ${features.cgroup.mode}, ${features.architecture}` },
  ];
  for (const controller of ["cpu", "memory", "pids"]) {
    if (!features.cgroup.controllers.includes(controller))
      findings.push({ level: "error", text: `the cgroup controller ${controller} is missing` });
  }
  if (!features.seccomp) findings.push({ level: "error", text: "the kernel has no seccomp filters" });
  for (const capability of ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_MKNOD"]) {
    if (!features.capabilities.includes(capability)) findings.push({ level: "error", text: `the daemon lacks ${capability}` });
  }
  if (!features.capabilities.includes("CAP_SYS_RESOURCE")) {
    findings.push({ level: "note", text: "without CAP_SYS_RESOURCE, rlimits are not raised and oom_score_adj is not lowered" });
  }
  const optional: [boolean, string][] = [
    [features.cloneIntoCgroup, "clone into a cgroup"],
    [features.overlayLowerdirPlus, "overlay lowerdir+ (images with very many layers)"],
    [features.idmappedMounts, "id-mapped mounts"],
    [features.recursiveReadOnly, "recursive read-only mounts"],
    [features.userNamespace, "user namespaces"],
    [features.psi, "pressure stall information"],
    [features.appArmor || features.seLinux, "a mandatory access control module"],
  ];
  for (const [present, name] of optional) if (!present) findings.push({ level: "note", text: `the kernel lacks ${name}` });
  return findings;
}

function networkFindings(config: BerthConfig): Finding[] {
  const { configDirectory, pluginDirectories } = config.network;
  const findings: Finding[] = [];
  const lists = existsSync(configDirectory) ? readdirSync(configDirectory).filter((name) => /\.(conf|conflist|json)$/.test(name)) : [];
  if (lists.length === 0)
    findings.push({ level: "note", text: `no CNI configuration in ${configDirectory}: only pods on the host network run` });
  const found = pluginDirectories.filter((directory) => existsSync(join(directory, "bridge")) || existsSync(join(directory, "host-local")));
  if (found.length === 0) findings.push({ level: "note", text: `no CNI plugins in ${pluginDirectories.join(", ")}` });
  else findings.push({ level: "ok", text: `CNI plugins in ${found.join(", ")}` });
  return findings;
}
