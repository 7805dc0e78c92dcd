/** Percentiles, rows and CPU time for the benchmarks. */
import { readFileSync } from "node:fs";

export interface Measurement {
  readonly work: string;
  readonly metric: string;
  readonly unit: string;
  readonly berth: number;
  readonly peers: Readonly<Record<string, number>>;
  readonly floor: number | null;
  /** Berth to the best peer; below 1 is better than it. */
  readonly ratio: number | null;
  readonly target: string | null;
  readonly met: boolean | null;
}

export class Samples {
  readonly #values: number[] = [];

  add(value: number): void {
    this.#values.push(value);
  }

  get count(): number {
    return this.#values.length;
  }

  /** Nearest rank; `fraction` 0.5 is the median. */
  percentile(fraction: number): number {
    const sorted = [...this.#values].sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(sorted.length * fraction) - 1))] ?? Number.NaN;
  }
}

export async function timed<T>(samples: Samples, work: () => Promise<T>): Promise<T> {
  const startedAt = performance.now();
  const value = await work();
  samples.add(performance.now() - startedAt);
  return value;
}

/** Milliseconds of CPU that the whole machine has used: proc_stat(5), user to steal without idle and iowait. */
export function machineCpuMs(): number {
  const fields = readFileSync("/proc/stat", "utf8").split("\n")[0]?.trim().split(/\s+/).slice(1).map(Number) ?? [];
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = fields;
  return (user + nice + system + irq + softirq) * 10;
}

export interface RowOptions {
  readonly work: string;
  readonly metric: string;
  readonly unit: string;
  readonly berth: number;
  readonly peers: Readonly<Record<string, number>>;
  readonly floor?: number;
  /** Upper bounds: `absolute` in the row's unit, `ratio` to the best peer. */
  readonly limit?: { readonly absolute?: number; readonly ratio?: number };
}

export function row(options: RowOptions): Measurement {
  const best = Math.min(...Object.values(options.peers));
  const ratio = Number.isFinite(best) && best > 0 ? options.berth / best : null;
  const { absolute, ratio: ratioLimit } = options.limit ?? {};
  const targets = [
    ...(absolute === undefined ? [] : [`≤ ${absolute} ${options.unit}`]),
    ...(ratioLimit === undefined ? [] : [`≤ 1/${Math.round(1 / ratioLimit)}`]),
  ];
  const met =
    targets.length === 0
      ? null
      : (absolute === undefined || options.berth <= absolute) && (ratioLimit === undefined || (ratio !== null && ratio <= ratioLimit));
  return {
    work: options.work,
    metric: options.metric,
    unit: options.unit,
    berth: options.berth,
    peers: options.peers,
    floor: options.floor ?? null,
    ratio,
    target: targets.length === 0 ? null : targets.join(" and "),
    met,
  };
}
