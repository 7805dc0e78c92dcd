/** Names of the protocols that are spoken over an upgraded connection, and which of a client's offers is taken. */

export type CommandVersion = 1 | 2 | 3 | 4 | 5;

/** SPDY: the header X-Stream-Protocol-Version. v5 is for WebSocket alone, whatever a client offers. */
const spdyCommandProtocols: ReadonlyMap<string, CommandVersion> = new Map([
  ["v4.channel.k8s.io", 4],
  ["v3.channel.k8s.io", 3],
  ["v2.channel.k8s.io", 2],
  ["channel.k8s.io", 1],
]);

export const portForwardProtocol = "portforward.k8s.io";
/** SPDY port-forward within the binary messages of a WebSocket. */
export const tunnelProtocol = "SPDY/3.1+portforward.k8s.io";

export interface WebSocketCommandProtocol {
  readonly version: CommandVersion;
  readonly base64: boolean;
}

const webSocketCommandProtocols: ReadonlyMap<string, WebSocketCommandProtocol> = new Map([
  ["v5.channel.k8s.io", { version: 5, base64: false }],
  ["v4.channel.k8s.io", { version: 4, base64: false }],
  ["v4.base64.channel.k8s.io", { version: 4, base64: true }],
  ["channel.k8s.io", { version: 1, base64: false }],
  ["base64.channel.k8s.io", { version: 1, base64: true }],
]);

export interface Chosen<T> {
  /** As the answer names it; empty for none. */
  readonly name: string;
  readonly protocol: T;
}

/** The first of the client's offers that is known; without an offer version 1, as clients before negotiation spoke. null: none fits. */
export function chooseSpdyCommand(offers: readonly string[]): Chosen<CommandVersion> | null {
  return choose(offers, spdyCommandProtocols, 1);
}

export function chooseWebSocketCommand(offers: readonly string[]): Chosen<WebSocketCommandProtocol> | null {
  return choose(offers, webSocketCommandProtocols, { version: 1, base64: false });
}

export const spdyCommandNames: readonly string[] = [...spdyCommandProtocols.keys()];

function choose<T>(offers: readonly string[], known: ReadonlyMap<string, T>, unnamed: T): Chosen<T> | null {
  if (offers.length === 0) return { name: "", protocol: unnamed };
  for (const name of offers) {
    const protocol = known.get(name);
    if (protocol !== undefined) return { name, protocol };
  }
  return null;
}

/** Words of a header that may be repeated: Node.js joins repetitions by a comma, as a client may do itself. */
export function headerWords(value: string | readonly string[] | undefined): readonly string[] {
  const text = typeof value === "string" ? value : (value ?? []).join(",");
  return text
    .split(",")
    .map((word) => word.trim())
    .filter((word) => word !== "");
}
