/**
 * Failpoints: every step name is one. Set by `BERTH_FAILPOINTS` or the tests, never by a client.
 *
 *     name=action[;name=action…]      action: error(message) | delay(ms) | hang | kill | N*action
 *
 * `error` throws an internal error, `hang` waits for the signal, `kill` ends the daemon with SIGKILL,
 * `N*` fires N times and is then off. A name may end with `*` to match a prefix.
 */
import { DomainError } from "../base/errors.ts";

type Action = { kind: "error"; message: string } | { kind: "delay"; durationMs: number } | { kind: "hang" } | { kind: "kill" };

interface Failpoint {
  readonly action: Action;
  remaining: number;
}

const active = new Map<string, Failpoint>();
/** Names of the steps hit since the start: the fault tests generate their matrix from it. */
const seen = new Set<string>();

export function setFailpoints(text: string): void {
  active.clear();
  for (const part of text.split(";").map((entry) => entry.trim())) {
    if (part === "") continue;
    const match = /^([\w.*-]+)=(?:(\d+)\*)?(error|delay|hang|kill)(?:\(([^)]*)\))?$/.exec(part);
    if (!match) throw new DomainError("invalid-argument", `failpoint ${JSON.stringify(part)} is not name=[N*]action[(argument)]`);
    const [, name = "", count, kind, argument = ""] = match;
    active.set(name, {
      action: parseAction(kind ?? "", argument),
      remaining: count === undefined ? Number.POSITIVE_INFINITY : Number(count),
    });
  }
}

export function seenFailpoints(): string[] {
  return [...seen].sort();
}

export async function hitFailpoint(name: string, signal: AbortSignal): Promise<void> {
  seen.add(name);
  if (active.size === 0) return;
  const failpoint = find(name);
  if (!failpoint || failpoint.remaining <= 0) return;
  failpoint.remaining -= 1;
  const { action } = failpoint;
  switch (action.kind) {
    case "error":
      throw new DomainError("internal", `failpoint ${name}: ${action.message}`);
    case "delay":
      await new Promise<void>((resolve) => setTimeout(resolve, action.durationMs));
      return;
    case "hang":
      await new Promise<void>((_, reject) => {
        if (signal.aborted) reject(signal.reason as Error);
        signal.addEventListener("abort", () => reject(signal.reason as Error), { once: true });
      });
      return;
    case "kill":
      process.kill(process.pid, "SIGKILL");
      await new Promise(() => undefined);
  }
}

function find(name: string): Failpoint | undefined {
  const exact = active.get(name);
  if (exact) return exact;
  for (const [pattern, failpoint] of active) {
    if (pattern.endsWith("*") && name.startsWith(pattern.slice(0, -1))) return failpoint;
  }
  return undefined;
}

function parseAction(kind: string, argument: string): Action {
  switch (kind) {
    case "error":
      return { kind, message: argument || "injected" };
    case "delay":
      return { kind, durationMs: Number(argument) };
    case "hang":
      return { kind };
    default:
      return { kind: "kill" };
  }
}
