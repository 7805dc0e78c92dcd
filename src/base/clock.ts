/** Wall clock in nanoseconds, as the CRI carries it: a decimal-safe BigInt inside, `Long`-like outside. */

const startWallNs = BigInt(Date.now()) * 1_000_000n;
const startMonotonicNs = process.hrtime.bigint();

/**
 * Nanoseconds since the epoch. Monotonic between two steps of the system clock: the wall time is
 * read anew whenever it has drifted from the monotonic clock by more than 20 ms.
 */
let baseWallNs = startWallNs;
let baseMonotonicNs = startMonotonicNs;

export function nowNs(): bigint {
  const estimate = baseWallNs + (process.hrtime.bigint() - baseMonotonicNs);
  const wall = BigInt(Date.now()) * 1_000_000n;
  const drift = estimate > wall ? estimate - wall : wall - estimate;
  if (drift <= 20_000_000n) return estimate;
  baseWallNs = wall;
  baseMonotonicNs = process.hrtime.bigint();
  return wall;
}

/** Milliseconds on the monotonic clock, for durations and deadlines. */
export function monotonicMs(): number {
  return performance.now();
}
