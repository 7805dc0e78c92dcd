/** Reads: answered from memory, never waiting for anything. */
import { DomainError } from "../base/errors.ts";
import type { ContainerContext } from "./context.ts";
import type { LiveEntry } from "./registry.ts";
import type { ContainerFilter, ContainerView } from "./types.ts";

export function findContainer(ctx: ContainerContext, id: string): LiveEntry {
  const entry = ctx.registry.resolve(id);
  if (entry === null) throw new DomainError("not-found", `container ${JSON.stringify(id)} is not known`, { ids: { containerId: id } });
  return entry;
}

/** Newest first, as people expect of `ps`. An id that matches nothing is an empty list. */
export function listContainers(ctx: ContainerContext, filter: ContainerFilter): readonly ContainerView[] {
  return matching(ctx, filter).map(({ view }) => view);
}

export function matching(ctx: ContainerContext, filter: ContainerFilter): LiveEntry[] {
  const entries = filter.id === null ? ctx.registry.all() : [ctx.registry.resolve(filter.id)].filter((entry) => entry !== null);
  const labels = Object.entries(filter.labels);
  return entries
    .filter(({ visible, view }) => {
      if (!visible) return false;
      if (filter.state !== null && view.state !== filter.state) return false;
      if (filter.sandboxId !== null && !view.sandboxId.startsWith(filter.sandboxId)) return false;
      return labels.every(([key, value]) => Object.hasOwn(view.config.labels, key) && view.config.labels[key] === value);
    })
    .sort((a, b) => (a.view.createdAtNs < b.view.createdAtNs ? 1 : -1));
}
