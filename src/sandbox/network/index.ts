/**
 * The node's pod network by CNI plugins: which configuration holds, whether it works, attach and detach. It owns the
 * watch of the configuration directory and no state about pods: attachments stand in the pods' records.
 */

import { monotonicMs } from "../../base/clock.ts";
import { DomainError, describeError } from "../../base/errors.ts";
import type { SandboxId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { backgroundOperation, type Operation } from "../../operation/context.ts";
import type { NetworkReadiness, SandboxConfig } from "../types.ts";
import { attachNetwork } from "./attach.ts";
import type { NetworkAttachment, NetworkPod } from "./attachment.ts";
import { capabilityArgs } from "./capabilities.ts";
import { type NetworkConfigScan, scanNetworkConfig, versionAtLeast } from "./config.ts";
import { detachNetwork } from "./detach.ts";
import { type InvokeDeps, invokePlugin } from "./invoke.ts";
import { checkNetwork, notReady } from "./status.ts";
import { type DirectoryWatch, watchDirectory } from "./watch.ts";

/** The interface in the pod. */
const podInterface = "eth0";
/** STATUS is asked at most this often, and only while somebody asks for the readiness. */
const statusTtlMs = 10_000;
const statusTimeoutMs = 10_000;

export class PodNetwork {
  readonly #deps: InvokeDeps;
  readonly #log: Logger;
  #scan: NetworkConfigScan = { network: null, problems: ["the configuration has not been read yet"], signature: "" };
  #readiness: NetworkReadiness = notReady("the CNI configuration has not been read yet");
  #checkedAtMs = Number.NEGATIVE_INFINITY;
  #refreshing: Promise<void> | null = null;
  #watch: DirectoryWatch | null = null;

  constructor(deps: InvokeDeps & { readonly log: Logger }) {
    this.#deps = deps;
    this.#log = deps.log;
  }

  /** Reads the configuration, then follows it. */
  async start(): Promise<void> {
    await this.refresh();
    this.#watch ??= watchDirectory(this.#deps.config.configDirectory, () => void this.#follow());
  }

  close(): void {
    this.#watch?.close();
    this.#watch = null;
  }

  /** Never waits: the last answer; one that has grown old is renewed behind. */
  readiness(): NetworkReadiness {
    if (this.#watch && monotonicMs() - this.#checkedAtMs > statusTtlMs) void this.refresh();
    return this.#readiness;
  }

  /** Reads the directory again and checks what it finds. Never rejects; callers share a running one. */
  refresh(): Promise<void> {
    return this.#refreshOnce(true);
  }

  /** After an event or with the poll: plugins are asked for their STATUS only where the configuration has changed. */
  #follow(): Promise<void> {
    return this.#refreshOnce(false);
  }

  #refreshOnce(askPlugins: boolean): Promise<void> {
    this.#refreshing ??= this.#refresh(askPlugins).finally(() => {
      this.#refreshing = null;
    });
    return this.#refreshing;
  }

  /** What a pod's ADD will be, before anything happens. Throws unavailable with the reason where there is no network. */
  async plan(op: Operation, config: SandboxConfig, cgroupPath: string): Promise<NetworkAttachment> {
    if (!this.#readiness.ready) await op.race(this.refresh());
    const { network } = this.#scan;
    if (!this.#readiness.ready || !network)
      throw new DomainError("unavailable", `the pod network is not ready: ${this.#readiness.message}`);
    return {
      network: network.name,
      cniVersion: network.cniVersion,
      plugins: network.plugins,
      interfaceName: podInterface,
      capabilityArgs: capabilityArgs(config, cgroupPath),
      result: null,
    };
  }

  attach(op: Operation, pod: NetworkPod, networkNamespace: string, planned: NetworkAttachment): Promise<NetworkAttachment> {
    return attachNetwork(op, this.#deps, pod, networkNamespace, planned);
  }

  detach(op: Operation, pod: NetworkPod, networkNamespace: string, attachment: NetworkAttachment): Promise<void> {
    return detachNetwork(op, this.#deps, pod, networkNamespace, attachment);
  }

  /**
   * For a pod of which nothing but its id is known: DEL by the present configuration. Best effort; nothing to do
   * where there is no configuration.
   */
  async detachUnknown(op: Operation, id: SandboxId, networkNamespace: string): Promise<void> {
    const { network } = this.#scan;
    if (!network) return;
    const pod = { id, name: "", namespace: "", uid: "" };
    const { name, cniVersion, plugins } = network;
    await this.detach(op, pod, networkNamespace, {
      network: name,
      cniVersion,
      plugins,
      interfaceName: podInterface,
      capabilityArgs: {},
      result: null,
    });
  }

  /** GC (since CNI 1.1): plugins give back what belongs to none of these pods. */
  async collectGarbage(op: Operation, valid: readonly { readonly id: SandboxId; readonly attachment: NetworkAttachment }[]): Promise<void> {
    const { network } = this.#scan;
    if (!network || network.disableGc || !versionAtLeast(network.cniVersion, "1.1.0")) return;
    const attachments = valid
      .filter(({ attachment }) => attachment.network === network.name)
      .map(({ id, attachment }) => ({ containerID: id, ifname: attachment.interfaceName }));
    const extra = { "cni.dev/valid-attachments": attachments };
    const { name, cniVersion } = network;
    for (const plugin of network.plugins) {
      try {
        await op.step(`network.gc.${plugin.type}`, () =>
          invokePlugin(op, this.#deps, { command: "GC", network: name, cniVersion, plugin, target: null, extra }),
        );
      } catch (error) {
        this.#log.warn({ plugin: plugin.type, network: name, err: describeError(error) }, "CNI GC failed");
      }
    }
  }

  async #refresh(askPlugins: boolean): Promise<void> {
    const scan = await scanNetworkConfig(this.#deps.config.configDirectory);
    const changed = scan.signature !== this.#scan.signature;
    this.#scan = scan;
    if (!askPlugins && !changed && scan.network && versionAtLeast(scan.network.cniVersion, "1.1.0")) return;
    const op = backgroundOperation("network status", this.#log, statusTimeoutMs);
    let readiness: NetworkReadiness;
    try {
      readiness = await checkNetwork(op, this.#deps, scan);
    } catch (error) {
      readiness = notReady(describeError(error));
    } finally {
      op.dispose();
    }
    this.#checkedAtMs = monotonicMs();
    if (changed || readiness.ready !== this.#readiness.ready || readiness.message !== this.#readiness.message) {
      const fields = { network: scan.network?.name ?? null, source: scan.network?.source ?? null, skipped: scan.problems };
      if (readiness.ready) this.#log.info(fields, "the pod network is ready");
      else this.#log.warn({ ...fields, reason: readiness.message }, "the pod network is not ready");
    }
    this.#readiness = readiness;
  }
}
