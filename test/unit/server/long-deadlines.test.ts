import { describe, expect, test } from "vitest";
import { shortened } from "../../../src/server/long-deadlines.ts";

describe("timeouts in the grpc-timeout header", () => {
  test.each(["1n", "99999999u", "99999999m", "120S", "2073600S", "576H", "34560M", "", "12", "S", "1 S", "123456789S", "-1S"])(
    "%j passes as it is",
    (text) => {
      expect(shortened(text)).toBe(text);
    },
  );
  test.each(["2073601S", "99999999S", "34561M", "577H", "99999999H"])("%s becomes 24 days", (text) => {
    expect(shortened(text)).toBe("2073600S");
    expect(2_073_600 * 1000).toBeLessThan(2 ** 31);
  });
});
