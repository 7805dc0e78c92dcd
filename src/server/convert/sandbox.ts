/** Pod sandboxes: request → domain, domain → wire. */

import { isIP } from "node:net";
import {
  type DNSConfig,
  ListPodSandboxResponse,
  type PodSandboxConfig,
  type PodSandboxFilter,
  type PodSandboxInput,
  type PodSandboxMetadata,
  PodSandboxState,
  type PodSandboxStatusInput,
  PodSandboxStatusResponse,
  Protocol,
  type PortMapping as WirePort,
} from "../../../api/cri/service-definition.ts";
import type {
  DnsConfig,
  PortMapping,
  SandboxConfig,
  SandboxFilter,
  SandboxMetadata,
  SandboxState,
  SandboxView,
} from "../../sandbox/types.ts";
import { itemEncoder } from "../encoded-items.ts";
import {
  checkCgroupParent,
  checkHostname,
  checkLogDirectory,
  checkName,
  checkRange,
  checkWord,
  invalid,
  quote,
  required,
} from "../validate.ts";
import { int64FromBigInt } from "./int64.ts";
import { resourcesFromRequest } from "./resources.ts";
import { modeToWire, namespacesFromRequest, profileFromRequest, securityContextJson } from "./security.ts";

export function sandboxConfigFromRequest(given: PodSandboxConfig | null, runtimeHandler: string): SandboxConfig {
  const config = required(given, "config");
  const security = config.linux?.securityContext ?? null;
  const at = "config.linux.security_context";
  return {
    metadata: metadataFromRequest(config.metadata),
    hostname: checkHostname(config.hostname, "config.hostname"),
    logDirectory: checkLogDirectory(config.logDirectory, "config.log_directory"),
    dns: dnsFromRequest(config.dnsConfig),
    portMappings: config.portMappings.map(portFromRequest),
    labels: config.labels,
    annotations: config.annotations,
    cgroupParent: checkCgroupParent(config.linux?.cgroupParent ?? "", "config.linux.cgroup_parent"),
    sysctls: config.linux?.sysctls ?? {},
    namespaces: namespacesFromRequest(security?.namespaceOptions ?? null, `${at}.namespace_options`),
    privileged: security?.privileged ?? false,
    seccomp: profileFromRequest(security?.seccomp ?? null, security?.seccompProfilePath ?? "", `${at}.seccomp`),
    apparmor: profileFromRequest(security?.apparmor ?? null, "", `${at}.apparmor`),
    overhead: resourcesFromRequest(config.linux?.overhead ?? null, "config.linux.overhead"),
    resources: resourcesFromRequest(config.linux?.resources ?? null, "config.linux.resources"),
    runtimeHandler,
    securityContextJson: securityContextJson(security),
  };
}

function metadataFromRequest(given: PodSandboxMetadata | null): SandboxMetadata {
  const metadata = required(given, "config.metadata");
  return {
    name: checkName(metadata.name, "config.metadata.name"),
    uid: checkName(metadata.uid, "config.metadata.uid"),
    namespace: checkName(metadata.namespace, "config.metadata.namespace"),
    attempt: metadata.attempt,
  };
}

function dnsFromRequest(dns: DNSConfig | null): DnsConfig | null {
  if (dns === null) return null;
  return {
    servers: dns.servers.map((word) => checkWord(word, "config.dns_config.servers")),
    searches: dns.searches.map((word) => checkWord(word, "config.dns_config.searches")),
    options: dns.options.map((word) => checkWord(word, "config.dns_config.options")),
  };
}

function portFromRequest(port: WirePort): PortMapping {
  const at = "config.port_mappings";
  const protocol = protocolName(port.protocol);
  if (port.hostIp !== "" && isIP(port.hostIp) === 0) throw invalid(`${at}.host_ip`, `is not an IP address: ${quote(port.hostIp)}`);
  return {
    protocol,
    containerPort: checkRange(port.containerPort, 1, 65535, `${at}.container_port`),
    hostPort: checkRange(port.hostPort, 0, 65535, `${at}.host_port`),
    hostIp: port.hostIp,
  };
}

function protocolName(value: number): PortMapping["protocol"] {
  switch (value) {
    case Protocol.TCP:
      return "tcp";
    case Protocol.UDP:
      return "udp";
    case Protocol.SCTP:
      return "sctp";
    default:
      throw invalid("config.port_mappings.protocol", `is unknown: ${value}`);
  }
}

/** Without a filter: everything. */
export function sandboxFilterFromRequest(filter: PodSandboxFilter | null): SandboxFilter {
  return {
    id: filter === null || filter.id === "" ? null : filter.id,
    state: filter === null || filter.state === null ? null : stateFromWire(filter.state.state),
    labels: filter?.labelSelector ?? {},
  };
}

function stateFromWire(value: number): SandboxState {
  if (value === PodSandboxState.SANDBOX_READY) return "ready";
  if (value === PodSandboxState.SANDBOX_NOTREADY) return "not-ready";
  throw invalid("filter.state", `is unknown: ${value}`);
}

function stateToWire(state: SandboxState): number {
  return state === "ready" ? PodSandboxState.SANDBOX_READY : PodSandboxState.SANDBOX_NOTREADY;
}

/** What a list item and a status have in common. */
function sandboxItem(view: SandboxView): PodSandboxInput {
  return {
    id: view.id,
    metadata: view.config.metadata,
    state: stateToWire(view.state),
    createdAt: int64FromBigInt(view.createdAtNs),
    labels: view.config.labels,
    annotations: view.config.annotations,
    runtimeHandler: view.config.runtimeHandler,
  };
}

function sandboxStatus(view: SandboxView): PodSandboxStatusInput {
  const { network, pid, ipc, targetId } = view.config.namespaces;
  const [ip = "", ...additional] = view.network.ips;
  return {
    ...sandboxItem(view),
    network: { ip, additionalIps: additional.map((address) => ({ ip: address })) },
    linux: { namespaces: { options: { network: modeToWire(network), pid: modeToWire(pid), ipc: modeToWire(ipc), targetId } } },
  };
}

/** Bytes of a ListPodSandboxResponse with this one item. */
export const encodeSandboxItem = itemEncoder(ListPodSandboxResponse, (view: SandboxView) => ({ items: [sandboxItem(view)] }));

/** Bytes of a PodSandboxStatusResponse with the status alone. */
export const encodeSandboxStatus = itemEncoder(PodSandboxStatusResponse, (view: SandboxView) => ({ status: sandboxStatus(view) }));

/** For verbose requests; `phases` says where the time of the creation went. */
export function sandboxInfo(view: SandboxView): Record<string, unknown> {
  return {
    id: view.id,
    pid: view.pausePid,
    reason: view.reason,
    networkNamespace: view.networkNamespacePath,
    runtimeHandler: view.config.runtimeHandler,
    createPhasesMs: view.phases,
    config: view.config,
  };
}
