/** AppArmor's profiles on containers. Only a kernel that enforces them can tell, as that of the virtual machine (`npm run test:vm`) does. */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { beforeEach, describe, expect, test } from "vitest";
import { type LinuxContainerSecurityContextInput, ProfileType, type SecurityProfileInput } from "../../api/cri/service-definition.ts";
import { status } from "../support/cri-client.ts";
import { failure, type Pod, useNode } from "../support/node.ts";
import { hostNetwork } from "../support/workloads.ts";

const profiles = "/sys/kernel/security/apparmor/profiles";
const enforced = existsSync(profiles);

const node = useNode("apparmor");
beforeEach((context) => {
  if (!enforced) context.skip("this kernel does not enforce AppArmor");
});

const runtimeDefault = { profileType: ProfileType.RuntimeDefault, localhostRef: "" };
const unconfined = { profileType: ProfileType.Unconfined, localhostRef: "" };
const localhost = (name: string): SecurityProfileInput => ({ profileType: ProfileType.Localhost, localhostRef: name });

/** All that stands beside AppArmor taken away, so that nothing else can deny what the profile is to deny. */
const bare: LinuxContainerSecurityContextInput = { maskedPaths: [], readonlyPaths: [], seccomp: unconfined };

const tell = (pod: Pod, script: string, security: LinuxContainerSecurityContextInput): Promise<string> =>
  pod.script(script, {}, security).then(({ stdout, stderr }) => stdout + stderr);

function parse(text: string): void {
  execFileSync("apparmor_parser", ["--replace", "--skip-cache", "--quiet"], { input: text, stdio: ["pipe", "inherit", "inherit"] });
}

describe("the default profile", () => {
  test("is loaded and enforced", () => {
    expect(readFileSync(profiles, "utf8")).toMatch(/^berth-default \(enforce\)$/m);
  });

  test("is what a container and its execs run under", async () => {
    const pod = await node.runPod({}, hostNetwork);
    for (const apparmor of [undefined, runtimeDefault]) {
      const container = await pod.runContainer(["sleep", "1000"], {}, { apparmor });
      expect(readFileSync(`/proc/${await container.pid()}/attr/apparmor/current`, "utf8")).toBe("berth-default (enforce)\n");
      expect(await container.run("cat", "/proc/self/attr/apparmor/current")).toBe("berth-default (enforce)\n");
    }
  });

  test("denies writes to the kernel's files that nothing else protects", async () => {
    const pod = await node.runPod({}, hostNetwork);
    // What is there already is written again.
    const script = "v=$(cat /proc/sys/vm/overcommit_memory); (echo $v > /proc/sys/vm/overcommit_memory) 2>&1 && echo written";
    expect(await tell(pod, script, { ...bare, apparmor: unconfined })).toBe("written\n");
    expect(await tell(pod, script, { ...bare, apparmor: runtimeDefault })).toMatch(/Permission denied/);
  });

  test("leaves a container its own files, its processes and System V's limits", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const script = `set -e
      echo x > /file; chmod 700 /file; mkdir /d; mv /file /d/; ln -s /d /l; rm -r /d
      echo 500 > /proc/self/oom_score_adj
      cat /proc/sys/kernel/shmmax > /tmp/shmmax; cat /tmp/shmmax > /proc/sys/kernel/shmmax
      sleep 100 & kill $!; wait $! || true
      echo all`;
    expect(await tell(pod, script, { ...bare, apparmor: runtimeDefault })).toBe("all\n");
  });

  test("denies mounts also with SYS_ADMIN", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const script = "mount -t tmpfs none /mnt 2>&1 && echo mounted";
    const capabilities = { addCapabilities: ["SYS_ADMIN"], dropCapabilities: [] };
    expect(await tell(pod, `mkdir -p /mnt; ${script}`, { ...bare, capabilities, apparmor: unconfined })).toBe("mounted\n");
    expect(await tell(pod, `mkdir -p /mnt; ${script}`, { ...bare, capabilities, apparmor: runtimeDefault })).toMatch(
      /[Pp]ermission denied/,
    );
  });

  test("lets the daemon end a container", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const script = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    const container = await pod.runContainer(["sh", "-c", script], {}, { apparmor: runtimeDefault });
    await container.logged(/ready/);
    await container.stop(60);
    expect(await container.status()).toMatchObject({ exitCode: 3 });
  });

  test("is not put on a privileged container", async () => {
    const pod = await node.runPod({ linux: { securityContext: { privileged: true, namespaceOptions: hostNetwork } } });
    const container = await pod.runContainer(["sleep", "1000"], {}, { privileged: true });
    expect(await container.run("cat", "/proc/self/attr/apparmor/current")).toBe("unconfined\n");
  });
});

describe("a profile of the host", () => {
  test("is enforced by its name", async () => {
    const name = `berth-test-${process.pid}`;
    parse(`profile ${name} flags=(attach_disconnected) {\n  file,\n  capability,\n  signal,\n  deny /secret/** w,\n}\n`);
    try {
      const pod = await node.runPod({}, hostNetwork);
      const script = "mkdir /secret; (echo x > /secret/a) 2>&1; echo x > /other && echo written";
      expect(await tell(pod, script, { apparmor: localhost(name) })).toMatch(/secret\/a: Permission denied\nwritten\n$/);
      expect(await tell(pod, script, { apparmor: runtimeDefault })).toBe("written\n");
      await node.empty();
    } finally {
      execFileSync("apparmor_parser", ["--remove", "--quiet"], { input: `profile ${name} {}\n` });
    }
  });

  test("that is not loaded is refused, never replaced by none", async () => {
    const pod = await node.runPod({}, hostNetwork);
    for (const name of ["berth-test-absent", ""]) {
      await failure(pod.createContainer(["true"], {}, { apparmor: localhost(name) }), status.INVALID_ARGUMENT);
    }
  });
});
