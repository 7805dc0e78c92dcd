/** Durations of the wire. */
import type { Int64 } from "../../../api/cri/service-definition.ts";
import { invalid } from "../validate.ts";
import { bigIntFromInt64 } from "./int64.ts";

/** A century; longer is cut, so that an arithmetic overflow cannot become a short time. */
const maxSeconds = 100n * 365n * 24n * 3600n;

/** Whole seconds of a request in milliseconds; negative is invalid. */
export function secondsToMs(value: Int64, field: string): number {
  const seconds = bigIntFromInt64(value);
  if (seconds < 0n) throw invalid(field, `is negative: ${seconds}`);
  return Number(seconds > maxSeconds ? maxSeconds : seconds) * 1000;
}
