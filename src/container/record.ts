/**
 * The container as it stands on disk, in a type of its own: requests may change, records stay readable. Everything that
 * Stop and Remove need is here or follows from the id.
 */
import { DomainError } from "../base/errors.ts";
import { type ContainerId, type Digest, type ImageId, isObjectId, type SandboxId } from "../base/ids.ts";
import type { UndoLeftover } from "../operation/undo.ts";
import type { RecordCodec } from "../state/record-store.ts";
import type { ContainerPhase } from "./transitions.ts";
import type { ContainerConfig } from "./types.ts";

export interface ContainerRecord {
  readonly id: ContainerId;
  readonly sandboxId: SandboxId;
  readonly config: ContainerConfig;
  /** Of the request, so that a retry is recognised after a restart, too. */
  readonly requestHash: string;
  readonly phase: ContainerPhase;
  /** False where it was completed with nobody waiting: hidden, and undone by a restart. */
  readonly claimed: boolean;
  /** ns since the epoch, decimal; 0 for not yet. */
  readonly createdAtNs: string;
  readonly startedAtNs: string;
  readonly finishedAtNs: string;
  /** Kernel boot that init belongs to: pids and start times mean nothing in another one. */
  readonly bootId: string;
  readonly imageId: ImageId;
  /** Layers that the image's lease holds, base first. */
  readonly chainIds: readonly Digest[];
  /** Configured name of the runtime handler. */
  readonly handler: string;
  /** What the pod asked for: empty for the default. */
  readonly runtimeHandler: string;
  /** Absolute below each hierarchy's mount. */
  readonly cgroupPath: string;
  /** Init has a PID namespace to itself. */
  readonly ownPid: boolean;
  /** Absolute; empty for none. */
  readonly logPath: string;
  readonly user: { readonly uid: number; readonly gid: number; readonly supplementalGroups: readonly number[] };
  readonly stopSignal: { readonly number: number; readonly name: string };
  /** null before init exists and once it is known to be gone. */
  readonly init: { readonly pid: number; readonly startTime: string } | null;
  readonly exitCode: number;
  readonly reason: string;
  readonly message: string;
  readonly phases: Readonly<Record<string, number>>;
  /** Steps of a failed create that could not be undone. */
  readonly leftovers: readonly UndoLeftover[];
}

const phases: readonly string[] = ["creating", "created", "running", "exited", "unknown"];

export const containerCodec: RecordCodec<ContainerRecord> = {
  kind: "container",
  version: 1,
  encode: (record) => record,
  decode: (data) => {
    const record = data as ContainerRecord;
    // The envelope's checksum says that these are our own bytes; this says that they are a container.
    const sound =
      typeof record === "object" &&
      record !== null &&
      isObjectId(record.id) &&
      isObjectId(record.sandboxId) &&
      phases.includes(record.phase) &&
      typeof record.config?.metadata?.name === "string" &&
      typeof record.imageId === "string" &&
      typeof record.cgroupPath === "string" &&
      record.cgroupPath.startsWith("/") &&
      Array.isArray(record.chainIds) &&
      [record.createdAtNs, record.startedAtNs, record.finishedAtNs].every((text) => /^\d+$/.test(text));
    if (!sound) throw new DomainError("data-loss", "the record is not a container of version 1");
    return record;
  },
};
