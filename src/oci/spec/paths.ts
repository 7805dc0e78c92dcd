/** Paths of the kernel's own file systems that a container may not read, or not write. */

const masked: readonly string[] = [
  "/proc/acpi",
  "/proc/asound",
  "/proc/interrupts",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/sys/devices/virtual/powercap",
  "/sys/firmware",
  "/sys/fs/selinux",
];

const readonly: readonly string[] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

export interface PathInput {
  readonly privileged: boolean;
  /** null where the request had no security context: only then the defaults apply; an empty list masks nothing. */
  readonly requested: { readonly masked: readonly string[]; readonly readonly: readonly string[] } | null;
  /** `/sys/devices/system/cpu/cpu<n>/thermal_throttle` of the host: the runtime-spec has no patterns. */
  readonly thermalThrottlePaths: readonly string[];
}

export function decidePaths(input: PathInput): { readonly masked: readonly string[]; readonly readonly: readonly string[] } {
  if (input.privileged) return { masked: [], readonly: [] };
  if (input.requested !== null) return input.requested;
  return { masked: [...masked, ...input.thermalThrottlePaths], readonly };
}
