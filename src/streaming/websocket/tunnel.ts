/** A byte stream within the binary messages of a WebSocket, whose borders mean nothing. */
import { Duplex } from "node:stream";
import type { RawData, WebSocket } from "ws";

export class WebSocketTunnel extends Duplex {
  readonly #socket: WebSocket;

  constructor(socket: WebSocket) {
    super({ allowHalfOpen: true });
    this.#socket = socket;
    socket.on("message", (data: RawData, isBinary) => {
      if (!isBinary) this.destroy(new Error("a text message in a tunnel of bytes"));
      else if (!this.push(data)) socket.pause();
    });
    socket.on("error", (error) => this.destroy(error));
    socket.on("close", () => {
      this.push(null);
      this.destroy();
    });
  }

  override _read(): void {
    this.#socket.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.#socket.send(chunk, { binary: true }, callback);
  }

  /** One message for what was written together. */
  override _writev(chunks: { chunk: Buffer }[], callback: (error?: Error | null) => void): void {
    this.#socket.send(Buffer.concat(chunks.map(({ chunk }) => chunk)), { binary: true }, callback);
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.#socket.close(1000);
    callback();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.#socket.terminate();
    callback(error);
  }
}
