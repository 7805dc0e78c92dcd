/** Whether pods can get a network: a valid configuration, its plugins' programs, and (since CNI 1.1) their STATUS. */
import { describeError } from "../../base/errors.ts";
import type { Operation } from "../../operation/context.ts";
import type { NetworkReadiness } from "../types.ts";
import { type NetworkConfigScan, type NetworkList, versionAtLeast } from "./config.ts";
import { findPlugin, type InvokeDeps, invokePlugin } from "./invoke.ts";

export const ready: NetworkReadiness = { ready: true, reason: "", message: "" };

export function notReady(message: string): NetworkReadiness {
  return { ready: false, reason: "NetworkPluginNotReady", message };
}

export async function checkNetwork(op: Operation, deps: InvokeDeps, scan: NetworkConfigScan): Promise<NetworkReadiness> {
  const { network } = scan;
  if (!network) return notReady(`no CNI network configuration: ${scan.problems.join("; ")}`);
  const missing = await missingPlugin(deps, network);
  if (missing !== null) {
    const places = deps.config.pluginDirectories.join(", ");
    return notReady(`${network.source}: the program of CNI plugin ${JSON.stringify(missing)} is in none of ${places}`);
  }
  if (!versionAtLeast(network.cniVersion, "1.1.0")) return ready;
  for (const plugin of network.plugins) {
    try {
      const { name, cniVersion } = network;
      await invokePlugin(op, deps, { command: "STATUS", network: name, cniVersion, plugin, target: null, extra: {} });
    } catch (error) {
      return notReady(`${network.source}: ${describeError(error)}`);
    }
  }
  return ready;
}

/** The IPAM plugin is run by its main plugin and is missed only then: look for it, too. */
async function missingPlugin(deps: InvokeDeps, network: NetworkList): Promise<string | null> {
  for (const { type, conf } of network.plugins) {
    const ipam = conf["ipam"];
    const ipamType = typeof ipam === "object" && ipam !== null && "type" in ipam ? ipam["type"] : undefined;
    for (const name of [type, ipamType]) {
      if (typeof name !== "string" || name === "") continue;
      if (name.includes("/") || (await findPlugin(deps.config.pluginDirectories, name)) === null) return name;
    }
  }
  return null;
}
