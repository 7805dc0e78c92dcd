/**
 * `npm run bench -- streaming`: bytes through exec, by crictl over SPDY, Berth and Debian's containerd (CRI plugin, runc) turn by
 * turn in one run; and what such an exec does to ListContainers meanwhile. In a network namespace of its own, on a tmpfs.
 *
 * Options: `--rounds=N` (default 5), `--mebibytes=N` (default 1024) an exec, `--lists=N` (default 400) calls.
 */
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { NamespaceMode } from "../../api/cri/service-definition.ts";
import { pushPause, startContainerd } from "../support/containerd.ts";
import { type CriClient, connectCri } from "../support/cri-client.ts";
import { makeDirectories, type NodeDirectories, projectRoot, removeDirectories, startDaemon } from "../support/daemon.ts";
import { pushBusybox } from "../support/image-builder.ts";
import { isOwnNetwork, prepareOwnNetwork } from "../support/own-network.ts";
import { startRegistry } from "../support/registry.ts";
import { containerConfig, hostNetwork, podConfig } from "../support/workloads.ts";
import { type Measurement, row, Samples } from "./measure-support.ts";

interface Contestant {
  readonly name: string;
  readonly socket: string;
  readonly client: CriClient;
  readonly container: string;
  readonly output: Samples;
  readonly both: Samples;
  readonly idle: Samples;
  readonly busy: Samples;
}

export async function measure(options: Readonly<Record<string, string>>): Promise<Measurement[]> {
  if (!isOwnNetwork()) return measureInOwnNetwork(options);
  prepareOwnNetwork();
  const rounds = Number(options["rounds"] ?? 5);
  const bytes = Number(options["mebibytes"] ?? 1024) * (1 << 20);
  const lists = Number(options["lists"] ?? 400);
  const scratch = mkdtempSync("/dev/shm/berth-bench-");
  process.env["TMPDIR"] = scratch;
  const closers: (() => Promise<void> | void)[] = [() => rmSync(scratch, { recursive: true, force: true })];
  try {
    mkdirSync(join(scratch, "registry"));
    const registry = await startRegistry({ directory: join(scratch, "registry") });
    closers.push(() => registry.stop());
    await pushBusybox(registry.host);
    await pushPause(registry.host);
    const reference = `${registry.host}/berth/busybox:1.35`;
    const own = makeDirectories("bench");
    closers.push(() => removeDirectories(own));
    const daemon = await startDaemon({ directories: own, insecureRegistries: [registry.host], sets: ["log.level=info"] });
    closers.push(async () => void (await daemon.stop()));
    const theirs = makeDirectories("peer");
    closers.push(() => removeDirectories(theirs));
    const containerd = await startContainerd({
      directory: theirs.base,
      registryHost: registry.host,
      pauseImage: `${registry.host}/berth/pause:3.9`,
      cniConfig: theirs.cniConfig,
    });
    closers.push(() => containerd.stop());

    const berth = await contestant("berth", own.socket, own, reference, closers);
    const peer = await contestant("containerd", containerd.socket, theirs, reference, closers);
    const data = join(scratch, "data");
    const digest = writeData(data, bytes);
    for (let round = -1; round < rounds; round += 1) {
      for (const one of round % 2 === 0 ? [berth, peer] : [peer, berth]) {
        const output = await run(one, ["exec", one.container, ...zeros(bytes)], null, null);
        const copy = join(scratch, "copy");
        const both = await run(one, ["exec", "-i", one.container, "cat"], data, copy);
        if (digestOf(copy) !== digest) throw new Error(`${one.name}: what came back is not what was sent`);
        rmSync(copy);
        if (round < 0) continue;
        one.output.add(output);
        one.both.add(both);
      }
    }
    for (const one of [berth, peer]) {
      await list(one, one.idle, lists, () => true);
      const exec = start(one, ["exec", one.container, ...zeros(bytes * 16)], null, null);
      let running = true;
      const ended = exec.ended.finally(() => {
        running = false;
      });
      await new Promise((resolve) => setTimeout(resolve, 300));
      await list(one, one.busy, lists, () => running);
      exec.kill();
      await ended.catch(() => undefined);
    }
    return report(berth, peer, bytes);
  } finally {
    for (const close of closers.reverse()) await close();
  }
}

async function contestant(
  name: string,
  socket: string,
  directories: NodeDirectories,
  reference: string,
  closers: (() => Promise<void> | void)[],
): Promise<Contestant> {
  const client = connectCri(socket);
  closers.push(() => client.close());
  const { imageRef } = await client.images.PullImage({ image: { image: reference } });
  const pod = podConfig(directories, {}, hostNetwork);
  const { podSandboxId } = await client.runtime.RunPodSandbox({ config: pod });
  closers.push(async () => {
    await client.runtime.StopPodSandbox({ podSandboxId });
    await client.runtime.RemovePodSandbox({ podSandboxId });
  });
  const namespaceOptions = { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.POD };
  const config = containerConfig("main", imageRef, ["sleep", "36000"], {}, { namespaceOptions });
  const { containerId } = await client.runtime.CreateContainer({ podSandboxId, config, sandboxConfig: pod });
  await client.runtime.StartContainer({ containerId });
  const [output, both, idle, busy] = [new Samples(), new Samples(), new Samples(), new Samples()];
  return { name, socket, client, container: containerId, output, both, idle, busy };
}

/** A command that writes as fast as it can: busybox's `head` writes bytes one by one. */
function zeros(bytes: number): string[] {
  return ["dd", "if=/dev/zero", "bs=65536", `count=${Math.floor(bytes / 65_536)}`];
}

/** Random in its pieces, so that a piece out of place is seen. */
function writeData(path: string, bytes: number): string {
  const hash = createHash("sha256");
  const file = openSync(path, "w");
  const piece = Buffer.alloc(1 << 20);
  for (let at = 0; at < bytes; at += piece.length) {
    for (let index = 0; index < piece.length; index += 512) piece.writeDoubleLE(Math.random(), index);
    writeSync(file, piece);
    hash.update(piece);
  }
  closeSync(file);
  return hash.digest("hex");
}

function digestOf(path: string): string {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

function start(one: Contestant, args: readonly string[], input: string | null, output: string | null) {
  const stdin = openSync(input ?? "/dev/null", "r");
  const stdout = openSync(output ?? "/dev/null", "w");
  const crictl = join(process.env["BERTH_TOOLS"] ?? join(projectRoot, ".cache/tools"), "crictl");
  const begun = performance.now();
  const child = spawn(crictl, ["-r", `unix://${one.socket}`, "-t", "60s", ...args], { stdio: [stdin, stdout, "ignore"] });
  closeSync(stdin);
  closeSync(stdout);
  const ended = new Promise<number>((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code) => {
      if (code === 0) resolve(performance.now() - begun);
      else reject(new Error(`${one.name}: crictl ${args.join(" ")} ended with ${code}`));
    });
  });
  ended.catch(() => undefined);
  return { ended, kill: () => child.kill("SIGKILL") };
}

function run(one: Contestant, args: readonly string[], input: string | null, output: string | null): Promise<number> {
  return start(one, args, input, output).ended;
}

async function list(one: Contestant, samples: Samples, count: number, going: () => boolean): Promise<void> {
  for (let index = 0; index < count && going(); index += 1) {
    const begun = performance.now();
    await one.client.runtime.ListContainers({});
    samples.add(performance.now() - begun);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function report(berth: Contestant, peer: Contestant, bytes: number): Measurement[] {
  const size = `${bytes >> 20} MiB`;
  const both = (metric: string, of: (one: Contestant) => number, limit?: { absolute?: number; ratio?: number }): Measurement =>
    row({ work: "streaming", metric, unit: "ms", berth: of(berth), peers: { [peer.name]: of(peer) }, ...(limit ? { limit } : {}) });
  return [
    both(`exec, ${size} of output, p50`, (one) => one.output.percentile(0.5), { ratio: 1 }),
    both(`exec, ${size} through stdin to stdout, p50`, (one) => one.both.percentile(0.5), { ratio: 1 }),
    both("ListContainers idle p99", (one) => one.idle.percentile(0.99)),
    both("ListContainers during an exec's output p99", (one) => one.busy.percentile(0.99), { absolute: 2 * berth.idle.percentile(0.99) }),
  ];
}

/** Runs this very program again behind `unshare --net`, and takes its rows. */
function measureInOwnNetwork(options: Readonly<Record<string, string>>): Measurement[] {
  const program = `
    import { measure } from ${JSON.stringify(fileURLToPath(import.meta.url))};
    const rows = await measure(${JSON.stringify(options)});
    process.stdout.write("\\nROWS " + JSON.stringify(rows) + "\\n", () => process.exit(0));
  `;
  const child = spawnSync("/usr/bin/unshare", ["--net", "--", process.execPath, "--input-type=module", "--eval", program], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 1 << 26,
  });
  const line = child.stdout.split("\n").find((text) => text.startsWith("ROWS "));
  if (child.status !== 0 || line === undefined)
    throw new Error(`the benchmark ended with ${child.status ?? child.signal}:\n${child.stdout}`);
  return JSON.parse(line.slice("ROWS ".length)) as Measurement[];
}
