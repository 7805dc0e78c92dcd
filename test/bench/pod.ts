/**
 * `npm run bench -- pod`: a pod's life over gRPC, Berth and Debian's containerd (CRI plugin, runc) turn by turn in one run, on a
 * tmpfs, in a network namespace of its own.
 *
 * Options: `--rounds=N` (default 40) pods of each kind and server, `--execs=N` (default 5) execs a pod.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { NamespaceMode } from "../../api/cri/service-definition.ts";
import { pushPause, startContainerd } from "../support/containerd.ts";
import { type CriClient, connectCri } from "../support/cri-client.ts";
import { makeDirectories, type NodeDirectories, removeDirectories, startDaemon, writeBridgeConfig } from "../support/daemon.ts";
import { pushBusybox } from "../support/image-builder.ts";
import { isOwnNetwork, prepareOwnNetwork } from "../support/own-network.ts";
import { startRegistry } from "../support/registry.ts";
import { containerConfig, hostNetwork, podConfig } from "../support/workloads.ts";
import { type Measurement, machineCpuMs, row, Samples, timed } from "./measure-support.ts";

const metrics = [
  "RunPodSandbox host network",
  "RunPodSandbox bridge",
  "CreateContainer+StartContainer",
  "ExecSync /bin/true",
  "StopContainer",
  "RemoveContainer",
  "StopPodSandbox host network",
  "StopPodSandbox bridge",
  "RemovePodSandbox",
] as const;
type Metric = (typeof metrics)[number];

/** Milliseconds, and the ratio to containerd, that the design promises. */
const limits: Partial<Record<Metric, { absolute: number; ratio: number }>> = {
  "RunPodSandbox host network": { absolute: 6, ratio: 1 / 10 },
  "CreateContainer+StartContainer": { absolute: 15, ratio: 1 / 4 },
  "ExecSync /bin/true": { absolute: 3, ratio: 1 / 8 },
};

interface Contestant {
  readonly name: string;
  readonly client: CriClient;
  readonly directories: NodeDirectories;
  readonly image: string;
  readonly samples: Readonly<Record<Metric, Samples>>;
  cpuMs: number;
  pods: number;
}

export async function measure(options: Readonly<Record<string, string>>): Promise<Measurement[]> {
  if (!isOwnNetwork()) return measureInOwnNetwork(options);
  prepareOwnNetwork();
  const rounds = Number(options["rounds"] ?? 40);
  const execs = Number(options["execs"] ?? 5);
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
    writeBridgeConfig(own, "10.251.0.0/16", "bench0");
    const daemon = await startDaemon({ directories: own, insecureRegistries: [registry.host], sets: ["log.level=info"] });
    closers.push(async () => void (await daemon.stop()));
    const peerDirectories = makeDirectories("peer");
    closers.push(() => removeDirectories(peerDirectories));
    writeBridgeConfig(peerDirectories, "10.252.0.0/16", "bench1");
    const containerd = await startContainerd({
      directory: peerDirectories.base,
      registryHost: registry.host,
      pauseImage: `${registry.host}/berth/pause:3.9`,
      cniConfig: peerDirectories.cniConfig,
    });
    closers.push(() => containerd.stop());

    const berth = await contestant("berth", own.socket, own, reference, closers);
    const peer = await contestant("containerd", containerd.socket, peerDirectories, reference, closers);
    const warmUp = 3;
    for (let round = -warmUp; round < rounds; round += 1) {
      // The one that goes first changes, so that neither always runs behind the other's clean-up.
      for (const one of round % 2 === 0 ? [berth, peer] : [peer, berth]) {
        for (const network of ["host network", "bridge"] as const) await lifecycle(one, network, execs, round >= 0);
      }
    }
    return report(berth, peer);
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
  const samples = Object.fromEntries(metrics.map((metric) => [metric, new Samples()])) as Record<Metric, Samples>;
  return { name, client, directories, image: imageRef, samples, cpuMs: 0, pods: 0 };
}

async function lifecycle(one: Contestant, network: "host network" | "bridge", execs: number, counted: boolean): Promise<void> {
  const { runtime } = one.client;
  const record = <T>(metric: Metric, work: () => Promise<T>): Promise<T> => timed(counted ? one.samples[metric] : new Samples(), work);
  const cpuBefore = machineCpuMs();
  const pod = podConfig(one.directories, {}, network === "bridge" ? undefined : hostNetwork);
  const { podSandboxId } = await record(`RunPodSandbox ${network}`, () => runtime.RunPodSandbox({ config: pod }));
  const config = containerConfig(
    "main",
    one.image,
    ["sleep", "3600"],
    {},
    {
      namespaceOptions: {
        network: network === "bridge" ? NamespaceMode.POD : NamespaceMode.NODE,
        pid: NamespaceMode.CONTAINER,
        ipc: NamespaceMode.POD,
      },
    },
  );
  const containerId = await record("CreateContainer+StartContainer", async () => {
    const created = await runtime.CreateContainer({ podSandboxId, config, sandboxConfig: pod });
    await runtime.StartContainer({ containerId: created.containerId });
    return created.containerId;
  });
  for (let index = 0; index < execs; index += 1) {
    const result = await record("ExecSync /bin/true", () => runtime.ExecSync({ containerId, cmd: ["/bin/true"], timeout: 10 }));
    if (result.exitCode !== 0)
      throw new Error(`${one.name}: /bin/true ended with ${result.exitCode}: ${Buffer.from(result.stderr).toString()}`);
  }
  // `sleep` as pid 1 ignores SIGTERM: grace 0 measures the stop, not the grace.
  await record("StopContainer", () => runtime.StopContainer({ containerId, timeout: 0 }));
  await record("RemoveContainer", () => runtime.RemoveContainer({ containerId }));
  await record(`StopPodSandbox ${network}`, () => runtime.StopPodSandbox({ podSandboxId }));
  await record("RemovePodSandbox", () => runtime.RemovePodSandbox({ podSandboxId }));
  if (counted) {
    one.cpuMs += machineCpuMs() - cpuBefore;
    one.pods += 1;
  }
}

function report(berth: Contestant, peer: Contestant): Measurement[] {
  const rows: Measurement[] = [];
  for (const metric of metrics) {
    const limit = limits[metric];
    for (const [label, fraction] of [
      ["p50", 0.5],
      ["p10", 0.1],
      ["p99", 0.99],
    ] as const) {
      rows.push(
        row({
          work: "pod",
          metric: `${metric} ${label}`,
          unit: "ms",
          berth: berth.samples[metric].percentile(fraction),
          peers: { [peer.name]: peer.samples[metric].percentile(fraction) },
          ...(label === "p50" && limit ? { limit } : {}),
        }),
      );
    }
  }
  rows.push(
    row({
      work: "pod",
      metric: "CPU of the machine for a pod's life",
      unit: "ms",
      berth: berth.cpuMs / berth.pods,
      peers: { [peer.name]: peer.cpuMs / peer.pods },
    }),
  );
  return rows;
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
