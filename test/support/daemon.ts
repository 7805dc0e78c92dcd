/** A real daemon from dist/ on a root of its own, for the end-to-end tests, the demo and the benchmarks. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { stretched } from "./patience.ts";

export const projectRoot = fileURLToPath(new URL("../..", import.meta.url));

/** The built package: another one than this checkout's where BERTH_DIST says so. */
export const dist = process.env["BERTH_DIST"] ?? join(projectRoot, "dist");

export interface NodeDirectories {
  /** Everything below it is the run's own. */
  readonly base: string;
  readonly root: string;
  readonly runRoot: string;
  readonly socket: string;
  readonly cniConfig: string;
  readonly cniData: string;
  /** Plugins of a test's own, found before the installed ones. */
  readonly cniPlugins: string;
  readonly namespaces: string;
  readonly certs: string;
  readonly registriesConfig: string;
  readonly logs: string;
  readonly configFile: string;
  readonly cgroupParent: string;
  readonly monitorCgroup: string;
}

export interface DaemonOptions {
  readonly directories: NodeDirectories;
  /** `key=value` for `--set`, after the private paths. */
  readonly sets?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Registry hosts to speak plain HTTP with. */
  readonly insecureRegistries?: readonly string[];
}

export interface RunningDaemon {
  readonly process: ChildProcess;
  readonly pid: number;
  readonly directories: NodeDirectories;
  readonly metricsAddress: string;
  log(): string;
  /** SIGTERM, and the exit code. */
  stop(): Promise<number | null>;
  /** SIGKILL: what a crash leaves. */
  kill(): Promise<void>;
}

let counter = 0;

/** Directories of one simulated node. `removeDirectories` takes them away. */
export function makeDirectories(label: string): NodeDirectories {
  const base = mkdtempSync(join(tmpdir(), `berth-${label}-`));
  counter += 1;
  const name = `berth-test-${process.pid}-${counter}`;
  const directories: NodeDirectories = {
    base,
    root: join(base, "lib"),
    runRoot: join(base, "run"),
    socket: join(base, "run", "berth.sock"),
    cniConfig: join(base, "cni", "net.d"),
    cniData: join(base, "cni", "data"),
    cniPlugins: join(base, "cni", "bin"),
    namespaces: join(base, "netns"),
    certs: join(base, "certs.d"),
    registriesConfig: join(base, "registries.conf"),
    logs: join(base, "logs"),
    configFile: join(base, "berth.toml"),
    cgroupParent: `/${name}`,
    monitorCgroup: `/${name}-monitors`,
  };
  for (const path of [
    directories.cniConfig,
    directories.cniData,
    directories.cniPlugins,
    directories.namespaces,
    directories.certs,
    directories.logs,
  ]) {
    mkdirSync(path, { recursive: true });
  }
  return directories;
}

export function removeDirectories(directories: NodeDirectories): void {
  rmSync(directories.base, { recursive: true, force: true });
}

/** The shipped bridge configuration with a bridge, a subnet and a lease directory of this run's. */
export function writeBridgeConfig(directories: NodeDirectories, subnet = "10.251.0.0/24", bridge = `berth${process.pid % 100000}`): void {
  const shipped = JSON.parse(readFileSync(join(projectRoot, "deploy/cni/10-berth.conflist"), "utf8")) as {
    plugins: { type: string; bridge?: string; ipam?: unknown }[];
  };
  for (const plugin of shipped.plugins) {
    if (plugin.type !== "bridge") continue;
    plugin.bridge = bridge;
    plugin.ipam = {
      type: "host-local",
      dataDir: directories.cniData,
      ranges: [[{ subnet }]],
      routes: [{ dst: "0.0.0.0/0" }],
    };
  }
  writeFileSync(join(directories.cniConfig, "10-berth.conflist"), JSON.stringify(shipped, null, 2));
}

export function writeConfig(options: DaemonOptions): void {
  const { directories } = options;
  const registries = (options.insecureRegistries ?? []).map((host) => `[[registry]]\nlocation = "${host}"\ninsecure = true\n`).join("\n");
  if (!existsSync(directories.registriesConfig) || registries !== "") writeFileSync(directories.registriesConfig, registries);
  writeFileSync(
    directories.configFile,
    `root = "${directories.root}"
run_root = "${directories.runRoot}"
[log]
level = "debug"
[api]
socket = "${directories.socket}"
[metrics]
address = "127.0.0.1:0"
[runtime]
default_cgroup_parent = "${directories.cgroupParent}"
monitor_cgroup = "${directories.monitorCgroup}"
[image]
registries_config = "${directories.registriesConfig}"
registries_config_directory = "${directories.registriesConfig}.d"
certs_directory = "${directories.certs}"
policy = "${join(directories.base, "policy.json")}"
auth_file = "${join(directories.base, "auth.json")}"
[network]
config_directory = "${directories.cniConfig}"
plugin_directories = ["${directories.cniPlugins}", "/opt/cni/bin", "/usr/lib/cni"]
namespace_directory = "${directories.namespaces}"
cache_directory = "${directories.cniData}"
`,
  );
}

export async function startDaemon(options: DaemonOptions): Promise<RunningDaemon> {
  writeConfig(options);
  const { directories } = options;
  const logPath = join(directories.base, "daemon.log");
  const logFd = openSync(logPath, "a");
  const sets = (options.sets ?? []).flatMap((set) => ["--set", set]);
  const child = spawn(process.execPath, [join(dist, "berth.mjs"), "serve", "--config", directories.configFile, ...sets], {
    stdio: ["ignore", logFd, logFd],
    env: { PATH: process.env["PATH"] ?? "", ...options.env },
  });
  closeSync(logFd);
  const log = (): string => readFileSync(logPath, "utf8");
  const offset = log().length;
  const address = await waitForServing(child, () => log().slice(offset));
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) {
      child.kill(signal);
      await ended;
    }
  };
  return {
    process: child,
    pid: child.pid ?? 0,
    directories,
    metricsAddress: address,
    log,
    async stop() {
      await end("SIGTERM");
      return child.exitCode;
    },
    kill: () => end("SIGKILL"),
  };
}

/** The daemon logs `serving` with its addresses once the socket answers. */
async function waitForServing(child: ChildProcess, log: () => string): Promise<string> {
  const end = performance.now() + stretched(20_000);
  for (;;) {
    for (const line of log().split("\n")) {
      if (!line.includes('"msg":"serving"')) continue;
      const fields = JSON.parse(line) as { metrics?: string };
      return fields.metrics ?? "";
    }
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`berth serve ended with ${child.exitCode ?? child.signalCode}:\n${log()}`);
    if (performance.now() > end) {
      child.kill("SIGKILL");
      throw new Error(`berth serve did not start within 20 s:\n${log()}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}
