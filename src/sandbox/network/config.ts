/**
 * CNI network configuration files: `*.conflist` with a list of plugins, `*.conf` and `*.json` with one
 * (CNI specification 1.1, section 1). The first valid file in the order of names is the node's network.
 */
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { DomainError, describeError } from "../../base/errors.ts";
import { isObject, type JsonObject, parseObject, text } from "./json.ts";

/** Versions of the specification that are spoken, oldest first. */
export const supportedVersions: readonly string[] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

export interface NetworkPlugin {
  readonly type: string;
  /** Names of the capabilities that the plugin declares as true. */
  readonly capabilities: readonly string[];
  /** The plugin's object as written, without `capabilities`. */
  readonly conf: JsonObject;
}

export interface NetworkList {
  readonly name: string;
  readonly cniVersion: string;
  readonly disableGc: boolean;
  readonly plugins: readonly NetworkPlugin[];
  /** File it was read from. */
  readonly source: string;
}

export interface NetworkConfigScan {
  /** null where no file is valid. */
  readonly network: NetworkList | null;
  /** Files before the chosen one that cannot be used, or why there is none. */
  readonly problems: readonly string[];
  /** Changes whenever a file appears, goes or is written. */
  readonly signature: string;
}

const maxFileBytes = 1 << 20;
const maxPlugins = 64;
const namePattern = /^[A-Za-z0-9][A-Za-z0-9_.-]*$/;
/** A plugin's type is a file name: nothing that leads out of the plugin directories (CVE-2021-20206). */
const typePattern = /^[A-Za-z0-9_][A-Za-z0-9_.+-]*$/;

/** Compares by numeric parts; both must be dotted numbers. */
export function versionAtLeast(version: string, wanted: string): boolean {
  const [a, b] = [version, wanted].map((text) => text.split(".").map(Number)) as [number[], number[]];
  for (let i = 0; i < 3; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return true;
}

/** Reads the directory. Never throws: what is wrong is a problem. */
export async function scanNetworkConfig(directory: string): Promise<NetworkConfigScan> {
  let names: string[];
  try {
    names = (await readdir(directory)).filter((name) => /\.(conflist|conf|json)$/.test(name)).sort();
  } catch (error) {
    const missing = (error as NodeJS.ErrnoException).code === "ENOENT";
    const problem = missing ? `${directory} does not exist` : `${directory} cannot be read: ${describeError(error)}`;
    return { network: null, problems: [problem], signature: problem };
  }
  const problems: string[] = [];
  let network: NetworkList | null = null;
  const stamps: string[] = [];
  for (const name of names) {
    const path = join(directory, name);
    try {
      const info = await stat(path);
      stamps.push(`${name}:${info.ino}:${info.size}:${info.mtimeMs}`);
      if (network) continue;
      if (!info.isFile()) throw new DomainError("invalid-argument", "it is not a regular file");
      if (info.size > maxFileBytes) throw new DomainError("invalid-argument", `it is larger than ${maxFileBytes} bytes`);
      network = parseNetworkConfig(await readFile(path, "utf8"), path);
    } catch (error) {
      stamps.push(`${name}:?`);
      problems.push(`${path}: ${describeError(error)}`);
    }
  }
  if (!network && problems.length === 0) problems.push(`${directory} has no .conflist, .conf or .json file`);
  return { network, problems, signature: stamps.join("\n") };
}

/** Throws invalid-argument that says what is wrong with the text. */
export function parseNetworkConfig(content: string, source: string): NetworkList {
  const root = parseObject(content);
  if (!root) throw invalid("it is not a JSON object");
  const isList = source.endsWith(".conflist") || "plugins" in root;
  const name = text(root["name"]);
  if (!namePattern.test(name)) throw invalid(`name ${JSON.stringify(root["name"] ?? null)} is not a network name`);
  const plugins = isList ? root["plugins"] : [root];
  if (!Array.isArray(plugins) || plugins.length === 0) throw invalid("it has no plugins");
  if (plugins.length > maxPlugins) throw invalid(`it has more than ${maxPlugins} plugins`);
  return {
    name,
    cniVersion: chooseVersion(root),
    disableGc: isTrue(root["disableGC"]),
    plugins: plugins.map((plugin, index) => parsePlugin(plugin, index, isList)),
    source,
  };
}

/** `cniVersions` (1.1) offers several: the newest one spoken here. */
function chooseVersion(root: JsonObject): string {
  const offered = Array.isArray(root["cniVersions"]) ? root["cniVersions"] : [];
  const all = [root["cniVersion"], ...offered].filter((version): version is string => typeof version === "string");
  const best = supportedVersions.findLast((version) => all.includes(version));
  if (best === undefined) {
    const said = all.length === 0 ? "no cniVersion" : `cniVersion ${all.map((version) => JSON.stringify(version)).join(", ")}`;
    throw invalid(`it has ${said}; supported: ${supportedVersions.join(", ")}`);
  }
  return best;
}

function parsePlugin(plugin: unknown, index: number, isList: boolean): NetworkPlugin {
  const where = isList ? `plugins[${index}]` : "the plugin";
  if (!isObject(plugin)) throw invalid(`${where} is not an object`);
  const type = text(plugin["type"]);
  if (type === "") throw invalid(`${where} has no type`);
  if (!typePattern.test(type)) throw invalid(`${where}: type ${JSON.stringify(type)} is not a file name`);
  const { capabilities, ...conf } = plugin;
  if (capabilities !== undefined && !isObject(capabilities)) throw invalid(`${where}: capabilities is not an object`);
  const declared = Object.entries(isObject(capabilities) ? capabilities : {});
  return { type, capabilities: declared.filter(([, on]) => on === true).map(([key]) => key), conf };
}

/** The specification allows the flags of a list as text, too. */
function isTrue(value: unknown): boolean {
  return value === true || (typeof value === "string" && value.toLowerCase() === "true");
}

function invalid(message: string): DomainError {
  return new DomainError("invalid-argument", message);
}
