// npm run dev [-- ARGUMENTS OF berth serve]: builds, serves on a private temporary root, and builds and restarts when a source
// file changes. Containers live through the restarts, as they do through an upgrade. Ctrl-C stops the daemon, removes the
// pods and the root.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, rmSync, watch, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { build } from "./build.mjs";
import { toolsDirectory } from "./go-tools.mjs";
import { at, Failure, isRoot, main, run, say } from "./project.mjs";
import { setup } from "./setup.mjs";

const watched = ["src", "api", "core", "conmon", "addon", "unpack", "ocirun", "package-lock.json"];
const settleMs = 200;
const stopMs = 10_000;

main(import.meta, async (serveArguments) => {
  if (!isRoot) throw new Failure("dev: serving pods needs root");
  await setup(["build", "run"]);
  await build();
  const place = makePlace();
  say(`dev: root ${place.root}\ndev: socket unix://${place.socket}\ndev: crictl -r unix://${place.socket} ps`);

  let daemon = null;
  let busy = Promise.resolve();
  let timer = null;
  let stopping = false;
  const serve = () => {
    const child = spawn(at("bin/berth"), ["serve", "--config", place.config, ...serveArguments], {
      stdio: ["ignore", "inherit", "inherit"],
    });
    child.ended = new Promise((resolve) => child.once("close", resolve));
    child.once("error", (error) => say(`dev: ${error.message}`));
    child.ended.then((code) => {
      if (child === daemon) say(`dev: berth serve ended (${child.signalCode ?? code}); waiting for a change`);
    });
    daemon = child;
  };
  const stop = async () => {
    const child = daemon;
    daemon = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGTERM");
    const late = setTimeout(() => child.kill("SIGKILL"), stopMs);
    await child.ended;
    clearTimeout(late);
  };
  const rebuild = async () => {
    if (stopping) return;
    const start = Date.now();
    try {
      await build();
    } catch (error) {
      say(`dev: ${error.message}\ndev: the daemon of before goes on`);
      return;
    }
    if (stopping) return;
    say(`dev: built in ${((Date.now() - start) / 1000).toFixed(1)} s, restarting`);
    await stop();
    serve();
  };
  const watchers = watched
    .filter((name) => existsSync(at(name)))
    .map((name) =>
      watch(at(name), { recursive: true }, () => {
        clearTimeout(timer);
        timer = setTimeout(() => {
          busy = busy.then(rebuild);
        }, settleMs);
      }),
    );
  serve();

  await new Promise((resolve) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
      process.removeAllListeners(signal);
      process.on(signal, resolve);
    }
  });
  stopping = true;
  clearTimeout(timer);
  for (const watcher of watchers) watcher.close();
  await busy;
  if (daemon !== null && daemon.exitCode === null) await removePods(place);
  await stop();
  return removePlace(place);
});

/** A root of its own, with sockets, ports and cgroups that meet no other daemon's. */
function makePlace() {
  const root = mkdtempSync(join(tmpdir(), "berth-dev-"));
  const name = basename(root);
  const place = {
    root,
    socket: join(root, "run/berth.sock"),
    config: join(root, "berth.toml"),
    cgroups: [`/${name}-pods`, `/${name}-monitors`],
  };
  for (const folder of ["lib", "run"]) mkdirSync(join(root, folder), { mode: 0o750 });
  writeFileSync(
    place.config,
    [
      `root = "${root}/lib"`,
      `run_root = "${root}/run"`,
      "[log]",
      'format = "text"',
      'level = "debug"',
      "[api]",
      `socket = "${place.socket}"`,
      "[metrics]",
      'address = "127.0.0.1:0"',
      "[runtime]",
      `default_cgroup_parent = "${place.cgroups[0]}"`,
      `monitor_cgroup = "${place.cgroups[1]}"`,
      "",
    ].join("\n"),
  );
  return place;
}

async function removePods(place) {
  const crictl = join(toolsDirectory, "crictl");
  if (!existsSync(crictl)) {
    say("dev: pods that still run stay: there is no crictl to remove them with (node scripts/go-tools.mjs)");
    return;
  }
  const endpoint = `unix://${place.socket}`;
  await run(crictl, ["-r", endpoint, "-i", endpoint, "-t", "30s", "rmp", "--all", "--force"], { capture: true, timeout: 60_000 });
}

/** Removes the root, unless something is still mounted or running below it: then it says so and leaves it. */
async function removePlace(place) {
  const below = readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => line.split(" ")[4] ?? "")
    .filter((point) => point.startsWith(`${place.root}/`));
  if (below.length > 0) {
    say(`dev: ${place.root} stays, for this is still mounted:\n  ${below.join("\n  ")}`);
    return 1;
  }
  rmSync(place.root, { recursive: true, force: true });
  const hierarchies = ["/sys/fs/cgroup", ...readdirSync("/sys/fs/cgroup").map((name) => join("/sys/fs/cgroup", name))];
  for (const path of hierarchies.flatMap((hierarchy) => place.cgroups.map((cgroup) => join(hierarchy, cgroup)))) {
    try {
      rmdirSync(path);
    } catch (error) {
      if (error.code === "EBUSY") say(`dev: ${path} stays, it is in use`);
    }
  }
  return 0;
}
