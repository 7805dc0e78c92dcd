/** Statistics: domain → wire. They change with every reading, so nothing is cached. */
import type { ContainerStatsInput, FilesystemUsageInput, UInt64ValueInput } from "../../../api/cri/service-definition.ts";
import type { ContainerStatsView } from "../../container/types.ts";
import type { FilesystemView } from "../../image/types.ts";
import { int64FromBigInt, uint64FromBigInt, uint64FromNumber } from "./int64.ts";

export function containerStatsToWire({ container, cpu, memory, swap, writableLayer }: ContainerStatsView): ContainerStatsInput {
  return {
    attributes: {
      id: container.id,
      metadata: container.config.metadata,
      labels: container.config.labels,
      annotations: container.config.annotations,
    },
    cpu: cpu && {
      timestamp: int64FromBigInt(cpu.timestampNs),
      usageCoreNanoSeconds: { value: uint64FromBigInt(cpu.usageCoreNs) },
      usageNanoCores: { value: uint64FromBigInt(cpu.usageNanoCores) },
    },
    memory: memory && {
      timestamp: int64FromBigInt(memory.timestampNs),
      workingSetBytes: count(memory.workingSetBytes),
      availableBytes: count(memory.availableBytes),
      usageBytes: count(memory.usageBytes),
      rssBytes: count(memory.rssBytes),
      pageFaults: count(memory.pageFaults),
      majorPageFaults: count(memory.majorPageFaults),
    },
    swap: swap && {
      timestamp: int64FromBigInt(swap.timestampNs),
      swapUsageBytes: count(swap.usageBytes),
      swapAvailableBytes: count(swap.availableBytes),
    },
    writableLayer: filesystemToWire(writableLayer),
  };
}

export function filesystemToWire(usage: FilesystemView): FilesystemUsageInput {
  return {
    timestamp: int64FromBigInt(usage.timestampNs),
    fsId: { mountpoint: usage.mountPoint },
    usedBytes: count(usage.usedBytes),
    inodesUsed: count(usage.inodesUsed),
  };
}

function count(value: number): UInt64ValueInput {
  return { value: uint64FromNumber(value) };
}
