/**
 * The CRI server: gRPC on a unix socket, both services. The composition root starts it when recovery has loaded
 * everything, because a partial list makes the kubelet start pods again.
 */
import { Server, ServerCredentials, type UntypedServiceImplementation } from "@grpc/grpc-js";
import { ImageService, type RpcTable, RuntimeService, serverDefinition } from "../../api/cri/service-definition.ts";
import { DomainError, describeError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { ContainerService } from "../container/types.ts";
import type { ImageService as Images } from "../image/types.ts";
import type { OperationObserver } from "../metrics/operation-metrics.ts";
import type { Operation } from "../operation/context.ts";
import type { RunningOperations } from "../operation/running.ts";
import type { SandboxService } from "../sandbox/types.ts";
import { containerLifecycleRpcs } from "./container-lifecycle.ts";
import { containerReadRpcs } from "./container-read.ts";
import { containerStatsRpcs } from "./container-stats.ts";
import { execRpcs } from "./exec.ts";
import { imageRpcs } from "./images.ts";
import { type Handlers, Interceptor, type UnaryHandler } from "./interceptor.ts";
import { allowLongDeadlines } from "./long-deadlines.ts";
import { type RuntimeFacts, runtimeInfoRpcs } from "./runtime-info.ts";
import { sandboxLifecycleRpcs } from "./sandbox-lifecycle.ts";
import { sandboxReadRpcs } from "./sandbox-read.ts";
import { bindSocket, resolveGroup } from "./socket.ts";
import { type StreamIssuer, streamingRpcs } from "./streaming.ts";
import { unimplementedRpcs } from "./unimplemented.ts";

export interface CriServerOptions {
  /** As `api` of the configuration. */
  readonly api: {
    readonly socket: string;
    readonly group: string;
    readonly maxMessageBytes: number;
    readonly maxInFlightPerMethod: number;
    readonly defaultTimeoutMs: number;
  };
  readonly log: Logger;
  readonly running: RunningOperations;
  readonly metrics: OperationObserver;
  readonly facts: RuntimeFacts;
  readonly sandboxes: SandboxService;
  readonly containers: ContainerService;
  readonly images: Images;
  readonly streaming: StreamIssuer;
}

export interface CriServer {
  readonly socketPath: string;
  /** Calls whose handlers have not ended. */
  readonly inFlight: number;
  /**
   * Refuses new calls (UNAVAILABLE), waits for the running ones until `op` ends, then cancels them; the socket is gone
   * when it resolves. Idempotent.
   */
  stop(op: Operation): Promise<void>;
}

/** A client that has not answered a ping for this long has gone; a unix socket mostly says so by itself. */
const keepaliveMs = 300_000;
const keepaliveTimeoutMs = 60_000;
/** The kubelet has a connection or two; more streams than this on one of them wait in the client. */
const maxConcurrentStreams = 4096;
const maxMetadataBytes = 64 * 1024;
/** Cancelled handlers get this long to end by themselves. */
const cancelGraceMs = 2000;

/** Throws failed-precondition where another daemon serves the socket. */
export async function startCriServer(op: Operation, options: CriServerOptions): Promise<CriServer> {
  const { api, log } = options;
  const interceptor = new Interceptor({
    log,
    running: options.running,
    metrics: options.metrics,
    defaultTimeoutMs: api.defaultTimeoutMs,
    maxInFlightPerMethod: api.maxInFlightPerMethod,
  });
  const server = new Server({
    "grpc.max_receive_message_length": api.maxMessageBytes,
    "grpc.max_send_message_length": api.maxMessageBytes,
    "grpc.max_concurrent_streams": maxConcurrentStreams,
    "grpc.max_metadata_size": maxMetadataBytes,
    "grpc.keepalive_time_ms": keepaliveMs,
    "grpc.keepalive_timeout_ms": keepaliveTimeoutMs,
    "grpc.enable_channelz": 0,
  });
  addService(server, interceptor, RuntimeService, runtimeHandlers(options));
  addService(server, interceptor, ImageService, imageRpcs(options.images));
  try {
    const gid = await resolveGroup(api.group);
    const socket = await op.step("server.bind", () => bindSocket(op, api.socket, gid, (path) => listen(server, path)));
    log.info({ socket: socket.path }, "serving the CRI");
    let stopping: Promise<void> | null = null;
    return {
      socketPath: socket.path,
      get inFlight() {
        return interceptor.inFlight;
      },
      stop(stopOp) {
        stopping ??= stop(stopOp, server, interceptor, log).then(() => socket.remove());
        return stopping;
      },
    };
  } catch (error) {
    server.forceShutdown();
    throw error;
  }
}

function runtimeHandlers(options: CriServerOptions): Handlers<typeof RuntimeService> {
  return {
    ...runtimeInfoRpcs(options.facts),
    ...sandboxLifecycleRpcs(options.sandboxes),
    ...sandboxReadRpcs(options.sandboxes, options.containers),
    ...containerLifecycleRpcs(options.containers),
    ...containerReadRpcs(options.containers),
    ...containerStatsRpcs(options.containers),
    ...execRpcs(options.containers, options.api.maxMessageBytes),
    ...streamingRpcs(options.streaming, options.containers, options.sandboxes),
    ...unimplementedRpcs(),
  };
}

function addService<T extends RpcTable>(server: Server, interceptor: Interceptor, table: T, handlers: Handlers<T>): void {
  const byName = handlers as Readonly<Record<string, UnaryHandler<T[string]>>>;
  const implementation: UntypedServiceImplementation = {};
  for (const [name, rpc] of Object.entries(table) as [string, T[string]][]) {
    const handler = byName[name];
    if (handler) implementation[name] = interceptor.unary(name, rpc, handler);
    else implementation[name] = interceptor.refuseStream(name);
  }
  server.addService(serverDefinition(table), implementation);
}

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => {
      if (error) reject(new DomainError("unavailable", `cannot listen on ${path}: ${error.message}`, { cause: error }));
      else {
        allowLongDeadlines(server);
        resolve();
      }
    });
  });
}

async function stop(op: Operation, server: Server, interceptor: Interceptor, log: Logger): Promise<void> {
  const drained = interceptor.drained();
  // Stops listening and tells clients to go; idle connections end, busy ones when their calls have.
  const closed = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
  try {
    await op.race(Promise.all([drained, closed]));
  } catch (error) {
    log.warn({ inFlight: interceptor.inFlight, err: describeError(error) }, "calls still run while the server stops: they are cancelled");
    interceptor.cancelAll(new DomainError("unavailable", "the runtime is stopping"));
    const grace = op.detached("server.cancel", cancelGraceMs);
    await grace
      .race(Promise.all([drained, closed]))
      .catch(() => log.error({ inFlight: interceptor.inFlight }, "cancelled calls have not ended"));
    grace.dispose();
  } finally {
    server.forceShutdown();
  }
}
