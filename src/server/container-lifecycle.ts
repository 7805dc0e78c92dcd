/** CreateContainer, StartContainer, StopContainer, RemoveContainer, ReopenContainerLog. */
import type { RuntimeService } from "../../api/cri/service-definition.ts";
import type { ContainerService } from "../container/types.ts";
import { containerConfigFromRequest } from "./convert/container.ts";
import { secondsToMs } from "./convert/seconds.ts";
import type { Handlers } from "./interceptor.ts";
import { checkId } from "./validate.ts";

type Rpcs = Pick<
  Handlers<typeof RuntimeService>,
  "CreateContainer" | "StartContainer" | "StopContainer" | "RemoveContainer" | "ReopenContainerLog"
>;

export function containerLifecycleRpcs(containers: ContainerService): Rpcs {
  return {
    CreateContainer: {
      // The sandbox's configuration comes along in `sandbox_config`; the sandbox's own record is the one that counts.
      handle: async (op, { podSandboxId, config }) => {
        const view = await containers.create(op, checkId(podSandboxId, "pod_sandbox_id"), containerConfigFromRequest(config));
        return { containerId: view.id };
      },
    },
    StartContainer: {
      handle: async (op, { containerId }) => {
        await containers.start(op, checkId(containerId, "container_id"));
        return {};
      },
    },
    StopContainer: {
      timeoutMs: ({ timeout }, defaultMs) => defaultMs + secondsToMs(timeout, "timeout"),
      handle: async (op, { containerId, timeout }) => {
        await containers.stop(op, checkId(containerId, "container_id"), secondsToMs(timeout, "timeout"));
        return {};
      },
    },
    RemoveContainer: {
      handle: async (op, { containerId }) => {
        await containers.remove(op, checkId(containerId, "container_id"));
        return {};
      },
    },
    ReopenContainerLog: {
      handle: async (op, { containerId }) => {
        await containers.reopenLog(op, checkId(containerId, "container_id"));
        return {};
      },
    },
  };
}
