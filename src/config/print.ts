/** `berth config`: the effective configuration as TOML that `load.ts` reads back, each key with its explanation and origin. */
import { stringify } from "smol-toml";
import type { LoadedConfig } from "./load.ts";
import { optionSpecs } from "./schema.ts";
import type { BerthConfig } from "./types.ts";

export function printConfig(loaded: LoadedConfig): string {
  const lines: string[] = [];
  let section = "";
  for (const spec of optionSpecs) {
    const dot = spec.key.indexOf(".");
    const table = dot < 0 ? "" : spec.key.slice(0, dot);
    if (table !== section) {
      lines.push("", `[${table}]`);
      section = table;
    }
    const origin = loaded.origins.get(spec.key) ?? "default";
    lines.push(`# ${spec.doc}${origin === "default" ? "" : ` (from ${origin})`}`);
    lines.push(`${spec.key.slice(dot + 1)} = ${inlineToml(valueAt(loaded.config, spec.key))}`);
  }
  return `${lines.join("\n").trimStart()}\n`;
}

/** docs/configuration.md: a table of every key. */
export function configurationReference(): string {
  const rows = optionSpecs.map(
    (spec) =>
      `| \`${spec.key}\` | \`${inlineToml(spec.fallback).replaceAll("|", "\\|")}\` | ${spec.doc}${spec.reloadable ? " Applied on SIGHUP." : ""} |`,
  );
  return ["| key | default | meaning |", "|---|---|---|", ...rows].join("\n");
}

function valueAt(config: BerthConfig, key: string): unknown {
  let value: unknown = config;
  for (const name of key.split(".")) {
    const camel = name.replace(/_([a-z])/g, (_match, letter: string) => letter.toUpperCase());
    value = (value as Record<string, unknown>)[camel];
  }
  return value;
}

function inlineToml(value: unknown): string {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) {
    const entries = Object.entries(value).map(([key, inner]) => `${tomlKey(key)} = ${inlineToml(inner)}`);
    return entries.length === 0 ? "{}" : `{ ${entries.join(", ")} }`;
  }
  return stringify({ value }).trim().slice("value = ".length);
}

function tomlKey(key: string): string {
  return /^[A-Za-z0-9_-]+$/.test(key) ? key : JSON.stringify(key);
}
