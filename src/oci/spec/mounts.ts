/** The container's mount table: the default file systems, the pod's files, the request's mounts over both. */
import { posix } from "node:path";
import { DomainError } from "../../base/errors.ts";
import type { SpecMount } from "./runtime-spec.ts";

export interface MountInput {
  readonly containerPath: string;
  readonly hostPath: string;
  readonly readOnly: boolean;
  readonly recursiveReadOnly: boolean;
  readonly propagation: "private" | "host-to-container" | "bidirectional";
  /** Out of `noexec`, `nodev`, `nosuid`. */
  readonly options: readonly string[];
}

export interface PodFiles {
  /** null: the image's own stays; the host's is never bound writable into a container. */
  readonly hosts: string | null;
  readonly resolvConf: string;
  readonly hostname: string;
  /** null: the host's /dev/shm, for a pod in the host's IPC namespace. */
  readonly shm: string | null;
}

export interface MountTableInput {
  readonly mounts: readonly MountInput[];
  readonly pod: PodFiles;
  readonly privileged: boolean;
  readonly readOnlyRootfs: boolean;
  readonly recursiveReadOnlySupported: boolean;
}

const defaults = (privileged: boolean): SpecMount[] => [
  { destination: "/proc", type: "proc", source: "proc", options: ["nosuid", "noexec", "nodev"] },
  { destination: "/dev", type: "tmpfs", source: "tmpfs", options: ["nosuid", "strictatime", "mode=755", "size=65536k"] },
  {
    destination: "/dev/pts",
    type: "devpts",
    source: "devpts",
    options: ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
  },
  { destination: "/dev/mqueue", type: "mqueue", source: "mqueue", options: ["nosuid", "noexec", "nodev"] },
  { destination: "/sys", type: "sysfs", source: "sysfs", options: ["nosuid", "noexec", "nodev", privileged ? "rw" : "ro"] },
  {
    destination: "/sys/fs/cgroup",
    type: "cgroup",
    source: "cgroup",
    options: ["nosuid", "noexec", "nodev", "relatime", privileged ? "rw" : "ro"],
  },
];

/**
 * Parents come before what is mounted below them. A mount of the request takes the place of a default with the same
 * destination (a kubelet sends its own /etc/hosts); one above a default leaves it where it is.
 */
export function buildMounts(input: MountTableInput): readonly SpecMount[] {
  const requested = input.mounts.map((mount) => bindMount(mount, input.recursiveReadOnlySupported));
  const taken = new Set<string>();
  for (const { destination } of requested) {
    if (taken.has(destination)) throw new DomainError("invalid-argument", `two mounts have the container path ${destination}`);
    taken.add(destination);
  }
  const own = [...defaults(input.privileged), ...podMounts(input.pod, input.readOnlyRootfs)].filter(
    ({ destination }) => !taken.has(destination),
  );
  return [...own, ...requested]
    .map((mount, index) => ({ mount, index, depth: depth(mount.destination) }))
    .sort(byDepth)
    .map(({ mount }) => mount);
}

function podMounts(pod: PodFiles, readOnlyRootfs: boolean): SpecMount[] {
  const file = (destination: string, source: string): SpecMount => ({
    destination,
    type: "bind",
    source,
    options: ["rbind", "rprivate", readOnlyRootfs ? "ro" : "rw", "nosuid", "nodev", "noexec"],
  });
  return [
    {
      destination: "/dev/shm",
      type: "bind",
      source: pod.shm ?? "/dev/shm",
      options: ["rbind", "rprivate", "rw", "nosuid", "nodev", "noexec"],
    },
    ...(pod.hosts === null ? [] : [file("/etc/hosts", pod.hosts)]),
    file("/etc/resolv.conf", pod.resolvConf),
    file("/etc/hostname", pod.hostname),
  ];
}

function bindMount(mount: MountInput, recursiveReadOnlySupported: boolean): SpecMount {
  const destination = containerPath(mount.containerPath);
  if (!mount.hostPath.startsWith("/") || mount.hostPath.includes("\0")) {
    throw new DomainError("invalid-argument", `mount ${destination}: host path ${JSON.stringify(mount.hostPath)} is not an absolute path`);
  }
  return {
    destination,
    type: "bind",
    source: posix.normalize(mount.hostPath),
    options: [
      "rbind",
      propagationOption(mount.propagation),
      accessOption(mount, destination, recursiveReadOnlySupported),
      ...extraOptions(mount, destination),
    ],
  };
}

/** Files that LXCFS and its like put over procfs; everything else below /proc stays the kernel's. */
const procOverlays: ReadonlySet<string> = new Set([
  "/proc/cpuinfo",
  "/proc/diskstats",
  "/proc/loadavg",
  "/proc/meminfo",
  "/proc/net/dev",
  "/proc/slabinfo",
  "/proc/stat",
  "/proc/swaps",
  "/proc/uptime",
]);

/** An absolute path without `..`; a relative one is taken from the container's root, as Docker's clients write it. */
function containerPath(path: string): string {
  if (path === "" || path.includes("\0"))
    throw new DomainError("invalid-argument", `container path ${JSON.stringify(path)} of a mount is empty or contains NUL`);
  if (path.split("/").includes(".."))
    throw new DomainError("invalid-argument", `container path ${JSON.stringify(path)} of a mount contains ".."`);
  const clean = posix.normalize(`/${path}`).replace(/(.)\/+$/, "$1");
  if (clean === "/") throw new DomainError("invalid-argument", "a mount cannot replace the container's root");
  if (clean.startsWith("/proc/") && !procOverlays.has(clean)) {
    throw new DomainError("invalid-argument", `a mount below /proc is refused: ${clean}`);
  }
  return clean;
}

function propagationOption(propagation: MountInput["propagation"]): string {
  switch (propagation) {
    case "private":
      return "rprivate";
    case "host-to-container":
      return "rslave";
    case "bidirectional":
      return "rshared";
  }
}

function accessOption(mount: MountInput, destination: string, recursiveReadOnlySupported: boolean): string {
  if (!mount.recursiveReadOnly) return mount.readOnly ? "ro" : "rw";
  if (!mount.readOnly) throw new DomainError("invalid-argument", `mount ${destination}: recursive_read_only needs readonly`);
  if (mount.propagation !== "private")
    throw new DomainError("invalid-argument", `mount ${destination}: recursive_read_only needs private propagation`);
  if (!recursiveReadOnlySupported)
    throw new DomainError("rro-unsupported", `mount ${destination}: the kernel has no recursive read-only mounts`);
  return "rro";
}

function extraOptions(mount: MountInput, destination: string): readonly string[] {
  const bad = mount.options.find((option) => !["noexec", "nodev", "nosuid"].includes(option));
  if (bad !== undefined)
    throw new DomainError("invalid-argument", `mount ${destination}: option ${JSON.stringify(bad)} is none of noexec, nodev, nosuid`);
  return [...new Set(mount.options)];
}

function depth(path: string): number {
  return path.split("/").length;
}

function byDepth(a: { depth: number; index: number }, b: { depth: number; index: number }): number {
  return a.depth - b.depth || a.index - b.index;
}
