/** Everything about a request that can be refused before anything exists. Messages name the field. */
import { isIP } from "node:net";
import { hostname as hostHostname } from "node:os";
import { DomainError } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { BerthConfig } from "../config/types.ts";
import { cgroupParentPath } from "./cgroup-path.ts";
import { capabilityArgs } from "./network/capabilities.ts";
import { type OwnNamespaces, podSysctls } from "./sysctls.ts";
import type { SandboxConfig } from "./types.ts";

/** The request in the runtime's own terms. */
export interface SandboxPlan {
  readonly own: OwnNamespaces & { readonly pid: boolean };
  readonly cgroupParent: string;
  readonly sysctls: Readonly<Record<string, string>>;
  /** Of the pod's UTS namespace; the host's where it shares that. */
  hostname(id: string): string;
}

/** The UTS namespace holds no more (uname(2)). */
const maxHostname = 64;

/** Throws invalid-argument, or unimplemented for what is valid but not served. */
export function validateSandbox(config: SandboxConfig, berth: BerthConfig): SandboxPlan {
  validateMetadata(config);
  validateHandler(config, berth);
  const own = ownNamespaces(config);
  refuseUserNamespace(config);
  if (config.hostname.length > maxHostname || /[^A-Za-z0-9._-]/.test(config.hostname)) {
    throw invalid(`hostname ${JSON.stringify(config.hostname)} is not a host name of at most ${maxHostname} characters`);
  }
  validateDns(config);
  validatePorts(config);
  if (config.logDirectory !== "" && (!config.logDirectory.startsWith("/") || config.logDirectory.split("/").includes(".."))) {
    throw invalid(`log_directory ${JSON.stringify(config.logDirectory)} is not an absolute path without ".."`);
  }
  // Its annotations are refused here, not after half of the pod has been made.
  if (own.net) capabilityArgs(config, "/");
  const { runtime } = berth;
  return {
    own,
    cgroupParent: cgroupParentPath(runtime.cgroupDriver, config.cgroupParent, runtime.defaultCgroupParent),
    sysctls: podSysctls(config.sysctls, runtime.defaultSysctls, own),
    hostname: (id) => (!own.uts ? hostHostname() : config.hostname === "" ? shortId(id) : config.hostname),
  };
}

/** What retries are recognised by. */
export function sandboxKey({ metadata }: SandboxConfig): string {
  return `${metadata.namespace}/${metadata.name}/${metadata.uid}/${metadata.attempt}`;
}

/** They travel in CNI_ARGS (`;` and `=` separate there) and in log lines; paths are made of ids alone. */
function validateMetadata({ metadata }: SandboxConfig): void {
  for (const field of ["name", "namespace", "uid"] as const) {
    const value = metadata[field];
    if (!/^[A-Za-z0-9_][A-Za-z0-9._:-]{0,252}$/.test(value) || value.includes("..")) {
      throw invalid(`metadata.${field} ${JSON.stringify(value)} is not a name`);
    }
  }
  if (!Number.isSafeInteger(metadata.attempt) || metadata.attempt < 0) throw invalid(`metadata.attempt ${metadata.attempt} is negative`);
}

function validateHandler({ runtimeHandler }: SandboxConfig, { runtime }: BerthConfig): void {
  const known = new Set(["native", runtime.defaultHandler, ...Object.keys(runtime.handlers)]);
  if (runtimeHandler !== "" && !known.has(runtimeHandler)) {
    throw invalid(`runtime handler ${JSON.stringify(runtimeHandler)} is not configured; there are ${[...known].join(", ")}`);
  }
}

function ownNamespaces({ namespaces }: SandboxConfig): SandboxPlan["own"] {
  for (const kind of ["network", "ipc"] as const) {
    const mode = namespaces[kind];
    if (mode !== "pod" && mode !== "node") throw invalid(`a pod's ${kind} namespace cannot be ${mode.toUpperCase()}`);
  }
  if (namespaces.pid === "target") throw invalid("a pod's pid namespace cannot be TARGET");
  const net = namespaces.network === "pod";
  // The host's UTS namespace goes with the host's network: there the pod is the host by name.
  return { net, uts: net, ipc: namespaces.ipc === "pod", pid: namespaces.pid === "pod" };
}

/** Running such a pod without one would give it more than it asked for. */
function refuseUserNamespace({ securityContextJson }: SandboxConfig): void {
  if (securityContextJson === null) return;
  const context = JSON.parse(securityContextJson) as Record<string, Record<string, Record<string, unknown>>>;
  const options = context["namespaceOptions"] ?? context["namespace_options"];
  const userns = options?.["usernsOptions"] ?? options?.["userns_options"];
  if (!userns) return;
  const mode = userns["mode"] ?? "POD";
  if (mode === "NODE" || mode === 2) return;
  if (mode === "POD" || mode === 0) throw new DomainError("unimplemented", "pods with a user namespace are not supported yet");
  throw invalid(`a pod's user namespace cannot be ${String(mode)}`);
}

/** One word each: a line break would write further lines into resolv.conf. */
function validateDns({ dns }: SandboxConfig): void {
  if (!dns) return;
  for (const server of dns.servers) {
    if (isIP(server) === 0) throw invalid(`dns server ${JSON.stringify(server)} is not an IP address`);
  }
  for (const word of [...dns.searches, ...dns.options]) {
    if (!/^[^\s\x00-\x1f\x7f]{1,255}$/.test(word)) throw invalid(`dns search or option ${JSON.stringify(word)} is not one word`);
  }
}

function validatePorts({ portMappings }: SandboxConfig): void {
  for (const { hostPort, containerPort, hostIp } of portMappings) {
    const sound = [hostPort, containerPort].every((port) => Number.isInteger(port) && port >= 0 && port <= 65_535);
    if (!sound) throw invalid(`port mapping ${hostPort}:${containerPort} is not one of ports`);
    if (hostPort > 0 && containerPort === 0) throw invalid(`host port ${hostPort} is mapped to no container port`);
    if (hostIp !== "" && isIP(hostIp) === 0)
      throw invalid(`host IP ${JSON.stringify(hostIp)} of host port ${hostPort} is not an IP address`);
  }
}

function invalid(message: string): DomainError {
  return new DomainError("invalid-argument", message);
}
