import { status } from "@grpc/grpc-js";
import { describe, expect, test } from "vitest";
import { containerId, sandboxId, startFakeServer } from "./fake-services.ts";

const sandboxConfig = { metadata: { name: "pod", uid: "uid", namespace: "default", attempt: 0 }, linux: { securityContext: {} } };
const containerConfig = { metadata: { name: "web", attempt: 0 }, image: { image: "image:latest" } };

async function withContainer(start = true) {
  const rig = await startFakeServer();
  await rig.client.runtime.RunPodSandbox({ config: sandboxConfig });
  await rig.client.runtime.CreateContainer({ podSandboxId: sandboxId, config: containerConfig, sandboxConfig });
  if (start) await rig.client.runtime.StartContainer({ containerId });
  return rig;
}

describe("Exec, Attach and PortForward", () => {
  test("answer with a URL, and pass on what was asked for", async () => {
    const { client, streams } = await withContainer();
    const exec = await client.runtime.Exec({ containerId, cmd: ["sh", "-c", "true"], stdin: true, stdout: true, stderr: true });
    expect(exec.url).toBe("http://127.0.0.1:1/exec/1");
    expect((await client.runtime.Attach({ containerId, tty: true, stdin: true, stdout: true })).url).toContain("/attach/2");
    expect((await client.runtime.PortForward({ podSandboxId: sandboxId, port: [80] })).url).toContain("/portforward/3");
    expect(streams).toEqual([
      { containerId, command: ["sh", "-c", "true"], terminal: false, stdin: true, stdout: true, stderr: true },
      { containerId, terminal: true, stdin: true, stdout: true, stderr: false },
      { sandboxId },
    ]);
  });

  test.each([
    ["no command", { cmd: [], stdout: true }],
    ["an empty command word with NUL", { cmd: ["a\0b"], stdout: true }],
    ["no stream", { cmd: ["true"] }],
    ["a terminal with stderr", { cmd: ["true"], tty: true, stdout: true, stderr: true }],
  ])("refuse %s", async (_name, request) => {
    const { client, streams } = await withContainer();
    await expect(client.runtime.Exec({ containerId, ...request })).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    expect(streams).toEqual([]);
  });

  test("refuse an attach without streams, or with a terminal and stderr", async () => {
    const { client } = await withContainer();
    await expect(client.runtime.Attach({ containerId })).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
    await expect(client.runtime.Attach({ containerId, tty: true, stderr: true })).rejects.toMatchObject({ code: status.INVALID_ARGUMENT });
  });

  test("need what they are about to be there and running", async () => {
    const { client } = await withContainer(false);
    const unknown = "f".repeat(64);
    await expect(client.runtime.Exec({ containerId: unknown, cmd: ["true"], stdout: true })).rejects.toMatchObject({
      code: status.NOT_FOUND,
    });
    await expect(client.runtime.Attach({ containerId: unknown, stdout: true })).rejects.toMatchObject({ code: status.NOT_FOUND });
    await expect(client.runtime.PortForward({ podSandboxId: unknown })).rejects.toMatchObject({ code: status.NOT_FOUND });
    await expect(client.runtime.Exec({ containerId, cmd: ["true"], stdout: true })).rejects.toMatchObject({
      code: status.FAILED_PRECONDITION,
    });
    await expect(client.runtime.Attach({ containerId, stdout: true })).rejects.toMatchObject({ code: status.FAILED_PRECONDITION });
    await client.runtime.StopPodSandbox({ podSandboxId: sandboxId });
    await expect(client.runtime.PortForward({ podSandboxId: sandboxId })).rejects.toMatchObject({ code: status.FAILED_PRECONDITION });
  });
});
