/**
 * Runs once before the tests that need a whole node: the network namespace that they share, and a registry with the image that
 * most of them use.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { pushPause } from "./containerd.ts";
import { pushBusybox } from "./image-builder.ts";
import { prepareOwnNetwork } from "./own-network.ts";
import { type RunningRegistry, startRegistry } from "./registry.ts";

declare module "vitest" {
  export interface ProvidedContext {
    /** `127.0.0.1:<port>` of a registry with `berth/busybox:1.35`; anonymous, plain HTTP. */
    registryHost: string;
  }
}

let registry: RunningRegistry | null = null;
let directory = "";

export async function setup(project: TestProject): Promise<void> {
  prepareOwnNetwork();
  directory = mkdtempSync(join(tmpdir(), "berth-registry-"));
  mkdirSync(join(directory, "data"));
  registry = await startRegistry({ directory });
  await pushBusybox(registry.host);
  if (process.env["BERTH_TEST_SERVER"] === "containerd") await pushPause(registry.host);
  project.provide("registryHost", registry.host);
}

export async function teardown(): Promise<void> {
  await registry?.stop();
  rmSync(directory, { recursive: true, force: true });
}
