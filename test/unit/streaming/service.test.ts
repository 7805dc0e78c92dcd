/** The service with its real worker thread; what it leads to are processes and sockets of this machine. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { closeSync, constants, mkdtempSync, openSync, readdirSync, rmSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "esbuild";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { DomainError } from "../../../src/base/errors.ts";
import { silentLogger } from "../../../src/base/log.ts";
import type { FdHandle } from "../../../src/kernel/contract.ts";
import { Operation } from "../../../src/operation/context.ts";
import { RunningOperations } from "../../../src/operation/running.ts";
import { type StreamedProcess, type StreamingService, type StreamTargets, startStreaming } from "../../../src/streaming/index.ts";
import { SpdyClient } from "../../support/spdy-client.ts";
import { until } from "./rig.ts";

const directory = mkdtempSync(join(tmpdir(), "berth-streaming-"));
const worker = join(directory, "streaming-worker.mjs");
const op = new Operation({ name: "test", log: silentLogger(), timeoutMs: null });
const services: StreamingService[] = [];
const children: ChildProcess[] = [];

beforeAll(async () => {
  await build({
    entryPoints: ["src/streaming/streaming-worker.ts"],
    outfile: worker,
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node20",
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
    logLevel: "error",
  });
});
afterEach(async () => {
  await Promise.all(services.splice(0).map((service) => service.close(op)));
  for (const child of children.splice(0)) child.kill("SIGKILL");
});
afterAll(() => rmSync(directory, { recursive: true }));

function handle(fd: number): FdHandle {
  let open = true;
  const release = (): number => {
    if (!open) throw new Error("closed");
    open = false;
    return fd;
  };
  return { number: fd, release, close: () => void (open && closeSync(release())) };
}

let pipes = 0;

/** Both ends of a pipe, without the addon: a FIFO that is opened twice and unlinked. */
function pipe(): { readonly readEnd: number; readonly writeEnd: number } {
  pipes += 1;
  const path = join(directory, `pipe-${pipes}`);
  execFileSync("mkfifo", [path]);
  const readEnd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const writeEnd = openSync(path, constants.O_WRONLY);
  rmSync(path);
  return { readEnd, writeEnd };
}

function runProcess(command: readonly string[]): StreamedProcess {
  const [stdin, stdout] = [pipe(), pipe()];
  const [program = "", ...args] = command;
  const child = spawn(program, args, { stdio: [stdin.readEnd, stdout.writeEnd, "ignore"] });
  children.push(child);
  closeSync(stdin.readEnd);
  closeSync(stdout.writeEnd);
  return {
    stdio: { stdin: handle(stdin.writeEnd), stdout: handle(stdout.readEnd), stderr: null, terminal: null },
    ended: new Promise((end) => child.on("exit", (code) => end({ kind: "exited", exitCode: code ?? 137 }))),
    resize: async () => undefined,
    kill: () => void child.kill("SIGKILL"),
    release: () => undefined,
  };
}

async function start(targets: Partial<StreamTargets> = {}, address = "127.0.0.1:0") {
  const running = new RunningOperations();
  const refuse = async (): Promise<never> => {
    throw new DomainError("unavailable", "nobody listens there");
  };
  const service = await startStreaming(op, {
    config: { address, idleTimeoutMs: 60_000, tlsCertificate: "", tlsKey: "", tlsClientCa: "" },
    log: silentLogger(),
    running,
    targets: { exec: async (_op, { command }) => runProcess(command), attach: refuse, dial: refuse, ...targets },
    workerUrl: pathToFileURL(worker),
  });
  services.push(service);
  return { service, running };
}

const request = (...command: readonly string[]) => ({
  containerId: "c",
  command,
  terminal: false,
  stdin: true,
  stdout: true,
  stderr: false,
});

async function connect(url: string) {
  const client = await SpdyClient.connect(url, ["v4.channel.k8s.io"]);
  const error = await client.open({ streamtype: "error" });
  const stdin = await client.open({ streamtype: "stdin" });
  return { client, error, stdin, stdout: await client.open({ streamtype: "stdout" }) };
}

describe("the streaming service", () => {
  it("runs a command through its worker thread, and closes all that it was given", async () => {
    const { service, running } = await start();
    expect(service.url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
    const before = readdirSync("/proc/self/fd").length;
    for (let round = 0; round < 20; round += 1) {
      const { stdin, stdout, error } = await connect(service.exec(request("/bin/sh", "-c", `cat; exit ${round}`)));
      stdin.write(`round ${round}`);
      stdin.end();
      expect((await error.whole()).toString()).toContain(round === 0 ? "Success" : `"message":"${round}"`);
      expect(stdout.text).toBe(`round ${round}`);
    }
    await until(() => service.sessions === 0, "no session");
    expect(running.list()).toEqual([]);
    await until(() => readdirSync("/proc/self/fd").length <= before, "every descriptor is closed");
  }, 20_000);

  it("lists a session as a running operation while it lasts", async () => {
    const { service, running } = await start();
    const { client, stdout, stdin } = await connect(service.exec(request("cat")));
    stdin.write("x");
    await stdout.until(() => stdout.text === "x");
    expect(running.list().map(({ name }) => name)).toEqual(["ExecStream"]);
    client.destroy();
    await until(() => running.list().length === 0, "no operation");
  });

  it("tells a client what keeps its command from running", async () => {
    const { service } = await start({
      exec: async () => {
        throw new DomainError("invalid-argument", "there is no such program");
      },
    });
    const { error } = await connect(service.exec(request("x")));
    expect((await error.whole()).toString()).toContain("there is no such program");
  });

  it("ends a command that starts when its client has gone already", async () => {
    let begin: (process: StreamedProcess) => void = () => undefined;
    const { service } = await start({
      exec: () =>
        new Promise((resolve) => {
          begin = resolve;
        }),
    });
    const { client } = await connect(service.exec(request("cat")));
    await until(() => begin.length === 1, "the start");
    client.destroy();
    await until(() => service.sessions === 0, "the end of the session");
    const late = runProcess(["sleep", "1000"]);
    begin(late);
    expect(await late.ended).toEqual({ kind: "exited", exitCode: 137 });
  });

  it("kills the commands of its streams when it closes, and tells their clients", async () => {
    const { service } = await start();
    const { client, error, stdin, stdout } = await connect(service.exec(request("/bin/sh", "-c", "cat; exec sleep 1000")));
    stdin.write("x");
    await stdout.until(() => stdout.text === "x");
    await service.close(op);
    expect((await error.whole()).toString()).toContain("the runtime is stopping");
    await client.whenClosed();
    await until(() => children[0]?.signalCode === "SIGKILL", "the end of the command");
    expect(() => service.exec(request("cat"))).toThrow(expect.objectContaining({ kind: "unavailable" }));
  });

  it("reports a port that is not reached on its error stream", async () => {
    const { service } = await start();
    const client = await SpdyClient.connect(service.portForward({ sandboxId: "s" }), ["portforward.k8s.io"]);
    const error = await client.open({ streamtype: "error", port: "80", requestid: "0" });
    await client.open({ streamtype: "data", port: "80", requestid: "0" });
    expect((await error.whole()).toString()).toBe("port 80: nobody listens there");
    client.destroy();
  });

  it("says so where its address is taken", async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => taken.listen(0, "127.0.0.1", resolve));
    const { port } = taken.address() as AddressInfo;
    await expect(start({}, `127.0.0.1:${port}`)).rejects.toMatchObject({ kind: "unavailable" });
    await expect(start({}, "127.0.0.1:99999")).rejects.toMatchObject({ kind: "invalid-argument" });
    taken.close();
  });
});
