/** ExecSync: one process in a running container, its output collected. No file is written and nothing is resolved twice. */
import { DomainError, SystemError, toError } from "../base/errors.ts";
import type { CgroupHandle, FdHandle, Kernel, PipeCollector, PlanHandle, ProcessHandle } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";
import type { ExecOutcome, ExecRequest } from "./handlers/handler.ts";
import type { MonitorClient, RunningExec } from "./monitor-client.ts";

/** Of each output; what comes after is read and dropped, so that the command does not block. */
export const maxOutputBytes = 16 << 20;
/** How long output is waited for once the command has ended: a child that it left behind may hold the pipes for ever. */
const drainMs = 1_000;
/** How long the end of a killed command is waited for; the kill is under way then and needs nobody. */
const killMs = 1_000;

export interface ExecTarget {
  readonly kernel: Pick<Kernel, "collectPipe" | "compileExecPlan">;
  readonly client: MonitorClient;
  readonly containerId: string;
  readonly init: ProcessHandle;
  readonly cgroup: CgroupHandle;
  /** config.json of the container. */
  readonly configJson: string;
  /** JSON of its process object without `args`, open at its end: see `execProcessPrefix`. */
  readonly processPrefix: string;
  /** /dev/null; stays open. */
  readonly nullDevice: FdHandle;
}

/** The part of an exec's process object that does not depend on the command. Everything else comes from config.json. */
export function execProcessPrefix(configJson: string): string {
  const { process } = JSON.parse(configJson) as { process: { user: unknown; env: unknown; cwd: unknown } };
  const { user, env, cwd } = process;
  return `${JSON.stringify({ terminal: false, user, env, cwd }).slice(0, -1)},"args":`;
}

export async function execSync(op: Operation, target: ExecTarget, request: ExecRequest): Promise<ExecOutcome> {
  const limited = request.timeoutMs > 0 ? op.child("exec", request.timeoutMs) : op;
  const stdout = target.kernel.collectPipe({ maxBytes: maxOutputBytes });
  const stderr = target.kernel.collectPipe({ maxBytes: maxOutputBytes });
  try {
    const running = await begin(limited, target, request, stdout, stderr);
    const exit = await waitForExit(limited, op, target.client, running);
    const [out, err] = await drain(op, stdout, stderr);
    return { exitCode: exit.exitCode, stdout: out.data, stderr: err.data };
  } finally {
    for (const pipe of [stdout, stderr]) {
      pipe.writeEnd.close();
      pipe.stop();
    }
    if (limited !== op) limited.dispose();
  }
}

async function begin(
  op: Operation,
  target: ExecTarget,
  request: ExecRequest,
  stdout: PipeCollector,
  stderr: PipeCollector,
): Promise<RunningExec> {
  const { kernel, client, containerId, init, cgroup, configJson, processPrefix, nullDevice } = target;
  let plan: PlanHandle | null = null;
  try {
    plan = await op.raceWithCleanup(
      kernel.compileExecPlan({
        processJson: `${processPrefix}${JSON.stringify(request.command)}}`,
        configJson,
        containerId,
        init,
        cgroup,
        clamp: true,
      }),
      (late) => late.close(),
    );
    return await client.exec(op, { planFds: plan.fdCount, terminal: false, terminalColumns: 0, terminalRows: 0 }, [
      plan,
      nullDevice,
      stdout.writeEnd,
      stderr.writeEnd,
    ]);
  } catch (error) {
    throw explainExec(error);
  } finally {
    plan?.close();
    // The command holds its own copies now: only their end is the end of file.
    stdout.writeEnd.close();
    stderr.writeEnd.close();
  }
}

async function waitForExit(limited: Operation, op: Operation, client: MonitorClient, running: RunningExec): Promise<{ exitCode: number }> {
  try {
    return await limited.race(running.exited);
  } catch (error) {
    if (limited.signal.aborted) {
      client.killExec(running.id);
      const grace = op.detached("exec.kill", killMs);
      await grace.race(running.exited).catch(() => undefined);
      grace.dispose();
    }
    throw error;
  }
}

type Output = Awaited<PipeCollector["result"]>;

async function drain(op: Operation, stdout: PipeCollector, stderr: PipeCollector): Promise<[Output, Output]> {
  const results: Promise<[Output, Output]> = Promise.all([stdout.result, stderr.result]);
  const limit = op.detached("exec.drain", drainMs);
  try {
    return await limit.race(results);
  } catch {
    stdout.stop();
    stderr.stop();
    return await op.race(results);
  } finally {
    limit.dispose();
  }
}

/** What the command itself is to blame for is the request's fault; the rest keeps its kind. */
export function explainExec(error: unknown): unknown {
  if (!(error instanceof SystemError)) return error;
  const blamed = ["ENOENT", "EACCES", "ENOEXEC", "ENOTDIR", "ELOOP", "EISDIR", "E2BIG", "EINVAL"].includes(error.errno);
  return new DomainError(blamed ? "invalid-argument" : "internal", toError(error).message, { cause: error });
}
