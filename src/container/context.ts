/** What the verbs of the container domain share. */
import { DomainError, errorKind, SystemError, toError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { BerthConfig } from "../config/types.ts";
import type { ImageService } from "../image/types.ts";
import type { Kernel } from "../kernel/contract.ts";
import type { HandlerRegistry } from "../oci/index.ts";
import type { Operation } from "../operation/context.ts";
import type { JoinTable } from "../operation/join-table.ts";
import type { KeyedMutex } from "../operation/keyed-mutex.ts";
import type { SandboxService } from "../sandbox/types.ts";
import type { EventBus } from "../state/event-bus.ts";
import type { Decider } from "./decide.ts";
import type { ContainerEvent } from "./events.ts";
import type { ContainerPaths } from "./paths.ts";
import type { ContainerRegistry, LiveEntry } from "./registry.ts";
import type { WritableLayers } from "./writable-layers.ts";

export interface ContainerContext {
  readonly kernel: Kernel;
  readonly config: BerthConfig;
  readonly log: Logger;
  readonly images: ImageService;
  readonly sandboxes: SandboxService;
  readonly events: EventBus<ContainerEvent>;
  readonly registry: ContainerRegistry;
  readonly handlers: HandlerRegistry;
  readonly decider: Decider;
  readonly layers: WritableLayers;
  readonly joins: JoinTable<LiveEntry>;
  /** By container id. Held by a start or a removal, never for a grace period. */
  readonly mutex: KeyedMutex;
  readonly paths: ContainerPaths;
  readonly bootId: string;
  /** Work that no request waits for, on an operation that `close` cancels; a failure is logged. */
  background(name: string, work: (op: Operation) => Promise<unknown>): void;
}

/** Writes the record behind the request: memory is right already, and a restart finds out by itself. */
export function persistBehind(ctx: ContainerContext, entry: LiveEntry): void {
  ctx.background("write a container's record", () => ctx.registry.persist(entry));
}

/** Starts all, waits for all, then throws what failed first: an undo must not overtake a step that still runs. */
export async function together(chains: readonly (() => Promise<void>)[]): Promise<void> {
  const failures: unknown[] = [];
  await Promise.all(chains.map((chain) => chain().catch((error: unknown) => failures.push(error))));
  if (failures.length > 0) throw failures[0];
}

/** Runs `work` for each, at most `limit` at a time. */
export async function eachBounded<T>(items: readonly T[], limit: number, work: (item: T) => Promise<void>): Promise<void> {
  const queue = items.values();
  const lanes = Array.from({ length: Math.min(limit, items.length) }, async () => {
    for (const item of queue) await work(item);
  });
  await Promise.all(lanes);
}

const full: readonly string[] = ["ENOSPC", "EDQUOT", "ENOMEM", "EMFILE", "ENFILE"];

/** The same error with what it is about in front; a full disk or table keeps a kind of its own. */
export function explain(error: unknown, what: string, ids: Readonly<Record<string, string>>): DomainError {
  const exhausted = error instanceof SystemError && full.includes(error.errno);
  const known = error instanceof DomainError ? error.ids : {};
  const kind = exhausted ? "resource-exhausted" : errorKind(error);
  return new DomainError(kind, `${what}: ${toError(error).message}`, { cause: error, ids: { ...known, ...ids } });
}
