import { describe, expect, it, vi } from "vitest";
import { silentLogger } from "../../../src/base/log.ts";
import { Operation } from "../../../src/operation/context.ts";
import { canonicalJson, JoinTable, type JoinWork } from "../../../src/operation/join-table.ts";

const log = silentLogger();
const operation = (timeoutMs: number | null = 5000, signal?: AbortSignal) =>
  new Operation({ name: "RunPodSandbox", log, timeoutMs, ...(signal ? { signal } : {}) });
const table = (unclaimedTtlMs = 10_000) => new JoinTable<string>({ log, createTimeoutMs: 5000, unclaimedTtlMs });

/** A create that finishes when the test says so. */
function gate(value: string) {
  let open: () => void = () => undefined;
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const work = {
    create: vi.fn(async (op: Operation) => {
      await op.race(opened);
      return value;
    }),
    claim: vi.fn(),
    dispose: vi.fn(async () => undefined),
  } satisfies JoinWork<string>;
  return { work, open: () => open() };
}

describe("JoinTable", () => {
  it("runs one create for two callers of the same request and claims it once", async () => {
    const joins = table();
    const { work, open } = gate("id");
    const both = Promise.all([joins.join(operation(), "pod", "h", work), joins.join(operation(), "pod", "h", work)]);
    open();
    expect(await both).toEqual(["id", "id"]);
    expect(work.create).toHaveBeenCalledTimes(1);
    expect(work.claim).toHaveBeenCalledTimes(1);
    expect(joins.has("pod")).toBe(false);
  });

  it("keeps on after its caller's deadline, hides the result, and gives it to the retry", async () => {
    const joins = table();
    const { work, open } = gate("id");
    await expect(joins.join(operation(20), "pod", "h", work)).rejects.toMatchObject({ kind: "deadline-exceeded" });
    expect(joins.has("pod")).toBe(true);
    open();
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(work.claim).not.toHaveBeenCalled();
    expect(await joins.join(operation(), "pod", "h", work)).toBe("id");
    expect(work.create).toHaveBeenCalledTimes(1);
    expect(work.claim).toHaveBeenCalledWith("id");
    expect(work.dispose).not.toHaveBeenCalled();
  });

  it("undoes a result that nobody claims", async () => {
    const joins = table(20);
    const { work, open } = gate("id");
    await expect(joins.join(operation(10), "pod", "h", work)).rejects.toThrow();
    open();
    await vi.waitFor(() => expect(work.dispose).toHaveBeenCalledWith(expect.anything(), "id"));
    expect(joins.has("pod")).toBe(false);
  });

  it("cancels a running create when another request comes under its name, then runs that", async () => {
    const joins = table();
    const first = gate("one");
    const second = gate("two");
    const failed = expect(joins.join(operation(), "pod", "h1", first.work)).rejects.toMatchObject({ kind: "cancelled" });
    const result = joins.join(operation(), "pod", "h2", second.work);
    await failed;
    second.open();
    expect(await result).toBe("two");
  });

  it("undoes an unclaimed result when another request comes under its name", async () => {
    const joins = table();
    const first = gate("one");
    const second = gate("two");
    await expect(joins.join(operation(10), "pod", "h1", first.work)).rejects.toThrow();
    first.open();
    await new Promise((resolve) => setTimeout(resolve, 5));
    second.open();
    expect(await joins.join(operation(), "pod", "h2", second.work)).toBe("two");
    expect(first.work.dispose).toHaveBeenCalledWith(expect.anything(), "one");
  });

  it("forgets a failed create, so that the next one runs anew", async () => {
    const joins = table();
    const failing = { create: vi.fn(async () => Promise.reject(new Error("no"))), claim: vi.fn(), dispose: vi.fn(async () => undefined) };
    await expect(joins.join(operation(), "pod", "h", failing)).rejects.toThrow("no");
    await expect(joins.join(operation(), "pod", "h", failing)).rejects.toThrow("no");
    expect(failing.create).toHaveBeenCalledTimes(2);
  });
});

describe("canonicalJson", () => {
  it("does not depend on the order of keys", () => {
    expect(canonicalJson({ b: 1, a: { d: [2, 1], c: 3n } })).toBe(canonicalJson({ a: { c: 3n, d: [2, 1] }, b: 1 }));
    expect(canonicalJson({ a: [1, 2] })).not.toBe(canonicalJson({ a: [2, 1] }));
  });
});
