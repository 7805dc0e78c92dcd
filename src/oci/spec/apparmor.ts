/** Which AppArmor profile a container's processes run under. */
import { readFile } from "node:fs/promises";
import { DomainError } from "../../base/errors.ts";
import type { Operation } from "../../operation/context.ts";

export interface AppArmorRequest {
  /** null: the default where the kernel has AppArmor and the profile is loaded. */
  readonly profile: { readonly type: "runtime-default" | "unconfined" | "localhost"; readonly localhostRef: string } | null;
  readonly privileged: boolean;
}

export interface AppArmorOptions {
  readonly supported: boolean;
  /** Name of the default profile; empty for none. */
  readonly defaultProfile: string;
  /** Names of the loaded profiles. */
  readonly loaded: () => Promise<ReadonlySet<string>>;
}

/**
 * The profile's name, or null for none. A profile that was asked for by name and is not loaded, or a kernel without
 * AppArmor, is an error and never "unconfined"; the default is left out without one only where nobody asked for it.
 */
export async function decideAppArmor(op: Operation, request: AppArmorRequest, options: AppArmorOptions): Promise<string | null> {
  const { profile, privileged } = request;
  if (profile?.type === "localhost") {
    const name = profile.localhostRef.startsWith("localhost/") ? profile.localhostRef.slice("localhost/".length) : profile.localhostRef;
    if (name === "") throw new DomainError("invalid-argument", "the localhost AppArmor profile has no name");
    if (!options.supported)
      throw new DomainError("invalid-argument", `AppArmor profile ${JSON.stringify(name)} is asked for and the kernel has no AppArmor`);
    if (!(await op.race(options.loaded())).has(name))
      throw new DomainError("invalid-argument", `AppArmor profile ${JSON.stringify(name)} is not loaded`);
    return name;
  }
  if (profile?.type === "unconfined") return options.supported ? "unconfined" : null;
  if (!options.supported || privileged || options.defaultProfile === "") return null;
  const loaded = (await op.race(options.loaded())).has(options.defaultProfile);
  if (loaded) return options.defaultProfile;
  if (profile === null) return null;
  throw new DomainError("failed-precondition", `the default AppArmor profile ${JSON.stringify(options.defaultProfile)} is not loaded`);
}

/** securityfs: one `name (mode)` a line; an unreadable list is an empty one. */
export async function readLoadedProfiles(path = "/sys/kernel/security/apparmor/profiles"): Promise<ReadonlySet<string>> {
  const text = await readFile(path, "utf8").catch(() => "");
  return new Set(text.split("\n").flatMap((line) => (line.includes(" (") ? [line.slice(0, line.lastIndexOf(" ("))] : [])));
}
