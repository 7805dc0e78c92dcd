/** Results of ADD (CNI specification, section 5): the pod's addresses out of 0.3 to 1.1. */
import { isIP } from "node:net";
import { DomainError } from "../../base/errors.ts";
import { isObject, type JsonObject, list, text } from "./json.ts";

/**
 * Addresses of the pod, in the order of the result (the first one is the primary), without prefix length.
 * An address of an interface that is not in the pod's namespace is left out. Throws internal where an
 * address is none.
 */
export function podAddresses(result: JsonObject): string[] {
  const interfaces = list(result["interfaces"]);
  const addresses: string[] = [];
  for (const entry of list(result["ips"])) {
    if (!isObject(entry)) throw malformed("an entry of ips is not an object");
    const index = entry["interface"];
    if (typeof index === "number" && index >= 0) {
      const owner = interfaces[index];
      if (!isObject(owner)) throw malformed(`ips names interface ${index}, which the result does not have`);
      if (text(owner["sandbox"]) === "") continue;
    }
    const address = text(entry["address"]).split("/")[0] ?? "";
    if (isIP(address) === 0) throw malformed(`address ${JSON.stringify(entry["address"] ?? null)} is not an IP address`);
    if (!addresses.includes(address)) addresses.push(address);
  }
  return addresses;
}

function malformed(message: string): DomainError {
  return new DomainError("internal", `the CNI result is malformed: ${message}`);
}
