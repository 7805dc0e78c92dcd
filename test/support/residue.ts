/**
 * What a run has left on the host. It shares no code with Remove: it reads the kernel's own lists before and after
 * and names every difference.
 */
import { execFileSync } from "node:child_process";
import { lstatSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { stretched } from "./patience.ts";

export interface HostState {
  readonly mounts: readonly string[];
  readonly cgroups: readonly string[];
  /** `pid command line` of every process in user space. */
  readonly processes: readonly string[];
  readonly networkNamespaces: readonly string[];
  readonly interfaces: readonly string[];
  /** Rules and chains of iptables in the network namespace, without those that plugins keep as their base. */
  readonly natRules: readonly string[];
  readonly abstractSockets: readonly string[];
  /** Entries below the given directories, relative paths in front of which stands the directory. */
  readonly files: readonly string[];
}

export interface ResidueOptions {
  /** Directories that have to be as they were: roots, namespace pins, CNI leases. */
  readonly directories: readonly string[];
  /** Differences that are not residue: matched against `<list>: <entry>`. */
  readonly allow?: readonly RegExp[];
  readonly scope?: ResidueScope;
}

/**
 * What makes a thing the run's own, where others are at work on the same host. Without a scope everything counts.
 *
 * A process counts that is in the run's network namespace, in one of its cgroups or below one of its processes, or that names
 * its directory; a mount, unless it is in another one's temporary directory.
 */
export interface ResidueScope {
  /** Directory that holds everything of the run. */
  readonly base: string;
  /** Texts of which one is in the path of every cgroup of the run: names of parents, ids of pods and containers. */
  readonly cgroups: readonly string[];
}

export function captureHostState(directories: readonly string[], scope: ResidueScope | null = null): HostState {
  const processes = readProcesses().filter(ofRun(scope));
  return {
    mounts: mountEntries().filter((entry) => scope === null || entry.startsWith(scope.base) || !/^\/(tmp|dev\/shm)\//.test(entry)),
    cgroups: cgroupEntries().filter((path) => scope === null || scope.cgroups.some((word) => path.includes(word))),
    processes: processes.filter(({ text }) => text !== "").map(({ pid, text }) => `${pid} ${text}`),
    networkNamespaces: networkNamespaceEntries(processes, scope),
    interfaces: interfaceEntries(),
    natRules: natEntries(),
    abstractSockets: abstractSocketEntries(),
    files: directories.flatMap((directory) => walk(directory)),
  };
}

/** Every entry of `after` that `before` does not have, as `<list>: <entry>`. */
export function findResidue(before: HostState, after: HostState, allow: readonly RegExp[] = []): string[] {
  const found: string[] = [];
  for (const list of Object.keys(before) as (keyof HostState)[]) {
    // Counted, since one mount can stand over another.
    const known = new Map<string, number>();
    for (const entry of before[list]) known.set(entry, (known.get(entry) ?? 0) + 1);
    for (const entry of after[list]) {
      const count = known.get(entry) ?? 0;
      const text = `${list}: ${entry}`;
      if (count > 0) known.set(entry, count - 1);
      else if (!allow.some((pattern) => pattern.test(text))) found.push(text);
    }
  }
  return found;
}

/**
 * Waits until nothing is left, since the kernel tears down namespaces and cgroups behind the last user's back;
 * returns what is still there when the time is over.
 */
export async function waitForNoResidue(before: HostState, options: ResidueOptions, timeoutMs = 5000): Promise<string[]> {
  const end = performance.now() + stretched(timeoutMs);
  for (;;) {
    const found = findResidue(before, captureHostState(options.directories, options.scope), options.allow);
    if (found.length === 0 || performance.now() > end) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The open descriptors of a process, as their link targets. */
export function descriptorsOf(pid: number): string[] {
  return directoryNames(`/proc/${pid}/fd`).map((fd) => linkOrEmpty(`/proc/${pid}/fd/${fd}`) || "gone");
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

interface ProcessEntry {
  readonly pid: string;
  readonly parent: string;
  /** Empty for a thread of the kernel. */
  readonly text: string;
  /** Empty where it cannot be read: a zombie has none. */
  readonly networkNamespace: string;
  readonly cgroups: string;
}

function readProcesses(): ProcessEntry[] {
  const found: ProcessEntry[] = [];
  for (const pid of directoryNames("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const status = readFileSync(`/proc/${pid}/stat`, "utf8");
      const [state, parent = ""] = status.slice(status.lastIndexOf(")") + 2).split(" ");
      const commandLine = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
      const name = status.slice(status.indexOf("("), status.lastIndexOf(")") + 1);
      found.push({
        pid,
        parent,
        text: commandLine !== "" ? commandLine : state === "Z" ? `zombie ${name}` : "",
        networkNamespace: linkOrEmpty(`/proc/${pid}/ns/net`),
        cgroups: readFileSync(`/proc/${pid}/cgroup`, "utf8"),
      });
    } catch {
      // It ended between the reads.
    }
  }
  return found;
}

function ofRun(scope: ResidueScope | null): (entry: ProcessEntry, index: number, all: ProcessEntry[]) => boolean {
  if (scope === null) return () => true;
  const own = linkOrEmpty("/proc/self/ns/net");
  const itself = ({ pid, text, networkNamespace, cgroups }: ProcessEntry): boolean =>
    pid === String(process.pid) ||
    networkNamespace === own ||
    text.includes(scope.base) ||
    scope.cgroups.some((word) => cgroups.includes(word));
  return (entry, _index, all) => {
    const seen = new Set<string>();
    for (let one: ProcessEntry | undefined = entry; one && !seen.has(one.pid); ) {
      if (itself(one)) return true;
      seen.add(one.pid);
      const { parent }: ProcessEntry = one;
      one = all.find(({ pid }) => pid === parent);
    }
    return false;
  };
}

/** Every network namespace that a process or a mount holds. */
function networkNamespaceEntries(processes: readonly ProcessEntry[], scope: ResidueScope | null): string[] {
  const found = new Set(processes.map(({ networkNamespace }) => networkNamespace).filter(Boolean));
  for (const line of readFileSync("/proc/self/mountinfo", "utf8").split("\n")) {
    const [, , , root = "", mountPoint = ""] = line.split(" ");
    if (root.startsWith("net:[") && (scope === null || mountPoint.startsWith(scope.base))) found.add(root);
  }
  return [...found];
}

/** By /proc, since /sys/class/net shows the namespace that /sys was mounted in. */
function interfaceEntries(): string[] {
  return readFileSync("/proc/self/net/dev", "utf8")
    .split("\n")
    .slice(2)
    .map((line) => line.split(":")[0]?.trim() ?? "")
    .filter(Boolean);
}

/** The portmap plugin leaves its base chains and the rules that lead into them. */
function natEntries(): string[] {
  try {
    const lines = execFileSync("iptables-save", { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).split("\n");
    return lines
      .filter((line) => /^(:CNI-|-A )/.test(line))
      .map((line) => line.replace(/ \[\d+:\d+\]$/, ""))
      .filter(
        (line) =>
          !/^:CNI-(HOSTPORT|ADMIN|FORWARD)|^-A (PREROUTING|OUTPUT|POSTROUTING|CNI-HOSTPORT-(SETMARK|MASQ)) .*CNI-HOSTPORT|^-A CNI-HOSTPORT-(SETMARK|MASQ) /.test(
            line,
          ),
      );
  } catch {
    // Without iptables no plugin has made rules.
    return [];
  }
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
        const isDirectory = lstatSync(child).isDirectory();
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

function linkOrEmpty(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

function directoryNames(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
