import { describe, expect, test } from "vitest";
import { encodeMessage, Int64Value, UInt64Value } from "../../../../api/cri/service-definition.ts";
import {
  bigIntFromInt64,
  int64FromBigInt,
  numberFromInt64,
  uint64FromBigInt,
  uint64FromNumber,
} from "../../../../src/server/convert/int64.ts";
import { secondsToMs } from "../../../../src/server/convert/seconds.ts";

const edges = [0n, 1n, -1n, 2n ** 31n, 2n ** 32n - 1n, 2n ** 32n, 2n ** 53n, 2n ** 53n + 1n, 1_764_000_000_123_456_789n, 2n ** 63n - 1n];
const random = Array.from({ length: 200 }, (_, index) => BigInt.asIntN(64, BigInt(index + 1) * 0x9e37_79b9_7f4a_7c15n));

describe("64-bit integers", () => {
  test("signed ones survive the wire exactly", () => {
    for (const value of [...edges, ...edges.map((edge) => -edge), -(2n ** 63n), ...random]) {
      const decoded = Int64Value.decode(encodeMessage(Int64Value, { value: int64FromBigInt(value) }));
      expect(bigIntFromInt64(decoded.value)).toBe(value);
    }
  });

  test("unsigned ones survive the wire exactly", () => {
    for (const value of [...edges.filter((edge) => edge >= 0n), 2n ** 64n - 1n, ...random.map((number) => BigInt.asUintN(64, number))]) {
      const decoded = UInt64Value.decode(encodeMessage(UInt64Value, { value: uint64FromBigInt(value) }));
      expect(bigIntFromInt64(decoded.value)).toBe(value);
    }
    expect(bigIntFromInt64(uint64FromBigInt(-5n))).toBe(0n);
  });

  test("numbers of requests are exact or refused", () => {
    for (const value of [0, 1, -1, -1000, 2 ** 31, -(2 ** 31), 2 ** 32, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER]) {
      expect(numberFromInt64(int64FromBigInt(BigInt(value)), "f")).toBe(value);
    }
    for (const value of [2n ** 53n, -(2n ** 53n), 2n ** 63n - 1n, -(2n ** 63n)]) {
      expect(() => numberFromInt64(int64FromBigInt(value), "f")).toThrow(`f is out of range: ${value}`);
    }
    expect(() => numberFromInt64(uint64FromBigInt(2n ** 64n - 1n), "f")).toThrow("f is out of range: 18446744073709551615");
  });

  test("sizes and counts are never negative, broken or not a number", () => {
    expect([3.9, -1, Number.NaN, Number.POSITIVE_INFINITY, 0].map(uint64FromNumber)).toEqual([3, 0, 0, Number.MAX_SAFE_INTEGER, 0]);
  });

  test("seconds become milliseconds, are never negative and never overflow", () => {
    expect(secondsToMs(int64FromBigInt(0n), "timeout")).toBe(0);
    expect(secondsToMs(int64FromBigInt(30n), "timeout")).toBe(30_000);
    const longest = secondsToMs(int64FromBigInt(2n ** 63n - 1n), "timeout");
    expect(Number.isSafeInteger(longest) && longest > 50 * 365 * 24 * 3600_000).toBe(true);
    expect(() => secondsToMs(int64FromBigInt(-1n), "timeout")).toThrow("timeout is negative: -1");
  });
});
