/** A stream server whose commands are real processes of this machine and whose port-forwards go to its loopback. */
import { type ChildProcess, spawn } from "node:child_process";
import { connect, type Socket } from "node:net";
import { type Claim, type StreamServer, type StreamServerOptions, startStreamServer } from "../../../src/streaming/http-server.ts";
import type { StreamKind } from "../../../src/streaming/messages.ts";
import type { StartedCommand } from "../../../src/streaming/run-command.ts";
import type { CommandStatus, TerminalSize, WantedStreams } from "../../../src/streaming/session.ts";
import { TokenStore } from "../../../src/streaming/tokens.ts";

export interface CommandGrant {
  readonly kind: "exec" | "attach";
  readonly command: readonly string[];
  readonly wanted: WantedStreams;
  /** Instead of a process. */
  readonly start?: () => Promise<StartedCommand>;
}

type Grant = CommandGrant | { readonly kind: "portforward" };

export interface Rig {
  readonly server: StreamServer;
  readonly url: string;
  readonly sizes: TerminalSize[];
  readonly logs: { readonly level: string; readonly fields: Record<string, unknown>; readonly message: string }[];
  readonly processes: ChildProcess[];
  /** Sessions that were claimed and not released. */
  readonly open: Set<number>;
  readonly starts: number;
  exec(command: readonly string[], wanted?: Partial<WantedStreams>): string;
  attach(start: () => Promise<StartedCommand>, wanted?: Partial<WantedStreams>): string;
  command(grant: CommandGrant): string;
  portForward(): string;
  allReleased(): Promise<void>;
  stop(): Promise<void>;
}

export const everything: WantedStreams = { stdin: true, stdout: true, stderr: true, terminal: false };

export async function startRig(options: Partial<StreamServerOptions> = {}): Promise<Rig> {
  const tokens = new TokenStore<Grant>();
  const sizes: TerminalSize[] = [];
  const logs: Rig["logs"] = [];
  const processes: ChildProcess[] = [];
  const open = new Set<number>();
  let lastId = 0;
  let starts = 0;
  const claim = async (kind: StreamKind, token: string): Promise<Claim | null> => {
    const grant = tokens.claim(kind, token);
    if (!grant) return null;
    const id = ++lastId;
    open.add(id);
    const released = (): void => {
      if (!open.delete(id)) throw new Error(`session ${id} is released twice`);
    };
    if (grant.kind === "portforward") return { kind: "portforward", id, dial: dialLoopback, released };
    const source = {
      kind: grant.kind,
      terminal: grant.wanted.terminal,
      start: () => {
        starts += 1;
        return (grant.start ?? (() => startProcess(grant, processes)))();
      },
      resize: (size: TerminalSize) => void sizes.push(size),
    };
    return { kind: grant.kind, id, wanted: grant.wanted, source, released };
  };
  const server = await startStreamServer({
    host: "127.0.0.1",
    port: 0,
    tls: null,
    idleTimeoutMs: 60_000,
    creationTimeoutMs: 5_000,
    claim,
    log: (level, fields, message) => void logs.push({ level, fields, message }),
    ...options,
  });
  const url = `${options.tls ? "https" : "http"}://127.0.0.1:${server.port}`;
  const rig: Rig = {
    server,
    url,
    sizes,
    logs,
    processes,
    open,
    get starts() {
      return starts;
    },
    command: (grant) => `${url}/${grant.kind}/${tokens.issue(grant)}`,
    exec: (command, wanted = {}) => rig.command({ kind: "exec", command, wanted: { ...everything, ...wanted } }),
    attach: (start, wanted = {}) => rig.command({ kind: "attach", command: [], start, wanted: { ...everything, ...wanted } }),
    portForward: () => `${url}/portforward/${tokens.issue({ kind: "portforward" })}`,
    async allReleased() {
      while (open.size > 0) await new Promise((resolve) => setTimeout(resolve, 5));
    },
    async stop() {
      await server.stop("the test is over", 500);
      for (const process of processes) process.kill("SIGKILL");
    },
  };
  return rig;
}

function startProcess({ command, wanted }: CommandGrant, processes: ChildProcess[]): Promise<StartedCommand> {
  const [program = "", ...args] = command;
  const child = spawn(program, args, { stdio: [wanted.stdin ? "pipe" : "ignore", "pipe", "pipe"] });
  processes.push(child);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("spawn", () => {
      const ended = new Promise<CommandStatus>((end) => {
        child.on("exit", (code) => end({ kind: "exited", exitCode: code ?? 137 }));
      });
      if (!wanted.stdout) child.stdout?.resume();
      if (!wanted.stderr) child.stderr?.resume();
      resolve({ stdin: child.stdin, stdout: wanted.stdout ? child.stdout : null, stderr: wanted.stderr ? child.stderr : null, ended });
    });
  });
}

function dialLoopback(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port, allowHalfOpen: true });
    socket.pause();
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      resolve(socket);
    });
  });
}

export async function until(condition: () => boolean, what: string, timeoutMs = 5_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
