/**
 * One daemon for each pair of roots. The lock names the process that holds it by pid and start time, so that a
 * crashed daemon's lock is taken over and a recycled pid is never mistaken for its holder.
 */
import { readFileSync } from "node:fs";
import { mkdir, open, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { DomainError } from "../base/errors.ts";
import type { Kernel } from "../kernel/contract.ts";

export interface DaemonLock {
  release(): Promise<void>;
}

/** Throws failed-precondition where a living daemon holds it. */
export async function acquireLock(kernel: Pick<Kernel, "openProcess">, path: string): Promise<DaemonLock> {
  await mkdir(dirname(path), { recursive: true, mode: 0o750 });
  for (let attempt = 0; attempt < 3; attempt += 1) {
    try {
      const file = await open(path, "wx", 0o600);
      await file.writeFile(JSON.stringify({ pid: process.pid, startTime: ownStartTime() }));
      await file.close();
      return { release: () => rm(path, { force: true }) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") {
        throw new DomainError("internal", `lock ${path} cannot be made`, { cause: error });
      }
    }
    const holder = await livingHolder(kernel, path);
    if (holder !== null) throw new DomainError("failed-precondition", `another daemon (pid ${holder}) holds ${path}`);
    await rm(path, { force: true });
  }
  throw new DomainError("failed-precondition", `lock ${path} is contended`);
}

async function livingHolder(kernel: Pick<Kernel, "openProcess">, path: string): Promise<number | null> {
  let holder: { pid?: unknown; startTime?: unknown };
  try {
    holder = JSON.parse(readFileSync(path, "utf8")) as typeof holder;
  } catch {
    // Torn by a crash between create and write.
    return null;
  }
  if (typeof holder.pid !== "number" || typeof holder.startTime !== "string" || holder.pid === process.pid) return null;
  const handle = await kernel.openProcess({ pid: holder.pid, startTime: holder.startTime });
  handle?.close();
  return handle === null ? null : holder.pid;
}

/** Field 22 of /proc/self/stat: proc_pid_stat(5). */
function ownStartTime(): string {
  const text = readFileSync("/proc/self/stat", "utf8");
  return text.slice(text.lastIndexOf(")") + 2).split(" ")[19] ?? "0";
}
