/** `berth version`. */
import { berthVersion } from "../base/version.ts";

export function showVersion(json: boolean): void {
  const fields = { version: berthVersion, cri: "runtime.v1", node: process.version, platform: `${process.platform}/${process.arch}` };
  process.stdout.write(
    json ? `${JSON.stringify(fields)}\n` : `berth ${fields.version} (CRI ${fields.cri}, Node.js ${fields.node}, ${fields.platform})\n`,
  );
}
