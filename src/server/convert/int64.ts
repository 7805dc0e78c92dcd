/** 64-bit fields. BigInt never reaches the encoder, which would write it as 0; halves and safe numbers are exact. */
import type { Int64 } from "../../../api/cri/service-definition.ts";
import { invalid } from "../validate.ts";

/** Nanoseconds and the like, exactly. Out of the 64-bit range it wraps, as the wire does. */
export function int64FromBigInt(value: bigint): Int64 {
  return { low: Number(BigInt.asIntN(32, value)), high: Number(BigInt.asIntN(32, value >> 32n)), unsigned: false };
}

/** Sizes and counts: not negative, no fraction; what is not a number becomes 0. */
export function uint64FromNumber(value: number): number {
  return value > 0 ? Math.min(Math.trunc(value), Number.MAX_SAFE_INTEGER) : 0;
}

export function uint64FromBigInt(value: bigint): Int64 {
  return { ...int64FromBigInt(value < 0n ? 0n : value), unsigned: true };
}

/** Throws invalid-argument beyond ±2^53: no such size, time or id exists. */
export function numberFromInt64(value: Int64, field: string): number {
  const high = value.unsigned ? value.high >>> 0 : value.high | 0;
  const number = high * 0x1_0000_0000 + (value.low >>> 0);
  if (!Number.isSafeInteger(number)) throw invalid(field, `is out of range: ${bigIntFromInt64(value)}`);
  return number;
}

export function bigIntFromInt64(value: Int64): bigint {
  const bits = (BigInt(value.high >>> 0) << 32n) | BigInt(value.low >>> 0);
  return value.unsigned ? bits : BigInt.asIntN(64, bits);
}
