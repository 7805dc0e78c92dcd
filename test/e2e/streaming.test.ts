/** Exec, attach and port-forward, by crictl and by clients of our own. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { type AddressInfo, connect as connectTcp, createServer } from "node:net";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import { WebSocket } from "ws";
import { status } from "../support/cri-client.ts";
import { type Container, failure, type Pod, until, useNode } from "../support/node.ts";
import { type ClientStream, SpdyClient } from "../support/spdy-client.ts";
import { hostNetwork } from "../support/workloads.ts";

const node = useNode("streaming");
const crictl = join(process.env["BERTH_TOOLS"] ?? "", "crictl");

interface Ended {
  readonly code: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

const children = new Set<ChildProcess>();
afterEach(() => {
  for (const child of children) child.kill("SIGKILL");
  children.clear();
});

function start(
  command: string,
  args: readonly string[],
  input: Buffer | string | null = null,
): { child: ChildProcess; ended: Promise<Ended> } {
  const child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"] });
  children.add(child);
  const [stdout, stderr]: [Buffer[], Buffer[]] = [[], []];
  child.stdout.on("data", (bytes: Buffer) => stdout.push(bytes));
  child.stderr.on("data", (bytes: Buffer) => stderr.push(bytes));
  child.stdin.on("error", () => undefined);
  if (input !== null) child.stdin.end(input);
  const ended = new Promise<Ended>((resolve) => {
    child.on("close", (code) => {
      children.delete(child);
      resolve({ code, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() });
    });
  });
  return { child, ended };
}

const cri = (...args: readonly string[]): string[] => ["-r", `unix://${node.directories.socket}`, "-t", "20s", ...args];
const run = (args: readonly string[], input: Buffer | string = ""): Promise<Ended> => start(crictl, cri(...args), input).ended;

async function sleeper(changes = {}, security = {}): Promise<Container> {
  const pod = await node.runPod({}, hostNetwork);
  return pod.runContainer(["sleep", "1000"], changes, security);
}

interface Streams {
  readonly client: SpdyClient;
  readonly error: ClientStream;
  readonly stdin: ClientStream;
  readonly stdout: ClientStream;
  readonly stderr: ClientStream;
}

async function open(url: string, terminal = false): Promise<Streams & { readonly resize: ClientStream | null }> {
  const client = await SpdyClient.connect(url, ["v4.channel.k8s.io"]);
  const stream = (streamtype: string): Promise<ClientStream> => client.open({ streamtype });
  const error = await stream("error");
  const stdin = await stream("stdin");
  const stdout = await stream("stdout");
  const resize = terminal ? await stream("resize") : null;
  return { client, error, stdin, stdout, stderr: terminal ? stdout : await stream("stderr"), resize };
}

async function exec(container: Container, cmd: readonly string[], terminal = false): ReturnType<typeof open> {
  const { url } = await node.runtime.Exec({ containerId: container.id, cmd, tty: terminal, stdin: true, stdout: true, stderr: !terminal });
  return open(url, terminal);
}

async function attach(container: Container, terminal = false): ReturnType<typeof open> {
  const { url } = await node.runtime.Attach({ containerId: container.id, tty: terminal, stdin: true, stdout: true, stderr: !terminal });
  return open(url, terminal);
}

/** Attached to a container that echoes, and seen to be: an attach stands a moment after its streams are open. */
async function attached(container: Container): ReturnType<typeof attach> {
  const streams = await attach(container);
  await until("the client is attached", () => {
    streams.stdin.write("here\n");
    return streams.stdout.text.includes("here");
  });
  return streams;
}

const statusOf = async (error: ClientStream): Promise<unknown> => JSON.parse((await error.whole()).toString());
const success = { metadata: {}, status: "Success" };

describe.each(["spdy", "websocket"])("crictl with --transport %s", (transport) => {
  const via = ["--transport", transport];

  test("exec gives output, errors and exit code", async () => {
    const container = await sleeper();
    const fine = await run(["exec", ...via, container.id, "sh", "-c", "echo out; echo err >&2"]);
    expect([fine.code, fine.stdout.toString()]).toEqual([0, "out\n"]);
    expect(fine.stderr).toMatch(/^err$/m);
    const failed = await run(["exec", ...via, container.id, "sh", "-c", "exit 42"]);
    expect(failed.code).not.toBe(0);
    expect(failed.stderr).toContain("exit code 42");
    const missing = await run(["exec", ...via, container.id, "no-such-program"]);
    expect(missing.code).not.toBe(0);
    expect(missing.stderr).toContain("no-such-program");
  });

  test("exec -i passes input on until its end", async () => {
    const container = await sleeper();
    const { code, stdout } = await run(["exec", "-i", ...via, container.id, "sh", "-c", "cat; echo end"], "a line\n");
    expect([code, stdout.toString()]).toEqual([0, "a line\nend\n"]);
  });

  test("exec -i brings 64 MiB back byte for byte", async () => {
    const container = await sleeper();
    const sent = randomBytes(64 << 20);
    const { code, stdout } = await run(["exec", "-i", ...via, container.id, "cat"], sent);
    expect(code).toBe(0);
    expect(stdout.length).toBe(sent.length);
    expect(createHash("sha256").update(stdout).digest("hex")).toBe(createHash("sha256").update(sent).digest("hex"));
  });

  test("exec -it is a terminal with the client's size", async () => {
    const container = await sleeper();
    const line = [crictl, ...cri("exec", "-i", "-t", ...via, container.id, "sh")].join(" ");
    const { child, ended } = start("script", ["-q", "-e", "-c", `stty cols 97 rows 41; exec ${line}`, "/dev/null"]);
    let shown = "";
    child.stdout?.on("data", (bytes: Buffer) => {
      shown += bytes.toString();
    });
    await until(
      "the shell prompts",
      () => /[#$] /.test(shown),
      () => shown,
    );
    child.stdin?.write("stty size; tty; echo $TERM\n");
    await until(
      "the answers are there",
      () => shown.includes("41 97") && /\/dev\/pts\/\d+/.test(shown) && shown.includes("xterm"),
      () => shown,
    );
    child.stdin?.write("exit 5\n");
    const { code } = await ended;
    expect(code).not.toBe(0);
  });

  test("attach passes input on and shows what comes", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "while read line; do echo got $line; done; echo over"], {
      stdin: true,
      stdinOnce: true,
    });
    const { child, ended } = start(crictl, cri("attach", "-i", ...via, container.id));
    let shown = "";
    child.stdout?.on("data", (bytes: Buffer) => {
      shown += bytes.toString();
    });
    child.stdin?.write("one\n");
    await until(
      "it answers",
      () => shown.includes("got one"),
      () => shown,
    );
    child.stdin?.end("two\n");
    const { code } = await ended;
    expect([code, shown]).toEqual([0, "got one\ngot two\nover\n"]);
    expect((await container.exited()).exitCode).toBe(0);
  });

  test("port-forward reaches a port of the pod", async () => {
    const pod = await node.runPod();
    const container = await pod.runContainer([
      "sh",
      "-c",
      "echo served > /tmp/index.html; exec busybox httpd -f -p 127.0.0.1:8080 -h /tmp",
    ]);
    await until("it listens", async () => (await container.run("cat", "/proc/net/tcp")).includes(":1F90"));
    const port = await freePort();
    const { child, ended } = start(crictl, cri("port-forward", ...via, pod.id, `${port}:8080`));
    let shown = "";
    child.stdout?.on("data", (bytes: Buffer) => {
      shown += bytes.toString();
    });
    await until(
      "it forwards",
      () => shown.includes("Forwarding from"),
      () => shown,
    );
    const answers = await Promise.all(Array.from({ length: 20 }, () => httpGet(port)));
    for (const answer of answers) expect(answer).toContain("served");
    child.kill("SIGINT");
    await ended;
  });
});

function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer();
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

function httpGet(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connectTcp({ host: "127.0.0.1", port });
    let text = "";
    socket.on("data", (bytes: Buffer) => {
      text += bytes.toString();
    });
    socket.on("error", reject);
    socket.on("close", () => resolve(text));
    socket.write("GET /index.html HTTP/1.0\r\n\r\n");
  });
}

describe("exec", () => {
  test("has the container's identity, limits and namespaces", async () => {
    const container = await sleeper(
      { workingDir: "/var/log", envs: [{ key: "MINE", value: Buffer.from("yes") }] },
      { runAsUser: { value: 33 } },
    );
    const script =
      "pwd; echo $MINE; id; grep -E '^(Cap|Seccomp|NoNewPrivs)' /proc/self/status; readlink /proc/self/ns/mnt; cat /proc/self/cgroup";
    const { stdout, error } = await exec(container, ["sh", "-c", script]);
    expect(await statusOf(error)).toEqual(success);
    expect(stdout.text).toBe(await container.sh(script));
    expect(stdout.text).toContain("yes\nuid=33");
  });

  test("opens its standard streams by name", async () => {
    const container = await sleeper();
    const { stdin, stdout, stderr, error } = await exec(container, ["sh", "-c", "cat /dev/stdin > /dev/stdout; echo e > /dev/stderr"]);
    stdin.write("through");
    stdin.end();
    expect(await statusOf(error)).toEqual(success);
    expect([stdout.text, stderr.text]).toEqual(["through", "e\n"]);
  });

  test("a terminal hangs up when its client leaves", async () => {
    const container = await sleeper();
    const { client, stdout } = await exec(
      container,
      ["sh", "-c", "trap 'touch /tmp/hung; exit' HUP; echo ready; while :; do sleep 0.1; done"],
      true,
    );
    await stdout.until(() => stdout.text.includes("ready"));
    client.destroy();
    await until("the hang-up is seen", async () => (await container.exec(["test", "-e", "/tmp/hung"])).exitCode === 0);
  });

  test("a terminal is resized, and takes control characters", async () => {
    const container = await sleeper();
    const { stdin, stdout, resize, error } = await exec(
      container,
      ["sh", "-c", "trap 'stty size' WINCH; echo ready; cat; stty size; sleep 0.3; exit 3"],
      true,
    );
    await stdout.until(() => stdout.text.includes("ready"));
    resize?.write('{"Width":133,"Height":55}');
    stdin.write("typed\r");
    await stdout.until(() => stdout.text.includes("typed\r\ntyped"));
    await new Promise((resolve) => setTimeout(resolve, 200));
    stdin.write("\x04");
    expect(await statusOf(error)).toMatchObject({ details: { causes: [{ message: "3" }] } });
    expect(stdout.text).toContain("55 133");
  });

  test("goes on while its container terminates", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "trap 'sleep 3; exit' TERM; while :; do sleep 0.1; done"]);
    const stopping = container.stop(10);
    await new Promise((resolve) => setTimeout(resolve, 200));
    const { stdout, error } = await exec(container, ["echo", "still here"]);
    expect(await statusOf(error)).toEqual(success);
    expect(stdout.text).toBe("still here\n");
    await stopping;
    await failure(node.runtime.Exec({ containerId: container.id, cmd: ["true"], stdout: true }), status.FAILED_PRECONDITION);
  });

  test("ends with its container", async () => {
    const container = await sleeper();
    const { error, stdout } = await exec(container, ["sh", "-c", "echo ready; sleep 1000"]);
    await stdout.until(() => stdout.text === "ready\n");
    await container.stop();
    expect(await statusOf(error)).toMatchObject({ status: "Failure" });
  });

  test("runs a hundred times at once", async () => {
    const container = await sleeper();
    const all = await Promise.all(
      Array.from({ length: 100 }, async (_, index) => {
        const { stdin, stdout, error } = await exec(container, ["sh", "-c", `cat; exit ${index}`]);
        stdin.write(`number ${index}`);
        stdin.end();
        const text = (await error.whole()).toString();
        return [stdout.text, index === 0 ? text.includes("Success") : text.includes(`"message":"${index}"`)];
      }),
    );
    expect(all).toEqual(all.map((_, index) => [`number ${index}`, true]));
  });

  test("does not wait for what it leaves behind", async () => {
    const container = await sleeper();
    const { error } = await exec(container, ["sh", "-c", "sleep 1000 & exit 0"]);
    expect(await statusOf(error)).toEqual(success);
  });

  test("leaves nothing of a hundred that are cut off", async () => {
    const container = await sleeper();
    for (let round = 0; round < 10; round += 1) {
      const all = await Promise.all(
        Array.from({ length: 10 }, (_, index) => exec(container, index % 2 ? ["cat"] : ["sh"], index % 2 === 0)),
      );
      for (const { client } of all) client.destroy();
    }
    await until("only the container's own process is left", async () => (await container.sh("ls -d /proc/[0-9]* | wc -l")).trim() <= "3");
  });
});

describe("attach", () => {
  test("serves several clients at once, and one that joins later", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "while read line; do echo $line; echo $line >&2; done"], { stdin: true });
    const [one, two] = [await attached(container), await attached(container)];
    one.stdin.write("first\n");
    for (const { stdout, stderr } of [one, two]) {
      await stdout.until(() => stdout.text.endsWith("first\n"));
      await stderr.until(() => stderr.text.endsWith("first\n"));
    }
    one.client.destroy();
    const later = await attached(container);
    two.stdin.write("second\n");
    await later.stdout.until(() => later.stdout.text.endsWith("second\n"));
    await two.stdout.until(() => two.stdout.text.endsWith("second\n"));
    expect(later.stdout.text).not.toContain("first");
    await container.logged(/second/);
    await container.stop();
    expect(await statusOf(later.error)).toEqual(success);
    expect(await statusOf(two.error)).toEqual(success);
  });

  test("ends input with the first client where the container says so, and not otherwise", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const once = await pod.runContainer(["cat"], { stdin: true, stdinOnce: true });
    const kept = await pod.runContainer(["cat"], { stdin: true });
    for (const container of [once, kept]) {
      const { stdin, stdout, client } = await attach(container);
      stdin.write("x");
      await stdout.until(() => stdout.text === "x");
      client.destroy();
    }
    expect((await once.exited()).exitCode).toBe(0);
    const again = await attach(kept);
    again.stdin.write("y");
    await again.stdout.until(() => again.stdout.text === "y");
    again.client.destroy();
  });

  test("shares a terminal", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh"], { stdin: true, tty: true });
    const { stdin, stdout, resize, client } = await attach(container, true);
    resize?.write('{"Width":91,"Height":31}');
    await until("the size is set", async () => {
      stdin.write("stty size\r");
      await new Promise((resolve) => setTimeout(resolve, 100));
      return stdout.text.includes("31 91");
    });
    client.destroy();
  });

  test("works after the daemon was restarted, whose end closes the old streams", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["cat"], { stdin: true });
    for (const how of ["SIGTERM", "SIGKILL"] as const) {
      const old = await attach(container);
      old.stdin.write(`before ${how};`);
      await old.stdout.until(() => old.stdout.text.endsWith(`before ${how};`));
      const running = await exec(container, ["sh", "-c", "echo ready; cat; sleep 1000"]);
      await running.stdout.until(() => running.stdout.text === "ready\n");
      await node.restart(how);
      await old.client.whenClosed();
      if (how === "SIGTERM") expect(running.error.text).toContain("the runtime is stopping");
      const fresh = await attach(container);
      fresh.stdin.write(`after ${how};`);
      await fresh.stdout.until(() => fresh.stdout.text === `after ${how};`);
      fresh.client.destroy();
      await until(
        "the exec of the old daemon is gone",
        async () => !(await container.sh("grep -l 100[0] /proc/[0-9]*/cmdline | wc -l")).startsWith("1"),
      );
    }
  });

  test("a client that does not read holds up neither the container nor its log", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "read go; head -c 60000000 /dev/zero | tr '\\0' x; echo; echo done >&2"], {
      stdin: true,
    });
    const { client, stdin, stdout } = await attach(container);
    stdout.keep = false;
    client.carrier.pause();
    stdin.write("go\n");
    expect((await container.exited(60_000)).exitCode).toBe(0);
    await container.logged(/^done$/);
    client.destroy();
  });
});

describe("port-forward", () => {
  async function forward(client: SpdyClient, port: number, requestid: number): Promise<{ error: ClientStream; data: ClientStream }> {
    const headers = { port: String(port), requestid: String(requestid) };
    const error = await client.open({ ...headers, streamtype: "error" });
    error.end();
    return { error, data: await client.open({ ...headers, streamtype: "data" }) };
  }

  const connect = async (pod: Pod): Promise<SpdyClient> =>
    SpdyClient.connect((await node.runtime.PortForward({ podSandboxId: pod.id })).url, ["portforward.k8s.io"]);

  const server = "echo served > /tmp/index.html; busybox httpd -p 127.0.0.1:8080 -h /tmp; exec busybox httpd -f -p [::1]:8081 -h /tmp";

  test("reaches IPv4 and IPv6 loopback, many times, and reports a port where nobody listens", async () => {
    const pod = await node.runPod();
    const container = await pod.runContainer(["sh", "-c", server]);
    await until("both listen", async () => (await container.run("cat", "/proc/net/tcp6")).includes(":1F91"));
    const client = await connect(pod);
    const bad = await forward(client, 9, 1000);
    expect((await bad.error.whole()).toString()).toContain("ECONNREFUSED");
    await Promise.all(
      Array.from({ length: 60 }, async (_, index) => {
        const { data, error } = await forward(client, index % 2 ? 8080 : 8081, index);
        data.write("GET /index.html HTTP/1.0\r\n\r\n");
        expect((await data.whole()).toString()).toContain("served");
        data.end();
        expect((await error.whole()).toString()).toBe("");
      }),
    );
    client.destroy();
  });

  test("reaches the host's ports from a pod on the host's network", async () => {
    const target = createServer((socket) => socket.end("from the host"));
    await new Promise<void>((resolve) => target.listen(0, "127.0.0.1", resolve));
    const { port } = target.address() as AddressInfo;
    const shared = await node.runPod({}, hostNetwork);
    const client = await connect(shared);
    const { data } = await forward(client, port, 0);
    expect((await data.whole()).toString()).toBe("from the host");
    client.destroy();
    const apart = await node.runPod();
    const other = await connect(apart);
    const { error } = await forward(other, port, 0);
    expect((await error.whole()).toString()).toContain("ECONNREFUSED");
    other.destroy();
    target.close();
  });

  test("needs a pod that is ready", async () => {
    const pod = await node.runPod();
    const client = await connect(pod);
    await pod.stop();
    const { error } = await forward(client, 80, 0);
    expect((await error.whole()).toString()).toContain("not ready");
    await failure(node.runtime.PortForward({ podSandboxId: pod.id }), status.FAILED_PRECONDITION);
    client.destroy();
  });
});

describe("the streaming server", () => {
  test("is on loopback, takes a token once and refuses web pages", async () => {
    const container = await sleeper();
    const { url } = await node.runtime.Exec({ containerId: container.id, cmd: ["true"], stdout: true });
    expect(url).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/exec\/[\w-]{43}$/);
    expect((await fetch(url, { headers: { Origin: "http://127.0.0.1" } })).status).toBe(403);
    expect((await fetch(url)).status).toBe(400);
    expect((await fetch(url)).status).toBe(404);
    expect(node.daemon.log()).not.toContain(url.split("/").at(-1));
  });

  test("serves WebSocket beside SPDY", async () => {
    const container = await sleeper();
    const { url } = await node.runtime.Exec({ containerId: container.id, cmd: ["cat"], stdin: true, stdout: true, stderr: true });
    const socket = new WebSocket(url.replace("http", "ws"), "v5.channel.k8s.io");
    let text = "";
    socket.on("message", (data: Buffer) => {
      if (data[0] === 1) text += data.subarray(1).toString();
    });
    await new Promise((resolve) => socket.on("open", resolve));
    socket.send(Buffer.from("\0hello"));
    socket.send(Buffer.from([255, 0]));
    await new Promise((resolve) => socket.on("close", resolve));
    expect(text).toBe("hello");
  });

  test("names no process of a stream in its own table once it is over", async () => {
    const container = await sleeper();
    const { stdin, error } = await exec(container, ["cat"]);
    const names = (): string[] =>
      readdirSync(`/proc/${node.pid}/task`).map((task) => readFileSync(`/proc/${node.pid}/task/${task}/children`, "utf8"));
    const before = names();
    stdin.end();
    await statusOf(error);
    expect(names()).toEqual(before);
    expect(execFileSync("true")).toEqual(Buffer.alloc(0));
  });
});
