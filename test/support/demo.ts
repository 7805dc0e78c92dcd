/**
 * The main job, end to end, through the CRI alone: pull an image from a real registry, run a pod on a bridge network, serve a
 * page from it, exec, log, statistics, remove, and prove that nothing is left. `--keep` leaves it serving.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type CriClient, connectCri, toBigInt } from "./cri-client.ts";
import { makeDirectories, projectRoot, type RunningDaemon, removeDirectories, startDaemon, writeBridgeConfig } from "./daemon.ts";
import { pushBusybox } from "./image-builder.ts";
import { prepareOwnNetwork } from "./own-network.ts";
import { type RunningRegistry, startRegistry } from "./registry.ts";
import { captureHostState, waitForNoResidue } from "./residue.ts";
import { containerConfig, podConfig } from "./workloads.ts";

interface Row {
  readonly phase: string;
  readonly milliseconds: number;
  readonly result: string;
}

const rows: Row[] = [];
const keep = process.argv.includes("--keep");

async function phase<T>(name: string, work: () => Promise<T>, describe: (value: T) => string): Promise<T> {
  const startedAt = performance.now();
  const value = await work();
  const row = { phase: name, milliseconds: performance.now() - startedAt, result: describe(value) };
  rows.push(row);
  process.stdout.write(`${row.phase.padEnd(28)} ${row.milliseconds.toFixed(1).padStart(8)} ms  ${row.result}\n`);
  return value;
}

async function demo(): Promise<void> {
  prepareOwnNetwork();
  const directories = makeDirectories("demo");
  const state = [directories.root, directories.runRoot, directories.namespaces, directories.cniData, "/var/run/netns", "/var/lib/cni"];
  const scope = { base: directories.base, cgroups: [directories.cgroupParent.slice(1)] };
  const before = captureHostState(state, scope);
  let registry: RunningRegistry | null = null;
  let daemon: RunningDaemon | null = null;
  let client: CriClient | null = null;
  try {
    mkdirSync(join(directories.base, "registry"));
    const served = await phase(
      "start a registry",
      () => startRegistry({ directory: join(directories.base, "registry") }),
      ({ host }) => host,
    );
    registry = served;
    const reference = `${served.host}/berth/busybox:1.35`;
    await phase(
      "build and push an image",
      () => pushBusybox(served.host),
      ({ layers }) => `${reference}, ${layers.length} layers`,
    );
    writeBridgeConfig(directories, "10.88.7.0/24", "berth-demo0");
    const running = await phase(
      "start berth serve",
      () => startDaemon({ directories, insecureRegistries: [served.host] }),
      ({ pid }) => `pid ${pid}`,
    );
    daemon = running;
    const cri = connectCri(directories.socket);
    client = cri;
    await phase(
      "Version",
      () => cri.runtime.Version({}),
      (v) => `${v.runtimeName} ${v.runtimeVersion}, CRI ${v.runtimeApiVersion}`,
    );
    await phase(
      "wait for the network",
      () => networkReady(cri),
      () => "NetworkReady",
    );
    const { imageRef } = await phase(
      "PullImage",
      () => cri.images.PullImage({ image: { image: reference } }),
      (r) => r.imageRef.slice(0, 19),
    );
    const pod = podConfig(directories, { metadata: { name: "web" } });
    const { podSandboxId } = await phase(
      "RunPodSandbox (bridge)",
      () => cri.runtime.RunPodSandbox({ config: pod }),
      (r) => r.podSandboxId.slice(0, 12),
    );
    const config = containerConfig("httpd", imageRef, ["sh", "-c", "trap 'exit 0' TERM; echo serving /www; httpd -f -p 80 -h /www & wait"]);
    const { containerId } = await phase(
      "CreateContainer",
      () => cri.runtime.CreateContainer({ podSandboxId, config, sandboxConfig: pod }),
      (r) => r.containerId.slice(0, 12),
    );
    await phase(
      "StartContainer",
      () => cri.runtime.StartContainer({ containerId }),
      () => "running",
    );
    const status = await phase(
      "PodSandboxStatus",
      () => cri.runtime.PodSandboxStatus({ podSandboxId }),
      (r) => `ip ${r.status?.network?.ip ?? "none"}`,
    );
    const ip = status.status?.network?.ip ?? "";
    const page = await phase(
      `GET http://${ip}/`,
      () => getPage(`http://${ip}/`),
      (text) => JSON.stringify(text),
    );
    if (page !== "Hello from Berth\n") throw new Error(`the page says ${JSON.stringify(page)}`);
    const exec = await phase(
      "ExecSync",
      () => cri.runtime.ExecSync({ containerId, cmd: ["sh", "-c", "hostname; id -u"], timeout: 10 }),
      (r) => `exit ${r.exitCode}, ${JSON.stringify(Buffer.from(r.stdout).toString())}`,
    );
    if (exec.exitCode !== 0 || Buffer.from(exec.stdout).toString() !== "web\n0\n") throw new Error("ExecSync answered something else");
    const container = await cri.runtime.ContainerStatus({ containerId });
    const logPath = container.status?.logPath ?? "";
    await phase(
      "read the CRI log",
      () => logLines(logPath, /serving \/www/),
      (lines) => lines[0] ?? "",
    );
    await phase(
      "ContainerStats",
      () => cri.runtime.ContainerStats({ containerId }),
      ({ stats }) =>
        `cpu ${(Number(toBigInt(stats?.cpu?.usageCoreNanoSeconds?.value ?? zero)) / 1e6).toFixed(1)} ms, memory ${(
          Number(toBigInt(stats?.memory?.workingSetBytes?.value ?? zero)) / 1024
        ).toFixed(0)} KiB`,
    );
    if (keep) {
      tellHowToLook(running, served.host);
      await new Promise<void>((resolve) => {
        process.once("SIGINT", () => resolve());
        process.once("SIGTERM", () => resolve());
      });
    }
    await phase(
      "StopContainer",
      () => cri.runtime.StopContainer({ containerId, timeout: 5 }),
      () => "exited",
    );
    await phase(
      "RemoveContainer",
      () => cri.runtime.RemoveContainer({ containerId }),
      () => "removed",
    );
    await phase(
      "StopPodSandbox",
      () => cri.runtime.StopPodSandbox({ podSandboxId }),
      () => "not ready",
    );
    await phase(
      "RemovePodSandbox",
      () => cri.runtime.RemovePodSandbox({ podSandboxId }),
      () => "removed",
    );
    await phase(
      "RemoveImage",
      () => cri.images.RemoveImage({ image: { image: imageRef } }),
      () => "removed",
    );
    await phase(
      "stop berth serve",
      () => running.stop(),
      (code) => `exit ${code}`,
    );
  } catch (error) {
    if (daemon) process.stderr.write(`\n--- the daemon's log ---\n${daemon.log().split("\n").slice(-40).join("\n")}\n`);
    throw error;
  } finally {
    client?.close();
    await daemon?.stop();
    await registry?.stop();
  }
  const residue = await phase(
    "look for residue",
    () => waitForNoResidue(before, { directories: state, scope, allow: expected(directories.base) }),
    (left) => (left.length === 0 ? "nothing left: mounts, namespaces, cgroups, processes, files, leases" : `${left.length} entries`),
  );
  if (residue.length > 0) throw new Error(`left behind:\n  ${residue.join("\n  ")}`);
  removeDirectories(directories);
  const total = rows.reduce((sum, row) => sum + row.milliseconds, 0);
  process.stdout.write(
    `\nOne pod, from pull to removal, in ${(total / 1000).toFixed(1)} s with everything around it. All is as it was before.\n`,
  );
}

const zero = { low: 0, high: 0, unsigned: true };

/** What a stopped daemon keeps on purpose: empty directories, the CNI's bridge and its bookkeeping. */
function expected(base: string): RegExp[] {
  const escaped = base.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return [
    /^interfaces: berth-demo0$/,
    new RegExp(`^files: (?!.*[0-9a-f]{12})${escaped}/(lib|run)(/[.a-z0-9-]+)*$`),
    /last_reserved_ip\.\d+$|\/lock$|cni\/data\/[a-z-]+$/,
  ];
}

async function networkReady(cri: CriClient): Promise<void> {
  const end = performance.now() + 10_000;
  for (;;) {
    const { status } = await cri.runtime.Status({});
    const condition = status?.conditions.find(({ type }) => type === "NetworkReady");
    if (condition?.status) return;
    if (performance.now() > end) throw new Error(`the network is not ready: ${condition?.reason}: ${condition?.message}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function getPage(url: string): Promise<string> {
  const end = performance.now() + 5000;
  for (;;) {
    try {
      return await (await fetch(url)).text();
    } catch (error) {
      if (performance.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

async function logLines(path: string, wanted: RegExp): Promise<string[]> {
  const end = performance.now() + 5000;
  for (;;) {
    const lines = readFileSync(path, "utf8").trim().split("\n");
    if (lines.some((line) => wanted.test(line))) return lines;
    if (performance.now() > end) throw new Error(`no line in ${path} matches ${wanted}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function tellHowToLook(daemon: RunningDaemon, registryHost: string): void {
  const endpoint = `--runtime-endpoint unix://${daemon.directories.socket}`;
  process.stdout.write(`
Berth goes on serving until Ctrl-C. Try, in another terminal:
  crictl ${endpoint} pods
  crictl ${endpoint} ps
  crictl ${endpoint} exec -s <container id> ls /www
  crictl ${endpoint} logs <container id>
  crictl ${endpoint} stats
  crictl ${endpoint} images
  ${join(projectRoot, "bin/berth")} status --config ${daemon.directories.configFile}
  curl ${daemon.metricsAddress}/metrics                     (inside: nsenter -t ${daemon.pid} -n)
The pod's network and the registry ${registryHost} are in the demo's own network namespace: nsenter -t ${daemon.pid} -n <command>
`);
}

try {
  await demo();
} catch (error) {
  process.stderr.write(`\ndemo failed: ${error instanceof Error ? error.stack : String(error)}\n`);
  process.exitCode = 1;
}
