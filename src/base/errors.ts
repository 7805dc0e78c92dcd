/**
 * The one error type of the domains. `kind` is closed: `src/server/status-map.ts` maps every kind to a
 * gRPC code, and nothing else in the project decides about codes or matches on message text.
 */

export type ErrorKind =
  | "invalid-argument"
  | "not-found"
  | "already-exists"
  | "failed-precondition"
  | "unavailable"
  | "deadline-exceeded"
  | "cancelled"
  | "resource-exhausted"
  | "permission-denied"
  | "unauthenticated"
  | "unimplemented"
  | "data-loss"
  | "internal"
  /** A registry could not be reached or answered 5xx: the kubelet reads the prefix `RegistryUnavailable`. */
  | "registry-unavailable"
  /** The kubelet reads the prefix `SignatureValidationFailed`. */
  | "signature-validation-failed"
  /** The kubelet reads the prefix `ImageVolumeMountFailed:`. */
  | "image-volume-mount-failed"
  /** The kubelet reads the prefix `RROUnsupported:`. */
  | "rro-unsupported";

/** Ids of the objects an error is about, for logs: `{sandboxId, containerId, image, …}`. */
export type ErrorIds = Readonly<Record<string, string>>;

export class DomainError extends Error {
  readonly kind: ErrorKind;
  readonly ids: ErrorIds;

  constructor(kind: ErrorKind, message: string, options: { cause?: unknown; ids?: ErrorIds } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "DomainError";
    this.kind = kind;
    this.ids = options.ids ?? {};
  }
}

/**
 * What the kernel answered, as the native core reports it: `step` names the core's step
 * (`overlay.mount`), `syscall` the call, `errno` its symbolic name (`ENOENT`), `path` the object.
 * A domain decides what it means: ENOENT is not automatically `not-found`.
 */
export class SystemError extends Error {
  readonly errno: string;
  readonly syscall: string;
  readonly path: string;
  readonly step: string;

  constructor(fields: { errno: string; syscall: string; path: string; step: string; detail?: string }) {
    const where = fields.path === "" ? "" : ` ${fields.path}`;
    const detail = fields.detail ? ` (${fields.detail})` : "";
    super(`${fields.step}: ${fields.syscall}${where}: ${fields.errno}${detail}`);
    this.name = "SystemError";
    this.errno = fields.errno;
    this.syscall = fields.syscall;
    this.path = fields.path;
    this.step = fields.step;
  }
}

/** Turns whatever was thrown into an Error, for `catch (e)`. */
export function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}

/** The message of an error followed by those of its causes, without repeating a message that its parent quotes. */
export function describeError(thrown: unknown): string {
  const parts: string[] = [];
  let current: unknown = thrown;
  while (current !== undefined && current !== null && parts.length < 8) {
    const message = toError(current).message;
    if (!parts.some((part) => part.includes(message))) parts.push(message);
    current = current instanceof Error ? current.cause : undefined;
  }
  return parts.join(": ");
}

/** The kind of an error, looking through nothing: a foreign error is `internal`. */
export function errorKind(thrown: unknown): ErrorKind {
  return thrown instanceof DomainError ? thrown.kind : "internal";
}
