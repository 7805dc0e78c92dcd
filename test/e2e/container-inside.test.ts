/** What a container is from inside: its process, its file systems, its limits. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ContainerConfigInput, type LinuxContainerSecurityContextInput, MountPropagation } from "../../api/cri/service-definition.ts";
import { cgroupDirectory, cgroupV2 } from "../support/cgroups.ts";
import { status } from "../support/cri-client.ts";
import { againstPeer, failure, type Output, type Pod, scratch, until, useNode } from "../support/node.ts";
import { descriptorsOf } from "../support/residue.ts";
import { hostNetwork, kubeletMaskedPaths, kubeletReadonlyPaths } from "../support/workloads.ts";

const node = useNode("inside", { sets: ["runtime.pids_limit=30"] });

/** Output of a shell script in a container of its own. */
async function inside(
  text: string,
  changes: ContainerConfigInput = {},
  security: LinuxContainerSecurityContextInput = {},
): Promise<string> {
  const { stdout, exitCode, stderr } = await tried(text, changes, security);
  if (exitCode !== 0) throw new Error(`the script ended with ${exitCode}: ${stdout}${stderr}`);
  return stdout;
}

async function tried(text: string, changes: ContainerConfigInput = {}, security: LinuxContainerSecurityContextInput = {}): Promise<Output> {
  const pod = await runPod(security.privileged ?? false);
  return pod.script(text, changes, security);
}

/** A pod that may have privileged containers says so itself. */
function runPod(privileged: boolean): Promise<Pod> {
  const config = node.podConfig({}, hostNetwork);
  return node.runPod({ linux: { ...config.linux, securityContext: { ...config.linux?.securityContext, privileged } } }, hostNetwork);
}

async function statusOf(security: LinuxContainerSecurityContextInput): Promise<Record<string, string>> {
  const text = await inside("cat /proc/self/status", {}, security);
  return Object.fromEntries(text.split("\n").map((line) => [line.split(":")[0] ?? "", line.split(":")[1]?.trim() ?? ""]));
}

describe("the process", () => {
  test("gets command, arguments, working directory and environment as they are given", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", 'printf "%s|" "$0" "$@"; echo; pwd; env'], {
      args: ["zero", "", "two words", "q'\"\\", "漢字", "$HOME"],
      workingDir: "/var/log",
      envs: [
        { key: "PLAIN", value: Buffer.from("value") },
        { key: "EMPTY", value: Buffer.alloc(0) },
        { key: "EQUALS", value: Buffer.from("a=b=c") },
        { key: "lower.dotted-name", value: Buffer.from("x") },
        { key: "UNICODE", value: Buffer.from("漢字 é") },
        { key: "PATH", value: Buffer.from("/bin:/mine") },
      ],
    });
    await container.exited();
    const [words, cwd, ...env] = (await container.output()).stdout.split("\n");
    expect(words).toBe("zero||two words|q'\"\\|漢字|$HOME|");
    expect(cwd).toBe("/var/log");
    for (const line of ["PLAIN=value", "EMPTY=", "EQUALS=a=b=c", "UNICODE=漢字 é", "PATH=/bin:/mine"]) expect(env).toContain(line);
    expect(env.filter((line) => line.startsWith("PATH="))).toHaveLength(1);
    expect(env.some((line) => /BERTH|NODE_|VITEST/.test(line))).toBe(false);
  });

  test("gets a working directory that is not there made for it", async () => {
    expect(await inside("pwd; stat -c %u:%g:%a .", { workingDir: "/made/for/it" })).toMatch(/^\/made\/for\/it\n0:0:755\n$/);
  });

  test("has HOME of its user, and HOSTNAME", async () => {
    const pod = await node.runPod({ hostname: "myhost" });
    const result = await pod.script("echo $HOME; hostname");
    expect(result.stdout).toBe("/root\nmyhost\n");
  });

  test("has nothing open but its standard streams", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "100"]);
    const listed = await container.sh("ls /proc/1/fd");
    expect(listed).toBe("0\n1\n2\n");
    if (againstPeer) return;
    expect(descriptorsOf(await container.pid())[0]).toBe("/dev/null");
    // Of an exec, the one more is the directory that ls reads.
    expect((await container.sh("ls /proc/self/fd")).trim().split("\n")).toHaveLength(4);
  });

  test("has default signal handling", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["cat", "/proc/self/status"]);
    await container.exited();
    const { stdout } = await container.output();
    expect(stdout).toMatch(/^SigBlk:\s+0000000000000000$/m);
    expect(stdout).toMatch(/^SigIgn:\s+0000000000000000$/m);
    const other = await pod.runContainer(["sleep", "100"]);
    expect(await other.run("cat", "/proc/self/status")).toMatch(/^SigIgn:\s+0000000000000000$/m);
  });

  test("runs as the user, group and groups of the request", async () => {
    const security = { runAsUser: { value: 1234 }, runAsGroup: { value: 5678 }, supplementalGroups: [42, 43] };
    expect(await inside("id -u; id -g; id -G", {}, security)).toBe("1234\n5678\n5678 42 43\n");
  });

  test("runs as a user by name, with the groups that the image gives it", async () => {
    expect(await inside("id -u; id -g; id -G; echo $HOME", {}, { runAsUsername: "nobody" })).toBe("65534\n65534\n65534 50\n/home\n");
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sleep", "100"], {}, { runAsUsername: "nobody", supplementalGroups: [77] });
    expect((await container.run("id", "-G")).trim().split(" ").sort()).toEqual(["50", "65534", "77"]);
    if (againstPeer) return;
    const { user } = await container.status();
    expect(Number(user?.linux?.uid.low)).toBe(65534);
  });

  test("of an unknown user name is refused, naming it", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const create = pod.createContainer(["true"], {}, { runAsUsername: "nosuchuser" });
    if (againstPeer) return void (await expect(create).rejects.toThrow());
    await failure(create, status.INVALID_ARGUMENT, "nosuchuser");
  });

  test("has a terminal where it asks for one", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(
      ["sh", "-c", "tty; test -t 0 && test -t 1 && test -t 2 && echo all; ls -l /dev/console; sleep 100"],
      {
        tty: true,
      },
    );
    await container.logged(/console/);
    const { stdout } = await container.output();
    expect(stdout.replaceAll("\r", "")).toMatch(/^\/dev\/(console|pts\/0)\nall\nc/);
    expect((await container.log()).every(({ stream }) => stream === "stdout")).toBe(true);
  });
});

describe("privileges", () => {
  const mask = (...numbers: number[]): string =>
    numbers
      .reduce((sum, bit) => sum | (1n << BigInt(bit)), 0n)
      .toString(16)
      .padStart(16, "0");
  // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE
  const defaults = [0, 1, 3, 4, 5, 6, 7, 8, 10];

  test("root has the default capabilities, nothing inheritable or ambient", async () => {
    if (againstPeer) return;
    const state = await statusOf({});
    expect(state).toMatchObject({
      CapEff: mask(...defaults),
      CapPrm: mask(...defaults),
      CapBnd: mask(...defaults),
      CapInh: mask(),
      CapAmb: mask(),
    });
  });

  test("another user has none in effect", async () => {
    const state = await statusOf({ runAsUser: { value: 1000 } });
    expect(state).toMatchObject({ CapEff: mask(), CapPrm: mask(), CapInh: mask(), CapAmb: mask() });
  });

  test("are added and dropped by name, with or without CAP_, in any case", async () => {
    if (againstPeer) return;
    const capabilities = { addCapabilities: ["NET_ADMIN", "cap_sys_time"], dropCapabilities: ["CHOWN", "CAP_KILL"] };
    const wanted = mask(...defaults.filter((bit) => bit !== 0 && bit !== 5), 12, 25);
    expect(await statusOf({ capabilities })).toMatchObject({ CapEff: wanted, CapBnd: wanted, CapInh: mask() });
  });

  test("ALL is dropped, and single ones added back", async () => {
    const state = await statusOf({ capabilities: { dropCapabilities: ["ALL"], addCapabilities: ["NET_BIND_SERVICE"] } });
    if (!againstPeer) expect(state).toMatchObject({ CapEff: mask(10), CapBnd: mask(10), CapInh: mask(), CapAmb: mask() });
    expect(await statusOf({ capabilities: { dropCapabilities: ["ALL"] } })).toMatchObject({ CapEff: mask(), CapBnd: mask() });
  });

  test("ambient ones reach a program of another user", async () => {
    if (againstPeer) return;
    const state = await statusOf({ runAsUser: { value: 1000 }, capabilities: { addAmbientCapabilities: ["NET_BIND_SERVICE"] } });
    expect(state).toMatchObject({ CapEff: mask(10), CapPrm: mask(10), CapInh: mask(10), CapAmb: mask(10) });
  });

  test("an unknown capability is refused, naming it", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const create = pod.createContainer(["true"], {}, { capabilities: { addCapabilities: ["NO_SUCH_THING"] } });
    if (againstPeer) return void (await expect(create).rejects.toThrow());
    await failure(create, status.INVALID_ARGUMENT, "NO_SUCH_THING");
  });

  test("no_new_privs and seccomp are as asked for", async () => {
    expect(await statusOf({ noNewPrivs: true, seccomp: { profileType: 0 } })).toMatchObject({ NoNewPrivs: "1", Seccomp: "2" });
    expect(await statusOf({ noNewPrivs: false, seccomp: { profileType: 1 } })).toMatchObject({ NoNewPrivs: "0", Seccomp: "0" });
    const state = await statusOf({ seccomp: { profileType: 0 } });
    expect(state).toMatchObject({ Seccomp: "2", Seccomp_filters: "1" });
  });

  test("an exec has the same as the container", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const security = { noNewPrivs: true, seccomp: { profileType: 0 }, runAsUser: { value: 1000 }, supplementalGroups: [7] };
    const container = await pod.runContainer(["sleep", "100"], {}, security);
    const fields = /^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Cpus_allowed_list)/;
    const pick = (text: string): string[] => text.split("\n").filter((line) => fields.test(line));
    expect(pick(await container.run("cat", "/proc/self/status"))).toEqual(pick(await container.run("cat", "/proc/1/status")));
  });

  test("the default seccomp profile refuses what containers have no use for", async () => {
    const result = await tried("unshare -m true; echo $?; mount -t tmpfs x /tmp; echo $?", {}, { seccomp: { profileType: 0 } });
    expect(result.stdout).toMatch(/^[1-9]\d*\n[1-9]\d*\n$/);
  });

  test("a privileged container has every capability that the daemon has, no filter, and writes to /sys", async () => {
    const daemon = readFileSync(`/proc/${node.pid}/status`, "utf8");
    const state = await statusOf({ privileged: true, maskedPaths: [], readonlyPaths: [] });
    if (!againstPeer) expect(state["CapEff"]).toBe(/^CapEff:\s+(\w+)$/m.exec(daemon)?.[1]);
    expect(state).toMatchObject({ Seccomp: "0", NoNewPrivs: "0" });
  });
});

describe("paths", () => {
  test("that are masked show nothing, and those read-only cannot be written", async () => {
    const output = await inside(
      [
        ...kubeletMaskedPaths.map(
          (path) =>
            `if [ -d ${path} ]; then ls -A ${path} | head -1; elif [ -e ${path} ]; then head -c 1 ${path} | wc -c | grep -v '^0$'; fi`,
        ),
        ...kubeletReadonlyPaths.map(
          (path) =>
            `if [ -e ${path} ]; then touch ${path}/x 2>/dev/null && echo "wrote ${path}"; (echo 1 > ${path}) 2>/dev/null && echo "wrote ${path}"; fi`,
        ),
        "true",
      ].join("\n"),
    );
    expect(output).toBe("");
  });

  test("with empty lists nothing is masked", async () => {
    const output = await inside(
      "head -c 1 /proc/timer_list | wc -c; awk '$5 == \"/proc/sys\"' /proc/self/mountinfo | wc -l",
      {},
      { maskedPaths: [], readonlyPaths: [] },
    );
    expect(output).toBe("1\n0\n");
  });

  test("that are not there are passed over", async () => {
    expect(await inside("echo fine", {}, { maskedPaths: ["/no/such", "/proc/no-such"], readonlyPaths: ["/neither/this"] })).toBe("fine\n");
  });
});

describe("/dev", () => {
  test("has exactly the default devices and links", async () => {
    const listing = await inside(
      "cd /dev; for f in *; do if [ -L $f ]; then echo $f '->' $(readlink $f); elif [ -c $f ]; then stat -c '%n %F %t:%T %a' $f; else stat -c '%n %F' $f; fi; done",
    );
    if (againstPeer) return;
    expect(listing.trim().split("\n").sort()).toEqual(
      [
        "fd -> /proc/self/fd",
        "full character special file 1:7 666",
        "mqueue directory",
        "null character special file 1:3 666",
        "ptmx -> pts/ptmx",
        "pts directory",
        "random character special file 1:8 666",
        "shm directory",
        "stderr -> /proc/self/fd/2",
        "stdin -> /proc/self/fd/0",
        "stdout -> /proc/self/fd/1",
        "tty character special file 5:0 666",
        "urandom character special file 1:9 666",
        "zero character special file 1:5 666",
      ].sort(),
    );
  });

  test("works: null, zero, full, random, pseudo-terminals", async () => {
    const output = await inside(
      "echo x > /dev/null; head -c 4 /dev/zero | od -An -tx1; (echo x > /dev/full) 2>/dev/null || echo full; head -c 8 /dev/urandom | wc -c; test -c /dev/pts/ptmx && echo pts",
    );
    expect(output).toBe(" 00 00 00 00\nfull\n8\npts\n");
  });

  test("a device of the request is there with its permissions; others cannot be opened", async () => {
    const output = await inside(
      "stat -c '%t:%T' /dev/mine; head -c 1 /dev/mine | wc -c; (echo x > /dev/mine) 2>/dev/null || echo read-only; mknod /tmp/kmsg c 1 11 && (cat /tmp/kmsg >/dev/null 2>&1 & sleep 0.1; kill $! 2>/dev/null || true); (head -c 1 /tmp/kmsg > /dev/null) 2>&1 | grep -o 'not permitted'",
      { devices: [{ containerPath: "/dev/mine", hostPath: "/dev/zero", permissions: "r" }] },
      { capabilities: { addCapabilities: ["MKNOD"] } },
    );
    // /dev/zero itself is among the defaults: writing is allowed by that rule.
    expect(output).toMatch(/^1:5\n1\n(read-only\n)?not permitted\n$/);
  });

  test("a device that is not there is refused, naming it", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const create = pod.createContainer(["true"], {
      devices: [{ containerPath: "/dev/x", hostPath: "/dev/no-such-device", permissions: "rwm" }],
    });
    if (againstPeer) return void (await expect(create.then((container) => container.start())).rejects.toThrow());
    await failure(create, status.INVALID_ARGUMENT, "/dev/no-such-device");
  });
});

describe("mounts", () => {
  interface MountLine {
    readonly options: readonly string[];
    readonly type: string;
    readonly superOptions: string;
    readonly propagation: string;
  }

  function parseMounts(text: string): Map<string, MountLine> {
    return new Map(
      text
        .trim()
        .split("\n")
        .map((line) => {
          const [left = "", right = ""] = line.split(" - ");
          const fields = left.split(" ");
          const [type = "", , superOptions = ""] = right.split(" ");
          return [fields[4] ?? "", { options: (fields[5] ?? "").split(","), type, superOptions, propagation: fields.slice(6).join(" ") }];
        }),
    );
  }

  test("are the default ones with their options", async () => {
    const pod = await node.runPod();
    const { stdout } = await pod.script("cat /proc/self/mountinfo");
    const mounts = parseMounts(stdout);
    const expected: Record<string, { type: string; options: string[]; without?: string[] }> = {
      "/": { type: "overlay", options: ["rw"] },
      "/proc": { type: "proc", options: ["rw", "nosuid", "nodev", "noexec"] },
      "/dev": { type: "tmpfs", options: ["rw", "nosuid"] },
      "/dev/pts": { type: "devpts", options: ["rw", "nosuid", "noexec"] },
      "/dev/mqueue": { type: "mqueue", options: ["rw", "nosuid", "nodev", "noexec"] },
      "/dev/shm": { type: "tmpfs", options: ["rw", "nosuid", "nodev", "noexec"] },
      "/sys": { type: "sysfs", options: ["ro", "nosuid", "nodev", "noexec"] },
      ...(cgroupV2
        ? { "/sys/fs/cgroup": { type: "cgroup2", options: ["ro", "nosuid", "nodev", "noexec"] } }
        : {
            "/sys/fs/cgroup": { type: "tmpfs", options: ["ro", "nosuid", "nodev", "noexec"] },
            "/sys/fs/cgroup/memory": { type: "cgroup", options: ["ro", "nosuid", "nodev", "noexec"] },
          }),
      "/proc/sys": { type: "proc", options: ["ro"] },
    };
    for (const [path, { type, options }] of Object.entries(expected)) {
      const found = mounts.get(path);
      expect(found?.type, path).toBe(type);
      if (!againstPeer) expect(found?.options, path).toEqual(expect.arrayContaining(options));
    }
    expect(mounts.get("/dev/pts")?.superOptions).toMatch(/gid=5.*mode=620.*ptmxmode=666/);
    expect(mounts.get("/dev")?.superOptions).toContain("size=65536k");
    // Nothing of the host's tree is left behind the pivot, and nothing flows back to it.
    for (const [path, { propagation }] of mounts) expect(`${path}: ${propagation}`).not.toMatch(/shared:/);
    expect(stdout).not.toMatch(/ \/\.old| \/oldroot/);
    expect([...mounts.keys()].filter((path) => path === "/")).toHaveLength(1);
  });

  test("the cgroup view begins at the container's own", async () => {
    if (againstPeer) return;
    const [directory, file] = cgroupV2 ? ["/sys/fs/cgroup", "memory.max"] : ["/sys/fs/cgroup/memory", "memory.limit_in_bytes"];
    const output = await inside(
      `cut -d: -f3 /proc/self/cgroup | sort -u; (echo 1 > ${directory}/${file}) 2>/dev/null || echo refused; (mkdir ${directory}/x) 2>/dev/null || echo refused`,
    );
    expect(output).toBe("/\nrefused\nrefused\n");
  });

  test("a read-only root cannot be written, the pod's files neither", async () => {
    const output = await inside(
      "for f in /x /etc/resolv.conf /etc/hostname /root/x; do (echo x > $f) 2>/dev/null && echo wrote $f; done; echo x > /dev/shm/ok && echo shm",
      {},
      { readonlyRootfs: true },
    );
    expect(output).toBe("shm\n");
  });

  test("a writable root is the container's own", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const [one, two] = [await pod.runContainer(["sleep", "100"]), await pod.runContainer(["sleep", "100"])];
    await one.sh("echo changed > /etc/passwd; rm /bin/false; mkdir /new");
    expect(await two.sh("grep -c root /etc/passwd; test -e /bin/false && test ! -e /new && echo whole")).toBe("1\nwhole\n");
  });

  describe("of volumes", () => {
    let volume: ReturnType<typeof scratch>;

    beforeAll(() => {
      volume = scratch();
      // Shared, so that propagation has something to work on.
      execFileSync("mount", ["--bind", volume.path, volume.path]);
      execFileSync("mount", ["--make-shared", volume.path]);
      writeFileSync(join(volume.path, "note"), "from the host\n");
      writeFileSync(join(volume.path, "file"), "a file\n");
      mkdirSync(join(volume.path, "sub/deep"), { recursive: true });
    });
    afterAll(() => {
      execFileSync("umount", ["-l", volume.path]);
      volume.cleanUp();
    });
    const volumeTest = test;

    volumeTest("writable and read-only ones", async () => {
      const output = await inside("cat /rw/note; echo back > /rw/back; cat /ro/note; (echo x > /ro/x) 2>/dev/null || echo refused", {
        mounts: [
          { hostPath: volume.path, containerPath: "/rw" },
          { hostPath: volume.path, containerPath: "/ro", readonly: true },
        ],
      });
      expect(output).toBe("from the host\nfrom the host\nrefused\n");
      expect(readFileSync(join(volume.path, "back"), "utf8")).toBe("back\n");
    });

    volumeTest("a single file over a file of the image, and where nothing is", async () => {
      const file = join(volume.path, "file");
      const output = await inside("cat /etc/passwd /made/on/the/way", {
        mounts: [
          { hostPath: file, containerPath: "/etc/passwd" },
          { hostPath: file, containerPath: "/made/on/the/way" },
        ],
      });
      expect(output).toBe("a file\na file\n");
    });

    volumeTest("inside one another, whatever order they come in", async () => {
      const output = await inside("cat /data/inner/note; ls /data | sort", {
        mounts: [
          { hostPath: volume.path, containerPath: "/data/inner" },
          { hostPath: join(volume.path, "sub"), containerPath: "/data" },
        ],
      });
      expect(output).toContain("from the host\n");
      expect(output).toContain("deep\n");
      rmSync(join(volume.path, "sub/inner"), { recursive: true, force: true });
    });

    volumeTest("through a symbolic link of the image stay inside the container", async () => {
      // /var/run is a link to /run.
      expect(await inside("cat /run/vol/note", { mounts: [{ hostPath: volume.path, containerPath: "/var/run/vol" }] })).toBe(
        "from the host\n",
      );
      expect(existsSync("/run/vol")).toBe(false);
    });

    volumeTest("whose source is a symbolic link of the host follow it", async () => {
      const link = join(volume.path, "link");
      symlinkSync(volume.path, link);
      expect(await inside("cat /v/note", { mounts: [{ hostPath: link, containerPath: "/v" }] })).toBe("from the host\n");
      rmSync(link);
    });

    volumeTest("private: mounts made later on the host are not seen", async () => {
      await seesHostMount(MountPropagation.PROPAGATION_PRIVATE, "empty\n");
    });

    volumeTest("host-to-container: mounts made later on the host are seen, the container's do not come out", async () => {
      await seesHostMount(MountPropagation.PROPAGATION_HOST_TO_CONTAINER, "mounted\n");
      expect(await hostSeesContainerMount(MountPropagation.PROPAGATION_HOST_TO_CONTAINER)).toBe(false);
    });

    volumeTest("bidirectional: mounts of both sides are seen by both", async () => {
      await seesHostMount(MountPropagation.PROPAGATION_BIDIRECTIONAL, "mounted\n");
      expect(await hostSeesContainerMount(MountPropagation.PROPAGATION_BIDIRECTIONAL)).toBe(true);
    });

    volumeTest("recursively read-only, where the kernel has it", async () => {
      if (againstPeer) return;
      const deep = join(volume.path, "sub");
      execFileSync("mount", ["-t", "tmpfs", "below", deep]);
      try {
        const mounts = (recursiveReadOnly: boolean) => [{ hostPath: volume.path, containerPath: "/v", readonly: true, recursiveReadOnly }];
        expect(await inside("(echo x > /v/sub/x) 2>/dev/null && echo wrote || echo refused", { mounts: mounts(true) })).toBe("refused\n");
        expect(await inside("(echo x > /v/sub/x) 2>/dev/null && echo wrote || echo refused", { mounts: mounts(false) })).toBe("wrote\n");
      } finally {
        execFileSync("umount", [deep]);
      }
    });

    async function seesHostMount(propagation: number, expected: string): Promise<void> {
      const bidirectional = propagation === MountPropagation.PROPAGATION_BIDIRECTIONAL;
      const pod = await runPod(bidirectional);
      const mounts = [{ hostPath: volume.path, containerPath: "/v", propagation }];
      const container = await pod.runContainer(["sleep", "100"], { mounts }, { privileged: bidirectional });
      const point = join(volume.path, "sub");
      execFileSync("mount", ["-t", "tmpfs", "later", point]);
      try {
        writeFileSync(join(point, "mounted"), "");
        expect(await container.sh("test -e /v/sub/mounted && echo mounted || echo empty")).toBe(expected);
      } finally {
        execFileSync("umount", [point]);
      }
    }

    async function hostSeesContainerMount(propagation: number): Promise<boolean> {
      const pod = await runPod(true);
      const mounts = [{ hostPath: volume.path, containerPath: "/v", propagation }];
      const container = await pod.runContainer(["sleep", "100"], { mounts }, { privileged: true });
      await container.sh("mount -t tmpfs inside /v/sub && echo x > /v/sub/by-the-container");
      const seen = existsSync(join(volume.path, "sub/by-the-container"));
      await container.sh("umount /v/sub");
      return seen;
    }
  });

  test("a source that is not there is made, as other runtimes do; one that cannot be is refused, naming it", async () => {
    if (againstPeer) return;
    const volume = scratch();
    try {
      const hostPath = join(volume.path, "not/there/yet");
      expect(await inside("touch /v/made && echo made", { mounts: [{ hostPath, containerPath: "/v" }] })).toBe("made\n");
      expect(existsSync(join(hostPath, "made"))).toBe(true);
    } finally {
      volume.cleanUp();
    }
    const pod = await node.runPod({}, hostNetwork);
    const bad = "/etc/passwd/below-a-file";
    await failure(pod.createContainer(["true"], { mounts: [{ hostPath: bad, containerPath: "/v" }] }), status.INVALID_ARGUMENT, bad);
  });

  test("two of the same place are refused, naming it", async () => {
    if (againstPeer) return;
    const pod = await node.runPod({}, hostNetwork);
    const mounts = [
      { hostPath: "/etc", containerPath: "/same" },
      { hostPath: "/usr", containerPath: "/same/" },
    ];
    await failure(pod.createContainer(["true"], { mounts }), status.INVALID_ARGUMENT, "/same");
  });
});

describe("limits", () => {
  test("of processes hold, and the container can still be stopped", async () => {
    if (againstPeer) return;
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "i=0; while [ $i -lt 20 ]; do sleep 100 & i=$((i+1)); done; echo many; wait"]);
    const pids = cgroupDirectory("pids", `${pod.config.linux?.cgroupParent ?? ""}/${container.id}`);
    await container.logged(/many/);
    expect(readFileSync(join(pids, "pids.max"), "utf8")).toBe("30\n");
    const bomb = await container.exec(["sh", "-c", "i=0; while [ $i -lt 20 ]; do sleep 100 & i=$((i+1)); done"]);
    expect(bomb.stderr).toContain("can't fork");
    expect(Number(readFileSync(join(pids, "pids.events"), "utf8").split(" ")[1])).toBeGreaterThan(0);
    await container.stop(0);
    expect((await container.status()).exitCode).toBe(137);
  });

  test("of memory hold", async () => {
    const script = "head -c 200m /dev/zero | tail -c 200m > /dev/null; echo $?";
    expect(await inside(script, { linux: { resources: { memoryLimitInBytes: 40 << 20 } } })).toBe("137\n");
    expect(await inside(script, { linux: { resources: { memoryLimitInBytes: 1 << 30 } } })).toBe("0\n");
  });

  test("of processor time hold", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const container = await pod.runContainer(["sh", "-c", "while :; do :; done"], {
      linux: { resources: { cpuPeriod: 20_000, cpuQuota: 4_000 } },
    });
    const usage = async (): Promise<number> => {
      const { stats } = await node.runtime.ContainerStats({ containerId: container.id });
      return Number(stats?.cpu?.usageCoreNanoSeconds?.value?.low ?? 0) / 1e6;
    };
    const [before, started] = [await usage(), performance.now()];
    await until("a second has gone", () => performance.now() - started > 1000);
    const share = ((await usage()) - before) / (performance.now() - started);
    // A fifth of one processor.
    expect(share).toBeGreaterThan(0.05);
    expect(share).toBeLessThan(0.35);
  });
});

test("nothing of a container is visible in the host's mount table", async () => {
  if (againstPeer) return;
  const pod = await node.runPod({}, hostNetwork);
  const container = await pod.runContainer(["sleep", "100"]);
  expect(readFileSync("/proc/self/mountinfo", "utf8")).not.toContain(container.id);
  expect(readdirSync(node.directories.runRoot)).toContain("berth.sock");
});
