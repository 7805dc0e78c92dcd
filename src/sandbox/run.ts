/**
 * RunPodSandbox: who asks. A retry of the same request joins the running create, or gets the sandbox that it made; another
 * request under the name undoes the first (see JoinTable). No name is ever reserved by what is not there.
 */
import { DomainError, describeError } from "../base/errors.ts";
import { shortId } from "../base/ids.ts";
import type { Operation } from "../operation/context.ts";
import { JoinTable } from "../operation/join-table.ts";
import type { SandboxContext } from "./context.ts";
import { createSandbox } from "./create.ts";
import { discardSandbox } from "./discard.ts";
import type { LiveSandbox } from "./registry.ts";
import type { SandboxConfig, SandboxView } from "./types.ts";
import { sandboxKey, validateSandbox } from "./validate.ts";

export class SandboxRunner {
  readonly #ctx: SandboxContext;
  /** Callers that wait, by key and request: with none, a result is written down as unclaimed. */
  readonly #waiting = new Map<string, number>();

  constructor(ctx: SandboxContext) {
    this.#ctx = ctx;
  }

  async run(op: Operation, config: SandboxConfig): Promise<SandboxView> {
    const ctx = this.#ctx;
    const plan = await op.step("sandbox.validate", () => validateSandbox(config, ctx.config));
    const key = sandboxKey(config);
    const requestHash = JoinTable.hash(config);
    const existing = await this.#settleNamesakes(op, key, requestHash);
    if (existing) return existing.view;
    const waitKey = `${key} ${requestHash}`;
    this.#count(waitKey, 1);
    try {
      const live = await ctx.joins.join(op, key, requestHash, {
        create: (own) => createSandbox(ctx, own, { config, requestHash, plan, wanted: () => (this.#waiting.get(waitKey) ?? 0) > 0 }),
        claim: (result) => claim(ctx, result),
        dispose: (own, result) => dispose(ctx, own, result),
      });
      return live.view;
    } finally {
      this.#count(waitKey, -1);
    }
  }

  /**
   * Sandboxes that stand under the name already. A ready one of the same request is the answer that an earlier caller
   * did not get. What is left of failed or forgotten creates is removed first; what cannot be removed is no reason to
   * refuse, since the new one has another id.
   */
  async #settleNamesakes(op: Operation, key: string, requestHash: string): Promise<LiveSandbox | null> {
    const ctx = this.#ctx;
    for (const live of ctx.registry.withKey(key)) {
      if (!live.visible) {
        // One that is being made, or waits to be claimed, is the join table's; any other is due to be undone.
        if (!ctx.joins.has(key)) await discardSandbox(ctx, op, live);
        continue;
      }
      if (live.record.leftovers.length > 0) {
        await discardSandbox(ctx, op, live);
      } else if (live.record.requestHash === requestHash && live.view.state === "ready" && live.removing === null) {
        return live;
      } else if (live.removing !== null) {
        await op.race(live.removing);
      } else {
        const { namespace, name, uid, attempt } = live.record.config.metadata;
        const message = `pod ${namespace}/${name} (uid ${uid}, attempt ${attempt}) is sandbox ${shortId(live.record.id)} already, ${live.view.state}; remove it or use another attempt`;
        throw new DomainError("already-exists", message, { ids: { sandboxId: live.record.id } });
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

async function dispose(ctx: SandboxContext, op: Operation, live: LiveSandbox): Promise<void> {
  if (!(await discardSandbox(ctx, op, live))) throw new DomainError("internal", live.record.reason, { ids: { sandboxId: live.record.id } });
}

function claim(ctx: SandboxContext, live: LiveSandbox): void {
  ctx.registry.show(live);
  ctx.events.publish({ type: "ready", sandbox: live.view });
  if (live.record.claimed) return;
  ctx.registry.change(live, { claimed: true });
  ctx.registry
    .persist(live)
    .catch((error: unknown) => ctx.log.warn({ sandboxId: live.record.id, err: describeError(error) }, "the record was not written"));
}
