/** The contract with every OCI runtime is the bundle: one that Berth made runs unchanged under Debian's runc. */
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, test } from "vitest";
import { scratch, there, useNode } from "../support/node.ts";
import { hostNetwork } from "../support/workloads.ts";

const node = useNode("bundle");

const script = 'echo "under $1"; hostname; id -u; grep -E "^(CapEff|CapInh|Seccomp):" /proc/self/status; readlink /proc/self/ns/ipc; pwd';

function removeEmptyParents(path: string): void {
  for (const hierarchy of readdirSync("/sys/fs/cgroup")) {
    for (let parent = path; parent !== "/"; parent = dirname(parent)) {
      try {
        rmdirSync(join("/sys/fs/cgroup", hierarchy, parent));
      } catch {
        break;
      }
    }
  }
}

test("a bundle of Berth's runs unchanged under runc, in the pod's namespaces", async () => {
  const pod = await node.runPod({}, hostNetwork);
  const container = await pod.createContainer(["sh", "-c", script, "sh", "runc"], { workingDir: "/tmp" }, { seccomp: { profileType: 0 } });
  const pid = await container.pid();
  const own = scratch();
  try {
    const bundle = join(own.path, "bundle");
    const rootfs = join(bundle, "rootfs");
    mkdirSync(rootfs, { recursive: true });
    copyFileSync(join(node.directories.runRoot, "containers", container.id, "config.json"), join(bundle, "config.json"));
    // What the container's root holds, without what is mounted on it.
    execFileSync("cp", ["-ax", `/proc/${pid}/root/.`, rootfs]);
    await container.remove();

    const pausePid = Number((await pod.info())["pid"]);
    const name = `berth-bundle-${process.pid}`;
    const runc = (...args: string[]): string =>
      execFileSync("runc", ["--root", join(own.path, "state"), ...args], { encoding: "utf8", timeout: 60_000 });
    const lines = runc("run", "--bundle", bundle, name).trim().split("\n");
    expect(lines.slice(0, 1)).toEqual(["under runc"]);
    expect(lines.slice(2, 3)).toEqual(["0"]);
    expect(lines).toContain(readlinkSync(`/proc/${pausePid}/ns/ipc`));
    expect(lines.find((line) => line.startsWith("Seccomp"))).toMatch(/2$/);
    expect(lines.find((line) => line.startsWith("CapInh"))).toMatch(/\t0{16}$/);
    expect(lines.at(-1)).toBe("/tmp");
    const config = JSON.parse(readFileSync(join(bundle, "config.json"), "utf8")) as {
      ociVersion: string;
      linux: { cgroupsPath: string };
    };
    expect(there(config.ociVersion)).toMatch(/^1\./);
    // runc makes the parents in hierarchies too that Berth does not use; where the pod is, they are not empty.
    removeEmptyParents(dirname(config.linux.cgroupsPath));
  } finally {
    own.cleanUp();
  }
});
