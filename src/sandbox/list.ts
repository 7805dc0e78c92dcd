/** ListPodSandbox: every part of the filter must hold. Never waits. */
import type { SandboxContext } from "./context.ts";
import type { LiveSandbox } from "./registry.ts";
import type { SandboxFilter, SandboxView } from "./types.ts";

export function listSandboxes(ctx: SandboxContext, filter: SandboxFilter): readonly SandboxView[] {
  const labels = Object.entries(filter.labels);
  return candidates(ctx, filter.id)
    .map(({ view }) => view)
    .filter((view) => filter.state === null || view.state === filter.state)
    .filter((view) => labels.every(([key, value]) => Object.hasOwn(view.config.labels, key) && view.config.labels[key] === value));
}

function candidates(ctx: SandboxContext, id: string | null): LiveSandbox[] {
  if (id === null) return ctx.registry.all().filter(({ visible }) => visible);
  const found = ctx.registry.resolve(id);
  return found ? [found] : [];
}
