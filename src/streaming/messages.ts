/**
 * Between the daemon's main thread and the thread that serves the streams. Descriptors travel as numbers: both threads are
 * of one process. Whoever posts one gives it away (docs/adr/0011-streams-in-a-worker.md).
 *
 *   worker ── listening | failed ─▶ main
 *   worker ── claim ─────────────▶ main ──▶ claimed (a session begins) or refused
 *   worker ── start ─────────────▶ main ──▶ started | startFailed … ended
 *   worker ── resize ────────────▶ main
 *   worker ── dial ──────────────▶ main ──▶ dialled | dialFailed        any number, for a port-forward
 *   worker ── over ──────────────▶ main    the session has ended here
 *   main ── stop ────────────────▶ worker ──▶ stopped
 */
import type { CommandStatus, TerminalSize, WantedStreams } from "./session.ts";
import type { TlsFiles } from "./tls.ts";

export type StreamKind = "exec" | "attach" | "portforward";

export interface WorkerOptions {
  readonly host: string;
  readonly port: number;
  readonly tls: TlsFiles | null;
  readonly idleTimeoutMs: number;
  readonly creationTimeoutMs: number;
}

export interface StdioNumbers {
  readonly stdin: number | null;
  readonly stdout: number | null;
  readonly stderr: number | null;
  readonly terminal: number | null;
}

export type ToMain =
  | { readonly type: "listening"; readonly host: string; readonly port: number }
  | { readonly type: "failed"; readonly message: string }
  | { readonly type: "claim"; readonly claimId: number; readonly kind: StreamKind; readonly token: string }
  | { readonly type: "start"; readonly session: number }
  | { readonly type: "resize"; readonly session: number; readonly size: TerminalSize }
  | { readonly type: "dial"; readonly session: number; readonly dialId: number; readonly port: number }
  | { readonly type: "over"; readonly session: number }
  | { readonly type: "log"; readonly level: "debug" | "info" | "warn"; readonly fields: Record<string, unknown>; readonly message: string }
  | { readonly type: "stopped" };

export type ToWorker =
  | { readonly type: "claimed"; readonly claimId: number; readonly session: number; readonly wanted: WantedStreams }
  | { readonly type: "refused"; readonly claimId: number }
  | { readonly type: "started"; readonly session: number; readonly stdio: StdioNumbers }
  | { readonly type: "startFailed"; readonly session: number; readonly message: string }
  | { readonly type: "ended"; readonly session: number; readonly status: CommandStatus }
  | { readonly type: "dialled"; readonly session: number; readonly dialId: number; readonly fd: number }
  | { readonly type: "dialFailed"; readonly session: number; readonly dialId: number; readonly message: string }
  | { readonly type: "reloadTls" }
  | { readonly type: "stop"; readonly reason: string; readonly graceMs: number };
