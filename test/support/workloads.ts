/** Requests as a kubelet would send them, with what a test wants changed. */
import type {
  ContainerConfigInput,
  LinuxContainerSecurityContextInput,
  NamespaceOptionInput,
  PodSandboxConfigInput,
} from "../../api/cri/service-definition.ts";
import { NamespaceMode } from "../../api/cri/service-definition.ts";
import type { NodeDirectories } from "./daemon.ts";

let counter = 0;

/** Names and uids that no other pod of this run has. */
export function podConfig(
  directories: NodeDirectories,
  changes: PodSandboxConfigInput = {},
  namespaces: NamespaceOptionInput = { network: NamespaceMode.POD, pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.POD },
): PodSandboxConfigInput {
  counter += 1;
  const name = changes.metadata?.name ?? `pod-${counter}`;
  const uid = changes.metadata?.uid ?? `uid-${process.pid}-${counter}`;
  return {
    metadata: { name, uid, namespace: "default", attempt: 0, ...changes.metadata },
    // As the kubelet: a pod on the host's network is named by the host.
    hostname: namespaces.network === NamespaceMode.NODE ? "" : name,
    logDirectory: `${directories.logs}/default_${name}_${uid}`,
    labels: { "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": uid },
    linux: { cgroupParent: `${directories.cgroupParent}/pod${uid}`, securityContext: { namespaceOptions: namespaces } },
    ...without(changes, "metadata"),
  };
}

export const hostNetwork: NamespaceOptionInput = { network: NamespaceMode.NODE, pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.POD };

export function containerConfig(
  name: string,
  image: string,
  command: readonly string[],
  changes: ContainerConfigInput = {},
  security: LinuxContainerSecurityContextInput = {},
): ContainerConfigInput {
  return {
    metadata: { name, attempt: 0 },
    image: { image, userSpecifiedImage: image },
    command,
    logPath: `${name}/0.log`,
    labels: { "io.kubernetes.container.name": name },
    annotations: { "io.kubernetes.container.restartCount": "0" },
    ...changes,
    linux: {
      ...changes.linux,
      securityContext: {
        namespaceOptions: { network: NamespaceMode.POD, pid: NamespaceMode.CONTAINER, ipc: NamespaceMode.POD },
        maskedPaths: kubeletMaskedPaths,
        readonlyPaths: kubeletReadonlyPaths,
        ...security,
      },
    },
  };
}

/** What the kubelet sends with procMount Default. */
export const kubeletMaskedPaths: readonly string[] = [
  "/proc/asound",
  "/proc/acpi",
  "/proc/interrupts",
  "/proc/kcore",
  "/proc/keys",
  "/proc/latency_stats",
  "/proc/timer_list",
  "/proc/timer_stats",
  "/proc/sched_debug",
  "/proc/scsi",
  "/sys/firmware",
  "/sys/devices/virtual/powercap",
];
export const kubeletReadonlyPaths: readonly string[] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

function without<T extends object, K extends keyof T>(value: T, key: K): Omit<T, K> {
  const { [key]: _left, ...rest } = value;
  return rest;
}
