/**
 * DEL: the plugins in reverse, with what ADD was given and what it gave. All are asked, even after one has failed: each
 * gives back something of its own, and DEL may be repeated (CNI specification, section 2).
 */
import { statfs } from "node:fs/promises";
import { DomainError, describeError, errorKind } from "../../base/errors.ts";
import type { Operation } from "../../operation/context.ts";
import { runtimeConfig } from "./attach.ts";
import type { NetworkAttachment, NetworkPod } from "./attachment.ts";
import { versionAtLeast } from "./config.ts";
import { type InvokeDeps, invokePlugin } from "./invoke.ts";

const nsfsMagic = 0x6e736673;
const procfsMagic = 0x9fa0;

/** Throws where a plugin failed; the attachment must then be kept and DEL repeated. */
export async function detachNetwork(
  op: Operation,
  deps: InvokeDeps,
  pod: NetworkPod,
  networkNamespace: string,
  attachment: NetworkAttachment,
): Promise<void> {
  const { network, cniVersion, interfaceName, capabilityArgs, result } = attachment;
  const target = { pod, networkNamespace: (await isNamespace(networkNamespace)) ? networkNamespace : "", interfaceName };
  // DEL knows prevResult since 0.4.0.
  const previous = result !== null && versionAtLeast(cniVersion, "0.4.0") ? { prevResult: result } : {};
  const failures: unknown[] = [];
  for (const plugin of [...attachment.plugins].reverse()) {
    const extra = { ...runtimeConfig(plugin, capabilityArgs), ...previous };
    try {
      await op.step(`network.del.${plugin.type}`, () =>
        invokePlugin(op, deps, { command: "DEL", network, cniVersion, plugin, target, extra }),
      );
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw new DomainError(errorKind(failures[0]), failures.map(describeError).join("; "), { cause: failures[0] });
}

/**
 * False where the namespace is gone: after a reboot, or with a file that nothing is mounted on any more. Plugins are then
 * called with an empty CNI_NETNS and give back what they hold elsewhere.
 */
async function isNamespace(path: string): Promise<boolean> {
  if (path === "") return false;
  try {
    const { type } = await statfs(path);
    return type === nsfsMagic || type === procfsMagic;
  } catch {
    return false;
  }
}
