/**
 * StopContainer: the stop signal to init, the grace, then SIGKILL to the whole cgroup. Event-driven: the end is told by the
 * monitor, nothing is polled. One stop for each container; a later caller with less patience shortens its grace.
 */
import { monotonicMs } from "../base/clock.ts";
import { DomainError } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { Operation } from "../operation/context.ts";
import type { ContainerContext } from "./context.ts";
import { containerEnded } from "./ended.ts";
import type { LiveEntry } from "./registry.ts";

/** Past SIGKILL: a process that has not ended by then sits in the kernel, and a later call tries again. */
const killMs = 30_000;

/** Stops that run on their own, whoever waits for them. */
export class StopRun {
  readonly done: Promise<void>;
  readonly #ctx: ContainerContext;
  readonly #entry: LiveEntry;
  #deadlineMs: number;
  #wake: () => void = () => undefined;

  constructor(ctx: ContainerContext, op: Operation, entry: LiveEntry, graceMs: number) {
    this.#ctx = ctx;
    this.#entry = entry;
    this.#deadlineMs = monotonicMs() + graceMs;
    this.done = this.#run(op.detached("stop container", null));
    // Each caller sees the failure; without callers it is nobody's.
    this.done.catch(() => undefined);
  }

  /** Never lengthens. */
  shorten(graceMs: number): void {
    const deadlineMs = monotonicMs() + graceMs;
    if (deadlineMs >= this.#deadlineMs) return;
    this.#deadlineMs = deadlineMs;
    this.#wake();
  }

  async #run(op: Operation): Promise<void> {
    try {
      const { container, record } = this.#entry;
      const polite = record.phase === "running" && container !== null && this.#deadlineMs > monotonicMs();
      if (polite && container.signal(record.stopSignal.number)) {
        await op.step("container.stop.grace", () => this.#grace(op));
      }
      if (this.#entry.record.phase !== "exited") await op.step("container.stop.kill", () => this.#kill(op));
    } finally {
      op.dispose();
      this.#entry.stopping = null;
    }
  }

  /** Until it has exited or the grace is over, however short that has become. */
  async #grace(op: Operation): Promise<void> {
    while (this.#entry.record.phase !== "exited") {
      const leftMs = this.#deadlineMs - monotonicMs();
      if (leftMs <= 0) return;
      const waiting = op.child("grace", leftMs);
      this.#wake = () => waiting.cancel(new DomainError("cancelled", "a shorter grace"));
      await waiting.race(this.#entry.exited).catch(() => op.throwIfAborted());
      waiting.dispose();
    }
  }

  async #kill(op: Operation): Promise<void> {
    const ctx = this.#ctx;
    const entry = this.#entry;
    const { id, cgroupPath } = entry.record;
    const limited = op.child("container.stop.kill", killMs);
    try {
      await limited.race(ctx.kernel.killCgroup({ path: cgroupPath }));
      if (entry.container === null) {
        // Nothing watches it: it is dead by now, and that is all that will ever be known.
        const exit = { exitCode: 137, signal: 9, oomKilled: false, startedAtNs: 0n, finishedAtNs: 0n, logDroppedBytes: 0n };
        containerEnded(ctx, entry, { exit, lost: true });
        return;
      }
      await limited.race(entry.exited);
    } catch (error) {
      if (!limited.signal.aborted) throw error;
      throw new DomainError("deadline-exceeded", `container ${shortId(id)} has not ended ${killMs / 1000} s after SIGKILL`, {
        ids: { containerId: id },
      });
    } finally {
      limited.dispose();
    }
  }
}

/** Exited already is success. The run goes on when its caller has left. */
export async function stopEntry(ctx: ContainerContext, op: Operation, entry: LiveEntry, graceMs: number): Promise<void> {
  if (entry.record.phase === "exited" || entry.record.phase === "creating" || entry.gone) return;
  if (entry.stopping) entry.stopping.shorten(graceMs);
  else entry.stopping = new StopRun(ctx, op, entry, graceMs);
  await op.race(entry.stopping.done);
}
