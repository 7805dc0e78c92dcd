import { afterEach, describe, expect, it } from "vitest";
import { silentLogger } from "../../../src/base/log.ts";
import { Operation } from "../../../src/operation/context.ts";
import { seenFailpoints, setFailpoints } from "../../../src/operation/failpoints.ts";
import { UndoLog } from "../../../src/operation/undo.ts";

const operation = (timeoutMs = 1000, signal?: AbortSignal) =>
  new Operation({ name: "create", log: silentLogger(), timeoutMs, ...(signal ? { signal } : {}) });
afterEach(() => setFailpoints(""));

describe("UndoLog", () => {
  it("undoes in reverse, the half-done step included, and goes on after a failure", async () => {
    const trace: string[] = [];
    const undo = new UndoLog(operation());
    await undo.step(
      "a",
      () => trace.push("a"),
      () => void trace.push("undo a"),
    );
    await undo.step(
      "b",
      () => trace.push("b"),
      () => Promise.reject(new Error("stuck")),
    );
    await expect(
      undo.step(
        "c",
        () => Promise.reject(new Error("c failed")),
        () => void trace.push("undo c"),
      ),
    ).rejects.toThrow("c failed");
    expect(await undo.rollback()).toEqual([{ step: "b", error: "stuck" }]);
    expect(trace).toEqual(["a", "b", "undo c", "undo a"]);
  });

  it("undoes although the caller has cancelled", async () => {
    const controller = new AbortController();
    const undo = new UndoLog(operation(1000, controller.signal));
    let undone = false;
    await undo.step(
      "a",
      () => undefined,
      () => {
        undone = true;
      },
    );
    controller.abort();
    await expect(
      undo.step(
        "b",
        () => undefined,
        () => undefined,
      ),
    ).rejects.toMatchObject({ kind: "cancelled" });
    await undo.rollback();
    expect(undone).toBe(true);
  });

  it("gives an undo that hangs its budget and no more", async () => {
    const undo = new UndoLog(operation(), 20);
    await undo.step(
      "a",
      () => undefined,
      () => new Promise(() => undefined),
    );
    expect(await undo.rollback()).toMatchObject([{ step: "a", error: expect.stringContaining("20 ms") }]);
  });

  it("undoes nothing after commit", async () => {
    const undo = new UndoLog(operation());
    await undo.step(
      "a",
      () => undefined,
      () => Promise.reject(new Error("must not run")),
    );
    undo.commit();
    expect(await undo.rollback()).toEqual([]);
  });
});

describe("failpoints and steps", () => {
  it("makes each step a failpoint, N times", async () => {
    setFailpoints("net.*=1*error(injected)");
    const op = operation();
    await expect(op.step("net.attach", () => "done")).rejects.toThrow("failpoint net.attach: injected");
    expect(await op.step("net.attach", () => "done")).toBe("done");
    expect(seenFailpoints()).toContain("net.attach");
    expect(Object.keys(op.phases.toJSON())).toEqual(["net.attach"]);
  });

  it("lets a hanging step end with the operation's deadline, which names the step", async () => {
    setFailpoints("slow=hang");
    await expect(operation(20).step("slow", () => undefined)).rejects.toThrow(/create did not finish within 20 ms in step slow/);
  });

  it("refuses an action that it does not know", () => {
    expect(() => setFailpoints("a=explode")).toThrow(/failpoint "a=explode"/);
  });
});

describe("Operation", () => {
  it("hands a result that comes after the abort to the clean-up", async () => {
    const op = operation();
    let late: string | null = null;
    let finish: (value: string) => void = () => undefined;
    const work = new Promise<string>((resolve) => {
      finish = resolve;
    });
    const raced = op.raceWithCleanup(work, (value) => {
      late = value;
    });
    op.cancel(new Error("gone"));
    await expect(raced).rejects.toThrow("gone");
    finish("handle");
    await new Promise((resolve) => setImmediate(resolve));
    expect(late).toBe("handle");
  });

  it("gives a child never more time than it has itself", () => {
    const op = operation(50);
    expect(op.child("inner", 10_000).remainingMs).toBeLessThanOrEqual(50);
    expect(op.detached("undo", 10_000).remainingMs).toBeGreaterThan(50);
  });
});
