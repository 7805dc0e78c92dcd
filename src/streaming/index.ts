/**
 * Exec, attach and port-forward: URLs with single-use tokens, and the server behind them (SPDY/3.1, WebSocket) in a worker
 * thread. It knows no container: what a stream leads to comes from `StreamTargets`.
 */
export { type StreamingOptions, startStreaming } from "./service.ts";
export type * from "./types.ts";
