/** ContainerStats, ListContainerStats: one batch of reads on descriptors that stand open, whatever the number of containers. */
import type { CgroupStats } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";
import type { ContainerContext } from "./context.ts";
import { findContainer, matching } from "./list.ts";
import type { LiveEntry } from "./registry.ts";
import type { ContainerFilter, ContainerStatsView } from "./types.ts";

/** Readings closer together than this say little about a rate: the last rate stands. */
const minRateIntervalNs = 100_000_000n;

interface Reading {
  readonly timestampNs: bigint;
  readonly usageCoreNs: bigint;
  readonly usageNanoCores: bigint;
}

export class ContainerStatsReader {
  readonly #ctx: ContainerContext;
  /** The last reading of each container, for the rate. */
  readonly #readings = new WeakMap<LiveEntry, Reading>();

  constructor(ctx: ContainerContext) {
    this.#ctx = ctx;
  }

  async one(op: Operation, id: string): Promise<ContainerStatsView> {
    const entry = findContainer(this.#ctx, id);
    const [view] = await this.#read(op, [entry]);
    return view ?? this.#view(entry, null);
  }

  list(op: Operation, filter: ContainerFilter): Promise<readonly ContainerStatsView[]> {
    return this.#read(op, matching(this.#ctx, filter));
  }

  async #read(op: Operation, entries: readonly LiveEntry[]): Promise<readonly ContainerStatsView[]> {
    const running = entries.flatMap((entry) =>
      entry.record.phase === "running" && entry.container ? [{ entry, cgroup: entry.container.cgroup }] : [],
    );
    const figures = new Map<LiveEntry, CgroupStats | null>();
    if (running.length > 0) {
      const stats = await op.step("container.stats", () =>
        op.race(this.#ctx.kernel.cgroupStats({ cgroups: running.map(({ cgroup }) => cgroup) })),
      );
      running.forEach(({ entry }, index) => {
        figures.set(entry, stats[index] ?? null);
      });
    }
    // One that ended meanwhile has no figures; one that was removed is no container any more.
    return entries.filter(({ gone }) => !gone).map((entry) => this.#view(entry, figures.get(entry) ?? null));
  }

  #view(entry: LiveEntry, stats: CgroupStats | null): ContainerStatsView {
    const { view } = entry;
    const timestampNs = stats === null ? 0n : BigInt(stats.timestampNs);
    return {
      container: view,
      cpu: stats === null ? null : this.#cpu(entry, stats),
      memory: stats === null ? null : memory(stats, timestampNs),
      swap:
        stats === null || stats.swapUsageBytes === null
          ? null
          : { timestampNs, usageBytes: stats.swapUsageBytes, availableBytes: available(stats.swapLimitBytes, stats.swapUsageBytes) },
      writableLayer: this.#ctx.layers.usage(view.id, view.createdAtNs),
    };
  }

  /** The rate since the last reading; the first one's is since the start. */
  #cpu(entry: LiveEntry, stats: CgroupStats): ContainerStatsView["cpu"] {
    if (stats.cpuUsageNs === null) return null;
    const timestampNs = BigInt(stats.timestampNs);
    const usageCoreNs = BigInt(stats.cpuUsageNs);
    const before = this.#readings.get(entry) ?? { timestampNs: entry.view.startedAtNs, usageCoreNs: 0n, usageNanoCores: 0n };
    const elapsedNs = timestampNs - before.timestampNs;
    if (elapsedNs < minRateIntervalNs) return { timestampNs, usageCoreNs, usageNanoCores: before.usageNanoCores };
    const usedNs = usageCoreNs > before.usageCoreNs ? usageCoreNs - before.usageCoreNs : 0n;
    const usageNanoCores = (usedNs * 1_000_000_000n) / elapsedNs;
    this.#readings.set(entry, { timestampNs, usageCoreNs, usageNanoCores });
    return { timestampNs, usageCoreNs, usageNanoCores };
  }
}

function memory(stats: CgroupStats, timestampNs: bigint): ContainerStatsView["memory"] {
  const workingSetBytes = stats.memoryWorkingSetBytes ?? 0;
  return {
    timestampNs,
    workingSetBytes,
    availableBytes: available(stats.memoryLimitBytes, workingSetBytes),
    usageBytes: stats.memoryUsageBytes ?? 0,
    rssBytes: stats.memoryRssBytes ?? 0,
    pageFaults: stats.memoryPageFaults ?? 0,
    majorPageFaults: stats.memoryMajorPageFaults ?? 0,
  };
}

/** 0 where there is no limit, as clients read it. */
function available(limit: number | null, used: number): number {
  return limit === null ? 0 : Math.max(0, limit - used);
}
