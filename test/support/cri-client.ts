/**
 * A promise-based CRI client over a unix socket, for tests, the demo and the benchmarks.
 *
 *     const client = connectCri("/run/berth/berth.sock");
 *     const { podSandboxId } = await client.runtime.RunPodSandbox({ config: { … } });
 *     client.close();
 *
 * A failed call rejects with grpc-js's ServiceError: `code` (see `status`), `details`.
 */
import { Client, type ClientReadableStream, credentials, Metadata, type ServiceError, status } from "@grpc/grpc-js";
import {
  clientDefinition,
  ImageService,
  type Int64,
  type RequestInputOf,
  type ResponseOf,
  type Rpc,
  type RpcTable,
  RuntimeService,
} from "../../api/cri/service-definition.ts";

export { type ServiceError, status };

export interface CallOptions {
  /** Deadline from now; 2 minutes by default, null for none. */
  readonly timeoutMs?: number | null;
  /** Cancels the call. */
  readonly signal?: AbortSignal;
  /** Further headers. */
  readonly metadata?: Readonly<Record<string, string>>;
}

type UnaryCall<R extends Rpc> = (request: RequestInputOf<R> | Uint8Array, options?: CallOptions) => Promise<ResponseOf<R>>;
/** Ends with the stream; leaving the loop cancels the call. */
type StreamCall<R extends Rpc> = (request: RequestInputOf<R> | Uint8Array, options?: CallOptions) => AsyncIterable<ResponseOf<R>>;

export type ServiceClient<T extends RpcTable> = {
  readonly [K in keyof T]: T[K]["serverStream"] extends true ? StreamCall<T[K]> : UnaryCall<T[K]>;
};

export interface CriClient {
  readonly runtime: ServiceClient<typeof RuntimeService>;
  readonly images: ServiceClient<typeof ImageService>;
  close(): void;
}

const defaultTimeoutMs = 120_000;
const maxMessageBytes = 16 * 1024 * 1024;

export function connectCri(socketPath: string): CriClient {
  const client = new Client(`unix:${socketPath}`, credentials.createInsecure(), {
    "grpc.max_receive_message_length": maxMessageBytes,
    "grpc.max_send_message_length": maxMessageBytes,
    "grpc.default_authority": "localhost",
    // A test's client waits for the next daemon at the same path no longer than this.
    "grpc.initial_reconnect_backoff_ms": 50,
    "grpc.max_reconnect_backoff_ms": 500,
    "grpc.use_local_subchannel_pool": 1,
  });
  return {
    runtime: serviceClient(client, RuntimeService),
    images: serviceClient(client, ImageService),
    close: () => client.close(),
  };
}

/** Halves of a 64-bit field as the number they stand for. */
export function toBigInt({ low, high, unsigned }: Int64): bigint {
  const bits = (BigInt(high >>> 0) << 32n) | BigInt(low >>> 0);
  return unsigned ? bits : BigInt.asIntN(64, bits);
}

function serviceClient<T extends RpcTable>(client: Client, table: T): ServiceClient<T> {
  const definition = clientDefinition(table);
  const calls = Object.entries(table).map(([name, rpc]) => {
    const method = definition[name];
    if (method === undefined) throw new Error(`${name} has no definition`);
    const { path, requestSerialize, responseDeserialize } = method;
    const unary = (request: unknown, options: CallOptions = {}): Promise<unknown> =>
      new Promise((resolve, reject) => {
        const call = client.makeUnaryRequest(
          path,
          requestSerialize,
          responseDeserialize,
          request,
          metadataOf(options),
          deadlineOf(options),
          (error, response) => {
            options.signal?.removeEventListener("abort", cancel);
            if (error) reject(error);
            else resolve(response);
          },
        );
        const cancel = (): void => call.cancel();
        if (options.signal?.aborted) cancel();
        else options.signal?.addEventListener("abort", cancel, { once: true });
      });
    const stream = (request: unknown, options: CallOptions = {}): ClientReadableStream<unknown> => {
      const call = client.makeServerStreamRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        metadataOf(options),
        deadlineOf(options),
      );
      options.signal?.addEventListener("abort", () => call.cancel(), { once: true });
      return call;
    };
    return [name, rpc.serverStream ? stream : unary];
  });
  return Object.fromEntries(calls) as ServiceClient<T>;
}

function deadlineOf({ timeoutMs = defaultTimeoutMs }: CallOptions): { deadline?: number } {
  return timeoutMs === null ? {} : { deadline: Date.now() + timeoutMs };
}

function metadataOf(options: CallOptions): Metadata {
  const metadata = new Metadata();
  for (const [key, value] of Object.entries(options.metadata ?? {})) metadata.set(key, value);
  return metadata;
}
