/** One container under its monitor, as the daemon holds it. */
import { nowNs } from "../../base/clock.ts";
import { describeError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { CgroupHandle, FdHandle, Kernel, ProcessHandle } from "../../kernel/contract.ts";
import { backgroundOperation, type Operation } from "../../operation/context.ts";
import { type ExecTarget, execProcessPrefix, execSync } from "../exec.ts";
import { attachStreams, execStream } from "../exec-stream.ts";
import { type ContainerExit, toContainerExit } from "../exit-file.ts";
import type { MonitorClient } from "../monitor-client.ts";
import type {
  AttachStreamsRequest,
  ContainerEnd,
  ExecOutcome,
  ExecRequest,
  LiveContainer,
  StreamExecRequest,
  StreamedCommand,
} from "./handler.ts";

/** Exit code of a container whose end nobody saw. */
const unseenExitCode = 255;
const reconnectMs = 2_000;
const endMs = 30_000;

export interface NativeContainerOptions {
  readonly kernel: Kernel;
  readonly log: Logger;
  readonly id: string;
  readonly client: MonitorClient;
  readonly init: ProcessHandle;
  readonly cgroup: CgroupHandle;
  readonly nullDevice: FdHandle;
  readonly ownPid: boolean;
  /** How long after init's end the monitor may take to drain the output and say so. */
  readonly stopTimeoutMs: number;
  /** null after a restart: then `readConfig` gets it from the bundle when it is needed. */
  readonly configJson: string | null;
  readonly readConfig: () => Promise<string>;
  readonly readExit: () => Promise<ContainerExit | null>;
  readonly reconnect: (op: Operation) => Promise<MonitorClient | null>;
}

export class NativeContainer implements LiveContainer {
  readonly init: ProcessHandle;
  readonly cgroup: CgroupHandle;
  readonly ended: Promise<ContainerEnd>;
  readonly #options: NativeContainerOptions;
  #client: MonitorClient;
  #exec: Promise<{ readonly configJson: string; readonly processPrefix: string }> | null = null;
  /** Of attached clients: they come and go while the promise stays. */
  readonly #endListeners = new Set<() => void>();
  #closed = false;

  constructor(options: NativeContainerOptions) {
    this.#options = options;
    this.#client = options.client;
    this.init = options.init;
    this.cgroup = options.cgroup;
    this.ended = this.#watch();
    void this.ended.then(() => {
      for (const listener of this.#endListeners) listener();
      this.#endListeners.clear();
    });
  }

  async start(op: Operation): Promise<{ readonly startedAtNs: bigint }> {
    const { startedAtNs } = await this.#client.request(op, "start", {}, "started");
    return { startedAtNs: BigInt(startedAtNs) };
  }

  signal(signalNumber: number): boolean {
    return this.init.signal(signalNumber);
  }

  async execSync(op: Operation, request: ExecRequest): Promise<ExecOutcome> {
    return execSync(op, await this.#execTarget(op), request);
  }

  async execStream(op: Operation, request: StreamExecRequest): Promise<StreamedCommand> {
    return execStream(op, await this.#execTarget(op), request);
  }

  attach(op: Operation, request: AttachStreamsRequest): Promise<StreamedCommand> {
    const onEnded = (listener: () => void): (() => void) => {
      this.#endListeners.add(listener);
      return () => void this.#endListeners.delete(listener);
    };
    return attachStreams(op, { kernel: this.#options.kernel, client: this.#client, onEnded }, request);
  }

  async #execTarget(op: Operation): Promise<ExecTarget & { readonly kernel: Kernel }> {
    const { kernel, id, nullDevice } = this.#options;
    const { configJson, processPrefix } = await op.race(this.#execParts());
    return {
      kernel,
      client: this.#client,
      containerId: id,
      init: this.init,
      cgroup: this.cgroup,
      configJson,
      processPrefix,
      nullDevice,
    };
  }

  async reopenLog(op: Operation): Promise<void> {
    await this.#client.request(op, "reopenLog", {}, "ok");
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#client.close();
    this.init.close();
    this.cgroup.close();
  }

  #execParts(): Promise<{ readonly configJson: string; readonly processPrefix: string }> {
    this.#exec ??= this.#parseConfig().catch((error: unknown) => {
      this.#exec = null;
      throw error;
    });
    return this.#exec;
  }

  async #parseConfig(): Promise<{ readonly configJson: string; readonly processPrefix: string }> {
    const configJson = this.#options.configJson ?? (await this.#options.readConfig());
    return { configJson, processPrefix: execProcessPrefix(configJson) };
  }

  /**
   * The end, from whoever knows it: the monitor; its exit file, when it has gone; nobody, and then what is left of the
   * container is killed, as neither its output nor its exit would ever be seen. A monitor that does not come to its end
   * after init has is killed, so that nothing hangs on it.
   */
  async #watch(): Promise<ContainerEnd> {
    const { init, ownPid, kernel, log, id, stopTimeoutMs } = this.#options;
    let overdue: NodeJS.Timeout | null = null;
    void init.exited().then(
      () => {
        if (this.#closed) return;
        // Others of a shared PID namespace outlive init and hold its output open.
        if (!ownPid)
          kernel
            .killCgroup({ path: this.cgroup.path })
            .catch((error: unknown) => log.warn({ containerId: id, err: describeError(error) }, "the rest of a container was not killed"));
        overdue = setTimeout(() => void this.#killMonitor(), stopTimeoutMs);
      },
      () => undefined,
    );
    try {
      for (let attempt = 0; ; attempt += 1) {
        const client = this.#client;
        const exited = await Promise.race([client.exited, client.closed.then(() => null)]);
        if (exited) return { exit: toContainerExit(exited), lost: false };
        // Let go of on purpose: whoever did it does not wait for the end.
        if (this.#closed) return await new Promise<never>(() => undefined);
        const seen = await this.#afterLoss(attempt);
        if (seen) return seen;
      }
    } finally {
      if (overdue) clearTimeout(overdue);
    }
  }

  /** The connection is gone. null where a new one stands. */
  async #afterLoss(attempt: number): Promise<ContainerEnd | null> {
    const { log, id, readExit, reconnect } = this.#options;
    const written = await readExit();
    if (written) return { exit: written, lost: false };
    if (attempt === 0) {
      const op = backgroundOperation("monitor.reconnect", log, reconnectMs);
      try {
        const client = await reconnect(op);
        if (client) {
          this.#client = client;
          log.warn({ containerId: id }, "the connection to a monitor was lost and stands again");
          return null;
        }
      } catch (error) {
        log.warn({ containerId: id, err: describeError(error) }, "a monitor could not be reached again");
      } finally {
        op.dispose();
      }
    }
    return await this.#endWithoutMonitor();
  }

  async #endWithoutMonitor(): Promise<ContainerEnd> {
    const { kernel, log, id, init, readExit } = this.#options;
    log.error({ containerId: id }, "a container's monitor is gone without having written an exit: the container is ended");
    const op = backgroundOperation("container.orphaned", log, endMs);
    let oomKilled = false;
    try {
      await op.race(kernel.killCgroup({ path: this.cgroup.path }));
      await op.race(init.exited());
      const [stats] = await op.race(kernel.cgroupStats({ cgroups: [this.cgroup] }));
      oomKilled = (stats?.oomKills ?? 0) > 0;
    } catch (error) {
      log.error({ containerId: id, err: describeError(error) }, "an orphaned container was not seen to end");
    } finally {
      op.dispose();
    }
    const written = await readExit();
    if (written) return { exit: written, lost: false };
    const exit = { exitCode: unseenExitCode, signal: 0, oomKilled, startedAtNs: 0n, finishedAtNs: nowNs(), logDroppedBytes: 0n };
    return { exit, lost: true };
  }

  async #killMonitor(): Promise<void> {
    const { kernel, log, id, stopTimeoutMs } = this.#options;
    if (this.#closed) return;
    const pid = this.#client.hello?.pid ?? 0;
    log.error({ containerId: id, monitorPid: pid, stopTimeoutMs }, "a monitor did not end after its container");
    const process = pid === 0 ? null : await kernel.openProcess({ pid, startTime: null }).catch(() => null);
    process?.signal(9);
    process?.close();
    this.#client.close();
  }
}
