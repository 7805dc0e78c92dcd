/** Feeds one layer's verified bytes to a jailed berth-unpack, and says what went wrong in the domain's words. */
import { DomainError, type ErrorKind, toError } from "../base/errors.ts";
import type { Digest } from "../base/ids.ts";
import type { Kernel, UnpackHandle, UnpackResult } from "../kernel/contract.ts";
import type { Operation } from "../operation/context.ts";
import type { Descriptor } from "./manifest.ts";

export interface UnpackJob {
  /** Empty directory that becomes the layer. */
  readonly target: string;
  readonly layer: Descriptor;
  readonly diffId: Digest;
  readonly limits: { readonly maxBytes: number; readonly maxEntries: number };
  /** For messages: `image docker.io/library/busybox:latest: layer sha256:…`. */
  readonly name: string;
}

/** How long a killed unpacker may take to be gone. */
const endBudgetMs = 10_000;

/**
 * Rejects with data-loss (a stream that is no layer, another diff id), resource-exhausted (disk or limit), the error of
 * `bytes`, or the operation's reason. The unpacker is gone when this returns, so that its directory can be removed.
 */
export async function unpackLayer(
  op: Operation,
  kernel: Pick<Kernel, "spawnUnpack">,
  job: UnpackJob,
  bytes: AsyncIterable<Uint8Array>,
): Promise<UnpackResult> {
  const { target, layer, limits } = job;
  let feed: Feed;
  try {
    const spawned = kernel.spawnUnpack({
      target,
      mediaType: layer.mediaType,
      limits: { maxBytes: limits.maxBytes, maxEntries: limits.maxEntries },
    });
    feed = new Feed(await op.raceWithCleanup(spawned, (late) => new Feed(late).end(op)));
  } catch (error) {
    throw explain(op, job, error);
  }
  const abort = (): void => feed.abort();
  op.signal.addEventListener("abort", abort, { once: true });
  try {
    op.throwIfAborted();
    const guarded = async <T>(work: Promise<T>): Promise<T> => {
      try {
        return await op.race(work);
      } catch (error) {
        throw explain(op, job, error);
      }
    };
    for await (const chunk of bytes) await guarded(feed.write(chunk));
    const result = await guarded(feed.finish());
    if (result.diffId !== job.diffId) {
      throw new DomainError("data-loss", `${job.name}: its content is ${result.diffId}, the image's configuration says ${job.diffId}`);
    }
    return result;
  } catch (error) {
    await feed.end(op);
    throw error;
  } finally {
    op.signal.removeEventListener("abort", abort);
  }
}

/** A handle that is finished once. Its calls take their turns below, whoever has stopped waiting for them. */
class Feed {
  readonly #handle: UnpackHandle;
  #finished: Promise<UnpackResult> | null = null;

  constructor(handle: UnpackHandle) {
    this.#handle = handle;
  }

  write(chunk: Uint8Array): Promise<void> {
    return this.#handle.write(chunk);
  }

  finish(): Promise<UnpackResult> {
    this.#finished ??= this.#handle.finish();
    return this.#finished;
  }

  /** Finish is asked for first: its answer is what tells that the process is gone. */
  abort(): void {
    this.finish().catch(() => undefined);
    this.#handle.abort();
  }

  /** Kills it and waits until it is gone. */
  async end(op: Operation): Promise<void> {
    this.abort();
    const own = op.detached("image.unpack.end", endBudgetMs);
    try {
      const gone = this.finish().then(
        () => undefined,
        () => undefined,
      );
      await own.race(gone);
    } catch (error) {
      op.log.warn({ err: String(error) }, "an aborted unpacker did not end in time");
    } finally {
      own.dispose();
    }
  }
}

function explain(op: Operation, job: UnpackJob, thrown: unknown): Error {
  if (op.signal.aborted) return toError(op.signal.reason);
  const error = toError(thrown);
  const kind = kindOf((error as { errno?: unknown }).errno);
  return new DomainError(kind, `${job.name}: unpacking: ${error.message}`, { cause: thrown });
}

function kindOf(errno: unknown): ErrorKind {
  switch (errno) {
    case "EBADMSG":
      return "data-loss";
    case "ENOSPC":
    case "EDQUOT":
    case "EFBIG":
    case "ENOMEM":
    case "EMFILE":
    case "ENFILE":
    case "EAGAIN":
      return "resource-exhausted";
    default:
      return "internal";
  }
}
