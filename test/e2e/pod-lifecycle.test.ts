/** Pod sandboxes: what a kubelet asks for and relies on. */
import { readFileSync, statSync } from "node:fs";
import { connect } from "node:net";
import { hostname } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type NamespaceOptionInput, PodSandboxState, Protocol } from "../../api/cri/service-definition.ts";
import { status, toBigInt } from "../support/cri-client.ts";
import { againstPeer, failure, type Pod, sleep, until, useNode } from "../support/node.ts";
import { hostNetwork } from "../support/workloads.ts";

const node = useNode("pods");

const sharedPid: NamespaceOptionInput = { network: 0, pid: 0, ipc: 0 };
const hostEverything: NamespaceOptionInput = { network: 2, pid: 2, ipc: 2 };
const unknownId = "0123456789abcdef".repeat(4);

async function listIds(filter: Parameters<typeof node.runtime.ListPodSandbox>[0] = {}): Promise<string[]> {
  const { items } = await node.runtime.ListPodSandbox(filter);
  return items.map(({ id }) => id).sort();
}

describe("a pod on the bridge network", () => {
  test("has all required fields, in its status and in the list", async () => {
    const before = BigInt(Date.now()) * 1_000_000n;
    const pod = await node.runPod({ metadata: { name: "web", namespace: "shop", attempt: 3 } });
    const state = await pod.status();
    expect(state.id).toBe(pod.id);
    expect(state.id).toMatch(/^[0-9a-f]{64}$/);
    expect(state.metadata).toEqual({ name: "web", namespace: "shop", uid: pod.config.metadata?.uid, attempt: 3 });
    expect(state.state).toBe(PodSandboxState.SANDBOX_READY);
    const created = toBigInt(state.createdAt);
    expect(created).toBeGreaterThan(before - 1_000_000n);
    expect(created).toBeLessThanOrEqual(BigInt(Date.now() + 1) * 1_000_000n);
    expect(state.linux?.namespaces?.options).toMatchObject({ network: 0, pid: 1, ipc: 0 });
    const { items } = await node.runtime.ListPodSandbox({});
    expect(items).toHaveLength(1);
    expect(items[0]).toMatchObject({ id: pod.id, metadata: state.metadata, state: state.state, createdAt: state.createdAt });
    expect(items[0]?.labels).toEqual(state.labels);
  });

  test("has an address of the network, which answers", async () => {
    const pod = await node.runPod();
    const ip = await pod.ip();
    expect(ip).toMatch(/^10\.251\.\d+\.\d+$/);
    const container = await pod.runContainer(["httpd", "-f", "-p", "80", "-h", "/www"]);
    expect(await page(`http://${ip}/`)).toBe("Hello from Berth\n");
    expect(await container.run("ip", "-o", "addr", "show", "dev", "eth0")).toContain(`inet ${ip}/16`);
    expect(await container.run("ip", "-o", "addr", "show", "dev", "lo")).toContain("inet 127.0.0.1/8");
  });

  test("reaches another pod, and both lose their addresses when they stop", async () => {
    const [server, client] = await Promise.all([node.runPod(), node.runPod()]);
    await server.runContainer(["httpd", "-f", "-p", "80", "-h", "/www"]);
    const ip = await server.ip();
    const container = await client.runContainer(["sleep", "100"]);
    await until("the page is served", async () => (await container.exec(["wget", "-q", "-O", "-", `http://${ip}/`])).exitCode === 0);
    expect(await client.ip()).not.toBe(ip);
    await server.stop();
    const state = await server.status();
    expect(state.state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    expect(state.network?.ip ?? "").toBe("");
  });

  test("has its network namespace pinned under its own id", async () => {
    const pod = await node.runPod();
    if (againstPeer) return;
    const { networkNamespace } = await pod.info();
    expect(networkNamespace).toBe(join(node.directories.namespaces, `berth-${pod.id}`));
    const container = await pod.runContainer(["sleep", "100"]);
    const pinned = statSync(networkNamespace as string);
    expect(pinned.ino).toBe(statSync(`/proc/${await container.pid()}/ns/net`).ino);
    await pod.stop();
    expect(statSync(networkNamespace as string, { throwIfNoEntry: false })).toBeUndefined();
  });
});

describe("a pod on the host's network", () => {
  test("has no address of its own and sees the host's interfaces", async () => {
    const pod = await node.runPod({}, hostNetwork);
    const state = await pod.status();
    expect(state.network?.ip ?? "").toBe("");
    expect(state.linux?.namespaces?.options).toMatchObject({ network: 2 });
    const container = await pod.runContainer(["sleep", "100"]);
    expect(statSync(`/proc/${await containerPid(pod, container)}/ns/net`).ino).toBe(statSync("/proc/self/ns/net").ino);
  });

  test("has the host's name, whatever the request says", async () => {
    const pod = await node.runPod({ hostname: "something-else" }, hostNetwork);
    const container = await pod.runContainer(["sleep", "100"]);
    if (!againstPeer) expect(await container.run("cat", "/etc/hostname")).toBe(`${hostname()}\n`);
    if (!againstPeer) expect(await container.run("hostname")).toBe(`${hostname()}\n`);
    expect(await container.run("cat", "/etc/hosts")).toBe(readFileSync("/etc/hosts", "utf8"));
  });
});

describe("labels and annotations", () => {
  test("return byte for byte", async () => {
    const odd = {
      "": "empty key",
      empty: "",
      " spaces ": "  leading, trailing\t ",
      "line\nbreak": "a\nb\r\nc",
      "quote\"'\\": "\"\\'`$(x){}",
      "control\u0001": "\u0000\u0001\u001b[31m\u007f",
      unicode: "Ürümqi · 漢字 · \u{1F6A2} · e\u0301 · \u00e9 · \u202e · \ufeff",
      "\u{1F6A2}": "key",
      prototype: "p",
      __proto__x: "q",
      constructor: "r",
      long: "x".repeat(100_000),
    };
    const pod = await node.runPod({ labels: odd, annotations: odd });
    const state = await pod.status();
    expect(state.labels).toEqual(odd);
    expect(state.annotations).toEqual(odd);
    const { items } = await node.runtime.ListPodSandbox({});
    expect(items[0]?.labels).toEqual(odd);
    expect(items[0]?.annotations).toEqual(odd);
  });
});

describe("filters", () => {
  test("are exact and combine", async () => {
    const one = await node.runPod({ labels: { app: "a", tier: "x" } }, hostNetwork);
    const two = await node.runPod({ labels: { app: "a", tier: "xy" } }, hostNetwork);
    const three = await node.runPod({ labels: { app: "b" } }, hostNetwork);
    await three.stop();
    const all = [one.id, two.id, three.id].sort();
    expect(await listIds()).toEqual(all);
    expect(await listIds({ filter: {} })).toEqual(all);
    expect(await listIds({ filter: { id: one.id } })).toEqual([one.id]);
    expect(await listIds({ filter: { id: one.id.slice(0, 20) } })).toEqual([one.id]);
    expect(await listIds({ filter: { id: unknownId } })).toEqual([]);
    expect(await listIds({ filter: { labelSelector: { app: "a" } } })).toEqual([one.id, two.id].sort());
    expect(await listIds({ filter: { labelSelector: { app: "a", tier: "x" } } })).toEqual([one.id]);
    expect(await listIds({ filter: { labelSelector: { tier: "" } } })).toEqual([]);
    expect(await listIds({ filter: { labelSelector: { app: "A" } } })).toEqual([]);
    expect(await listIds({ filter: { state: { state: PodSandboxState.SANDBOX_READY } } })).toEqual([one.id, two.id].sort());
    expect(await listIds({ filter: { state: { state: PodSandboxState.SANDBOX_NOTREADY } } })).toEqual([three.id]);
    expect(await listIds({ filter: { id: three.id, state: { state: PodSandboxState.SANDBOX_READY } } })).toEqual([]);
    expect(await listIds({ filter: { state: { state: PodSandboxState.SANDBOX_READY }, labelSelector: { app: "b" } } })).toEqual([]);
  });
});

describe("stop and remove", () => {
  test("succeed as often as they are asked, for unknown ids too", async () => {
    const pod = await node.runPod();
    await pod.stop();
    await pod.stop();
    expect((await pod.status()).state).toBe(PodSandboxState.SANDBOX_NOTREADY);
    await pod.remove();
    await pod.remove();
    await pod.stop();
    await node.runtime.StopPodSandbox({ podSandboxId: unknownId });
    await node.runtime.RemovePodSandbox({ podSandboxId: unknownId });
  });

  test("at the same time are one", async () => {
    const pod = await node.runPod();
    await pod.runContainer(["sleep", "1000"]);
    await Promise.all([pod.stop(), pod.stop(), pod.stop()]);
    await Promise.all([pod.remove(), pod.remove(), pod.stop()]);
    expect(await listIds()).toEqual([]);
  });

  test("of a running pod ends and removes its containers", async () => {
    const pod = await node.runPod();
    await pod.runContainer(["sleep", "1000"]);
    await pod.createContainer(["sleep", "1000"]);
    await pod.remove();
    expect(await listIds()).toEqual([]);
    expect((await node.runtime.ListContainers({})).containers).toEqual([]);
  });

  test("free the name: the same pod can be run again", async () => {
    const pod = await node.runPod();
    await pod.stop();
    await pod.remove();
    const again = await node.runtime.RunPodSandbox({ config: pod.config });
    expect(again.podSandboxId).not.toBe(pod.id);
  });

  test("status of what is not there is NOT_FOUND", async () => {
    const pod = await node.runPod({}, hostNetwork);
    await pod.remove();
    await failure(node.runtime.PodSandboxStatus({ podSandboxId: pod.id }), status.NOT_FOUND, pod.id.slice(0, 12));
    await failure(node.runtime.PodSandboxStatus({ podSandboxId: unknownId }), status.NOT_FOUND);
  });
});

describe("a retry of RunPodSandbox", () => {
  test("with the same request joins the running one", async () => {
    if (againstPeer) return;
    const config = node.podConfig();
    const answers = await Promise.all([1, 2, 3, 4].map(() => node.runtime.RunPodSandbox({ config })));
    expect(new Set(answers.map(({ podSandboxId }) => podSandboxId)).size).toBe(1);
    expect(await listIds()).toEqual([answers[0]?.podSandboxId]);
    expect((await node.runtime.RunPodSandbox({ config })).podSandboxId).toBe(answers[0]?.podSandboxId);
  });

  test("after a deadline gets the pod that was made meanwhile", async () => {
    if (againstPeer) return;
    const config = node.podConfig();
    await failure(node.runtime.RunPodSandbox({ config }, { timeoutMs: 3 }), status.DEADLINE_EXCEEDED);
    const { podSandboxId } = await node.runtime.RunPodSandbox({ config });
    expect(await listIds()).toEqual([podSandboxId]);
  });

  test("with another request under the name of a ready pod is refused by name", async () => {
    if (againstPeer) return;
    const pod = await node.runPod({}, hostNetwork);
    const config = { ...pod.config, labels: { other: "request" } };
    await failure(node.runtime.RunPodSandbox({ config }), status.ALREADY_EXISTS, pod.id.slice(0, 12), pod.config.metadata?.name ?? "");
    expect((await pod.status()).state).toBe(PodSandboxState.SANDBOX_READY);
  });
});

describe("the pod's files", () => {
  test("hostname: the request's, in the kernel and in the file", async () => {
    const pod = await node.runPod({ hostname: "my-host.sub" });
    const container = await pod.runContainer(["sleep", "100"]);
    expect(await container.run("hostname")).toBe("my-host.sub\n");
    expect(await container.run("cat", "/etc/hostname")).toBe("my-host.sub\n");
    expect(await container.run("cat", "/proc/sys/kernel/hostname")).toBe("my-host.sub\n");
  });

  test("resolv.conf: out of the DNS configuration, in its order", async () => {
    const pod = await node.runPod({
      dnsConfig: {
        servers: ["10.96.0.10", "2001:db8::53"],
        searches: ["default.svc.cluster.local", "svc.cluster.local"],
        options: ["ndots:5", "edns0"],
      },
    });
    const container = await pod.runContainer(["sleep", "100"]);
    expect(await container.run("cat", "/etc/resolv.conf")).toBe(
      "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\nnameserver 2001:db8::53\noptions ndots:5 edns0\n"
        .split("\n")
        .sort(byKeyword)
        .join("\n"),
    );
  });

  test("resolv.conf: the host's without a DNS configuration", async () => {
    const pod = await node.runPod();
    const container = await pod.runContainer(["sleep", "100"]);
    expect(await container.run("cat", "/etc/resolv.conf")).toBe(readFileSync("/etc/resolv.conf", "utf8"));
  });

  test("hosts: names the pod with its address", async () => {
    const pod = await node.runPod({ hostname: "named" });
    const container = await pod.runContainer(["sleep", "100"]);
    const hosts = await container.run("cat", "/etc/hosts");
    if (againstPeer) return;
    expect(hosts).toMatch(/^127\.0\.0\.1\s+localhost/m);
    expect(hosts.split("\n").map((line) => line.split(/\s+/))).toContainEqual([await pod.ip(), "named"]);
  });

  test("/dev/shm: shared by the pod's containers, of the configured size", async () => {
    const pod = await node.runPod();
    const [one, two] = [await pod.runContainer(["sleep", "100"]), await pod.runContainer(["sleep", "100"])];
    await one.sh("echo here > /dev/shm/note");
    expect(await two.run("cat", "/dev/shm/note")).toBe("here\n");
    const [, size] = /^tmpfs\s+(\d+)|^shm\s+(\d+)/m.exec(await one.run("df", "-k", "/dev/shm"))?.filter(Boolean) ?? [];
    expect(Number(size)).toBe(64 * 1024);
    expect(await one.run("stat", "-c", "%a", "/dev/shm")).toBe("1777\n");
  });
});

describe("sysctls", () => {
  test("of the pod's own namespaces are set, the host's stay", async () => {
    const before = readFileSync("/proc/sys/net/ipv4/tcp_syncookies", "utf8");
    const pod = await node.runPod({
      linux: {
        ...node.podConfig().linux,
        sysctls: { "net.ipv4.ip_local_port_range": "20000 20999", "net/ipv4/tcp_keepalive_time": "111", "kernel.shm_rmid_forced": "1" },
      },
    });
    const container = await pod.runContainer(["sleep", "100"]);
    expect(await container.sh("cat /proc/sys/net/ipv4/ip_local_port_range")).toMatch(/^20000\s+20999$/m);
    expect(await container.sh("cat /proc/sys/net/ipv4/tcp_keepalive_time /proc/sys/kernel/shm_rmid_forced")).toBe("111\n1\n");
    expect(readFileSync("/proc/sys/net/ipv4/tcp_syncookies", "utf8")).toBe(before);
    if (!againstPeer) expect(await container.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start")).toBe("0\n");
  });

  test.each([
    ["of the host's namespace", { "net.ipv4.ip_forward": "1" }, hostNetwork],
    ["of no namespace", { "kernel.core_pattern": "|/bin/sh" }, undefined],
    ["with a packed value", { "kernel.shm_rmid_forced": "1+kernel.core_pattern=|/x\n" }, undefined],
    ["that leaves its directory", { "net/../kernel/core_pattern": "x" }, undefined],
  ])("%s is refused, naming it", async (_title, sysctls, namespaces) => {
    if (againstPeer) return;
    const pattern = readFileSync("/proc/sys/kernel/core_pattern", "utf8");
    const config = node.podConfig({}, namespaces);
    const run = node.runtime.RunPodSandbox({ config: { ...config, linux: { ...config.linux, sysctls } } });
    await failure(run, status.INVALID_ARGUMENT, "sysctl");
    expect(readFileSync("/proc/sys/kernel/core_pattern", "utf8")).toBe(pattern);
    expect(await listIds()).toEqual([]);
  });
});

describe("port mappings", () => {
  test("lead from the host's addresses to the pod, 127.0.0.1 included, and end with it", async () => {
    const pod = await node.runPod({ portMappings: [{ protocol: Protocol.TCP, containerPort: 80, hostPort: 18080 }] });
    await pod.runContainer(["httpd", "-f", "-p", "80", "-h", "/www"]);
    expect(await page("http://127.0.0.1:18080/")).toBe("Hello from Berth\n");
    const gateway = (await pod.ip()).replace(/\.\d+\.\d+$/, ".0.1");
    expect(await page(`http://${gateway}:18080/`)).toBe("Hello from Berth\n");
    await pod.stop();
    await expect(dial(18080)).rejects.toThrow();
  });

  test("of two pods do not disturb each other", async () => {
    const [one, two] = await Promise.all(
      [18081, 18082].map((hostPort) =>
        node.runPod({ portMappings: [{ protocol: Protocol.TCP, containerPort: 80, hostPort, hostIp: "127.0.0.1" }] }),
      ),
    );
    for (const pod of [one, two]) await pod?.runContainer(["httpd", "-f", "-p", "80", "-h", "/www"]);
    expect(await page("http://127.0.0.1:18082/")).toBe("Hello from Berth\n");
    await one?.remove();
    expect(await page("http://127.0.0.1:18082/")).toBe("Hello from Berth\n");
    await expect(dial(18081)).rejects.toThrow();
  });
});

describe("namespaces", () => {
  const kinds = ["net", "ipc", "uts", "pid", "mnt", "cgroup"] as const;

  test("IPC, network and UTS are the pod's; PID, mounts and cgroup are the container's", async () => {
    const pod = await node.runPod();
    const one = await pod.runContainer(["sleep", "100"]);
    const two = await pod.runContainer(["sleep", "100"]);
    const ids = await Promise.all([one, two].map((container) => namespacesOf(container)));
    const host = Object.fromEntries(kinds.map((kind) => [kind, statSync(`/proc/self/ns/${kind}`).ino]));
    for (const kind of ["net", "ipc", "uts"] as const) {
      expect(ids[0]?.[kind], kind).toBe(ids[1]?.[kind]);
      expect(ids[0]?.[kind], kind).not.toBe(host[kind]);
    }
    for (const kind of againstPeer ? (["pid", "mnt"] as const) : (["pid", "mnt", "cgroup"] as const)) {
      expect(ids[0]?.[kind], kind).not.toBe(ids[1]?.[kind]);
      expect(ids[0]?.[kind], kind).not.toBe(host[kind]);
    }
    expect(await one.sh("cat /proc/1/comm")).toBe("sleep\n");
  });

  test("a shared PID namespace: containers see each other, pid 1 is not theirs", async () => {
    const pod = await node.runPod({}, sharedPid);
    const one = await pod.runContainer(["sleep", "1001"]);
    const two = await pod.runContainer(["sleep", "1002"]);
    const seen = await two.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '");
    expect(seen).toContain("sleep 1001");
    expect(seen).toContain("sleep 1002");
    expect((await namespacesOf(one)).pid).toBe((await namespacesOf(two)).pid);
    expect(await one.sh("cat /proc/1/comm")).not.toBe("sleep\n");
    if (!againstPeer) expect(await one.sh("ls /proc/1/root 2>&1 || true")).not.toMatch(/^(bin|etc|usr)$/m);
    await one.stop();
    expect(await two.sh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")).not.toContain("sleep 1001");
  });

  test("the host's PID and IPC namespaces, where asked for", async () => {
    const pod = await node.runPod({}, hostEverything);
    const container = await pod.runContainer(["sleep", "1003"]);
    const ids = await namespacesOf(container);
    expect(ids.pid).toBe(statSync("/proc/self/ns/pid").ino);
    expect(ids.ipc).toBe(statSync("/proc/self/ns/ipc").ino);
    await container.stop();
    expect(await container.status()).toMatchObject({ exitCode: 137 });
  });

  async function namespacesOf(container: { sh(text: string): Promise<string> }): Promise<Record<(typeof kinds)[number], number>> {
    const lines = await container.sh(`for kind in ${kinds.join(" ")}; do readlink /proc/self/ns/$kind; done`);
    return Object.fromEntries(lines.split("\n").map((line) => [line.split(":")[0] ?? "", Number(/\d+/.exec(line)?.[0])])) as Record<
      (typeof kinds)[number],
      number
    >;
  }
});

test("a pod whose pause process is killed is not ready, and can be removed", async () => {
  if (againstPeer) return;
  const pod = await node.runPod();
  const container = await pod.runContainer(["sleep", "1000"]);
  const { pid } = await pod.info();
  process.kill(pid as number, "SIGKILL");
  await until("the pod is not ready", async () => (await pod.status()).state === PodSandboxState.SANDBOX_NOTREADY);
  expect((await pod.status()).network?.ip ?? "").toBe("");
  await failure(pod.createContainer(["true"]), status.FAILED_PRECONDITION, pod.id.slice(0, 12));
  await pod.remove();
  await failure(container.status(), status.NOT_FOUND);
});

test("20 pods at once", async () => {
  const pods = await Promise.all(Array.from({ length: 20 }, () => node.runPod()));
  const addresses = await Promise.all(pods.map((pod) => pod.ip()));
  expect(new Set(addresses).size).toBe(20);
  await Promise.all(pods.map((pod) => pod.remove()));
  expect(await listIds()).toEqual([]);
});

async function page(url: string): Promise<string> {
  const end = performance.now() + 5000;
  for (;;) {
    try {
      return await (await fetch(url, { signal: AbortSignal.timeout(1000) })).text();
    } catch (error) {
      if (performance.now() > end) throw error;
      await sleep(20);
    }
  }
}

function dial(port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ port, host: "127.0.0.1", timeout: 1000 });
    socket.once("connect", () => {
      socket.destroy();
      resolve();
    });
    socket.once("error", reject);
    socket.once("timeout", () => {
      socket.destroy();
      reject(new Error("timed out"));
    });
  });
}

async function containerPid(pod: Pod, container: { pid(): Promise<number> }): Promise<number> {
  return againstPeer ? Number((await pod.info())["pid"]) : container.pid();
}

function byKeyword(a: string, b: string): number {
  const order = ["nameserver", "search", "options", ""];
  const rank = (line: string): number => order.indexOf(line.split(" ")[0] ?? "");
  return againstPeer
    ? ["search", "nameserver", "options", ""].indexOf(a.split(" ")[0] ?? "") -
        ["search", "nameserver", "options", ""].indexOf(b.split(" ")[0] ?? "")
    : rank(a) - rank(b);
}
