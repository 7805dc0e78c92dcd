/** The only table from error kinds to gRPC codes. Nothing else in the project decides about codes. */
import { status } from "@grpc/grpc-js";
import { describeError, type ErrorKind, errorKind } from "../base/errors.ts";

export interface Failure {
  readonly code: status;
  readonly details: string;
}

interface Mapping {
  readonly code: status;
  /** Text that the kubelet looks for at the start of the message. */
  readonly prefix?: string;
}

/** Longer messages are cut: they travel in an HTTP/2 header. */
const maxDetailsLength = 4096;

/** Code and text for whatever was thrown. A foreign error and a SystemError are INTERNAL with their own text. */
export function failureOf(thrown: unknown): Failure {
  const { code, prefix = "" } = mappingOf(errorKind(thrown));
  const text = textOf(thrown);
  const details = prefix === "" || text.startsWith(prefix) ? text : `${prefix}${prefix.endsWith(":") ? " " : ": "}${text}`;
  return { code, details: wellFormed(details.length > maxDetailsLength ? `${details.slice(0, maxDetailsLength)}…` : details) };
}

/** `NOT_FOUND` for logs and metrics. */
export function codeName(code: status): string {
  return status[code] ?? "UNKNOWN";
}

/** Whatever was thrown has a text, even an object that throws when it is read. */
function textOf(thrown: unknown): string {
  try {
    return describeError(thrown) || "unknown error";
  } catch {
    return "an error without a readable message";
  }
}

/** grpc-js percent-encodes the text and throws on half a surrogate pair. */
function wellFormed(text: string): string {
  return Buffer.from(text).toString();
}

function mappingOf(kind: ErrorKind): Mapping {
  switch (kind) {
    case "invalid-argument":
      return { code: status.INVALID_ARGUMENT };
    case "not-found":
      return { code: status.NOT_FOUND };
    case "already-exists":
      return { code: status.ALREADY_EXISTS };
    case "failed-precondition":
      return { code: status.FAILED_PRECONDITION };
    case "unavailable":
      return { code: status.UNAVAILABLE };
    case "deadline-exceeded":
      return { code: status.DEADLINE_EXCEEDED };
    case "cancelled":
      return { code: status.CANCELLED };
    case "resource-exhausted":
      return { code: status.RESOURCE_EXHAUSTED };
    case "permission-denied":
      return { code: status.PERMISSION_DENIED };
    case "unauthenticated":
      return { code: status.UNAUTHENTICATED };
    case "unimplemented":
      return { code: status.UNIMPLEMENTED };
    case "data-loss":
      return { code: status.DATA_LOSS };
    case "internal":
      return { code: status.INTERNAL };
    // Released kubelets strip the gRPC wrapping, and so see the prefix, for the code UNKNOWN alone.
    case "registry-unavailable":
      return { code: status.UNKNOWN, prefix: "RegistryUnavailable" };
    case "signature-validation-failed":
      return { code: status.UNKNOWN, prefix: "SignatureValidationFailed" };
    case "image-volume-mount-failed":
      return { code: status.UNKNOWN, prefix: "ImageVolumeMountFailed:" };
    case "rro-unsupported":
      return { code: status.UNKNOWN, prefix: "RROUnsupported:" };
    default: {
      const unknown: never = kind;
      throw new TypeError(`error kind ${String(unknown)} has no gRPC code`);
    }
  }
}
