/**
 * CreateContainer: who asks. A retry of the same request joins the running create, or gets the container that it made;
 * another request under the name undoes the first (see JoinTable). No name is ever reserved by what is not there.
 */
import { DomainError, describeError } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { Operation } from "../operation/context.ts";
import { JoinTable } from "../operation/join-table.ts";
import type { ContainerContext } from "./context.ts";
import { makeContainer } from "./make.ts";
import { containerKey, type LiveEntry } from "./registry.ts";
import { removeEntry } from "./remove.ts";
import type { ContainerConfig, ContainerView } from "./types.ts";
import type { UserResolver } from "./user-resolver.ts";

export class ContainerCreator {
  readonly #ctx: ContainerContext;
  readonly #users: UserResolver;
  /** Callers that wait, by key and request: with none, a result is written down as unclaimed. */
  readonly #waiting = new Map<string, number>();

  constructor(ctx: ContainerContext, users: UserResolver) {
    this.#ctx = ctx;
    this.#users = users;
  }

  async create(op: Operation, sandboxId: string, config: ContainerConfig): Promise<ContainerView> {
    const ctx = this.#ctx;
    const pod = ctx.sandboxes.runtime(sandboxId);
    const key = containerKey(pod.view.id, config);
    const requestHash = JoinTable.hash(config);
    const existing = await this.#settleNamesakes(op, key, requestHash);
    if (existing) return existing.view;
    // Refused before anything is written: a request that cannot be served leaves no trace.
    const handler = ctx.handlers.get(pod.view.config.runtimeHandler);
    const decision = await op.step("container.validate", () => ctx.decider.decide(op, pod, config));
    const waitKey = `${key} ${requestHash}`;
    this.#count(waitKey, 1);
    try {
      const entry = await ctx.joins.join(op, key, requestHash, {
        create: (own) =>
          makeContainer(ctx, own, {
            config,
            requestHash,
            decision,
            handler,
            users: this.#users,
            wanted: () => (this.#waiting.get(waitKey) ?? 0) > 0,
          }),
        claim: (result) => claim(ctx, result),
        dispose: (own, result) => removeEntry(ctx, own, result),
      });
      return entry.view;
    } finally {
      this.#count(waitKey, -1);
    }
  }

  /**
   * Containers that stand under the name already. One that was made by the same request and never started is the answer
   * that an earlier caller did not get. What is left of failed or forgotten creates is removed first.
   */
  async #settleNamesakes(op: Operation, key: string, requestHash: string): Promise<LiveEntry | null> {
    const ctx = this.#ctx;
    for (const entry of ctx.registry.withKey(key)) {
      const { removing } = entry;
      if (removing !== null) {
        await op.race(removing.catch(() => undefined));
      } else if (!entry.visible) {
        // One that is being made, or waits to be claimed, is the join table's.
      } else if (entry.record.leftovers.length > 0) {
        await removeEntry(ctx, op, entry);
      } else if (entry.record.requestHash === requestHash && entry.record.phase === "created" && !entry.starting && !entry.stopping) {
        return entry;
      } else {
        const { name, attempt } = entry.record.config.metadata;
        const message = `container ${name} (attempt ${attempt}) is ${shortId(entry.record.id)} already, ${entry.view.state}; remove it or use another attempt`;
        throw new DomainError("already-exists", message, { ids: { containerId: entry.record.id } });
      }
    }
    return null;
  }

  #count(waitKey: string, change: number): void {
    const count = (this.#waiting.get(waitKey) ?? 0) + change;
    if (count > 0) this.#waiting.set(waitKey, count);
    else this.#waiting.delete(waitKey);
  }
}

function claim(ctx: ContainerContext, entry: LiveEntry): void {
  // Its pod was removed while nobody had come for it.
  if (entry.gone) throw new DomainError("cancelled", "the container was removed with its pod", { ids: { containerId: entry.record.id } });
  ctx.registry.show(entry);
  ctx.events.publish({ type: "created", container: entry.view });
  // It may have ended while nobody looked.
  if (entry.view.state === "exited") ctx.events.publish({ type: "stopped", container: entry.view });
  if (entry.record.claimed) return;
  ctx.registry.change(entry, { claimed: true });
  ctx.registry.persist(entry).catch((error: unknown) => {
    ctx.log.warn({ containerId: entry.record.id, err: describeError(error) }, "the record was not written");
  });
}
