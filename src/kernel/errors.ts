/** Failures of the native core as the project's own error type. */
import { SystemError } from "../base/errors.ts";

/** What the addon calls to make the error of a failed call: (errno, syscall, path, step, detail). */
export function makeSystemError(errno: string, syscall: string, path: string, step: string, detail: string): SystemError {
  return new SystemError(detail === "" ? { errno, syscall, path, step } : { errno, syscall, path, step, detail });
}

/** Whether something thrown is the kernel's answer `errno` ("ENOENT"). */
export function isErrno(thrown: unknown, ...errnos: readonly string[]): thrown is SystemError {
  return thrown instanceof SystemError && errnos.includes(thrown.errno);
}
