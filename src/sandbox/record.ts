/**
 * The sandbox as it stands on disk, in a type of its own: requests may change, records stay readable. Everything that
 * Stop and Remove need to take a pod down is here or follows from the id.
 */
import { DomainError } from "../base/errors.ts";
import { isObjectId, type SandboxId } from "../base/ids.ts";
import type { UndoLeftover } from "../operation/undo.ts";
import type { RecordCodec } from "../state/record-store.ts";
import type { NetworkAttachment } from "./network/attachment.ts";
import type { SandboxConfig } from "./types.ts";

/** See transitions.ts. */
export type SandboxPhase = "creating" | "ready" | "not-ready";

export interface SandboxRecord {
  readonly id: SandboxId;
  readonly config: SandboxConfig;
  /** Of the request, so that a retry is recognised after a restart, too. */
  readonly requestHash: string;
  readonly phase: SandboxPhase;
  /** False where it was completed with nobody waiting: hidden, and undone by a restart. */
  readonly claimed: boolean;
  /** ns since the epoch, decimal. */
  readonly createdAtNs: string;
  /** Kernel boot that the pause process belongs to: pids and start times mean nothing in another one. */
  readonly bootId: string;
  /** Absolute below each hierarchy's mount; the pod's containers go below it, too. */
  readonly cgroupParent: string;
  /** The pause process's own leaf. */
  readonly cgroupPath: string;
  readonly hostname: string;
  /** null before it runs and once it is known to be gone. */
  readonly pause: { readonly pid: number; readonly startTime: string } | null;
  /** Empty for the host's. */
  readonly networkNamespace: string;
  /** DEL is due for each; planned ones are here before their ADD. */
  readonly attachments: readonly NetworkAttachment[];
  readonly ips: readonly string[];
  readonly phases: Readonly<Record<string, number>>;
  readonly reason: string;
  /** Steps of a failed create that could not be undone. */
  readonly leftovers: readonly UndoLeftover[];
  /** A stop has released everything: the next one has nothing to do. */
  readonly released: boolean;
}

export const sandboxCodec: RecordCodec<SandboxRecord> = {
  kind: "sandbox",
  version: 1,
  encode: (record) => record,
  decode: (data) => {
    const record = data as SandboxRecord;
    // The envelope's checksum says that these are our own bytes; this says that they are a sandbox.
    const sound =
      typeof record === "object" &&
      record !== null &&
      isObjectId(record.id) &&
      ["creating", "ready", "not-ready"].includes(record.phase) &&
      typeof record.config?.metadata?.name === "string" &&
      typeof record.cgroupPath === "string" &&
      typeof record.networkNamespace === "string" &&
      /^\d+$/.test(record.createdAtNs) &&
      Array.isArray(record.attachments);
    if (!sound) throw new DomainError("data-loss", "the record is not a sandbox of version 1");
    return record;
  },
};
