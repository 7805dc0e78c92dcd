/** Signal names of the domain (`SIGTERM`, `SIGRTMIN+3`, `SIGRTMAX-2`) and of the wire (`SIGNAL_SIGRTMINPLUS3`). */
import { Signal } from "../../../api/cri/service-definition.ts";
import { invalid } from "../validate.ts";

const numberOf = new Map<string, number>();
const nameOf = new Map<number, string>();
for (const [key, value] of Object.entries(Signal)) {
  const name = value === Signal.SIGNAL_RUNTIME_DEFAULT ? "" : key.slice("SIGNAL_".length).replace("PLUS", "+").replace("MINUS", "-");
  numberOf.set(name, value);
  nameOf.set(value, name);
}

/** Empty for the runtime's default. */
export function signalName(value: number, field: string): string {
  const name = nameOf.get(value);
  if (name === undefined) throw invalid(field, `is no known signal: ${value}`);
  return name;
}

/** What the wire has no word for is its default. */
export function signalNumber(name: string): number {
  return numberOf.get(name) ?? Signal.SIGNAL_RUNTIME_DEFAULT;
}
