/** ContainerStatus and ListContainers. They read what is in memory and never wait. */
import { ContainerStatusResponse, encodeMessage, type RuntimeService } from "../../api/cri/service-definition.ts";
import type { ContainerService } from "../container/types.ts";
import { containerFilterFromRequest, containerInfo, encodeContainerItem, encodeContainerStatus } from "./convert/container.ts";
import { encodeList } from "./encoded-items.ts";
import type { Handlers } from "./interceptor.ts";
import { checkId } from "./validate.ts";
import { verboseInfo } from "./verbose-info.ts";

type Rpcs = Pick<Handlers<typeof RuntimeService>, "ContainerStatus" | "ListContainers">;

export function containerReadRpcs(containers: ContainerService): Rpcs {
  return {
    ContainerStatus: {
      handle: (_op, { containerId, verbose }) => {
        const view = containers.get(checkId(containerId, "container_id"));
        const status = encodeContainerStatus(view);
        if (!verbose) return status;
        return Buffer.concat([status, encodeMessage(ContainerStatusResponse, { info: verboseInfo(containerInfo(view)) })]);
      },
    },
    ListContainers: {
      handle: (_op, { filter }) => encodeList(containers.list(containerFilterFromRequest(filter)), encodeContainerItem),
    },
  };
}
