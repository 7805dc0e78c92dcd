/**
 * One exec or attach: moves bytes between its client and the command's stdio until the command has ended and its output is
 * drained, or the client is gone. Each side only gets what the other takes; in between lies a bounded buffer.
 *
 * A client that leaves ends what it held: stdin reads end of file, a write to an output fails, a terminal hangs up. The
 * command itself is not killed.
 */
import type { Readable, Writable } from "node:stream";
import type { CommandStatus, OutputName, StreamSession, TerminalSize } from "./session.ts";

export interface StartedCommand {
  /** With a terminal the same stream as `stdout`. */
  readonly stdin: Writable | null;
  readonly stdout: Readable | null;
  readonly stderr: Readable | null;
  /** Resolves when the command has ended, or with the container that is attached to; never rejects. */
  readonly ended: Promise<CommandStatus>;
}

export interface CommandSource {
  readonly kind: "exec" | "attach";
  readonly terminal: boolean;
  start(): Promise<StartedCommand>;
  resize(size: TerminalSize): void;
}

/** Bytes for the command's stdin that it has not read, before its client has to wait. */
const stdinBufferBytes = 64 * 1024;
/**
 * After the command's end its output may be held open by what it has left behind. What it has written itself lies in the
 * pipe by then, so it is all read when nothing comes for a moment, or more has come than a pipe holds.
 */
const quietMs = 250;
const pipeBytes = 1 << 20;
/** What a client that has left had sent: how long the command may take to read it. */
const leftInputMs = 10_000;
/** An attach whose outputs have ended: how long the container's end is waited for, which mostly follows at once. */
const attachEndMs = 1_000;

interface Output {
  readonly name: OutputName;
  readonly stream: Readable;
  open: boolean;
  paused: boolean;
}

/** Begins at once. */
export class CommandRun {
  /** Resolves when everything is over; never rejects. */
  readonly over: Promise<void>;
  readonly #session: StreamSession;
  readonly #source: CommandSource;
  #done: () => void = () => undefined;
  #command: StartedCommand | null = null;
  #outputs: Output[] = [];
  /** What the client has sent while the command was being started. */
  readonly #early: Buffer[] = [];
  #earlySize: TerminalSize | null = null;
  #inputEnded = false;
  #status: CommandStatus | null = null;
  #bytes = 0;
  #bytesAtEnd = 0;
  #wasSlow = false;
  #timer: NodeJS.Timeout | null = null;
  #gone = false;
  #over = false;

  constructor(session: StreamSession, source: CommandSource) {
    this.#session = session;
    this.#source = source;
    this.over = new Promise((resolve) => {
      this.#done = resolve;
    });
    session.listen({
      stdin: (bytes) => this.#feed(bytes),
      stdinEnd: () => this.#endInput(),
      resize: (size) => this.#resize(size),
      writable: () => this.#resume(),
      gone: () => {
        this.#gone = true;
        this.#close();
      },
    });
    source.start().then(
      (command) => this.#join(command),
      (error: Error) => this.#finish({ kind: "failed", message: error.message }),
    );
  }

  /** Ends it from our side: the client is told why. */
  end(reason: string): void {
    this.#finish({ kind: "failed", message: reason });
  }

  /** Ends it without a word. */
  cut(): void {
    this.#session.destroy();
    this.#close();
  }

  #join(command: StartedCommand): void {
    if (this.#over) {
      for (const stream of [command.stdin, command.stdout, command.stderr]) stream?.destroy();
      return;
    }
    this.#command = command;
    const { stdin, stdout, stderr, ended } = command;
    this.#outputs = [
      ...(stdout ? [{ name: "stdout" as const, stream: stdout, open: true, paused: false }] : []),
      ...(stderr ? [{ name: "stderr" as const, stream: stderr, open: true, paused: false }] : []),
    ];
    // A command that has closed its stdin: what is still sent is dropped.
    stdin?.on("error", () => this.#session.resumeInput());
    stdin?.on("close", () => this.#session.resumeInput());
    stdin?.on("drain", () => this.#session.resumeInput());
    for (const output of this.#outputs) this.#pump(output);
    if (this.#earlySize) this.#source.resize(this.#earlySize);
    let full = false;
    for (const bytes of this.#early.splice(0)) full = !this.#feed(bytes) || full;
    if (this.#inputEnded) this.#endInput();
    else if (!full) this.#session.resumeInput();
    void ended.then((status) => this.#commandEnded(status));
  }

  #feed(bytes: Buffer): boolean {
    if (!this.#command) {
      this.#early.push(bytes);
      return false;
    }
    const { stdin } = this.#command;
    if (!stdin || stdin.destroyed || stdin.writableEnded) return true;
    return stdin.write(bytes) || stdin.writableLength <= stdinBufferBytes;
  }

  #endInput(): void {
    this.#inputEnded = true;
    // A terminal has no end of input: what is typed is all that there is.
    if (!this.#source.terminal) this.#command?.stdin?.end();
  }

  #resize(size: TerminalSize): void {
    if (this.#command) this.#source.resize(size);
    else this.#earlySize = size;
  }

  #pump(output: Output): void {
    const { stream, name } = output;
    stream.on("data", (bytes: Buffer) => {
      this.#bytes += bytes.length;
      if (this.#session.write(name, bytes)) return;
      output.paused = true;
      this.#wasSlow = true;
      stream.pause();
    });
    const ended = (): void => {
      if (!output.open) return;
      output.open = false;
      this.#outputEnded();
    };
    stream.on("end", ended);
    stream.on("error", ended);
    stream.on("close", ended);
  }

  #resume(): void {
    for (const output of this.#outputs) {
      if (!output.paused) continue;
      output.paused = false;
      output.stream.resume();
    }
  }

  #commandEnded(status: CommandStatus): void {
    if (this.#over) return;
    this.#status = status;
    this.#bytesAtEnd = this.#bytes;
    if (this.#allEnded()) this.#finish(status);
    else this.#drain(status);
  }

  #outputEnded(): void {
    if (this.#over || !this.#allEnded()) return;
    if (this.#status) this.#finish(this.#status);
    else if (this.#source.kind === "attach") {
      this.#stopTimer();
      // Without the container's end: it has closed its output itself, or the monitor has let go of us.
      this.#timer = setTimeout(() => {
        this.#finish(
          this.#wasSlow ? { kind: "failed", message: "the client did not take the container's output in time" } : { kind: "success" },
        );
      }, attachEndMs);
    }
  }

  #allEnded(): boolean {
    return this.#outputs.every((output) => !output.open);
  }

  #drain(status: CommandStatus): void {
    this.#stopTimer();
    const before = this.#bytes;
    this.#timer = setTimeout(() => {
      // A busy event loop runs timers before it reads: what lies there is read before it is judged.
      setImmediate(() => {
        if (this.#over) return;
        const isWaiting = this.#outputs.some((output) => output.open && output.paused);
        const isDrained = this.#bytes - this.#bytesAtEnd > 2 * pipeBytes || (this.#bytes === before && !isWaiting);
        if (isDrained) this.#finish(status);
        else this.#drain(status);
      });
    }, quietMs);
  }

  #finish(status: CommandStatus): void {
    if (this.#over) return;
    this.#session.finish(status);
    this.#close();
  }

  #close(): void {
    if (this.#over) return;
    this.#over = true;
    this.#stopTimer();
    const { stdin } = this.#command ?? { stdin: null };
    // What the client has sent before it left is the command's: a pipe closes when it is all there.
    if (stdin && this.#gone && !this.#source.terminal && !stdin.destroyed) endSoon(stdin);
    else stdin?.destroy();
    for (const { stream } of this.#outputs) stream.destroy();
    this.#done();
  }

  #stopTimer(): void {
    if (this.#timer) clearTimeout(this.#timer);
    this.#timer = null;
  }
}

/** Ends a stream, at once or after a while where its reader does not read. */
function endSoon(stream: Writable): void {
  stream.on("error", () => undefined);
  const timer = setTimeout(() => stream.destroy(), leftInputMs);
  stream.on("close", () => clearTimeout(timer));
  stream.end();
}
