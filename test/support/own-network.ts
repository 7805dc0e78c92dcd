/**
 * The end-to-end tests, the demo and the benchmarks run in a network namespace of their own, so that bridges, NAT rules
 * and addresses never touch the host's. The runner makes it (`unshare --net`); this module checks and prepares it.
 */
import { execFileSync } from "node:child_process";
import { readFileSync, readlinkSync, writeFileSync } from "node:fs";

/** Whether some process above this one is in another namespace. (That of pid 1 cannot be read everywhere.) */
export function isOwnNetwork(): boolean {
  const own = readlinkSync("/proc/self/ns/net");
  for (let pid = process.ppid; pid > 0; pid = parentOf(pid)) {
    try {
      if (readlinkSync(`/proc/${pid}/ns/net`) !== own) return true;
    } catch {
      // Not for this process to read.
    }
  }
  return false;
}

function parentOf(pid: number): number {
  try {
    const status = readFileSync(`/proc/${pid}/stat`, "utf8");
    return Number(status.slice(status.lastIndexOf(")") + 2).split(" ")[1]);
  } catch {
    return 0;
  }
}

export function prepareOwnNetwork(): void {
  if (!isOwnNetwork()) throw new Error("this has to run in a network namespace of its own: start it by its npm script");
  execFileSync("ip", ["link", "set", "lo", "up"]);
  writeFileSync("/proc/sys/net/ipv4/ip_forward", "1");
}
