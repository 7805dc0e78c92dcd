/**
 * Names of cgroups as the kubelet and cAdvisor parse them: a pod's leaves stand directly below its `cgroup_parent`, called
 * `<id>` with cgroupfs and `berth-<id>.scope` with systemd's naming.
 */
import { DomainError } from "../base/errors.ts";
import type { BerthConfig } from "../config/types.ts";

type Driver = BerthConfig["runtime"]["cgroupDriver"];

/** Absolute path of the parent; `requested` empty takes the default one. Throws invalid-argument. */
export function cgroupParentPath(driver: Driver, requested: string, defaultParent: string): string {
  const parent = requested === "" ? defaultParent : requested;
  const parts = parent.split("/").filter((part) => part !== "");
  if (parts.some((part) => part === "." || part === ".." || /[\x00-\x20\x7f]/.test(part) || part.length > 255)) {
    throw new DomainError("invalid-argument", `cgroup_parent ${JSON.stringify(parent)} is not a cgroup path`);
  }
  const [only] = parts;
  if (driver === "systemd" && parts.length === 1 && only?.endsWith(".slice")) return expandSlice(only);
  return `/${parts.join("/")}`;
}

/** Path of the leaf of a pause process or a container. */
export function cgroupLeafPath(driver: Driver, parent: string, id: string): string {
  const leaf = driver === "systemd" ? `berth-${id}.scope` : id;
  return parent === "/" ? `/${leaf}` : `${parent}/${leaf}`;
}

/** `a-b-c.slice` is `/a.slice/a-b.slice/a-b-c.slice` (systemd.slice(5)). */
function expandSlice(slice: string): string {
  const name = slice.slice(0, -".slice".length);
  if (name === "-") return "/";
  const words = name.split("-");
  if (words.includes("")) throw new DomainError("invalid-argument", `cgroup_parent ${JSON.stringify(slice)} is not a slice's name`);
  return words.map((_, index) => `/${words.slice(0, index + 1).join("-")}.slice`).join("");
}
