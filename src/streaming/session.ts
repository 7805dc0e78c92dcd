/**
 * One exec or attach as its client sees it, whatever it speaks: bytes in, bytes out, sizes of its terminal, one status at
 * the end. `spdy/remote-command.ts` and `websocket/remote-command.ts` implement it, `run-command.ts` uses it.
 */
export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

export type OutputName = "stdout" | "stderr";

/** What a request asked for; each has its stream or channel. */
export interface WantedStreams {
  readonly stdin: boolean;
  readonly stdout: boolean;
  readonly stderr: boolean;
  readonly terminal: boolean;
}

export interface SessionListener {
  /** False: no more until `resumeInput()`. */
  stdin(bytes: Buffer): boolean;
  /** The client has half-closed its stdin. */
  stdinEnd(): void;
  resize(size: TerminalSize): void;
  /** After a `write` that returned false: the client takes output again. */
  writable(): void;
  /** The client is gone. Once, last, and not after `finish`. */
  gone(): void;
}

export interface StreamSession {
  /** Once: from here on the client is heard; what it has sent before is delivered. */
  listen(listener: SessionListener): void;
  resumeInput(): void;
  /** False: wait for `writable`. Output that the client has not asked for is dropped. */
  write(output: OutputName, bytes: Buffer): boolean;
  /** Says how it ended, ends every stream and the connection, in that order and after everything that was written. */
  finish(status: CommandStatus): void;
  /** Ends the connection at once. */
  destroy(): void;
}

export type CommandStatus =
  | { readonly kind: "exited"; readonly exitCode: number }
  /** An attach ends without an exit code of its own. */
  | { readonly kind: "success" }
  | { readonly kind: "failed"; readonly message: string };

/** The `metav1.Status` that protocols from v4 on send on the error stream. */
export function statusJson(status: CommandStatus): string {
  return JSON.stringify(statusObject(status));
}

function statusObject(status: CommandStatus): object {
  if (isSuccess(status)) return { metadata: {}, status: "Success" };
  if (status.kind === "exited") {
    return {
      metadata: {},
      status: "Failure",
      message: statusText(status),
      reason: "NonZeroExitCode",
      details: { causes: [{ reason: "ExitCode", message: String(status.exitCode) }] },
    };
  }
  const message = statusText(status);
  return {
    metadata: {},
    status: "Failure",
    message: `Internal error occurred: ${message}`,
    reason: "InternalError",
    details: { causes: [{ message }] },
    code: 500,
  };
}

/** What protocols before v4 send on the error stream: nothing for a success. */
export function statusText(status: CommandStatus): string {
  switch (status.kind) {
    case "success":
      return "";
    case "exited":
      return status.exitCode === 0 ? "" : `command terminated with non-zero exit code: exit code ${status.exitCode}`;
    case "failed":
      return status.message;
  }
}

function isSuccess(status: CommandStatus): boolean {
  return status.kind === "success" || (status.kind === "exited" && status.exitCode === 0);
}

const maxSizeTextBytes = 4096;

/** Terminal sizes as they travel: JSON objects `{"Width":80,"Height":24}` one after another, cut anywhere. */
export class TerminalSizeReader {
  #text = "";

  /** Sizes that are complete by now. What is no size is skipped. */
  push(bytes: Buffer): readonly TerminalSize[] {
    this.#text += bytes.toString("latin1");
    const sizes: TerminalSize[] = [];
    for (let end = this.#text.indexOf("}"); end >= 0; end = this.#text.indexOf("}")) {
      const size = parseSize(this.#text.slice(0, end + 1));
      this.#text = this.#text.slice(end + 1);
      if (size) sizes.push(size);
    }
    if (this.#text.length > maxSizeTextBytes) this.#text = "";
    return sizes;
  }
}

function parseSize(text: string): TerminalSize | null {
  try {
    const { Width, Height } = JSON.parse(text) as { Width?: unknown; Height?: unknown };
    return isSize(Width) && isSize(Height) ? { columns: Width, rows: Height } : null;
  } catch {
    return null;
  }
}

function isSize(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value > 0 && value <= 0xffff;
}
