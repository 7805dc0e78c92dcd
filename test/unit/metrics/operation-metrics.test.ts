import { describe, expect, test } from "vitest";
import { createMetrics } from "../../../src/metrics/operation-metrics.ts";

const phase = (name: string, durationMs: number, finished = true) => ({ name, durationMs, finished });

describe("operation metrics", () => {
  test("count successes and failures by operation and code", async () => {
    const metrics = createMetrics({ processMetrics: false });
    metrics.begin("RunPodSandbox")("OK", 12, []);
    metrics.begin("RunPodSandbox")("DEADLINE_EXCEEDED", 3000, []);
    metrics.begin("Version")("OK", 0.1, []);
    const text = await metrics.registry.metrics();
    expect(text).toContain('berth_operations_total{operation="RunPodSandbox"} 2');
    expect(text).toContain('berth_operations_total{operation="Version"} 1');
    expect(text).toContain('berth_operations_errors_total{operation="RunPodSandbox",code="DEADLINE_EXCEEDED"} 1');
    expect(text).not.toContain('code="OK"');
    expect(text).toContain('berth_operation_duration_seconds_count{operation="RunPodSandbox"} 2');
    expect(text).toContain('berth_operation_duration_seconds_bucket{le="0.025",operation="RunPodSandbox"} 1');
  });

  test("show what runs now", async () => {
    const metrics = createMetrics({ processMetrics: false });
    const end = metrics.begin("PullImage");
    expect(await metrics.registry.metrics()).toContain('berth_operations_in_flight{operation="PullImage"} 1');
    end("OK", 1, []);
    expect(await metrics.registry.metrics()).toContain('berth_operations_in_flight{operation="PullImage"} 0');
  });

  test("time the phases that have ended", async () => {
    const metrics = createMetrics({ processMetrics: false });
    metrics.begin("RunPodSandbox")("OK", 30, [phase("network.attach", 20), phase("record.intent", 0.2), phase("stuck", 9, false)]);
    const text = await metrics.registry.metrics();
    expect(text).toContain('berth_phase_duration_seconds_count{operation="RunPodSandbox",phase="network.attach"} 1');
    expect(text).toContain('berth_phase_duration_seconds_sum{operation="RunPodSandbox",phase="network.attach"} 0.02');
    expect(text).not.toContain('phase="stuck"');
  });

  test("a flood of phase names ends as `other`", async () => {
    const metrics = createMetrics({ processMetrics: false, maxPhaseSeries: 3 });
    for (let index = 0; index < 50; index++) metrics.begin("X")("OK", 1, [phase(`step-${index}`, 1)]);
    const text = await metrics.registry.metrics();
    const names = new Set([...text.matchAll(/phase="([^"]+)"/g)].map((match) => match[1]));
    expect([...names].sort()).toEqual(["other", "step-0", "step-1", "step-2"]);
    expect(text).toContain('berth_phase_duration_seconds_count{operation="X",phase="other"} 47');
  });

  test("two instances do not share a registry", async () => {
    const first = createMetrics({ processMetrics: false });
    const second = createMetrics({ processMetrics: false });
    first.begin("A")("OK", 1, []);
    expect(await second.registry.metrics()).not.toContain('operation="A"');
  });

  test("the process's own metrics are there when asked for", async () => {
    const text = await createMetrics({ processMetrics: true }).registry.metrics();
    for (const name of ["process_resident_memory_bytes", "process_cpu_seconds_total", "nodejs_eventloop_lag_seconds"]) {
      expect(text).toContain(name);
    }
  });
});
