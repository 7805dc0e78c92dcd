/** Containers: request → domain, domain → wire. */
import {
  type ContainerInput,
  type ContainerStatusInput,
  ContainerStatusResponse,
  type ImageSpecInput,
  type KeyValue,
  type LinuxContainerSecurityContext,
  ListContainersResponse,
  type Mount,
  type MountInput,
  PodSandboxStatusResponse,
  type ContainerConfig as WireConfig,
  type ContainerFilter as WireFilter,
  MountPropagation as WirePropagation,
  ContainerState as WireState,
} from "../../../api/cri/service-definition.ts";
import type {
  ContainerConfig,
  ContainerDevice,
  ContainerFilter,
  ContainerMount,
  ContainerSecurity,
  ContainerState,
  ContainerView,
  MountPropagation,
} from "../../container/types.ts";
import { itemEncoder } from "../encoded-items.ts";
import { checkAbsolutePath, checkLogPath, checkName, checkNoNul, invalid, nonEmpty, quote, required } from "../validate.ts";
import { int64FromBigInt } from "./int64.ts";
import { resourcesFromRequest, resourcesToWire } from "./resources.ts";
import {
  groupsPolicyFromRequest,
  idFromRequest,
  namespacesFromRequest,
  optionalIdFromRequest,
  profileFromRequest,
  securityContextJson,
} from "./security.ts";
import { signalName, signalNumber } from "./signal.ts";

export function containerConfigFromRequest(given: WireConfig | null): ContainerConfig {
  const config = required(given, "config");
  const metadata = required(config.metadata, "config.metadata");
  const image = required(config.image, "config.image");
  return {
    metadata: { name: checkName(metadata.name, "config.metadata.name"), attempt: metadata.attempt },
    image: nonEmpty(image.image, "config.image.image"),
    userSpecifiedImage: image.userSpecifiedImage,
    command: config.command.map((word) => checkNoNul(word, "config.command")),
    args: config.args.map((word) => checkNoNul(word, "config.args")),
    workingDirectory: checkNoNul(config.workingDir, "config.working_dir"),
    env: config.envs.map(envFromRequest),
    mounts: config.mounts.map((mount, index) => mountFromRequest(mount, `config.mounts[${index}]`)),
    devices: config.devices.map(({ containerPath, hostPath, permissions }, index) =>
      deviceFromRequest({ containerPath, hostPath, permissions }, `config.devices[${index}]`),
    ),
    cdiDevices: config.CDIDevices.map(({ name }) => nonEmpty(name, "config.CDI_devices.name")),
    labels: config.labels,
    annotations: config.annotations,
    logPath: checkLogPath(config.logPath, "config.log_path"),
    stdin: config.stdin,
    stdinOnce: config.stdinOnce,
    tty: config.tty,
    resources: resourcesFromRequest(config.linux?.resources ?? null, "config.linux.resources"),
    security: securityFromRequest(config.linux?.securityContext ?? null, "config.linux.security_context"),
    stopSignal: signalName(config.stopSignal, "config.stop_signal"),
  };
}

/** Values may be secrets: an error names the variable alone. */
function envFromRequest({ key, value }: KeyValue): { readonly key: string; readonly value: string } {
  if (key === "" || /[=\0]/.test(key)) throw invalid("config.envs.key", `is not the name of a variable: ${quote(key)}`);
  const field = `config.envs[${quote(key)}]`;
  try {
    return { key, value: checkNoNul(strictUtf8.decode(value), field) };
  } catch (error) {
    if (error instanceof TypeError) throw invalid(field, "is not UTF-8");
    throw error;
  }
}

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function mountFromRequest(mount: Mount, field: string): ContainerMount {
  const propagation = propagationFromWire(mount.propagation, `${field}.propagation`);
  if (mount.image === null) checkAbsolutePath(mount.hostPath, `${field}.host_path`);
  else nonEmpty(mount.image.image, `${field}.image.image`);
  if (mount.recursiveReadOnly && !mount.readonly) throw invalid(`${field}.recursive_read_only`, "needs readonly");
  if (mount.recursiveReadOnly && propagation !== "private") throw invalid(`${field}.recursive_read_only`, "needs private propagation");
  return {
    containerPath: checkAbsolutePath(mount.containerPath, `${field}.container_path`),
    hostPath: mount.hostPath,
    readOnly: mount.readonly,
    recursiveReadOnly: mount.recursiveReadOnly,
    selinuxRelabel: mount.selinuxRelabel,
    propagation,
    uidMappings: mount.uidMappings.map(({ hostId, containerId, length }) => ({ hostId, containerId, length })),
    gidMappings: mount.gidMappings.map(({ hostId, containerId, length }) => ({ hostId, containerId, length })),
    image:
      mount.image === null
        ? null
        : {
            reference: mount.image.image,
            userSpecified: mount.image.userSpecifiedImage,
            runtimeHandler: mount.image.runtimeHandler,
          },
    imageSubPath: checkNoNul(mount.imageSubPath, `${field}.image_sub_path`),
    options: mount.mountOptions,
  };
}

function deviceFromRequest(device: ContainerDevice, field: string): ContainerDevice {
  checkAbsolutePath(device.containerPath, `${field}.container_path`);
  checkAbsolutePath(device.hostPath, `${field}.host_path`);
  if (!/^[rwm]{0,3}$/.test(device.permissions)) throw invalid(`${field}.permissions`, `are not out of rwm: ${quote(device.permissions)}`);
  return device;
}

function securityFromRequest(context: LinuxContainerSecurityContext | null, field: string): ContainerSecurity {
  const runAsUser = optionalIdFromRequest(context?.runAsUser ?? null, `${field}.run_as_user`);
  const runAsGroup = optionalIdFromRequest(context?.runAsGroup ?? null, `${field}.run_as_group`);
  const runAsUsername = context?.runAsUsername ?? "";
  if (runAsGroup !== null && runAsUser === null && runAsUsername === "") {
    throw invalid(`${field}.run_as_group`, "is given without run_as_user or run_as_username");
  }
  return {
    privileged: context?.privileged ?? false,
    addCapabilities: context?.capabilities?.addCapabilities ?? [],
    dropCapabilities: context?.capabilities?.dropCapabilities ?? [],
    addAmbientCapabilities: context?.capabilities?.addAmbientCapabilities ?? [],
    namespaces: namespacesFromRequest(context?.namespaceOptions ?? null, `${field}.namespace_options`),
    runAsUser,
    runAsGroup,
    runAsUsername,
    readOnlyRootfs: context?.readonlyRootfs ?? false,
    supplementalGroups: (context?.supplementalGroups ?? []).map((group) => idFromRequest(group, `${field}.supplemental_groups`)),
    supplementalGroupsPolicy: groupsPolicyFromRequest(context?.supplementalGroupsPolicy ?? 0, `${field}.supplemental_groups_policy`),
    noNewPrivileges: context?.noNewPrivs ?? false,
    maskedPaths: (context?.maskedPaths ?? []).map((path) => checkAbsolutePath(path, `${field}.masked_paths`)),
    readOnlyPaths: (context?.readonlyPaths ?? []).map((path) => checkAbsolutePath(path, `${field}.readonly_paths`)),
    seccomp: profileFromRequest(context?.seccomp ?? null, context?.seccompProfilePath ?? "", `${field}.seccomp`),
    apparmor: profileFromRequest(context?.apparmor ?? null, context?.apparmorProfile ?? "", `${field}.apparmor`),
    securityContextJson: securityContextJson(context),
  };
}

function propagationFromWire(value: number, field: string): MountPropagation {
  switch (value) {
    case WirePropagation.PROPAGATION_PRIVATE:
      return "private";
    case WirePropagation.PROPAGATION_HOST_TO_CONTAINER:
      return "host-to-container";
    case WirePropagation.PROPAGATION_BIDIRECTIONAL:
      return "bidirectional";
    default:
      throw invalid(field, `is unknown: ${value}`);
  }
}

function propagationToWire(propagation: MountPropagation): number {
  switch (propagation) {
    case "private":
      return WirePropagation.PROPAGATION_PRIVATE;
    case "host-to-container":
      return WirePropagation.PROPAGATION_HOST_TO_CONTAINER;
    case "bidirectional":
      return WirePropagation.PROPAGATION_BIDIRECTIONAL;
  }
}

/** Without a filter: everything. */
export function containerFilterFromRequest(
  filter: (Pick<WireFilter, "id" | "podSandboxId" | "labelSelector"> & Partial<Pick<WireFilter, "state">>) | null,
): ContainerFilter {
  return {
    id: filter === null || filter.id === "" ? null : filter.id,
    state: filter?.state ? stateFromWire(filter.state.state) : null,
    sandboxId: filter === null || filter.podSandboxId === "" ? null : filter.podSandboxId,
    labels: filter?.labelSelector ?? {},
  };
}

const states: readonly (readonly [ContainerState, number])[] = [
  ["created", WireState.CONTAINER_CREATED],
  ["running", WireState.CONTAINER_RUNNING],
  ["exited", WireState.CONTAINER_EXITED],
  ["unknown", WireState.CONTAINER_UNKNOWN],
];

function stateFromWire(value: number): ContainerState {
  const found = states.find(([, number]) => number === value);
  if (!found) throw invalid("filter.state", `is unknown: ${value}`);
  return found[0];
}

function stateToWire(state: ContainerState): number {
  return states.find(([name]) => name === state)?.[1] ?? WireState.CONTAINER_UNKNOWN;
}

/** A name for people where the request gave one; `image_id` says what it really is. */
function imageSpec(config: ContainerConfig): ImageSpecInput {
  return { image: config.userSpecifiedImage || config.image, userSpecifiedImage: config.userSpecifiedImage };
}

function containerItem(view: ContainerView): ContainerInput {
  return {
    id: view.id,
    podSandboxId: view.sandboxId,
    metadata: view.config.metadata,
    image: imageSpec(view.config),
    imageRef: view.imageRef,
    imageId: view.imageId,
    state: stateToWire(view.state),
    createdAt: int64FromBigInt(view.createdAtNs),
    labels: view.config.labels,
    annotations: view.config.annotations,
  };
}

function mountToWire(mount: ContainerMount): MountInput {
  return {
    containerPath: mount.containerPath,
    hostPath: mount.hostPath,
    readonly: mount.readOnly,
    recursiveReadOnly: mount.recursiveReadOnly,
    selinuxRelabel: mount.selinuxRelabel,
    propagation: propagationToWire(mount.propagation),
    uidMappings: mount.uidMappings,
    gidMappings: mount.gidMappings,
    image:
      mount.image === null
        ? null
        : { image: mount.image.reference, userSpecifiedImage: mount.image.userSpecified, runtimeHandler: mount.image.runtimeHandler },
    imageSubPath: mount.imageSubPath,
    mountOptions: mount.options,
  };
}

function containerStatus(view: ContainerView): ContainerStatusInput {
  const { uid, gid, supplementalGroups } = view.user;
  return {
    id: view.id,
    metadata: view.config.metadata,
    state: stateToWire(view.state),
    createdAt: int64FromBigInt(view.createdAtNs),
    startedAt: int64FromBigInt(view.startedAtNs),
    finishedAt: int64FromBigInt(view.finishedAtNs),
    exitCode: view.exitCode,
    image: imageSpec(view.config),
    imageRef: view.imageRef,
    imageId: view.imageId,
    reason: view.reason,
    message: view.message,
    labels: view.config.labels,
    annotations: view.config.annotations,
    mounts: view.config.mounts.map(mountToWire),
    logPath: view.logPath,
    resources: view.resources === null ? null : { linux: resourcesToWire(view.resources) },
    user: { linux: { uid, gid, supplementalGroups } },
    stopSignal: signalNumber(view.stopSignal),
  };
}

/** Bytes of a ListContainersResponse with this one item. */
export const encodeContainerItem = itemEncoder(ListContainersResponse, (view: ContainerView) => ({ containers: [containerItem(view)] }));

/** Bytes of a ContainerStatusResponse with the status alone. */
export const encodeContainerStatus = itemEncoder(ContainerStatusResponse, (view: ContainerView) => ({ status: containerStatus(view) }));

/** Bytes of a PodSandboxStatusResponse with this one of `containers_statuses`. */
export const encodeContainerStatusOfSandbox = itemEncoder(PodSandboxStatusResponse, (view: ContainerView) => ({
  containersStatuses: [containerStatus(view)],
}));

/** For verbose requests. Values of environment variables may be secrets and are left out. */
export function containerInfo(view: ContainerView): Record<string, unknown> {
  return {
    id: view.id,
    sandboxId: view.sandboxId,
    pid: view.pid,
    runtimeHandler: view.runtimeHandler,
    createPhasesMs: view.phases,
    config: { ...view.config, env: view.config.env.map(({ key }) => key) },
  };
}
