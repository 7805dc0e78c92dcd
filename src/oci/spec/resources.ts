/** The CRI's Linux resources as the runtime-spec's `linux.resources`. In the CRI 0 and the empty string mean "not set". */
import { DomainError } from "../../base/errors.ts";
import type { SpecDevice, SpecDeviceRule, SpecResources } from "./runtime-spec.ts";

export interface ResourceInput {
  readonly cpuPeriodUs: number;
  readonly cpuQuotaUs: number;
  readonly cpuShares: number;
  readonly memoryLimitBytes: number;
  readonly cpusetCpus: string;
  readonly cpusetMems: string;
  readonly hugepageLimits: readonly { readonly pageSize: string; readonly limitBytes: number }[];
  readonly unified: Readonly<Record<string, string>>;
  readonly memorySwapLimitBytes: number;
}

/** What the host can limit. */
export interface ResourceSupport {
  readonly unified: boolean;
  readonly swap: boolean;
  readonly hugetlb: boolean;
}

export interface ResourceOptions {
  readonly support: ResourceSupport;
  /** 0 for no limit. */
  readonly pidsLimit: number;
  readonly deviceRules: readonly SpecDeviceRule[];
}

export function buildResources(input: ResourceInput | null, options: ResourceOptions): SpecResources {
  return {
    devices: options.deviceRules,
    ...(options.pidsLimit > 0 ? { pids: { limit: options.pidsLimit } } : {}),
    ...(input === null ? {} : limits(input, options.support)),
  };
}

function limits(input: ResourceInput, support: ResourceSupport): SpecResources {
  const cpu = {
    ...(input.cpuShares > 0 ? { shares: input.cpuShares } : {}),
    ...(input.cpuQuotaUs !== 0 ? { quota: input.cpuQuotaUs } : {}),
    ...(input.cpuPeriodUs > 0 ? { period: input.cpuPeriodUs } : {}),
    ...(input.cpusetCpus === "" ? {} : { cpus: input.cpusetCpus }),
    ...(input.cpusetMems === "" ? {} : { mems: input.cpusetMems }),
  };
  const memory = memoryLimits(input, support);
  const hugepages = support.hugetlb ? input.hugepageLimits.map(({ pageSize, limitBytes }) => ({ pageSize, limit: limitBytes })) : [];
  if (!support.hugetlb && input.hugepageLimits.some(({ limitBytes }) => limitBytes > 0)) {
    throw new DomainError("failed-precondition", "huge pages are asked for and the host has no hugetlb controller");
  }
  if (Object.keys(input.unified).length > 0 && !support.unified) {
    throw new DomainError("invalid-argument", "unified resources are asked for and the host has no cgroup v2");
  }
  return {
    ...(Object.keys(cpu).length > 0 ? { cpu } : {}),
    ...(Object.keys(memory).length > 0 ? { memory } : {}),
    ...(hugepages.length > 0 ? { hugepageLimits: hugepages } : {}),
    ...(Object.keys(input.unified).length > 0 ? { unified: input.unified } : {}),
  };
}

/** A memory limit without one for swap means no swap: `swap` is memory and swap together, as on cgroup v1. */
function memoryLimits(input: ResourceInput, support: ResourceSupport): { limit?: number; swap?: number } {
  const limit = input.memoryLimitBytes;
  const swap = input.memorySwapLimitBytes !== 0 ? input.memorySwapLimitBytes : limit;
  return {
    ...(limit > 0 ? { limit } : {}),
    ...(swap !== 0 && support.swap ? { swap } : {}),
  };
}

/**
 * Nothing but what every program expects: making any node (it cannot be opened without another rule), the memory devices,
 * the terminals.
 */
const defaultRules: readonly SpecDeviceRule[] = [
  { allow: false, access: "rwm" },
  { allow: true, type: "c", access: "m" },
  { allow: true, type: "b", access: "m" },
  { allow: true, type: "c", major: 1, minor: 3, access: "rwm" },
  { allow: true, type: "c", major: 1, minor: 5, access: "rwm" },
  { allow: true, type: "c", major: 1, minor: 7, access: "rwm" },
  { allow: true, type: "c", major: 1, minor: 8, access: "rwm" },
  { allow: true, type: "c", major: 1, minor: 9, access: "rwm" },
  { allow: true, type: "c", major: 5, minor: 0, access: "rwm" },
  { allow: true, type: "c", major: 5, minor: 1, access: "rwm" },
  { allow: true, type: "c", major: 5, minor: 2, access: "rwm" },
  { allow: true, type: "c", major: 136, access: "rwm" },
];

export interface GrantedDevice {
  readonly device: SpecDevice;
  /** Letters out of `rwm`. */
  readonly permissions: string;
}

export function buildDeviceRules(devices: readonly GrantedDevice[], privileged: boolean): readonly SpecDeviceRule[] {
  if (privileged) return [{ allow: true, access: "rwm" }];
  if (devices.length === 0) return defaultRules;
  return [
    ...defaultRules,
    ...devices
      .filter(({ device }) => device.type !== "p")
      .map(({ device, permissions }) => ({
        allow: true,
        type: device.type as "c" | "b",
        major: device.major,
        minor: device.minor,
        access: permissions,
      })),
  ];
}
