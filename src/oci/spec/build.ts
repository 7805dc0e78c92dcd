/**
 * config.json (runtime-spec 1.3) out of decisions that are already made: pure, and the same for every handler. The seccomp
 * object comes as text: it is the largest part by far, the same for most containers, and is spliced in rather than
 * serialised anew.
 */
import type { RuntimeSpec, SpecCapabilities, SpecDevice, SpecMount, SpecNamespace, SpecResources, SpecRlimit } from "./runtime-spec.ts";

export const ociVersion = "1.3.0";

export interface SpecInput {
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  readonly terminal: boolean;
  readonly user: { readonly uid: number; readonly gid: number; readonly groups: readonly number[] };
  readonly capabilities: SpecCapabilities;
  readonly rlimits: readonly SpecRlimit[];
  readonly noNewPrivileges: boolean;
  readonly oomScoreAdj: number;
  /** null for none. */
  readonly apparmorProfile: string | null;
  readonly readOnlyRootfs: boolean;
  readonly mounts: readonly SpecMount[];
  readonly namespaces: readonly SpecNamespace[];
  /** Absolute below the hierarchies' mounts. */
  readonly cgroupsPath: string;
  readonly resources: SpecResources;
  readonly devices: readonly SpecDevice[];
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  readonly annotations: Readonly<Record<string, string>>;
}

export function buildSpec(input: SpecInput): RuntimeSpec {
  return {
    ociVersion,
    process: {
      terminal: input.terminal,
      user: { uid: input.user.uid, gid: input.user.gid, additionalGids: input.user.groups },
      args: input.args,
      env: input.env,
      cwd: input.cwd,
      capabilities: input.capabilities,
      rlimits: input.rlimits,
      noNewPrivileges: input.noNewPrivileges,
      oomScoreAdj: input.oomScoreAdj,
      ...(input.apparmorProfile === null ? {} : { apparmorProfile: input.apparmorProfile }),
    },
    root: { path: "rootfs", readonly: input.readOnlyRootfs },
    mounts: input.mounts,
    annotations: input.annotations,
    linux: {
      namespaces: input.namespaces,
      cgroupsPath: input.cgroupsPath,
      resources: input.resources,
      devices: input.devices,
      maskedPaths: input.maskedPaths,
      readonlyPaths: input.readonlyPaths,
      // A mount that asks for propagation from or to the host needs a root that lets it through.
      rootfsPropagation: rootPropagation(input.mounts),
    },
  };
}

/** The text of config.json. `seccompJson` is null for no filter. */
export function serializeSpec(spec: RuntimeSpec, seccompJson: string | null): string {
  const text = JSON.stringify(spec);
  if (seccompJson === null) return text;
  // `linux` is the last key of the object and is itself an object with keys.
  return `${text.slice(0, -2)},"seccomp":${seccompJson}}}`;
}

function rootPropagation(mounts: readonly SpecMount[]): string {
  if (mounts.some(({ options }) => options.includes("rshared"))) return "rshared";
  return mounts.some(({ options }) => options.includes("rslave")) ? "rslave" : "rprivate";
}
