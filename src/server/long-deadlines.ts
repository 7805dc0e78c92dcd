/**
 * grpc-js keeps a call's timeout as a 32-bit number of milliseconds: one of more than 24 days becomes negative and the
 * call fails at once. The kubelet's deadline for StopContainer is its own plus the pod's grace period, which may be
 * that long. The header is shortened before grpc-js reads it; after 24 days the kubelet repeats its call.
 */

import type { Http2Server, IncomingHttpHeaders } from "node:http2";
import type { Server } from "@grpc/grpc-js";

const timeoutHeader = "grpc-timeout";
const longestSeconds = 24 * 24 * 3600;
/** Units that can exceed it with the eight digits of the protocol: hours, minutes, seconds. */
const secondsOf: Readonly<Record<string, number>> = { H: 3600, M: 60, S: 1 };

/** For every listener that `server` has when it is called. */
export function allowLongDeadlines(server: Server): void {
  // There is no public way to the HTTP/2 server; a test sees when this one has gone.
  const listeners = (server as unknown as { http2Servers?: Map<Http2Server, unknown> }).http2Servers;
  for (const listener of listeners?.keys() ?? []) {
    listener.prependListener("stream", (_stream, headers: IncomingHttpHeaders) => {
      const given = headers[timeoutHeader];
      if (typeof given === "string") headers[timeoutHeader] = shortened(given);
    });
  }
}

export function shortened(timeout: string): string {
  const match = /^(\d{1,8})([HMS])$/.exec(timeout);
  const seconds = Number(match?.[1]) * (secondsOf[match?.[2] ?? ""] ?? 0);
  return match && seconds > longestSeconds ? `${longestSeconds}S` : timeout;
}
