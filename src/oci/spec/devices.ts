/** Device nodes beyond those that every container has (the runtime makes null, zero, full, random, urandom, tty, ptmx itself). */
import type { BigIntStats } from "node:fs";
import { lstat, readdir, stat } from "node:fs/promises";
import { join, posix } from "node:path";
import { DomainError, describeError } from "../../base/errors.ts";
import type { Operation } from "../../operation/context.ts";
import type { GrantedDevice } from "./resources.ts";

const maxDevices = 4096;
const maxDepth = 8;

export interface DeviceRequest {
  readonly containerPath: string;
  readonly hostPath: string;
  /** Letters out of `rwm`. */
  readonly permissions: string;
}

/** A device, or each one below a directory, under the container's path. Throws invalid-argument for anything else. */
export async function resolveDevices(op: Operation, requests: readonly DeviceRequest[]): Promise<readonly GrantedDevice[]> {
  const found = await op.race(Promise.all(requests.map((request) => resolveDevice(request))));
  return found.flat();
}

async function resolveDevice(request: DeviceRequest): Promise<GrantedDevice[]> {
  const { containerPath, hostPath } = request;
  const permissions = request.permissions === "" ? "rwm" : request.permissions;
  if (!hostPath.startsWith("/") || !containerPath.startsWith("/") || containerPath.split("/").includes("..")) {
    throw new DomainError(
      "invalid-argument",
      `device ${JSON.stringify(hostPath)} as ${JSON.stringify(containerPath)}: both must be absolute, without ".."`,
    );
  }
  if (!/^[rwm]+$/.test(permissions))
    throw new DomainError("invalid-argument", `device ${hostPath}: permissions ${JSON.stringify(permissions)}`);
  let status: BigIntStats;
  try {
    status = await stat(hostPath, { bigint: true });
  } catch (error) {
    throw new DomainError("invalid-argument", `device ${hostPath}: ${describeError(error)}`, { cause: error });
  }
  if (!status.isDirectory()) {
    const device = toDevice(posix.normalize(containerPath), status);
    if (device === null) throw new DomainError("invalid-argument", `${hostPath} is not a device`);
    return [{ device, permissions }];
  }
  const found: GrantedDevice[] = [];
  await walk(hostPath, posix.normalize(containerPath), permissions, 0, () => false, found);
  return found;
}

/** What a privileged container sees: the host's /dev without what is mounted there anew for each container. */
export async function listHostDevices(op: Operation): Promise<readonly GrantedDevice[]> {
  const found: GrantedDevice[] = [];
  const own = new Set(["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/.udev", "/dev/ptmx"]);
  await op.race(walk("/dev", "/dev", "rwm", 0, (path) => own.has(path), found));
  return found;
}

async function walk(
  host: string,
  container: string,
  permissions: string,
  level: number,
  skip: (path: string) => boolean,
  found: GrantedDevice[],
): Promise<void> {
  if (level > maxDepth) return;
  for (const entry of await readdir(host, { withFileTypes: true })) {
    const path = join(host, entry.name);
    if (skip(path)) continue;
    if (entry.isDirectory()) await walk(path, join(container, entry.name), permissions, level + 1, skip, found);
    if (!entry.isCharacterDevice() && !entry.isBlockDevice()) continue;
    const status = await lstat(path, { bigint: true }).catch(() => null);
    const device = status === null ? null : toDevice(join(container, entry.name), status);
    if (device === null) continue;
    found.push({ device, permissions });
    if (found.length > maxDevices) throw new DomainError("resource-exhausted", `more than ${maxDevices} devices below ${host}`);
  }
}

function toDevice(path: string, status: BigIntStats): GrantedDevice["device"] | null {
  if (!status.isCharacterDevice() && !status.isBlockDevice()) return null;
  return {
    path,
    type: status.isBlockDevice() ? "b" : "c",
    ...splitDeviceNumber(status.rdev),
    fileMode: Number(status.mode & 0o777n),
    uid: Number(status.uid),
    gid: Number(status.gid),
  };
}

/** The 64-bit dev_t of the C library (makedev(3)). */
export function splitDeviceNumber(device: bigint): { major: number; minor: number } {
  return {
    major: Number(((device >> 8n) & 0xfffn) | ((device >> 32n) & 0xffff_f000n)),
    minor: Number((device & 0xffn) | ((device >> 12n) & 0xffff_ff00n)),
  };
}
