/** Where the cgroups of processes and pods are: in one directory (cgroup v2) or in one of each controller (v1, hybrid). */
import { existsSync, readFileSync } from "node:fs";

export const cgroupV2 = existsSync("/sys/fs/cgroup/cgroup.controllers");

/** Directory of a cgroup, by its path in the hierarchy of a controller. */
export function cgroupDirectory(controller: string, path: string): string {
  return cgroupV2 ? `/sys/fs/cgroup${path}` : `/sys/fs/cgroup/${controller}${path}`;
}

/** Directory of the cgroup that a process is in, in the hierarchy of a controller. */
export function cgroupOf(pid: number, controller: string): string {
  for (const line of readFileSync(`/proc/${pid}/cgroup`, "utf8").split("\n")) {
    const [, controllers = "", path = ""] = line.split(":");
    if (cgroupV2 ? controllers === "" : controllers.split(",").includes(controller)) return cgroupDirectory(controller, path);
  }
  throw new Error(`process ${pid} is in no cgroup of ${controller}`);
}
