/** LinuxContainerResources in both directions. */
import type { LinuxContainerResources, LinuxContainerResourcesInput } from "../../../api/cri/service-definition.ts";
import type { LinuxResources } from "../../sandbox/types.ts";
import { checkRange } from "../validate.ts";
import { numberFromInt64 } from "./int64.ts";

export function resourcesFromRequest(resources: LinuxContainerResources | null, field: string): LinuxResources | null {
  if (resources === null) return null;
  return {
    cpuPeriodUs: numberFromInt64(resources.cpuPeriod, `${field}.cpu_period`),
    cpuQuotaUs: numberFromInt64(resources.cpuQuota, `${field}.cpu_quota`),
    cpuShares: numberFromInt64(resources.cpuShares, `${field}.cpu_shares`),
    memoryLimitBytes: numberFromInt64(resources.memoryLimitInBytes, `${field}.memory_limit_in_bytes`),
    oomScoreAdj: checkRange(numberFromInt64(resources.oomScoreAdj, `${field}.oom_score_adj`), -1000, 1000, `${field}.oom_score_adj`),
    cpusetCpus: resources.cpusetCpus,
    cpusetMems: resources.cpusetMems,
    hugepageLimits: resources.hugepageLimits.map(({ pageSize, limit }) => ({
      pageSize,
      limitBytes: numberFromInt64(limit, `${field}.hugepage_limits`),
    })),
    unified: { ...resources.unified },
    memorySwapLimitBytes: numberFromInt64(resources.memorySwapLimitInBytes, `${field}.memory_swap_limit_in_bytes`),
  };
}

export function resourcesToWire(resources: LinuxResources): LinuxContainerResourcesInput {
  return {
    cpuPeriod: resources.cpuPeriodUs,
    cpuQuota: resources.cpuQuotaUs,
    cpuShares: resources.cpuShares,
    memoryLimitInBytes: resources.memoryLimitBytes,
    oomScoreAdj: resources.oomScoreAdj,
    cpusetCpus: resources.cpusetCpus,
    cpusetMems: resources.cpusetMems,
    hugepageLimits: resources.hugepageLimits.map(({ pageSize, limitBytes }) => ({ pageSize, limit: limitBytes })),
    unified: resources.unified,
    memorySwapLimitInBytes: resources.memorySwapLimitBytes,
  };
}
