/** The residue checker itself finds what is left: without these, the checks after all other tests would prove nothing. */
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { captureHostState, findResidue, type ResidueScope, waitForNoResidue } from "../support/residue.ts";

const base = mkdtempSync(join(tmpdir(), "berth-residue-"));
const word = `berth-residue-${process.pid}`;
const scope: ResidueScope = { base, cgroups: [word] };
afterAll(() => rmSync(base, { recursive: true, force: true }));

/** What is found while something is there, and that nothing is found before and after. */
async function found(make: () => void | Promise<void>, unmake: () => void | Promise<void>): Promise<string[]> {
  const before = captureHostState([base], scope);
  expect(findResidue(before, captureHostState([base], scope))).toEqual([]);
  await make();
  let left: string[];
  try {
    left = findResidue(before, captureHostState([base], scope));
  } finally {
    await unmake();
  }
  expect(await waitForNoResidue(before, { directories: [base], scope })).toEqual([]);
  return left;
}

describe("the checker names", () => {
  test("a mount", async () => {
    const point = join(base, "mount");
    mkdirSync(point);
    const left = await found(
      () => void execFileSync("mount", ["-t", "tmpfs", "left", point]),
      () => void execFileSync("umount", [point]),
    );
    expect(left).toEqual([`mounts: ${point} (tmpfs /)`]);
  });

  test("a second mount over the same place", async () => {
    const point = join(base, "twice");
    mkdirSync(point);
    execFileSync("mount", ["-t", "tmpfs", "one", point]);
    const left = await found(
      () => void execFileSync("mount", ["-t", "tmpfs", "two", point]),
      () => void execFileSync("umount", [point]),
    );
    execFileSync("umount", [point]);
    expect(left).toEqual([`mounts: ${point} (tmpfs /)`]);
  });

  test("a mount outside of every temporary directory", async () => {
    const left = await found(
      () => void execFileSync("mount", ["-t", "tmpfs", "left", "/mnt"]),
      () => void execFileSync("umount", ["/mnt"]),
    );
    expect(left).toEqual(["mounts: /mnt (tmpfs /)"]);
  });

  test("a network namespace that is pinned", async () => {
    const pin = join(base, "netns");
    writeFileSync(pin, "");
    const left = await found(
      () => void execFileSync("unshare", [`--net=${pin}`, "true"]),
      () => void execFileSync("umount", [pin]),
    );
    expect(left.some((line) => line.startsWith(`mounts: ${pin} (nsfs `))).toBe(true);
    expect(left.some((line) => /^networkNamespaces: net:\[\d+\]$/.test(line))).toBe(true);
  });

  test("a cgroup, in any hierarchy", async () => {
    for (const hierarchy of ["memory", "pids", "unified"]) {
      const path = `/sys/fs/cgroup/${hierarchy}/${word}`;
      const left = await found(
        () => mkdirSync(path),
        () => rmdirSync(path),
      );
      expect(left).toEqual([`cgroups: ${path}`]);
    }
  });

  test("a process in this network, even one that its parent has left", async () => {
    let pid = 0;
    const left = await found(
      () => {
        pid = Number(execFileSync("sh", ["-c", "sleep 4711 >/dev/null 2>&1 & echo $!"], { encoding: "utf8" }));
      },
      () => void process.kill(pid, "SIGKILL"),
    );
    expect(left).toEqual([`processes: ${pid} sleep 4711`]);
  });

  test("a process in another network, by its cgroup", async () => {
    const cgroup = `/sys/fs/cgroup/pids/${word}`;
    mkdirSync(cgroup);
    const child = spawn("sh", ["-c", `echo $$ > ${cgroup}/cgroup.procs; exec unshare --net sleep 4712`], {
      stdio: "ignore",
      detached: true,
    });
    const before = captureHostState([base], scope);
    const seen = await untilFound(() => findResidue({ ...before, processes: [] }, captureHostState([base], scope)), / sleep 4712$/);
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
    await untilGone(() => rmdirSync(cgroup));
    expect(seen).toBe(true);
  });

  test("a zombie", async () => {
    const script = "import os,time,sys\nif os.fork()==0: os._exit(0)\nprint('x',flush=True)\ntime.sleep(30)";
    const parent = spawn("python3", ["-c", script], { stdio: ["ignore", "pipe", "ignore"] });
    await new Promise((resolve) => parent.stdout.once("data", resolve));
    const seen = await untilFound(() => [...captureHostState([base], scope).processes], /zombie \(python3\)/);
    parent.kill("SIGKILL");
    await new Promise((resolve) => parent.once("exit", resolve));
    expect(seen).toBe(true);
  });

  test("a link, a NAT rule and a file", async () => {
    const left = await found(
      () => {
        execFileSync("ip", ["link", "add", "left0", "type", "bridge"]);
        execFileSync("iptables", ["-t", "nat", "-N", "CNI-DN-LEFT"]);
        writeFileSync(join(base, "left"), "");
      },
      () => {
        execFileSync("ip", ["link", "delete", "left0"]);
        execFileSync("iptables", ["-t", "nat", "-X", "CNI-DN-LEFT"]);
        rmSync(join(base, "left"));
      },
    );
    expect(left).toEqual(["interfaces: left0", "natRules: :CNI-DN-LEFT -", `files: ${join(base, "left")}`]);
  });
});

async function untilFound(list: () => string[], pattern: RegExp): Promise<boolean> {
  const end = performance.now() + 5000;
  while (performance.now() < end) {
    if (list().some((line) => pattern.test(line))) return true;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return false;
}

async function untilGone(remove: () => void): Promise<void> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return remove();
    } catch (error) {
      if (attempt > 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
