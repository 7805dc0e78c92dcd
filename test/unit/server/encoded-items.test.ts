import { describe, expect, test } from "vitest";
import { ListPodSandboxResponse, PodSandboxStatusResponse } from "../../../api/cri/service-definition.ts";
import { encodeList, itemEncoder } from "../../../src/server/encoded-items.ts";

describe("encoded list items", () => {
  test("are made once for each record and joined into one list", () => {
    let made = 0;
    const encode = itemEncoder(ListPodSandboxResponse, ({ id }: { id: string }) => {
      made += 1;
      return { items: [{ id }] };
    });
    const records = [{ id: "a" }, { id: "b".repeat(300) }, { id: "c" }];
    const first = encodeList(records, encode);
    expect(ListPodSandboxResponse.decode(first).items.map(({ id }) => id)).toEqual(records.map(({ id }) => id));
    expect(encodeList(records, encode)).toEqual(first);
    expect(made).toBe(3);
    encode({ id: "a" });
    expect(made).toBe(4);
  });

  test("an empty list is an empty message", () => {
    expect(encodeList([], () => new Uint8Array(1)).byteLength).toBe(0);
  });

  test("parts of different fields merge into one message", () => {
    const status = itemEncoder(PodSandboxStatusResponse, ({ id }: { id: string }) => ({ status: { id } }));
    const container = itemEncoder(PodSandboxStatusResponse, ({ id }: { id: string }) => ({ containersStatuses: [{ id }] }));
    const merged = PodSandboxStatusResponse.decode(Buffer.concat([status({ id: "s" }), container({ id: "1" }), container({ id: "2" })]));
    expect(merged.status?.id).toBe("s");
    expect(merged.containersStatuses.map(({ id }) => id)).toEqual(["1", "2"]);
  });

  test("cached bytes hold no more memory than their own", () => {
    const bytes = itemEncoder(ListPodSandboxResponse, ({ id }: { id: string }) => ({ items: [{ id }] }))({ id: "x" });
    expect(bytes.buffer.byteLength).toBe(bytes.byteLength);
  });
});
