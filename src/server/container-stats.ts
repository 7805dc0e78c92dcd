/** ContainerStats and ListContainerStats. */
import type { RuntimeService } from "../../api/cri/service-definition.ts";
import type { ContainerService } from "../container/types.ts";
import { containerFilterFromRequest } from "./convert/container.ts";
import { containerStatsToWire } from "./convert/stats.ts";
import type { Handlers } from "./interceptor.ts";
import { checkId } from "./validate.ts";

type Rpcs = Pick<Handlers<typeof RuntimeService>, "ContainerStats" | "ListContainerStats">;

export function containerStatsRpcs(containers: ContainerService): Rpcs {
  return {
    ContainerStats: {
      handle: async (op, { containerId }) => ({
        stats: containerStatsToWire(await containers.stats(op, checkId(containerId, "container_id"))),
      }),
    },
    ListContainerStats: {
      handle: async (op, { filter }) => ({
        stats: (await containers.listStats(op, containerFilterFromRequest(filter))).map(containerStatsToWire),
      }),
    },
  };
}
