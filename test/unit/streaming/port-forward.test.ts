import { createHash, randomBytes } from "node:crypto";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { WebSocket } from "ws";
import { type Carrier, type ClientStream, SpdyClient, upgrade } from "../../support/spdy-client.ts";
import { type Rig, startRig, until } from "./rig.ts";

const tunnelName = "SPDY/3.1+portforward.k8s.io";

/**
 * SPDY within a WebSocket, in the manner of client-go: each write is a message. The library takes the protocol's name for
 * malformed, so the handshake is made without it.
 */
async function tunnel(url: string): Promise<SpdyClient> {
  const headers: [string, string][] = [
    ["Connection", "Upgrade"],
    ["Upgrade", "websocket"],
    ["Sec-WebSocket-Version", "13"],
    ["Sec-WebSocket-Key", randomBytes(16).toString("base64")],
    ["Sec-WebSocket-Protocol", tunnelName],
  ];
  const { response, socket: tcp, rest } = await upgrade(url, { method: "GET", headers });
  expect([response.status, response.headers.get("sec-websocket-protocol")]).toEqual([101, tunnelName]);
  const socket = clientOver(tcp, rest);
  const early: Buffer[] = [];
  let receive = (bytes: Buffer): void => void early.push(bytes);
  socket.on("message", (data: Buffer, isBinary) => {
    expect(isBinary).toBe(true);
    receive(data);
  });
  socket.on("error", () => undefined);
  const carrier: Carrier = {
    socket: null,
    write(bytes) {
      socket.send(bytes);
      return true;
    },
    onBytes(take) {
      receive = take;
      for (const bytes of early) take(bytes);
    },
    onEnd: (ended) => void socket.on("close", ended),
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    destroy: () => socket.terminate(),
  };
  return new SpdyClient(carrier);
}

function clientOver(tcp: Socket, rest: Buffer): WebSocket {
  const Unconnected = WebSocket as unknown as new (address: null, protocols: undefined, options: object) => WebSocket;
  const socket = new Unconnected(null, undefined, { autoPong: true, closeTimeout: 1_000 }) as WebSocket & {
    _isServer: boolean;
    setSocket(socket: Socket, head: Buffer, options: object): void;
  };
  socket._isServer = false;
  socket.setSocket(tcp, rest, { allowSynchronousEvents: true, maxPayload: 1 << 24, skipUTF8Validation: false });
  tcp.resume();
  return socket;
}

interface Pair {
  readonly error: ClientStream;
  readonly data: ClientStream;
}

async function forward(client: SpdyClient, port: number, requestid: string | null): Promise<Pair> {
  const headers = { port: String(port), ...(requestid === null ? {} : { requestid }) };
  const error = await client.open({ ...headers, streamtype: "error" });
  error.end();
  return { error, data: await client.open({ ...headers, streamtype: "data" }) };
}

describe.each([
  ["SPDY", (url: string) => SpdyClient.connect(url, ["portforward.k8s.io"])],
  ["a tunnel through WebSocket", tunnel],
])("port-forward over %s", (_name, connect) => {
  let rig: Rig;
  const targets: Server[] = [];
  const sockets: Socket[] = [];
  beforeEach(async () => {
    rig = await startRig();
  });
  afterEach(async () => {
    await rig.stop();
    for (const socket of sockets.splice(0)) socket.destroy();
    for (const target of targets.splice(0)) target.close();
  });

  async function listen(onConnection: (socket: Socket) => void): Promise<number> {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      sockets.push(socket);
      socket.on("error", () => undefined);
      onConnection(socket);
    });
    targets.push(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return (server.address() as AddressInfo).port;
  }

  const echo = (): Promise<number> => listen((socket) => void socket.pipe(socket));

  it("carries bytes both ways and half-closes", async () => {
    const port = await listen((socket) => {
      let all = "";
      socket.on("data", (bytes: Buffer) => {
        all += bytes.toString();
      });
      // Later than any grace that a server might give: a half-close has no end.
      socket.on("end", () => setTimeout(() => socket.end(`got ${all}`), 1_300));
    });
    const client = await connect(rig.portForward());
    const { data, error } = await forward(client, port, "0");
    data.write("a request");
    data.end();
    expect((await data.whole()).toString()).toBe("got a request");
    expect(data.finished).toBe(true);
    expect((await error.whole()).toString()).toBe("");
    expect(error.finished).toBe(true);
    client.destroy();
    await rig.allReleased();
  });

  it("serves many connections over one at once", async () => {
    const port = await echo();
    const client = await connect(rig.portForward());
    await Promise.all(
      Array.from({ length: 60 }, async (_, index) => {
        const { data, error } = await forward(client, port, String(index));
        const bytes = randomBytes(20_000 + index);
        data.write(bytes);
        data.end();
        expect((await data.whole()).equals(bytes)).toBe(true);
        await error.whole();
      }),
    );
    client.destroy();
  }, 20_000);

  it("reports a port that nobody listens on, and goes on with the others", async () => {
    const port = await echo();
    const client = await connect(rig.portForward());
    const good = await forward(client, port, "1");
    good.data.write("before ");
    const bad = await forward(client, 1, "2");
    expect((await bad.error.whole()).toString()).toContain("ECONNREFUSED");
    await bad.data.whole();
    good.data.write("after");
    good.data.end();
    expect((await good.data.whole()).toString()).toBe("before after");
    client.destroy();
  });

  it("pairs by the order of the streams where there is no request id", async () => {
    const port = await echo();
    const client = await connect(rig.portForward());
    const pairs = [await forward(client, port, null), await forward(client, port, null)];
    for (const [index, { data }] of pairs.entries()) {
      data.write(`pair ${index}`);
      data.end();
    }
    expect((await Promise.all(pairs.map(({ data }) => data.whole()))).map(String)).toEqual(["pair 0", "pair 1"]);
    client.destroy();
  });

  it("closes the target and ends the error stream when the data stream is reset", async () => {
    const port = await listen((socket) => void socket.write("hello"));
    const client = await connect(rig.portForward());
    const { data, error } = await forward(client, port, "0");
    await data.until(() => data.text === "hello");
    data.abort();
    expect((await error.whole()).toString()).toBe("");
    expect(error.finished).toBe(true);
    await until(() => sockets[0]?.destroyed === true || sockets[0]?.readableEnded === true, "the target's end");
    client.destroy();
  });

  it("ends both streams soon after the target, for a client that waits for it", async () => {
    const port = await listen((socket) => void socket.end("bye"));
    const client = await connect(rig.portForward());
    const { data, error } = await forward(client, port, "0");
    expect((await data.whole()).toString()).toBe("bye");
    expect((await error.whole()).toString()).toBe("");
    // What the client sends now goes nowhere, and hurts nobody.
    data.write(Buffer.alloc(300_000));
    const again = await forward(client, port, "1");
    expect((await again.data.whole()).toString()).toBe("bye");
    client.destroy();
  });

  it("says nothing of a target that resets its connection", async () => {
    const port = await listen((socket) => {
      socket.write("part");
      socket.once("data", () => socket.resetAndDestroy());
    });
    const client = await connect(rig.portForward());
    const { data, error } = await forward(client, port, "0");
    await data.until(() => data.text === "part");
    data.write("x");
    expect((await error.whole()).toString()).toBe("");
    client.destroy();
  });

  it("closes its targets when the client leaves", async () => {
    const port = await listen((socket) => void socket.resume());
    const client = await connect(rig.portForward());
    const { data } = await forward(client, port, "0");
    data.write("x");
    await until(() => sockets.length === 1, "a connection");
    client.destroy();
    await until(() => sockets[0]?.readableEnded === true || sockets[0]?.destroyed === true, "the target's end");
    await rig.allReleased();
  });

  it("gives up a pair whose second stream does not come", async () => {
    await rig.stop();
    rig = await startRig({ creationTimeoutMs: 300 });
    const port = await echo();
    const client = await connect(rig.portForward());
    const error = await client.open({ streamtype: "error", port: String(port), requestid: "7" });
    expect((await error.whole()).toString()).toContain("did not open both streams");
    const data = await client.open({ streamtype: "data", port: String(port), requestid: "8" });
    await data.whole();
    expect(data.finished).toBe(true);
    client.destroy();
  });

  it.each([
    { streamtype: "data" },
    { streamtype: "data", port: "0" },
    { streamtype: "data", port: "65536" },
    { streamtype: "data", port: "-1" },
    { streamtype: "data", port: "80x" },
    { streamtype: "stdin", port: "80" },
    { port: "80" },
  ])("refuses a stream with %j", async (headers) => {
    const client = await connect(rig.portForward());
    const stream = await client.open(headers);
    await stream.whole();
    expect(stream.wasReset).toBe(3);
    client.destroy();
  });

  it("refuses a second stream of a kind, and one with another port", async () => {
    const port = await echo();
    const client = await connect(rig.portForward());
    const { data } = await forward(client, port, "0");
    const twice = await client.open({ streamtype: "data", port: String(port), requestid: "0" });
    await twice.whole();
    expect(twice.wasReset).toBe(3);
    await client.open({ streamtype: "error", port: String(port), requestid: "1" });
    const other = await client.open({ streamtype: "data", port: String(port + 1), requestid: "1" });
    await other.whole();
    expect(other.wasReset).toBe(3);
    data.write("on");
    await data.until(() => data.text === "on");
    client.destroy();
  });

  it("carries 24 MiB down and up byte for byte, whoever is slow", async () => {
    const port = await echo();
    const client = await connect(rig.portForward());
    const { data } = await forward(client, port, "0");
    const [sent, received] = [createHash("sha256"), createHash("sha256")];
    data.keep = false;
    data.onBytes = (bytes) => void received.update(bytes);
    const piece = randomBytes((1 << 19) - 5);
    for (let i = 0; i < 48; i += 1) {
      sent.update(piece);
      data.write(piece);
      if (i === 20) client.carrier.pause();
      if (i === 25) {
        await new Promise((resolve) => setTimeout(resolve, 200));
        client.carrier.resume();
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
    data.end();
    await data.whole();
    expect(data.bytes).toBe(48 * ((1 << 19) - 5));
    expect(received.digest("hex")).toBe(sent.digest("hex"));
    client.destroy();
  }, 20_000);

  it("reads no more than a target takes", async () => {
    const port = await listen((socket) => void socket.pause());
    const client = await connect(rig.portForward());
    const { data } = await forward(client, port, "0");
    for (let i = 0; i < 640; i += 1) data.write(Buffer.alloc(65_536));
    await until(() => sockets.length === 1, "a connection");
    const before = process.memoryUsage().rss;
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(process.memoryUsage().rss - before).toBeLessThan(32 << 20);
    client.destroy();
    await rig.allReleased();
  }, 20_000);
});
