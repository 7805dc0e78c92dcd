/** The container's environment: made from nothing but the image, the request and a few defaults. */
import { DomainError } from "../../base/errors.ts";
import { assertPlainField } from "./command.ts";

export const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

export interface EnvironmentInput {
  /** `KEY=value` of the image. */
  readonly image: readonly string[];
  readonly requested: readonly { readonly key: string; readonly value: string }[];
  /** Home directory of the user. */
  readonly home: string;
  readonly hostname: string;
  readonly tty: boolean;
}

export interface Environment {
  readonly env: readonly string[];
  /** Entries of the image that are no variables and were left out. */
  readonly dropped: readonly string[];
}

/**
 * Image first, then the request, a later value in the place of an earlier one. An entry without `=` or with an empty name
 * would mean "inherit it" to some programs: the image's are left out (an image is what it is), the request's are refused.
 */
export function buildEnvironment(input: EnvironmentInput): Environment {
  const variables = new Map<string, string>();
  const dropped: string[] = [];
  for (const entry of input.image) {
    const at = entry.indexOf("=");
    if (at <= 0 || entry.includes("\0")) dropped.push(entry);
    else variables.set(entry.slice(0, at), entry.slice(at + 1));
  }
  for (const { key, value } of input.requested) {
    if (key === "" || /[=\0]/.test(key))
      throw new DomainError("invalid-argument", `environment variable name ${JSON.stringify(key)} is empty or contains "=" or NUL`);
    if (value.includes("\0")) throw new DomainError("invalid-argument", `environment variable ${JSON.stringify(key)} contains a NUL`);
    variables.set(key, value);
  }
  if (!variables.has("PATH")) variables.set("PATH", defaultPath);
  if (!variables.has("HOSTNAME") && input.hostname !== "") variables.set("HOSTNAME", input.hostname);
  if (input.tty && !variables.has("TERM")) variables.set("TERM", "xterm");
  if (!variables.has("HOME")) variables.set("HOME", input.home);
  assertPlainField("HOME", variables.get("HOME") ?? "");
  return { env: [...variables].map(([key, value]) => `${key}=${value}`), dropped };
}
