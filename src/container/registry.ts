/**
 * The containers of this daemon: the record of each, what of it is alive, and who may see it. Reads are answered from here
 * and never wait.
 */
import type { Logger } from "../base/log.ts";
import type { Kernel } from "../kernel/contract.ts";
import type { ContainerEnd, LiveContainer } from "../oci/index.ts";
import type { Operation } from "../operation/context.ts";
import { IdIndex } from "../state/name-index.ts";
import { RecordStore } from "../state/record-store.ts";
import { type ContainerRecord, containerCodec } from "./record.ts";
import type { StopRun } from "./stop.ts";
import { type ContainerTransition, nextPhase } from "./transitions.ts";
import type { ContainerConfig, ContainerView } from "./types.ts";

export interface LiveEntry {
  record: ContainerRecord;
  /** A new object after each change. */
  view: ContainerView;
  /** null before its init exists and once it has ended. */
  container: LiveContainer | null;
  /** False while it is made, waits to be claimed, or is undone. */
  visible: boolean;
  /** Its record is deleted: nothing may write it any more. */
  gone: boolean;
  /** The operation that makes it, so that the end of its pod can end it. */
  making: Operation | null;
  /** Its end was told by whoever watched it: no monitor of its is left. */
  settled: boolean;
  /** It ended before it was complete. */
  endedEarly: ContainerEnd | null;
  /** Why its start failed. */
  startFailure: string | null;
  /** `started` has been told. */
  startTold: boolean;
  /** Resolves when the container has exited or is gone. */
  readonly exited: Promise<void>;
  readonly markExited: () => void;
  starting: Promise<void> | null;
  stopping: StopRun | null;
  removing: Promise<void> | null;
}

export class ContainerRegistry {
  readonly #store: RecordStore<ContainerRecord>;
  readonly #entries = new Map<string, LiveEntry>();
  /** Of the visible ones. */
  readonly #ids = new IdIndex("container");

  constructor(options: { readonly directory: string; readonly kernel: Pick<Kernel, "writeFileAtomic">; readonly log: Logger }) {
    this.#store = new RecordStore({ ...options, codec: containerCodec, durable: false });
  }

  /** Reads the records of a former daemon, all hidden; returns the ids of the damaged ones. */
  async load(): Promise<string[]> {
    const damaged = await this.#store.load();
    for (const record of this.#store.values()) this.add(record);
    return damaged;
  }

  /** Hidden, and in memory alone. */
  add(record: ContainerRecord): LiveEntry {
    let markExited: () => void = () => undefined;
    const exited = new Promise<void>((resolve) => {
      markExited = resolve;
    });
    const entry: LiveEntry = {
      record,
      view: makeView(record),
      container: null,
      visible: false,
      gone: false,
      making: null,
      settled: record.phase === "exited",
      endedEarly: null,
      startFailure: null,
      startTold: record.startedAtNs !== "0",
      exited,
      markExited,
      starting: null,
      stopping: null,
      removing: null,
    };
    if (record.phase === "exited") markExited();
    this.#entries.set(record.id, entry);
    return entry;
  }

  /** By full id, hidden ones too. */
  find(id: string): LiveEntry | null {
    return this.#entries.get(id) ?? null;
  }

  /** Visible ones by full id or unique prefix; throws invalid-argument where the prefix is ambiguous. */
  resolve(text: string): LiveEntry | null {
    const id = this.#ids.resolve(text);
    return id === null ? null : this.find(id);
  }

  all(): LiveEntry[] {
    return [...this.#entries.values()];
  }

  inSandbox(sandboxId: string): LiveEntry[] {
    return this.all().filter(({ record }) => record.sandboxId === sandboxId);
  }

  withKey(key: string): LiveEntry[] {
    return this.all().filter(({ record }) => containerKey(record.sandboxId, record.config) === key);
  }

  show(entry: LiveEntry): void {
    entry.visible = true;
    this.#ids.add(entry.record.id);
  }

  /** In memory alone: `persist` follows. */
  change(entry: LiveEntry, changes: Partial<Omit<ContainerRecord, "id" | "phase">>, transition: ContainerTransition | null = null): void {
    const phase = transition === null ? entry.record.phase : nextPhase(entry.record.phase, transition);
    entry.record = { ...entry.record, ...changes, phase };
    entry.view = makeView(entry.record);
    if (phase === "exited") entry.markExited();
  }

  async persist(entry: LiveEntry): Promise<void> {
    if (!entry.gone) await this.#store.put(entry.record.id, entry.record);
  }

  /** The end of a container: nothing of it is left but this. Where the file cannot be removed, all stays for another try. */
  async drop(entry: LiveEntry): Promise<void> {
    entry.gone = true;
    try {
      await this.#store.delete(entry.record.id);
    } catch (error) {
      entry.gone = false;
      throw error;
    }
    this.#entries.delete(entry.record.id);
    this.#ids.delete(entry.record.id);
    entry.markExited();
  }

  flush(): Promise<void> {
    return this.#store.flush();
  }
}

/** What retries are recognised by. */
export function containerKey(sandboxId: string, { metadata }: ContainerConfig): string {
  return `${sandboxId}/${metadata.name}/${metadata.attempt}`;
}

function makeView(record: ContainerRecord): ContainerView {
  const { phase } = record;
  return {
    id: record.id,
    sandboxId: record.sandboxId,
    config: record.config,
    imageId: record.imageId,
    imageRef: record.imageId,
    state: phase === "creating" ? "unknown" : phase,
    createdAtNs: BigInt(record.createdAtNs),
    startedAtNs: BigInt(record.startedAtNs),
    finishedAtNs: BigInt(record.finishedAtNs),
    exitCode: record.exitCode,
    reason: record.reason,
    message: record.message,
    pid: record.init?.pid ?? 0,
    logPath: record.logPath,
    user: record.user,
    stopSignal: record.stopSignal.name,
    resources: record.config.resources,
    phases: record.phases,
    runtimeHandler: record.runtimeHandler,
  };
}
