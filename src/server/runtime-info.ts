/** Version, Status, RuntimeConfig: what the runtime is and whether it can work. */
import { CgroupDriver, type RuntimeService } from "../../api/cri/service-definition.ts";
import { DomainError } from "../base/errors.ts";
import type { NetworkReadiness } from "../sandbox/types.ts";
import type { Handlers } from "./interceptor.ts";
import { verboseInfo } from "./verbose-info.ts";

export interface HandlerFacts {
  /** As RuntimeClass names it; the default handler is listed under the empty name too, by this file. */
  readonly name: string;
  /** Schedulers trust these: true only where it really works on this host. */
  readonly recursiveReadOnlyMounts: boolean;
  readonly userNamespaces: boolean;
}

/** Filled by the composition root from the configuration, the kernel's features and the domains. */
export interface RuntimeFacts {
  /** Of Berth. */
  readonly version: string;
  /** Constant until reboot: the kubelet lays out its cgroups by it. */
  readonly cgroupDriver: "cgroupfs" | "systemd";
  readonly defaultHandler: string;
  readonly handlers: readonly HandlerFacts[];
  readonly features: {
    readonly supplementalGroupsPolicy: boolean;
    readonly userNamespacesHostNetwork: boolean;
    readonly mountOptions: boolean;
  };
  /** Never waits. `reason` in CamelCase and `message` are empty when ready. */
  runtimeStatus(): NetworkReadiness;
  networkStatus(): NetworkReadiness;
  /** For `Status` with `verbose`: configuration, kernel features, running operations. No secrets. */
  verbose(): Record<string, unknown>;
}

/** The kubelet compares it with the version of its own API: it is not Berth's. */
const kubeletApiVersion = "0.1.0";

type Rpcs = Pick<Handlers<typeof RuntimeService>, "Version" | "Status" | "RuntimeConfig" | "UpdateRuntimeConfig">;

export function runtimeInfoRpcs(facts: RuntimeFacts): Rpcs {
  return {
    Version: {
      handle: () => ({
        version: kubeletApiVersion,
        runtimeName: "berth",
        runtimeVersion: facts.version,
        runtimeApiVersion: "v1",
      }),
    },
    Status: {
      handle: (_op, { verbose }) => ({
        status: { conditions: [condition("RuntimeReady", facts.runtimeStatus()), condition("NetworkReady", facts.networkStatus())] },
        runtimeHandlers: listedHandlers(facts).map(({ name, recursiveReadOnlyMounts, userNamespaces }) => ({
          name,
          features: { recursiveReadOnlyMounts, userNamespaces },
        })),
        features: facts.features,
        info: verbose ? verboseInfo(facts.verbose()) : {},
      }),
    },
    RuntimeConfig: {
      handle: () => ({
        linux: { cgroupDriver: facts.cgroupDriver === "systemd" ? CgroupDriver.SYSTEMD : CgroupDriver.CGROUPFS },
      }),
    },
    UpdateRuntimeConfig: {
      handle: () => {
        throw new DomainError("unimplemented", "UpdateRuntimeConfig is not implemented: addresses are the network plugins' business");
      },
    },
  };
}

/** The default handler under the empty name first, then all by name. */
function listedHandlers({ handlers, defaultHandler }: RuntimeFacts): readonly HandlerFacts[] {
  const named = handlers.find(({ name }) => name === defaultHandler);
  return named === undefined ? handlers : [{ ...named, name: "" }, ...handlers];
}

function condition(type: string, { ready, reason, message }: NetworkReadiness) {
  return { type, status: ready, reason: ready ? reason : reason || `${type.replace("Ready", "")}NotReady`, message };
}
