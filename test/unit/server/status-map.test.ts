import { status } from "@grpc/grpc-js";
import { describe, expect, test } from "vitest";
import { DomainError, type ErrorKind, SystemError } from "../../../src/base/errors.ts";
import { codeName, failureOf } from "../../../src/server/status-map.ts";

// A Record, so that a new kind without a line here does not compile.
const codes: Record<ErrorKind, status> = {
  "invalid-argument": status.INVALID_ARGUMENT,
  "not-found": status.NOT_FOUND,
  "already-exists": status.ALREADY_EXISTS,
  "failed-precondition": status.FAILED_PRECONDITION,
  unavailable: status.UNAVAILABLE,
  "deadline-exceeded": status.DEADLINE_EXCEEDED,
  cancelled: status.CANCELLED,
  "resource-exhausted": status.RESOURCE_EXHAUSTED,
  "permission-denied": status.PERMISSION_DENIED,
  unauthenticated: status.UNAUTHENTICATED,
  unimplemented: status.UNIMPLEMENTED,
  "data-loss": status.DATA_LOSS,
  internal: status.INTERNAL,
  "registry-unavailable": status.UNKNOWN,
  "signature-validation-failed": status.UNKNOWN,
  "image-volume-mount-failed": status.UNKNOWN,
  "rro-unsupported": status.UNKNOWN,
};

describe("kinds of errors as gRPC codes", () => {
  test.each(Object.entries(codes))("%s", (kind, code) => {
    expect(failureOf(new DomainError(kind as ErrorKind, "text")).code).toBe(code);
  });

  test.each([
    ["registry-unavailable", "RegistryUnavailable: text"],
    ["signature-validation-failed", "SignatureValidationFailed: text"],
    ["image-volume-mount-failed", "ImageVolumeMountFailed: text"],
    ["rro-unsupported", "RROUnsupported: text"],
    ["internal", "text"],
  ] as const)("%s says %j", (kind, details) => {
    expect(failureOf(new DomainError(kind, "text")).details).toBe(details);
    expect(failureOf(new DomainError(kind, details)).details, "the prefix is not doubled").toBe(details);
  });

  test("a kind that is hidden in a cause decides nothing", () => {
    const inner = new DomainError("not-found", "layer");
    expect(failureOf(new Error("outer", { cause: inner }))).toEqual({ code: status.INTERNAL, details: "outer: layer" });
  });

  test("what the kernel said is INTERNAL with step, call, path and errno", () => {
    const error = new SystemError({ errno: "EBUSY", syscall: "umount2", path: "/run/x", step: "rootfs.unmount", detail: "held" });
    expect(failureOf(error)).toEqual({ code: status.INTERNAL, details: "rootfs.unmount: umount2 /run/x: EBUSY (held)" });
    const wrapped = new DomainError("failed-precondition", "container c cannot be removed", { cause: error });
    expect(failureOf(wrapped)).toEqual({
      code: status.FAILED_PRECONDITION,
      details: "container c cannot be removed: rootfs.unmount: umount2 /run/x: EBUSY (held)",
    });
  });

  test("texts are cut and well-formed", () => {
    const long = failureOf(new Error(`${"x".repeat(4095)}😀${"y".repeat(9000)}`)).details;
    expect(long.length).toBeLessThan(4200);
    expect(() => encodeURI(long)).not.toThrow();
    expect(() => encodeURI(failureOf("\udc00").details)).not.toThrow();
  });

  test("everything that can be thrown has a text", () => {
    for (const thrown of [undefined, null, 0, "", {}, Symbol("s"), new Error("")]) {
      expect(failureOf(thrown).code).toBe(status.INTERNAL);
      expect(failureOf(thrown).details).not.toBe("");
    }
  });

  test("codes have the names of the protocol", () => {
    expect(codeName(status.NOT_FOUND)).toBe("NOT_FOUND");
    expect(codeName(99 as status)).toBe("UNKNOWN");
  });
});
