/**
 * Capability arguments (`runtimeConfig`, CNI conventions): what the pod's request says in the words of the plugins.
 * Only what a plugin declares is handed to it.
 */
import { DomainError } from "../../base/errors.ts";
import type { SandboxConfig } from "../types.ts";
import type { JsonObject, JsonValue } from "./json.ts";

const ingressAnnotation = "kubernetes.io/ingress-bandwidth";
const egressAnnotation = "kubernetes.io/egress-bandwidth";
/** Bits that may pass at once; the plugin wants a 32-bit number, and no smaller bound is asked for. */
const unlimitedBurstBits = 2 ** 31 - 1;

/** Throws invalid-argument for a bandwidth annotation that is no quantity. */
export function capabilityArgs(config: SandboxConfig, cgroupPath: string): JsonObject {
  const args: Record<string, JsonValue> = { cgroupPath, "io.kubernetes.cri.pod-annotations": { ...config.annotations } };
  const portMappings = config.portMappings
    .filter(({ hostPort }) => hostPort > 0)
    .map(({ hostPort, containerPort, protocol, hostIp }) => ({ hostPort, containerPort, protocol, hostIP: hostIp }));
  if (portMappings.length > 0) args["portMappings"] = portMappings;
  const bandwidth = bandwidthArgs(config.annotations);
  if (bandwidth) args["bandwidth"] = bandwidth;
  if (config.dns) {
    const { servers, searches, options } = config.dns;
    args["dns"] = { servers: [...servers], searches: [...searches], options: [...options] };
  }
  return args;
}

function bandwidthArgs(annotations: Readonly<Record<string, string>>): JsonObject | null {
  const args: Record<string, JsonValue> = {};
  const ingress = annotations[ingressAnnotation];
  if (ingress !== undefined) {
    args["ingressRate"] = bitsPerSecond(ingressAnnotation, ingress);
    args["ingressBurst"] = unlimitedBurstBits;
  }
  const egress = annotations[egressAnnotation];
  if (egress !== undefined) {
    args["egressRate"] = bitsPerSecond(egressAnnotation, egress);
    args["egressBurst"] = unlimitedBurstBits;
  }
  return Object.keys(args).length === 0 ? null : args;
}

const factors: Readonly<Record<string, number>> = {
  "": 1,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
};

/** A Kubernetes quantity (`10M`, `1.5Gi`) as whole bits per second, 1k to 1P as the kubelet allows. */
function bitsPerSecond(annotation: string, quantity: string): number {
  const match = /^(\d+(?:\.\d+)?)(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$/.exec(quantity);
  const rate = match ? Math.floor(Number(match[1]) * (factors[match[2] ?? ""] ?? 1)) : Number.NaN;
  if (!(rate >= 1e3 && rate <= 1e15)) {
    throw new DomainError("invalid-argument", `annotation ${annotation}: ${JSON.stringify(quantity)} is no bandwidth between 1k and 1P`);
  }
  return rate;
}
