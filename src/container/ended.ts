/** What happens when a container has ended: the one place that turns an exit into state, record and event. */
import { nowNs } from "../base/clock.ts";
import type { ContainerEnd, LiveContainer } from "../oci/index.ts";
import { type ContainerContext, persistBehind } from "./context.ts";
import type { LiveEntry } from "./registry.ts";

/** As the rivals report a container whose command could not be run. */
const cannotRunCode = 128;

export function watchContainer(ctx: ContainerContext, entry: LiveEntry, container: LiveContainer): void {
  entry.container = container;
  void container.ended.then(async (end) => {
    // Its start has failed, or fails at this moment, and knows why.
    if (end.exit.startedAtNs === 0n) await entry.starting?.catch(() => undefined);
    // Let go of by an undo or a shutdown, which see to the rest themselves.
    if (entry.container !== container || entry.gone) return;
    entry.settled = true;
    if (entry.record.phase === "creating") {
      entry.endedEarly = end;
      return;
    }
    entry.container = null;
    containerEnded(ctx, entry, end);
    container.close();
  });
}

export function containerEnded(ctx: ContainerContext, entry: LiveEntry, end: ContainerEnd): void {
  if (entry.record.phase === "exited") return;
  const { exit, lost } = end;
  const startedAtNs = exit.startedAtNs > 0n ? exit.startedAtNs.toString() : entry.record.startedAtNs;
  if (startedAtNs !== "0" && !entry.startTold) {
    entry.startTold = true;
    if (entry.record.phase === "created") ctx.registry.change(entry, { startedAtNs }, "started");
    if (entry.visible) ctx.events.publish({ type: "started", container: entry.view });
  }
  ctx.registry.change(
    entry,
    {
      ...outcome(entry, end),
      startedAtNs,
      finishedAtNs: (exit.finishedAtNs > 0n ? exit.finishedAtNs : nowNs()).toString(),
      init: null,
    },
    "ended",
  );
  if (exit.logDroppedBytes > 0n) {
    ctx.log.warn(
      { containerId: entry.record.id, bytes: exit.logDroppedBytes.toString() },
      "output of a container could not be written to its log",
    );
  }
  if (lost) ctx.log.error({ containerId: entry.record.id }, "nobody saw how a container ended");
  ctx.layers.forget(entry.record.id);
  persistBehind(ctx, entry);
  if (entry.visible) ctx.events.publish({ type: "stopped", container: entry.view });
}

function outcome(entry: LiveEntry, { exit, lost }: ContainerEnd): { exitCode: number; reason: string; message: string } {
  if (entry.startFailure !== null && exit.startedAtNs === 0n)
    return { exitCode: cannotRunCode, reason: "ContainerCannotRun", message: entry.startFailure };
  if (exit.oomKilled) return { exitCode: exit.exitCode, reason: "OOMKilled", message: "" };
  if (lost) {
    return {
      exitCode: exit.exitCode,
      reason: "Unknown",
      message: "the container's monitor was gone and had written no exit; what was left of the container was killed",
    };
  }
  const dropped = exit.logDroppedBytes > 0n ? `${exit.logDroppedBytes} bytes of its output could not be written to its log` : "";
  return { exitCode: exit.exitCode, reason: exit.exitCode === 0 ? "Completed" : "Error", message: dropped };
}
