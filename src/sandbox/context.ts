/** What the verbs of the sandbox domain share. */
import type { Logger } from "../base/log.ts";
import type { BerthConfig } from "../config/types.ts";
import type { Kernel } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";
import type { JoinTable } from "../operation/join-table.ts";
import type { KeyedMutex } from "../operation/keyed-mutex.ts";
import type { EventBus } from "../state/event-bus.ts";
import type { SandboxEvent } from "./events.ts";
import type { PodNetwork } from "./network/index.ts";
import type { SandboxPaths } from "./paths.ts";
import type { LiveSandbox, SandboxRegistry } from "./registry.ts";
import type { SandboxService } from "./types.ts";

export type ContainerHooks = Parameters<SandboxService["setContainerHooks"]>[0];

export interface SandboxContext {
  readonly kernel: Kernel;
  readonly config: BerthConfig;
  readonly log: Logger;
  readonly events: EventBus<SandboxEvent>;
  readonly registry: SandboxRegistry;
  readonly network: PodNetwork;
  readonly joins: JoinTable<LiveSandbox>;
  /** By sandbox id: Stop and Remove of one pod follow each other. */
  readonly mutex: KeyedMutex;
  readonly paths: SandboxPaths;
  readonly bootId: string;
  hooks: ContainerHooks;
  /** Work that no request waits for, on an operation that `close` cancels; a failure is logged. */
  background(name: string, work: (op: Operation) => Promise<unknown>): void;
}
