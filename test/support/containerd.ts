/** Debian's containerd with its CRI plugin and runc on a root of its own: the peer of the benchmarks and of the conformance proof. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { type BuiltImage, buildImage, layerFrom, pushImage } from "./image-builder.ts";

export const containerdProgram = "/usr/bin/containerd";

export interface RunningContainerd {
  readonly socket: string;
  readonly process: ChildProcess;
  log(): string;
  stop(): Promise<void>;
}

export interface ContainerdOptions {
  readonly directory: string;
  readonly registryHost: string;
  /** `<host>/<repository>:<tag>` of a pause image, see `pushPause`. */
  readonly pauseImage: string;
  readonly cniConfig: string;
  readonly runtime?: "runc" | "crun";
}

/** A static pause program in an image: containerd cannot run a sandbox without one. */
export async function pushPause(host: string, repository = "berth/pause", tag = "3.9"): Promise<BuiltImage> {
  const layer = await layerFrom((directory) => {
    const source = join(directory, "pause.c");
    writeFileSync(source, "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n");
    execFileSync("gcc", ["-static", "-Os", "-o", join(directory, "pause"), source]);
    execFileSync("rm", [source]);
  });
  const image = buildImage([layer], { entrypoint: ["/pause"] });
  await pushImage(host, repository, tag, image);
  return image;
}

export async function startContainerd(options: ContainerdOptions): Promise<RunningContainerd> {
  if (!existsSync(containerdProgram)) throw new Error(`${containerdProgram} is missing: install the package containerd`);
  const { directory } = options;
  const socket = join(directory, "containerd.sock");
  const certs = join(directory, "certs.d", options.registryHost);
  mkdirSync(certs, { recursive: true });
  writeFileSync(join(certs, "hosts.toml"), `server = "http://${options.registryHost}"\n`);
  const config = join(directory, "config.toml");
  writeFileSync(
    config,
    `version = 2
root = "${join(directory, "root")}"
state = "${join(directory, "state")}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "${socket}"
[debug]
level = "warn"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "${options.pauseImage}"
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "${options.runtime === "crun" ? "/usr/bin/crun" : "/usr/sbin/runc"}"
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "${options.cniConfig}"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "${join(directory, "certs.d")}"
`,
  );
  const logPath = join(directory, "containerd.log");
  const logFd = openSync(logPath, "a");
  const child = spawn(containerdProgram, ["--config", config], { stdio: ["ignore", logFd, logFd] });
  closeSync(logFd);
  const log = (): string => readFileSync(logPath, "utf8");
  const end = performance.now() + 20_000;
  while (!(await answers(socket))) {
    if (child.exitCode !== null || performance.now() > end) throw new Error(`containerd does not serve:\n${log()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return {
    socket,
    process: child,
    log,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
      child.kill("SIGTERM");
      await ended;
    },
  };
}

function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = createConnection(socket);
    connection.once("connect", () => {
      connection.destroy();
      resolve(true);
    });
    connection.once("error", () => resolve(false));
  });
}
