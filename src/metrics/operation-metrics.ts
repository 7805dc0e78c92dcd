/**
 * Counters and timings of operations, and of the process itself.
 *
 *   berth_operations_total{operation}                      finished operations, failed ones included
 *   berth_operations_errors_total{operation,code}          failed ones by gRPC code
 *   berth_operations_in_flight{operation}                  running now
 *   berth_operation_duration_seconds{operation}            histogram
 *   berth_phase_duration_seconds{operation,phase}          histogram; the phases are the steps' names
 *
 * Labels are bounded: operations are the names of RPCs, and past `maxPhaseSeries` pairs of operation and phase the rest
 * is counted under the phase `other`, so that a name with an id in it cannot grow the registry.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Phase } from "../operation/phases.ts";

/** What the server tells about each call. */
export interface OperationObserver {
  /** Returns the function to call once, when the operation has ended; `code` is the gRPC code's name, `OK` for success. */
  begin(operation: string): (code: string, durationMs: number, phases: readonly Phase[]) => void;
}

export interface Metrics extends OperationObserver {
  readonly registry: Registry;
}

export interface MetricsOptions {
  /** Memory, CPU, file descriptors, event loop and garbage collector of this process. */
  readonly processMetrics: boolean;
  readonly maxPhaseSeries?: number;
}

const durationBuckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];
/** The event loop's lag is sampled this seldom, so that an idle daemon stays asleep. */
const eventLoopSampleMs = 1000;

export function createMetrics(options: MetricsOptions): Metrics {
  const registry = new Registry();
  const registers = [registry];
  if (options.processMetrics) collectDefaultMetrics({ register: registry, eventLoopMonitoringPrecision: eventLoopSampleMs });
  const total = new Counter({
    name: "berth_operations_total",
    help: "Operations that have ended, failed ones included.",
    labelNames: ["operation"],
    registers,
  });
  const errors = new Counter({
    name: "berth_operations_errors_total",
    help: "Operations that have failed, by gRPC code.",
    labelNames: ["operation", "code"],
    registers,
  });
  const inFlight = new Gauge({
    name: "berth_operations_in_flight",
    help: "Operations that run now.",
    labelNames: ["operation"],
    registers,
  });
  const duration = new Histogram({
    name: "berth_operation_duration_seconds",
    help: "How long operations took.",
    labelNames: ["operation"],
    buckets: durationBuckets,
    registers,
  });
  const phaseDuration = new Histogram({
    name: "berth_phase_duration_seconds",
    help: "How long the steps of operations took.",
    labelNames: ["operation", "phase"],
    buckets: durationBuckets,
    registers,
  });
  const phaseLabels = new BoundedPairs(options.maxPhaseSeries ?? 500);

  return {
    registry,
    begin(operation) {
      inFlight.inc({ operation });
      return (code, durationMs, phases) => {
        inFlight.dec({ operation });
        total.inc({ operation });
        if (code !== "OK") errors.inc({ operation, code });
        duration.observe({ operation }, durationMs / 1000);
        for (const phase of phases) {
          if (phase.finished)
            phaseDuration.observe({ operation, phase: phaseLabels.label(operation, phase.name) }, phase.durationMs / 1000);
        }
      };
    },
  };
}

/** Remembers at most so many pairs; a further one is `other`. */
class BoundedPairs {
  readonly #seen = new Set<string>();
  readonly #limit: number;

  constructor(limit: number) {
    this.#limit = limit;
  }

  label(operation: string, phase: string): string {
    const key = `${operation}\0${phase}`;
    if (this.#seen.has(key)) return phase;
    if (this.#seen.size >= this.#limit) return "other";
    this.#seen.add(key);
    return phase;
  }
}
