/**
 * What every call goes through. For each it
 * - refuses it while the server stops or too many of its method run,
 * - decodes the request,
 * - makes the Operation: name, ids, deadline of the call or the default, cancellation as its signal,
 * - registers it as running, counts and times it, logs it,
 * - turns whatever is thrown into a status. Nothing that a handler does ends the daemon.
 *
 * The caller is answered as soon as its operation is aborted, even where the handler goes on; the operation stays
 * registered, counted and in flight until the handler has really ended, so that what is stuck is seen.
 */
import type { handleServerStreamingCall, handleUnaryCall, ServerUnaryCall, ServerWritableStream } from "@grpc/grpc-js";
import { encodeMessage, type RequestOf, type ResponseInputOf, type Rpc, type RpcTable } from "../../api/cri/service-definition.ts";
import { monotonicMs } from "../base/clock.ts";
import { DomainError, toError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { OperationObserver } from "../metrics/operation-metrics.ts";
import { Operation } from "../operation/context.ts";
import type { RunningOperations } from "../operation/running.ts";
import { requestIds } from "./request-ids.ts";
import { codeName, type Failure, failureOf } from "./status-map.ts";

export interface InterceptorOptions {
  readonly log: Logger;
  readonly running: RunningOperations;
  readonly metrics: OperationObserver;
  /** For calls that come without a deadline. */
  readonly defaultTimeoutMs: number;
  readonly maxInFlightPerMethod: number;
}

type Outcome = { readonly failure: null } | { readonly failure: Failure; readonly thrown: unknown };

type Answer<T> = T | Uint8Array;

export interface UnaryHandler<R extends Rpc> {
  // Method syntax keeps handlers of different RPCs assignable to `UnaryHandler<Rpc>`.
  handle(op: Operation, request: RequestOf<R>): Answer<ResponseInputOf<R>> | Promise<Answer<ResponseInputOf<R>>>;
  /** Milliseconds for a call without a deadline, null for none; else the default. */
  timeoutMs?(request: RequestOf<R>, defaultMs: number): number | null;
}

type UnaryNames<T extends RpcTable> = { [K in keyof T]: T[K]["serverStream"] extends true ? never : K }[keyof T];

/** A handler for each unary RPC of a service. */
export type Handlers<T extends RpcTable> = { readonly [K in UnaryNames<T>]: UnaryHandler<T[K]> };

type UnaryCall = ServerUnaryCall<Buffer, Buffer>;
type StreamCall = ServerWritableStream<Buffer, Buffer>;

/** Calls that come every second, or every few: logged at debug level alone while they succeed. */
const quietRpcs = /^(List.*|.*Status|.*Stats|Version|RuntimeConfig|ImageFsInfo|ExecSync)$/;

export class Interceptor {
  readonly #options: InterceptorOptions;
  readonly #inFlight = new Map<string, number>();
  readonly #operations = new Set<Operation>();
  #idle: (() => void)[] = [];
  #stopping = false;

  constructor(options: InterceptorOptions) {
    this.#options = options;
  }

  unary<R extends Rpc>(name: string, rpc: R, handler: UnaryHandler<R>): handleUnaryCall<Buffer, Buffer> {
    return (call, callback) => {
      this.#answer(name, rpc, handler, call)
        .then(
          (bytes) => callback(null, bytes),
          (failure: Failure) => callback(serviceError(failure)),
        )
        .catch((error: unknown) => this.#options.log.error({ operation: name, err: String(error) }, "an answer could not be sent"));
    };
  }

  /** For streaming RPCs that are not served. */
  refuseStream(name: string): handleServerStreamingCall<Buffer, Buffer> {
    return (call: StreamCall) => {
      const end = this.#options.metrics.begin(name);
      const failure = failureOf(new DomainError("unimplemented", `${name} is not implemented`));
      end(codeName(failure.code), 0, []);
      call.emit("error", serviceError(failure));
    };
  }

  /** Operations whose handlers have not ended. */
  get inFlight(): number {
    return this.#operations.size;
  }

  /** New calls are refused from now on; resolves when the running ones have ended. */
  drained(): Promise<void> {
    this.#stopping = true;
    if (this.#operations.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  cancelAll(reason: Error): void {
    for (const op of this.#operations) op.cancel(reason);
  }

  /** Rejects with a Failure and nothing else. */
  async #answer<R extends Rpc>(name: string, rpc: R, handler: UnaryHandler<R>, call: UnaryCall): Promise<Buffer> {
    const end = this.#options.metrics.begin(name);
    let op: Operation | null = null;
    const finish = (outcome: Outcome): void => {
      const code = outcome.failure === null ? "OK" : codeName(outcome.failure.code);
      end(code, op === null ? 0 : monotonicMs() - op.startedAtMs, op?.phases.list() ?? []);
      this.#logEnd(name, op, code, outcome);
    };
    let work: Promise<Buffer>;
    try {
      this.#admit(name);
      const request = decodeRequest(name, rpc, call.request);
      op = this.#operationFor(name, request, handler, call);
      work = this.#run(op, rpc, handler, request);
    } catch (thrown) {
      const failure = failureOf(thrown);
      finish({ failure, thrown });
      throw failure;
    }
    const deregister = this.#register(name, op);
    // The end of the handler, not that of the caller, ends the operation.
    work
      .then(
        () => finish({ failure: null }),
        (thrown: unknown) => finish({ failure: failureOf(thrown), thrown }),
      )
      .then(deregister, deregister);
    try {
      return await op.race(work);
    } catch (thrown) {
      throw failureOf(thrown);
    }
  }

  /** The handler's own synchronous throw is a rejection too. */
  async #run<R extends Rpc>(op: Operation, rpc: R, handler: UnaryHandler<R>, request: RequestOf<R>): Promise<Buffer> {
    return encodeMessage(rpc.response, await handler.handle(op, request));
  }

  #admit(name: string): void {
    if (this.#stopping) throw new DomainError("unavailable", `${name}: the runtime is stopping`);
    const limit = this.#options.maxInFlightPerMethod;
    if ((this.#inFlight.get(name) ?? 0) >= limit) {
      throw new DomainError("resource-exhausted", `${name}: ${limit} calls of it are running already`);
    }
  }

  #operationFor<R extends Rpc>(name: string, request: RequestOf<R>, handler: UnaryHandler<R>, call: UnaryCall): Operation {
    const deadline = deadlineMs(call);
    const { defaultTimeoutMs, log } = this.#options;
    const fallback = handler.timeoutMs ? handler.timeoutMs(request, defaultTimeoutMs) : defaultTimeoutMs;
    const timeoutMs = deadline === null ? fallback : Math.max(0, deadline - Date.now());
    const op = new Operation({ name, log, timeoutMs, ids: requestIds(request) });
    call.on("cancelled", () => {
      // grpc-js says so at the end of every call, and reports a passed deadline as a cancellation too.
      if (!this.#operations.has(op)) return;
      const late = deadline !== null && Date.now() >= deadline;
      op.cancel(new DomainError(late ? "deadline-exceeded" : "cancelled", late ? lateText(op) : `${name} was cancelled by its caller`));
    });
    return op;
  }

  #register(name: string, op: Operation): () => void {
    this.#inFlight.set(name, (this.#inFlight.get(name) ?? 0) + 1);
    this.#operations.add(op);
    const unlist = this.#options.running.add(op);
    return () => {
      unlist();
      op.dispose();
      this.#operations.delete(op);
      this.#inFlight.set(name, (this.#inFlight.get(name) ?? 1) - 1);
      if (this.#operations.size > 0) return;
      for (const resolve of this.#idle.splice(0)) resolve();
    };
  }

  #logEnd(name: string, op: Operation | null, code: string, outcome: Outcome): void {
    const log = op?.log ?? this.#options.log.child({ operation: name });
    const fields = op === null ? { code } : { code, durationMs: Math.round((monotonicMs() - op.startedAtMs) * 100) / 100 };
    if (outcome.failure === null) {
      if (quietRpcs.test(name)) log.debug(fields, "done");
      else log.info({ ...fields, phases: op?.phases.toJSON() }, "done");
      return;
    }
    const err = outcome.failure.details;
    if (code === "INTERNAL") log.error({ ...fields, err, stack: stackOf(outcome.thrown), phases: op?.phases.toJSON() }, "failed");
    else if (code === "UNIMPLEMENTED" || (code === "NOT_FOUND" && quietRpcs.test(name))) log.debug({ ...fields, err }, "refused");
    else log.warn({ ...fields, err, phases: op?.phases.toJSON() }, "failed");
  }
}

function stackOf(thrown: unknown): string | undefined {
  try {
    return toError(thrown).stack;
  } catch {
    return undefined;
  }
}

function decodeRequest<R extends Rpc>(name: string, rpc: R, bytes: Buffer): RequestOf<R> {
  try {
    return rpc.request.decode(bytes);
  } catch (error) {
    throw new DomainError("invalid-argument", `${name}: the request is malformed: ${toError(error).message}`);
  }
}

/** Of the wall clock; null for none. */
function deadlineMs(call: UnaryCall): number | null {
  const deadline = call.getDeadline();
  const atMs = deadline instanceof Date ? deadline.getTime() : deadline;
  return Number.isFinite(atMs) ? atMs : null;
}

function lateText(op: Operation): string {
  return `${op.name} did not finish within its caller's deadline${op.currentStep === null ? "" : ` in step ${op.currentStep}`}`;
}

/** grpc-js reads `code` and `details` of an Error. */
function serviceError({ code, details }: Failure): Error & Failure {
  return Object.assign(new Error(details), { code, details });
}
