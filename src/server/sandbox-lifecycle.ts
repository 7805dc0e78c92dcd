/** RunPodSandbox, StopPodSandbox, RemovePodSandbox. */
import type { RuntimeService } from "../../api/cri/service-definition.ts";
import type { SandboxService } from "../sandbox/types.ts";
import { sandboxConfigFromRequest } from "./convert/sandbox.ts";
import type { Handlers } from "./interceptor.ts";
import { checkId } from "./validate.ts";

type Rpcs = Pick<Handlers<typeof RuntimeService>, "RunPodSandbox" | "StopPodSandbox" | "RemovePodSandbox">;

export function sandboxLifecycleRpcs(sandboxes: SandboxService): Rpcs {
  return {
    RunPodSandbox: {
      // The kubelet gives it twice the time of other calls.
      timeoutMs: (_request, defaultMs) => 2 * defaultMs,
      handle: async (op, { config, runtimeHandler }) => {
        const view = await sandboxes.run(op, sandboxConfigFromRequest(config, runtimeHandler));
        return { podSandboxId: view.id };
      },
    },
    StopPodSandbox: {
      handle: async (op, { podSandboxId }) => {
        await sandboxes.stop(op, checkId(podSandboxId, "pod_sandbox_id"));
        return {};
      },
    },
    RemovePodSandbox: {
      handle: async (op, { podSandboxId }) => {
        await sandboxes.remove(op, checkId(podSandboxId, "pod_sandbox_id"));
        return {};
      },
    },
  };
}
