/**
 * The end-to-end tests, the demo and the benchmarks run in a network namespace of their own, so that bridges, NAT rules
 * and addresses never touch the host's. The runner makes it (`unshare --net`); this module checks and prepares it.
 */
import { execFileSync } from "node:child_process";
import { readlinkSync, writeFileSync } from "node:fs";

export function isOwnNetwork(): boolean {
  return readlinkSync("/proc/self/ns/net") !== readlinkSync("/proc/1/ns/net");
}

export function prepareOwnNetwork(): void {
  if (!isOwnNetwork()) throw new Error("this has to run in a network namespace of its own: start it by its npm script");
  execFileSync("ip", ["link", "set", "lo", "up"]);
  writeFileSync("/proc/sys/net/ipv4/ip_forward", "1");
}
