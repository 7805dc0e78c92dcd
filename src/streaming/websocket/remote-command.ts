/**
 * Exec and attach over WebSocket: every message is a channel's number and bytes of it (0 stdin, 1 stdout, 2 stderr, 3 error,
 * 4 sizes of the terminal). In v5 a client half-closes a channel with `[255, channel]`. The base64 variants send text
 * messages: the number as a digit, then base64.
 */
import type { RawData, WebSocket } from "ws";
import type { WebSocketCommandProtocol } from "../protocols.ts";
import {
  type CommandStatus,
  type OutputName,
  type SessionListener,
  type StreamSession,
  statusJson,
  statusText,
  TerminalSizeReader,
  type WantedStreams,
} from "../session.ts";

const channels = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4 } as const;
const closeChannel = 255;

/** While nothing is read, pings of the client go unanswered, and its end unnoticed. */
const probeMs = 2_000;

export class WebSocketCommandSession implements StreamSession {
  readonly #socket: WebSocket;
  readonly #protocol: WebSocketCommandProtocol;
  readonly #wanted: WantedStreams;
  readonly #outputLimitBytes: number;
  readonly #sizes = new TerminalSizeReader();
  #listener: SessionListener | null = null;
  #early: [RawData, boolean][] | null = [];
  #stdinEnded = false;
  #waiting = false;
  /** Messages that the kernel has not taken. */
  #unsent = 0;
  #probe: NodeJS.Timeout | null = null;
  #over = false;
  #gone = false;

  /** `outputLimitBytes`: output that the client has not taken, before its source has to wait. */
  constructor(socket: WebSocket, protocol: WebSocketCommandProtocol, wanted: WantedStreams, outputLimitBytes: number) {
    this.#socket = socket;
    this.#outputLimitBytes = outputLimitBytes;
    this.#protocol = protocol;
    this.#wanted = wanted;
    socket.on("message", (data, isBinary) => this.#message(data, isBinary));
    // A broken frame: `close` follows.
    socket.on("error", () => undefined);
    socket.on("close", () => this.#closed());
    // Nothing is to be read before somebody listens; what one read has brought is kept.
    socket.pause();
    this.#sendFirst();
  }

  /** The first message tells a client that the connection stands: the lowest channel that it reads, without bytes. */
  #sendFirst(): void {
    const { stdout, stderr, terminal } = this.#wanted;
    this.#send(stdout ? channels.stdout : stderr && !terminal ? channels.stderr : channels.error, Buffer.alloc(0));
  }

  listen(listener: SessionListener): void {
    this.#listener = listener;
    if (this.#gone) {
      listener.gone();
      return;
    }
    const early = this.#early ?? [];
    this.#early = null;
    let full = false;
    for (const [data, isBinary] of early) full = !this.#take(data, isBinary) || full;
    if (!full) this.resumeInput();
  }

  resumeInput(): void {
    if (this.#probe) clearInterval(this.#probe);
    this.#probe = null;
    if (this.#early === null || this.#over) this.#socket.resume();
  }

  write(output: OutputName, bytes: Buffer): boolean {
    if (this.#over || !this.#wanted[output] || (output === "stderr" && this.#wanted.terminal)) return true;
    this.#send(channels[output], bytes);
    if (this.#socket.bufferedAmount <= this.#outputLimitBytes) return true;
    this.#waiting = true;
    return false;
  }

  finish(status: CommandStatus): void {
    if (this.#over) return;
    this.#over = true;
    this.resumeInput();
    const text = this.#protocol.version >= 4 ? statusJson(status) : statusText(status);
    if (text !== "") this.#send(channels.error, Buffer.from(text));
    this.#closeWhenSent();
  }

  /** The library gives a closing handshake half a minute; what is still to be sent may take longer, so it comes first. */
  #closeWhenSent(): void {
    if (this.#unsent === 0) this.#socket.close(1000);
  }

  destroy(): void {
    this.#over = true;
    this.#socket.terminate();
  }

  #send(channel: number, bytes: Buffer): void {
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    this.#unsent += 1;
    const done = (): void => {
      this.#unsent -= 1;
      if (this.#over) {
        this.#closeWhenSent();
      } else if (this.#waiting && this.#socket.bufferedAmount <= this.#outputLimitBytes / 4) {
        this.#waiting = false;
        this.#listener?.writable();
      }
    };
    if (this.#protocol.base64) {
      this.#socket.send(`${channel}${bytes.toString("base64")}`, done);
      return;
    }
    const message = Buffer.allocUnsafe(bytes.length + 1);
    message[0] = channel;
    bytes.copy(message, 1);
    this.#socket.send(message, { binary: true }, done);
  }

  #message(data: RawData, isBinary: boolean): void {
    if (this.#over) return;
    if (this.#early) this.#early.push([data, isBinary]);
    else if (!this.#take(data, isBinary)) this.#pause();
  }

  #pause(): void {
    if (this.#over || this.#probe) return;
    this.#socket.pause();
    this.#probe = setInterval(() => {
      // A pong that nobody asked for keeps the client's own watch over the connection content, and fails where it is gone.
      if (this.#socket.readyState === this.#socket.OPEN && this.#socket.bufferedAmount === 0) this.#socket.pong();
    }, probeMs);
  }

  /** False: no more for now. */
  #take(data: RawData, isBinary: boolean): boolean {
    const listener = this.#listener;
    const bytes = data as Buffer;
    const first = bytes[0];
    if (!listener || this.#over || first === undefined) return true;
    if (isBinary && this.#protocol.version >= 5 && first === closeChannel) {
      if (bytes[1] === channels.stdin) this.#endStdin(listener);
      return true;
    }
    const channel = isBinary ? first : first - 0x30;
    const content = isBinary
      ? bytes.subarray(1)
      : this.#protocol.base64
        ? Buffer.from(bytes.toString("latin1", 1), "base64")
        : bytes.subarray(1);
    if (channel === channels.stdin) {
      if (!this.#wanted.stdin || this.#stdinEnded || content.length === 0) return true;
      return listener.stdin(content);
    }
    if (channel === channels.resize && this.#wanted.terminal) {
      for (const size of this.#sizes.push(content)) listener.resize(size);
    }
    return true;
  }

  #endStdin(listener: SessionListener): void {
    if (this.#stdinEnded || !this.#wanted.stdin) return;
    this.#stdinEnded = true;
    listener.stdinEnd();
  }

  #closed(): void {
    this.#gone = true;
    if (this.#probe) clearInterval(this.#probe);
    if (this.#over) return;
    this.#over = true;
    this.#listener?.gone();
  }
}
