/**
 * The sandboxes of this daemon: the record of each, what of it is alive (the pause process), and who may see it. Reads are
 * answered from here and never wait.
 */
import type { SandboxId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import type { Kernel, ProcessHandle } from "../kernel/contract.ts";
import { IdIndex } from "../state/name-index.ts";
import { RecordStore } from "../state/record-store.ts";
import { type SandboxRecord, sandboxCodec } from "./record.ts";
import { nextPhase, type SandboxTransition } from "./transitions.ts";
import type { SandboxView } from "./types.ts";
import { sandboxKey } from "./validate.ts";

export interface LiveSandbox {
  record: SandboxRecord;
  /** A new object after each change. */
  view: SandboxView;
  pause: ProcessHandle | null;
  /** Why the pause process ended; null while it has not. */
  pauseEnd: string | null;
  /** False while it is made, waits to be claimed, or is undone. */
  visible: boolean;
  /** Its record is deleted: nothing may write it any more. */
  gone: boolean;
  /** The running one; later callers join it. */
  stopping: Promise<void> | null;
  removing: Promise<void> | null;
}

export class SandboxRegistry {
  readonly #store: RecordStore<SandboxRecord>;
  readonly #live = new Map<string, LiveSandbox>();
  /** By `sandboxKey`: a run looks for its namesakes first of all. */
  readonly #namesakes = new Map<string, LiveSandbox[]>();
  /** Of the visible ones. */
  readonly #ids = new IdIndex("sandbox");

  constructor(options: { readonly directory: string; readonly kernel: Pick<Kernel, "writeFileAtomic">; readonly log: Logger }) {
    this.#store = new RecordStore({ ...options, codec: sandboxCodec, durable: false });
  }

  /** Reads the records of a former daemon, all hidden; returns the ids of the damaged ones. */
  async load(): Promise<string[]> {
    const damaged = await this.#store.load();
    for (const record of this.#store.values()) this.add(record);
    return damaged;
  }

  /** Hidden, and in memory alone. */
  add(record: SandboxRecord): LiveSandbox {
    const live: LiveSandbox = {
      record,
      view: makeView(record),
      pause: null,
      pauseEnd: null,
      visible: false,
      gone: false,
      stopping: null,
      removing: null,
    };
    this.#live.set(record.id, live);
    this.#namesakes.set(sandboxKey(record.config), [...this.withKey(sandboxKey(record.config)), live]);
    return live;
  }

  /** By full id, hidden ones too. */
  find(id: string): LiveSandbox | null {
    return this.#live.get(id) ?? null;
  }

  /** Visible ones by full id or unique prefix; throws invalid-argument where the prefix is ambiguous. */
  resolve(text: string): LiveSandbox | null {
    const id = this.#ids.resolve(text);
    return id === null ? null : this.find(id);
  }

  all(): LiveSandbox[] {
    return [...this.#live.values()];
  }

  withKey(key: string): readonly LiveSandbox[] {
    return this.#namesakes.get(key) ?? [];
  }

  show(live: LiveSandbox): void {
    live.visible = true;
    this.#ids.add(live.record.id);
  }

  /** In memory alone: `persist` follows. */
  change(live: LiveSandbox, changes: Partial<Omit<SandboxRecord, "id" | "phase">>, transition: SandboxTransition | null = null): void {
    const phase = transition === null ? live.record.phase : nextPhase(live.record.phase, transition);
    live.record = { ...live.record, ...changes, phase };
    live.view = makeView(live.record);
  }

  async persist(live: LiveSandbox): Promise<void> {
    if (!live.gone) await this.#store.put(live.record.id, live.record);
  }

  /** The end of a sandbox: nothing of it is left but this. Where the file cannot be removed, all stays for another try. */
  async drop(live: LiveSandbox): Promise<void> {
    live.gone = true;
    try {
      await this.#store.delete(live.record.id);
    } catch (error) {
      live.gone = false;
      throw error;
    }
    this.#live.delete(live.record.id);
    this.#ids.delete(live.record.id);
    const key = sandboxKey(live.record.config);
    const others = this.withKey(key).filter((other) => other !== live);
    if (others.length > 0) this.#namesakes.set(key, others);
    else this.#namesakes.delete(key);
  }

  flush(): Promise<void> {
    return this.#store.flush();
  }
}

function makeView(record: SandboxRecord): SandboxView {
  const ready = record.phase === "ready";
  return {
    id: record.id as SandboxId,
    config: record.config,
    state: ready ? "ready" : "not-ready",
    createdAtNs: BigInt(record.createdAtNs),
    // A dead pod has no address: the kubelet takes address and state together.
    network: { ips: ready ? record.ips : [] },
    pausePid: ready && record.pause ? record.pause.pid : 0,
    phases: record.phases,
    reason: record.reason,
    networkNamespacePath: record.networkNamespace,
  };
}
