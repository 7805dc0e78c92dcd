/** PodSandboxStatus and ListPodSandbox. They read what is in memory and never wait. */
import { encodeMessage, PodSandboxStatusResponse, type RuntimeService } from "../../api/cri/service-definition.ts";
import { nowNs } from "../base/clock.ts";
import type { ContainerService } from "../container/types.ts";
import type { SandboxService } from "../sandbox/types.ts";
import { encodeContainerStatusOfSandbox } from "./convert/container.ts";
import { int64FromBigInt } from "./convert/int64.ts";
import { encodeSandboxItem, encodeSandboxStatus, sandboxFilterFromRequest, sandboxInfo } from "./convert/sandbox.ts";
import { encodeList } from "./encoded-items.ts";
import type { Handlers } from "./interceptor.ts";
import { checkId } from "./validate.ts";
import { verboseInfo } from "./verbose-info.ts";

type Rpcs = Pick<Handlers<typeof RuntimeService>, "PodSandboxStatus" | "ListPodSandbox">;

export function sandboxReadRpcs(sandboxes: SandboxService, containers: ContainerService): Rpcs {
  return {
    PodSandboxStatus: {
      handle: (_op, { podSandboxId, verbose }) => {
        const view = sandboxes.get(checkId(podSandboxId, "pod_sandbox_id"));
        const inside = containers.list({ id: null, state: null, sandboxId: view.id, labels: {} });
        // One message in parts: the cached ones, and what belongs to this answer alone.
        return Buffer.concat([
          encodeSandboxStatus(view),
          ...inside.map(encodeContainerStatusOfSandbox),
          encodeMessage(PodSandboxStatusResponse, {
            timestamp: int64FromBigInt(nowNs()),
            info: verbose ? verboseInfo(sandboxInfo(view)) : {},
          }),
        ]);
      },
    },
    ListPodSandbox: {
      handle: (_op, { filter }) => encodeList(sandboxes.list(sandboxFilterFromRequest(filter)), encodeSandboxItem),
    },
  };
}
