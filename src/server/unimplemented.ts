/** RPCs that are not served yet. UNIMPLEMENTED is an answer that kubelet and crictl know how to work without. */
import type { RuntimeService } from "../../api/cri/service-definition.ts";
import { DomainError } from "../base/errors.ts";
import type { Handlers } from "./interceptor.ts";

const names = [
  "UpdateContainerResources",
  "UpdatePodSandboxResources",
  "PodSandboxStats",
  "ListPodSandboxStats",
  "ListMetricDescriptors",
  "ListPodSandboxMetrics",
  "CheckpointContainer",
  "CheckpointPod",
  "RestorePod",
] as const;

type Rpcs = Pick<Handlers<typeof RuntimeService>, (typeof names)[number]>;

export function unimplementedRpcs(): Rpcs {
  const entries = names.map((name) => [
    name,
    {
      handle: (): never => {
        throw new DomainError("unimplemented", `${name} is not implemented`);
      },
    },
  ]);
  return Object.fromEntries(entries) as Rpcs;
}
