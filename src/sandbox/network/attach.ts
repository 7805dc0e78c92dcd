/** ADD: the plugins in their order, each one's result is the next one's prevResult. Loopback is the core's. */
import { DomainError } from "../../base/errors.ts";
import type { Operation } from "../../operation/context.ts";
import type { NetworkAttachment, NetworkPod } from "./attachment.ts";
import type { NetworkPlugin } from "./config.ts";
import { type InvokeDeps, invokePlugin } from "./invoke.ts";
import type { JsonObject, JsonValue } from "./json.ts";
import { podAddresses } from "./result.ts";

/** The complete attachment. Whatever it throws, DEL of the planned attachment undoes it. */
export async function attachNetwork(
  op: Operation,
  deps: InvokeDeps,
  pod: NetworkPod,
  networkNamespace: string,
  planned: NetworkAttachment,
): Promise<NetworkAttachment> {
  const { network, cniVersion, interfaceName, capabilityArgs } = planned;
  let result: JsonObject | null = null;
  for (const plugin of planned.plugins) {
    const extra: JsonObject = { ...runtimeConfig(plugin, capabilityArgs), ...(result === null ? {} : { prevResult: result }) };
    const target = { pod, networkNamespace, interfaceName };
    result = await op.step(`network.add.${plugin.type}`, () =>
      invokePlugin(op, deps, { command: "ADD", network, cniVersion, plugin, target, extra }),
    );
    if (result === null)
      throw new DomainError(
        "internal",
        `CNI plugin ${JSON.stringify(plugin.type)} (network ${JSON.stringify(network)}) ADD gave no result`,
      );
  }
  const attached = { ...planned, result };
  // A result that cannot be read is a failed ADD, and undone like one.
  podAddresses(result ?? {});
  return attached;
}

/** What the plugin declares and the pod has. */
export function runtimeConfig(plugin: NetworkPlugin, args: JsonObject): JsonObject {
  const chosen: Record<string, JsonValue> = {};
  for (const name of plugin.capabilities) {
    const value = args[name];
    if (value !== undefined) chosen[name] = value;
  }
  return Object.keys(chosen).length === 0 ? {} : { runtimeConfig: chosen };
}
