/**
 * What a container will be, decided from the request, the pod and the image before anything exists: everything that can be
 * refused is refused here. What needs the image's files (the user, the environment) or files of the host (profiles,
 * devices) comes after.
 */
import { existsSync, readdirSync } from "node:fs";
import { posix } from "node:path";
import { DomainError } from "../base/errors.ts";
import type { Logger } from "../base/log.ts";
import type { BerthConfig } from "../config/types.ts";
import type { ImageService, ImageView } from "../image/types.ts";
import type { Kernel, KernelFeatures } from "../kernel/contract.ts";
import { decideAppArmor, readLoadedProfiles } from "../oci/spec/apparmor.ts";
import { decideCapabilities } from "../oci/spec/capabilities.ts";
import { decideCommand, decideWorkingDirectory } from "../oci/spec/command.ts";
import { listHostDevices, resolveDevices } from "../oci/spec/devices.ts";
import { buildMounts } from "../oci/spec/mounts.ts";
import { decideNamespaces } from "../oci/spec/namespaces.ts";
import { decidePaths } from "../oci/spec/paths.ts";
import { buildDeviceRules, buildResources, type GrantedDevice, type ResourceSupport } from "../oci/spec/resources.ts";
import type { SpecCapabilities, SpecMount, SpecNamespace, SpecResources } from "../oci/spec/runtime-spec.ts";
import { SeccompProfiles } from "../oci/spec/seccomp.ts";
import { decideStopSignal, type StopSignal } from "../oci/spec/signals.ts";
import type { UserRequest } from "../oci/spec/user.ts";
import type { Operation } from "../operation/context.ts";
import type { SandboxRuntime } from "../sandbox/types.ts";
import type { ContainerConfig, ContainerMount, ContainerSecurity } from "./types.ts";
import { refuseUnsupported } from "./unsupported.ts";

export interface Decision {
  readonly pod: SandboxRuntime;
  readonly image: ImageView;
  readonly args: readonly string[];
  readonly cwd: string;
  readonly userRequest: UserRequest;
  readonly capabilities: SpecCapabilities;
  readonly mounts: readonly SpecMount[];
  /** Sources of the request's mounts: a missing one is made a directory. */
  readonly bindSources: ReadonlySet<string>;
  readonly namespaces: readonly SpecNamespace[];
  readonly ownPid: boolean;
  readonly maskedPaths: readonly string[];
  readonly readonlyPaths: readonly string[];
  readonly devices: readonly GrantedDevice[];
  readonly resources: SpecResources;
  readonly stopSignal: StopSignal;
  /** Absolute; empty for none. */
  readonly logPath: string;
  readonly seccompJson: string | null;
  readonly apparmorProfile: string | null;
}

export interface DeciderOptions {
  readonly kernel: Pick<Kernel, "features" | "listMounts">;
  readonly config: BerthConfig;
  readonly log: Logger;
  readonly images: Pick<ImageService, "find">;
  /** Pid of the init of a running container of this pod, by id; null where it does not run. */
  readonly targetPid: (sandboxId: string, containerId: string) => number | null;
}

export class Decider {
  readonly #options: DeciderOptions;
  readonly #features: KernelFeatures;
  readonly #support: ResourceSupport;
  readonly #seccomp: SeccompProfiles;
  readonly #thermalThrottlePaths: readonly string[];
  /** Said once each. */
  readonly #withheldSaid = new Set<string>();

  constructor(options: DeciderOptions) {
    const { config, kernel } = options;
    this.#options = options;
    this.#features = kernel.features();
    this.#support = resourceSupport(this.#features);
    this.#seccomp = new SeccompProfiles({
      architecture: this.#features.architecture,
      supported: this.#features.seccomp,
      defaultProfilePath: config.runtime.seccompProfile,
      profileRoot: config.runtime.seccompProfileRoot,
    });
    this.#thermalThrottlePaths = thermalThrottlePaths();
  }

  async decide(op: Operation, pod: SandboxRuntime, config: ContainerConfig): Promise<Decision> {
    const { security } = config;
    refuseUnsupported(config, this.#features);
    if (security.privileged && !pod.view.config.privileged) {
      throw new DomainError("invalid-argument", "a privileged container needs a privileged sandbox");
    }
    const image = this.#image(config);
    const capabilities = this.#capabilities(security);
    const pid = this.#namespaces(pod, security);
    const paths = decidePaths({
      privileged: security.privileged,
      requested: security.securityContextJson === null ? null : { masked: security.maskedPaths, readonly: security.readOnlyPaths },
      thermalThrottlePaths: this.#thermalThrottlePaths,
    });
    const mounts = buildMounts({
      mounts: config.mounts,
      pod: pod.files,
      privileged: security.privileged,
      readOnlyRootfs: security.readOnlyRootfs,
      recursiveReadOnlySupported: this.#features.recursiveReadOnly,
    });
    const fixed = {
      pod,
      image,
      args: decideCommand({
        command: config.command,
        args: config.args,
        imageEntrypoint: image.config.entrypoint,
        imageCommand: image.config.command,
      }),
      cwd: decideWorkingDirectory(config.workingDirectory, image.config.workingDirectory),
      userRequest: userRequest(security, image),
      stopSignal: decideStopSignal(config.stopSignal, image.config.stopSignal),
      logPath: logPath(pod.view.config.logDirectory, config.logPath),
    };
    const [devices, seccompJson, apparmorProfile] = await Promise.all([
      this.#devices(op, config),
      this.#seccomp.resolve(op, {
        profile: security.seccomp,
        privileged: security.privileged,
        capabilities: capabilities.bounding,
      }),
      this.#appArmor(op, security),
      this.#checkPropagation(op, config.mounts),
    ]);
    return {
      ...fixed,
      capabilities,
      mounts,
      bindSources: new Set(config.mounts.map(({ hostPath }) => posix.normalize(hostPath))),
      namespaces: pid.namespaces,
      ownPid: pid.ownPid,
      maskedPaths: paths.masked,
      readonlyPaths: paths.readonly,
      devices,
      resources: buildResources(config.resources, {
        support: this.#support,
        pidsLimit: this.#options.config.runtime.pidsLimit,
        deviceRules: buildDeviceRules(devices, security.privileged),
      }),
      seccompJson,
      apparmorProfile,
    };
  }

  #image(config: ContainerConfig): ImageView {
    const image = this.#options.images.find(config.image);
    if (image === null)
      throw new DomainError("not-found", `image ${JSON.stringify(config.image)} is not present`, { ids: { image: config.image } });
    return image;
  }

  #capabilities(security: ContainerSecurity): SpecCapabilities {
    const { capabilities, withheld } = decideCapabilities({
      defaults: this.#options.config.runtime.defaultCapabilities,
      add: security.addCapabilities,
      drop: security.dropCapabilities,
      ambient: security.addAmbientCapabilities,
      privileged: security.privileged,
      grantable: this.#features.capabilities,
    });
    for (const name of withheld) {
      if (this.#withheldSaid.has(name)) continue;
      this.#withheldSaid.add(name);
      this.#options.log.warn({ capability: name }, "the daemon does not have this capability and cannot grant it; it is said once");
    }
    return capabilities;
  }

  #namespaces(pod: SandboxRuntime, security: ContainerSecurity): ReturnType<typeof decideNamespaces> {
    const { namespaces } = pod.view.config;
    const { pid, targetId } = security.namespaces;
    return decideNamespaces({
      pod: namespaces,
      pausePid: pod.pause.pid,
      pid,
      targetPid: pid === "target" ? this.#options.targetPid(pod.view.id, targetId) : null,
      // A privileged container administers the host's groups; everything else sees its own as the root.
      privateCgroup: this.#features.cgroupNamespace && !security.privileged,
    });
  }

  async #devices(op: Operation, config: ContainerConfig): Promise<readonly GrantedDevice[]> {
    const requested = config.devices.length === 0 ? [] : await resolveDevices(op, config.devices);
    if (!config.security.privileged) return requested;
    const taken = new Set(requested.map(({ device }) => device.path));
    const host = await listHostDevices(op);
    return [...requested, ...host.filter(({ device }) => !taken.has(device.path))];
  }

  #appArmor(op: Operation, security: ContainerSecurity): Promise<string | null> {
    return decideAppArmor(
      op,
      { profile: security.apparmor, privileged: security.privileged },
      {
        supported: this.#features.appArmor,
        defaultProfile: this.#options.config.runtime.apparmorProfile,
        loaded: readLoadedProfiles,
      },
    );
  }

  /** Propagation back to the host needs a source on a shared mount, else the container's mounts would silently stay its own. */
  async #checkPropagation(op: Operation, mounts: readonly ContainerMount[]): Promise<void> {
    const bidirectional = mounts.filter(({ propagation }) => propagation === "bidirectional");
    if (bidirectional.length === 0) return;
    const table = await op.race(this.#options.kernel.listMounts());
    for (const { hostPath } of bidirectional) {
      const path = posix.normalize(hostPath);
      const holder = table
        .filter(({ mountPoint }) => path === mountPoint || mountPoint === "/" || path.startsWith(`${mountPoint}/`))
        .reduce<(typeof table)[number] | null>(
          (best, mount) => (best === null || mount.mountPoint.length >= best.mountPoint.length ? mount : best),
          null,
        );
      if (holder !== null && !holder.shared) {
        throw new DomainError("failed-precondition", `mount ${hostPath}: it lies on ${holder.mountPoint}, which is not a shared mount`);
      }
    }
  }
}

function userRequest(security: ContainerSecurity, image: ImageView): UserRequest {
  return {
    imageUser: image.config.user,
    runAsUser: security.runAsUser,
    runAsUsername: security.runAsUsername,
    runAsGroup: security.runAsGroup,
    supplementalGroups: security.supplementalGroups,
    policy: security.supplementalGroupsPolicy,
  };
}

/** Below the pod's directory and nowhere else. */
function logPath(directory: string, path: string): string {
  if (directory === "" || path === "") return "";
  const parts = path.split("/");
  const bad = path.startsWith("/") || path.endsWith("/") || parts.includes("..") || parts.includes(".") || /[\x00-\x1f\x7f]/.test(path);
  if (bad || !directory.startsWith("/")) {
    throw new DomainError(
      "invalid-argument",
      `log_path ${JSON.stringify(path)} is not a path below the pod's log directory ${JSON.stringify(directory)}`,
    );
  }
  return posix.join(directory, path);
}

function resourceSupport(features: KernelFeatures): ResourceSupport {
  const { mode, mounts, controllers } = features.cgroup;
  // v2 has no file for swap in the root; v1 has one where swap is accounted.
  const swap =
    mode === "v2" ? existsSync("/proc/swaps") : existsSync(posix.join(mounts["memory"] ?? "/nonexistent", "memory.memsw.limit_in_bytes"));
  return { unified: mode === "v2", swap, hugetlb: controllers.includes("hugetlb") };
}

/** The runtime-spec has no patterns; CPUs do not come and go often enough to look again. */
function thermalThrottlePaths(): readonly string[] {
  const base = "/sys/devices/system/cpu";
  try {
    return readdirSync(base)
      .filter((name) => /^cpu[0-9]+$/.test(name))
      .map((name) => `${base}/${name}/thermal_throttle`)
      .filter((path) => existsSync(path));
  } catch {
    return [];
  }
}
