/** Exec with live stdio, and attach: the descriptors go to the monitor, their other ends to whoever serves the client. */
import { describeError } from "../base/errors.ts";
import type { FdHandle, Kernel, PlanHandle } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";
import { type ExecTarget, explainExec } from "./exec.ts";
import type { AttachStreamsRequest, CommandEnd, CommandStdio, StreamExecRequest, StreamedCommand } from "./handlers/handler.ts";
import type { MonitorClient } from "./monitor-client.ts";

/** Of an exec's pipes: fewer, larger reads for a command that writes a lot. */
const pipeBytes = 256 << 10;
/** Of an attached output: the monitor lets go of a client whose socket is full. */
const attachBufferBytes = 4 << 20;
const resizeTimeoutMs = 10_000;

export type StreamTarget = Omit<ExecTarget, "kernel"> & {
  readonly kernel: Pick<Kernel, "compileExecPlan" | "createPipe" | "createSocketPair">;
};

/** Resolves when the command runs. */
export async function execStream(op: Operation, target: StreamTarget, request: StreamExecRequest): Promise<StreamedCommand> {
  const { client, nullDevice } = target;
  const stdio = request.terminal ? terminalStdio(target) : pipeStdio(target, request);
  let plan: PlanHandle | null = null;
  try {
    plan = await op.raceWithCleanup(
      target.kernel.compileExecPlan({
        processJson: processJson(target.processPrefix, request),
        configJson: target.configJson,
        containerId: target.containerId,
        init: target.init,
        cgroup: target.cgroup,
        clamp: true,
      }),
      (late) => late.close(),
    );
    const body = { planFds: plan.fdCount, terminal: request.terminal, terminalColumns: 0, terminalRows: 0 };
    const running = await client.exec(op, body, [plan, ...stdio.theirs.map((handle) => handle ?? nullDevice)]);
    return {
      stdio: stdio.ours,
      ended: running.exited.then(
        ({ exitCode }): CommandEnd => ({ kind: "exited", exitCode }),
        (error: unknown): CommandEnd => ({ kind: "failed", message: describeError(error) }),
      ),
      resize: (resizing, size) => resizeTerminal(resizing, client, running.id, size),
      kill: () => client.killExec(running.id),
      release: () => undefined,
    };
  } catch (error) {
    closeStdio(stdio.ours);
    throw explainExec(error);
  } finally {
    plan?.close();
    // The command holds its own copies now: only their end is the end of file.
    for (const handle of stdio.theirs) handle?.close();
  }
}

export interface AttachTarget {
  readonly kernel: Pick<Kernel, "createSocketPair">;
  readonly client: MonitorClient;
  /** Tells the end of the container once, unless it is taken back. */
  onEnded(listener: () => void): () => void;
}

export async function attachStreams(op: Operation, target: AttachTarget, request: AttachStreamsRequest): Promise<StreamedCommand> {
  const { client, kernel } = target;
  const pair = (wanted: boolean): readonly [FdHandle, FdHandle] | null =>
    wanted ? kernel.createSocketPair({ bufferBytes: attachBufferBytes }) : null;
  const [stdin, stdout, stderr] = [pair(request.stdin), pair(request.stdout), pair(request.stderr)];
  const theirs = [stdin, stdout, stderr].flatMap((ends) => (ends ? [ends[1]] : []));
  const stdio: CommandStdio = { stdin: stdin?.[0] ?? null, stdout: stdout?.[0] ?? null, stderr: stderr?.[0] ?? null, terminal: null };
  try {
    await client.request(op, "attach", request, "ok", theirs);
  } catch (error) {
    closeStdio(stdio);
    throw error;
  } finally {
    for (const handle of theirs) handle.close();
  }
  let end: (status: CommandEnd) => void = () => undefined;
  const ended = new Promise<CommandEnd>((resolve) => {
    end = resolve;
  });
  return {
    stdio,
    ended,
    resize: (resizing, size) => resizeTerminal(resizing, client, 0, size),
    kill: () => undefined,
    release: target.onEnded(() => end({ kind: "success" })),
  };
}

export function closeStdio({ stdin, stdout, stderr, terminal }: CommandStdio): void {
  for (const handle of [stdin, stdout, stderr, terminal]) handle?.close();
}

interface BothEnds {
  readonly ours: CommandStdio;
  /** As the monitor wants them; null stands for /dev/null. */
  readonly theirs: readonly (FdHandle | null)[];
}

/** The monitor relays the terminal to a socket: Node.js cannot hold a pty. */
function terminalStdio({ kernel }: StreamTarget): BothEnds {
  const [near, far] = kernel.createSocketPair({ bufferBytes: pipeBytes });
  return { ours: { stdin: null, stdout: null, stderr: null, terminal: near }, theirs: [far] };
}

/** Pipes, as commands open /dev/stdin and the like anew, which a socket refuses. */
function pipeStdio({ kernel }: StreamTarget, request: StreamExecRequest): BothEnds {
  const made = { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr };
  const pipe = (wanted: boolean) => (wanted ? kernel.createPipe({ sizeBytes: pipeBytes }) : null);
  const [stdin, stdout, stderr] = [pipe(made.stdin), pipe(made.stdout), pipe(made.stderr)];
  return {
    ours: { stdin: stdin?.writeEnd ?? null, stdout: stdout?.readEnd ?? null, stderr: stderr?.readEnd ?? null, terminal: null },
    theirs: [stdin?.readEnd ?? null, stdout?.writeEnd ?? null, stderr?.writeEnd ?? null],
  };
}

/** With a terminal the command learns what kind it is, unless the container says so itself. */
function processJson(prefix: string, { command, terminal }: StreamExecRequest): string {
  if (!terminal) return `${prefix}${JSON.stringify(command)}}`;
  const process = JSON.parse(`${prefix}[]}`) as { env?: readonly string[] };
  const env = process.env ?? [];
  const named = env.some((entry) => entry.startsWith("TERM="));
  return JSON.stringify({ ...process, terminal: true, env: named ? env : [...env, "TERM=xterm"], args: command });
}

async function resizeTerminal(
  op: Operation,
  client: MonitorClient,
  execId: number,
  size: { readonly columns: number; readonly rows: number },
): Promise<void> {
  const limited = op.child("terminal.resize", resizeTimeoutMs);
  try {
    await client.request(limited, "resize", { execId, ...size }, "ok");
  } finally {
    limited.dispose();
  }
}
