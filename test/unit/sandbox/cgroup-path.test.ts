import { expect, test } from "vitest";
import { cgroupLeafPath, cgroupParentPath } from "../../../src/sandbox/cgroup-path.ts";

const id = "a".repeat(64);

test("with cgroupfs the leaf is the id, directly below the parent", () => {
  const parent = cgroupParentPath("cgroupfs", "/kubepods/burstable/pod1/", "/berth");
  expect(cgroupLeafPath("cgroupfs", parent, id)).toBe(`/kubepods/burstable/pod1/${id}`);
  expect(cgroupLeafPath("cgroupfs", cgroupParentPath("cgroupfs", "", "berth"), id)).toBe(`/berth/${id}`);
  expect(cgroupLeafPath("cgroupfs", cgroupParentPath("cgroupfs", "/", "/berth"), id)).toBe(`/${id}`);
});

test("with systemd's naming a slice is expanded and the id follows the last dash", () => {
  const parent = cgroupParentPath("systemd", "kubepods-besteffort-pod1_2.slice", "/berth");
  expect(parent).toBe("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice");
  expect(cgroupLeafPath("systemd", parent, id)).toBe(`${parent}/berth-${id}.scope`);
  expect(cgroupParentPath("systemd", "-.slice", "/berth")).toBe("/");
  expect(() => cgroupParentPath("systemd", "a--b.slice", "/berth")).toThrow(/not a slice's name/);
});

test.each(["/a/../b", "/a/./b", "/a b", "/a\n", `/${"x".repeat(256)}`])("%j is no cgroup parent", (parent) => {
  expect(() => cgroupParentPath("cgroupfs", parent, "/berth")).toThrow(expect.objectContaining({ kind: "invalid-argument" }));
});
