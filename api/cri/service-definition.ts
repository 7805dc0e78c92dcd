/**
 * The two CRI services for @grpc/grpc-js, made from the generated tables without a proto loader.
 *
 * A server's definition hands requests on as bytes: the interceptor decodes them, so that a malformed one is
 * an error with a name like any other. Answers that are bytes already (encoded list items are cached) pass
 * through untouched.
 */
import type { MethodDefinition, ServiceDefinition } from "@grpc/grpc-js";
import type { Codec } from "../../build/generated/cri/messages.js";
import { ImageService, RuntimeService } from "../../build/generated/cri/rpcs.ts";

export * from "../../build/generated/cri/messages.js";
export { ImageService, RuntimeService };

/** One RPC of a generated table. */
export interface Rpc {
  readonly path: string;
  // biome-ignore lint/suspicious/noExplicitAny: the table is heterogeneous; RequestOf and the like recover the types
  readonly request: Codec<any, any>;
  // biome-ignore lint/suspicious/noExplicitAny: as above
  readonly response: Codec<any, any>;
  readonly serverStream: boolean;
}

export type RpcTable = Readonly<Record<string, Rpc>>;

type MessageOf<C> = C extends Codec<infer Message, infer _Input> ? Message : never;
type InputOf<C> = C extends Codec<infer _Message, infer Input> ? Input : never;

/** What a handler gets. */
export type RequestOf<R extends Rpc> = MessageOf<R["request"]>;
/** What a client sends. */
export type RequestInputOf<R extends Rpc> = InputOf<R["request"]>;
/** What a client gets. */
export type ResponseOf<R extends Rpc> = MessageOf<R["response"]>;
/** What a handler answers. */
export type ResponseInputOf<R extends Rpc> = InputOf<R["response"]>;

/** Bytes as a Buffer over the same memory: grpc-js copies with Buffer's own methods. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Encodes a message unless it is encoded already. */
export function encodeMessage<Input>(codec: Codec<unknown, Input>, message: Input | Uint8Array): Buffer {
  return asBuffer(message instanceof Uint8Array ? message : codec.encode(message).finish());
}

/** For `Server.addService`: both directions are bytes. */
export function serverDefinition(table: RpcTable): ServiceDefinition {
  const pass = (bytes: Buffer): Buffer => bytes;
  return mapTable(table, ({ path, serverStream }) => ({
    path,
    requestStream: false,
    responseStream: serverStream,
    requestSerialize: pass,
    requestDeserialize: pass,
    responseSerialize: asBuffer,
    responseDeserialize: pass,
  }));
}

/** For clients: messages in, messages out. A request may be given as bytes, so that tests can send malformed ones. */
export function clientDefinition(table: RpcTable): ServiceDefinition {
  return mapTable(table, ({ path, serverStream, request, response }) => ({
    path,
    requestStream: false,
    responseStream: serverStream,
    requestSerialize: (message: unknown) => encodeMessage(request, message),
    requestDeserialize: (bytes: Buffer) => request.decode(bytes),
    responseSerialize: (message: unknown) => encodeMessage(response, message),
    responseDeserialize: (bytes: Buffer) => response.decode(bytes),
  }));
}

// biome-ignore lint/suspicious/noExplicitAny: grpc-js types a heterogeneous definition so
function mapTable(table: RpcTable, define: (rpc: Rpc) => MethodDefinition<any, any>): ServiceDefinition {
  return Object.fromEntries(Object.entries(table).map(([name, rpc]) => [name, define(rpc)]));
}
