/** What the CRI can ask for and this version does not do. It is refused by name, never passed over. */
import { DomainError } from "../base/errors.ts";
import type { KernelFeatures } from "../kernel/contract.ts";
import type { ContainerConfig } from "./types.ts";

export function refuseUnsupported(config: ContainerConfig, features: Pick<KernelFeatures, "seLinux">): void {
  const image = config.mounts.find((mount) => mount.image !== null);
  if (image) throw new DomainError("image-volume-mount-failed", `mount ${image.containerPath}: image volumes are not supported yet`);
  if (config.cdiDevices.length > 0) throw unimplemented(`CDI devices (${config.cdiDevices.join(", ")})`);
  for (const mount of config.mounts) {
    if (mount.uidMappings.length > 0 || mount.gidMappings.length > 0) throw unimplemented(`mount ${mount.containerPath}: id-mapped mounts`);
    // Without SELinux there is nothing to relabel, and kubelets ask for it everywhere.
    if (mount.selinuxRelabel && features.seLinux) throw unimplemented(`mount ${mount.containerPath}: SELinux relabelling`);
  }
  const context = record(config.security.securityContextJson === null ? null : JSON.parse(config.security.securityContextJson));
  const userns = field(record(field(context, "namespaceOptions", "namespace_options")), "usernsOptions", "userns_options");
  const mode = record(userns)["mode"] ?? "POD";
  if (userns !== undefined && userns !== null && mode !== "NODE" && mode !== 2) throw unimplemented("user namespaces");
  const selinux = record(field(context, "selinuxOptions", "selinux_options"));
  if (features.seLinux && Object.values(selinux).some((value) => value !== "")) throw unimplemented("SELinux labels");
}

function unimplemented(what: string): DomainError {
  return new DomainError("unimplemented", `${what}: not supported yet`);
}

function record(value: unknown): Record<string, unknown> {
  return value !== null && typeof value === "object" ? (value as Record<string, unknown>) : {};
}

function field(object: Record<string, unknown>, camel: string, snake: string): unknown {
  return object[camel] ?? object[snake];
}
