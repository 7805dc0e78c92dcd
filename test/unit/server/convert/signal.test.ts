import { describe, expect, test } from "vitest";
import { Signal } from "../../../../api/cri/service-definition.ts";
import { signalName, signalNumber } from "../../../../src/server/convert/signal.ts";

describe("signals", () => {
  test("every value of the wire has a name and comes back", () => {
    const names = Object.values(Signal).map((value) => signalName(value, "f"));
    expect(new Set(names).size).toBe(66);
    expect(names.map(signalNumber)).toEqual(Object.values(Signal));
    for (const name of names) expect(name).toMatch(/^$|^SIG[A-Z0-9]+([+-]\d+)?$/);
  });

  test.each([
    [Signal.SIGNAL_RUNTIME_DEFAULT, ""],
    [Signal.SIGNAL_SIGTERM, "SIGTERM"],
    [Signal.SIGNAL_SIGRTMIN, "SIGRTMIN"],
    [Signal.SIGNAL_SIGRTMINPLUS15, "SIGRTMIN+15"],
    [Signal.SIGNAL_SIGRTMAXMINUS14, "SIGRTMAX-14"],
    [Signal.SIGNAL_SIGRTMAX, "SIGRTMAX"],
  ])("%i is %j", (value, name) => {
    expect(signalName(value, "f")).toBe(name);
  });

  test("an unknown number is refused, an unknown name is the default", () => {
    expect(() => signalName(66, "config.stop_signal")).toThrow("config.stop_signal is no known signal: 66");
    expect(signalNumber("SIGWEIRD")).toBe(Signal.SIGNAL_RUNTIME_DEFAULT);
  });
});
