/**
 * What a run has left on the host. It shares no code with Remove: it reads the kernel's own lists before and after
 * and names every difference.
 */
import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";

export interface HostState {
  readonly mounts: readonly string[];
  readonly cgroups: readonly string[];
  /** `pid command line` of every process in user space. */
  readonly processes: readonly string[];
  readonly networkNamespaces: readonly string[];
  readonly interfaces: readonly string[];
  readonly abstractSockets: readonly string[];
  /** Entries below the given directories, relative paths in front of which stands the directory. */
  readonly files: readonly string[];
}

export interface ResidueOptions {
  /** Directories that have to be as they were: roots, namespace pins, CNI leases. */
  readonly directories: readonly string[];
  /** Differences that are not residue: matched against `<list>: <entry>`. */
  readonly allow?: readonly RegExp[];
}

export function captureHostState(directories: readonly string[]): HostState {
  return {
    mounts: mountEntries(),
    cgroups: cgroupEntries(),
    processes: processEntries(),
    networkNamespaces: networkNamespaceEntries(),
    interfaces: directoryNames("/sys/class/net"),
    abstractSockets: abstractSocketEntries(),
    files: directories.flatMap((directory) => walk(directory)),
  };
}

/** Every entry of `after` that `before` does not have, as `<list>: <entry>`. */
export function findResidue(before: HostState, after: HostState, allow: readonly RegExp[] = []): string[] {
  const found: string[] = [];
  for (const list of Object.keys(before) as (keyof HostState)[]) {
    const known = new Set(before[list]);
    for (const entry of after[list]) {
      const text = `${list}: ${entry}`;
      if (!known.has(entry) && !allow.some((pattern) => pattern.test(text))) found.push(text);
    }
  }
  return found;
}

/**
 * Waits until nothing is left, since the kernel tears down namespaces and cgroups behind the last user's back;
 * returns what is still there when the time is over.
 */
export async function waitForNoResidue(before: HostState, options: ResidueOptions, timeoutMs = 5000): Promise<string[]> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const found = findResidue(before, captureHostState(options.directories), options.allow);
    if (found.length === 0 || performance.now() > end) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The open descriptors of a process, as their link targets. */
export function descriptorsOf(pid: number): string[] {
  return directoryNames(`/proc/${pid}/fd`).map((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`);
    } catch {
      return "gone";
    }
  });
}

function mountEntries(): string[] {
  return readFileSync("/proc/self/mountinfo", "utf8")
    .trim()
    .split("\n")
    .map((line) => {
      const fields = line.split(" ");
      const separator = fields.indexOf("-");
      return `${fields[4]} (${fields[separator + 1]} ${fields[3]})`;
    });
}

function cgroupEntries(): string[] {
  const roots = readFileSync("/proc/self/mountinfo", "utf8")
    .trim()
    .split("\n")
    .map((line) => line.split(" "))
    .filter((fields) => /^cgroup2?$/.test(fields[fields.indexOf("-") + 1] ?? ""))
    .map((fields) => fields[4] ?? "");
  return roots.flatMap((root) => walk(root, true));
}

function processEntries(): string[] {
  const found: string[] = [];
  for (const pid of directoryNames("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const status = readFileSync(`/proc/${pid}/stat`, "utf8");
      const state = status.slice(status.lastIndexOf(")") + 2, status.lastIndexOf(")") + 3);
      const commandLine = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      if (commandLine !== "") found.push(`${pid} ${commandLine}`);
      else if (state === "Z") found.push(`${pid} zombie ${status.slice(status.indexOf("("), status.lastIndexOf(")") + 1)}`);
    } catch {
      // It ended between the two reads.
    }
  }
  return found;
}

/** Every network namespace that a process or a mount holds. */
function networkNamespaceEntries(): string[] {
  const found = new Set<string>();
  for (const pid of directoryNames("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      found.add(readlinkSync(`/proc/${pid}/ns/net`));
    } catch {
      // It ended, or is a zombie.
    }
  }
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const root = line.split(" ")[3] ?? "";
    if (root.startsWith("net:[")) found.add(root);
  }
  return [...found];
}

function abstractSocketEntries(): string[] {
  return readFileSync("/proc/net/unix", "utf8")
    .split("\n")
    .map((line) => line.split(" ").at(-1) ?? "")
    .filter((path) => path.startsWith("@") && /berth/.test(path));
}

function walk(directory: string, directoriesOnly = false): string[] {
  const found: string[] = [];
  const visit = (path: string): void => {
    for (const name of directoryNames(path)) {
      const child = join(path, name);
      try {
        const isDirectory = statSync(child, { throwIfNoEntry: false })?.isDirectory() ?? false;
        if (!directoriesOnly || isDirectory) found.push(child);
        if (isDirectory) visit(child);
      } catch {
        // It vanished, or is a socket of another namespace.
      }
    }
  };
  visit(directory);
  return found;
}

function directoryNames(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
