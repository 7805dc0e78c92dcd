/** The exit that a monitor has written down: one `exited` frame (api/monitor/schema.ts), renamed into place. */
import { readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { decode, type Exited } from "../../build/generated/monitor/protocol.ts";
import type { Logger } from "../base/log.ts";

/** What is known of a container's end. Times in nanoseconds since the epoch. */
export interface ContainerExit {
  readonly exitCode: number;
  readonly signal: number;
  readonly oomKilled: boolean;
  /** 0 where it never started, or nobody knows when. */
  readonly startedAtNs: bigint;
  readonly finishedAtNs: bigint;
  /** Bytes of output that could not be written to its log. */
  readonly logDroppedBytes: bigint;
}

export function toContainerExit(exited: Exited): ContainerExit {
  return {
    exitCode: exited.exitCode,
    signal: exited.signal,
    oomKilled: exited.oomKilled,
    startedAtNs: BigInt(exited.startedAtNs),
    finishedAtNs: BigInt(exited.finishedAtNs),
    logDroppedBytes: BigInt(exited.logDroppedBytes),
  };
}

/** null where there is none, or none that can be read: then nobody knows how the container ended. */
export async function readExitFile(directory: string, name: string, log: Logger): Promise<ContainerExit | null> {
  const path = join(directory, name);
  const bytes = await readFile(path).catch(() => null);
  if (bytes === null) return null;
  try {
    const message = decode(bytes);
    if (message.name !== "exited") throw new Error(`a ${message.name} frame`);
    return toContainerExit(message.body);
  } catch (error) {
    log.error({ path, err: String(error) }, "an exit file is damaged");
    return null;
  }
}

export async function removeExitFile(directory: string, name: string): Promise<void> {
  await rm(join(directory, name), { force: true });
}
