/** `berth config`. */
import { type ConfigSources, loadConfig } from "../config/load.ts";
import { configurationReference, printConfig } from "../config/print.ts";

export function showConfig(sources: ConfigSources, show: { readonly defaults: boolean; readonly reference: boolean }): void {
  if (show.reference) {
    process.stdout.write(`${configurationReference()}\n`);
    return;
  }
  const loaded = loadConfig(show.defaults ? { path: "/nonexistent/berth.toml", required: false, sets: [] } : sources);
  process.stdout.write(printConfig(loaded));
}
