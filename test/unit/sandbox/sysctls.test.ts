import { expect, test } from "vitest";
import { normalizeSysctl, podSysctls } from "../../../src/sandbox/sysctls.ts";

const own = { net: true, ipc: true, uts: true };
const shared = { net: false, ipc: false, uts: false };
const refused = (key: string): unknown => expect.objectContaining({ kind: "invalid-argument", message: expect.stringContaining(key) });

test("both separators name the same sysctl; the first one decides", () => {
  expect(normalizeSysctl("net.core.somaxconn")).toBe("net.core.somaxconn");
  expect(normalizeSysctl("net/core/somaxconn")).toBe("net.core.somaxconn");
  expect(normalizeSysctl("net/ipv4/conf/eth0.5/forwarding")).toBe("net.ipv4.conf.eth0/5.forwarding");
  expect(normalizeSysctl("net.ipv4.conf.eth0/5.forwarding")).toBe("net.ipv4.conf.eth0/5.forwarding");
});

test.each([
  "",
  "net",
  ".net",
  "net..x",
  "net/../kernel/core_pattern",
  "net.ipv4.x\n",
  "/net/x",
  "net.\u0000",
  "net.x y",
  "net.//.x",
  "net.a=b",
])("%j is no sysctl's name", (name) => {
  expect(() => normalizeSysctl(name)).toThrow(expect.objectContaining({ kind: "invalid-argument" }));
});

test.each(["net.core.somaxconn", "fs.mqueue.msg_max", "kernel.sem", "kernel.shm_rmid_forced", "kernel.msgmax", "kernel.domainname"])(
  "%s is set in the pod's own namespace and refused in the host's",
  (key) => {
    expect(podSysctls({ [key]: "1" }, {}, own)).toEqual({ [key]: "1" });
    expect(() => podSysctls({ [key]: "1" }, {}, shared)).toThrow(refused(key));
  },
);

test.each([
  "kernel.core_pattern",
  "kernel.hostname",
  "vm.overcommit_memory",
  "fs.file-max",
  "user.max_user_namespaces",
  "kernel.msgother",
  "network.x",
])("%s is never set", (key) => {
  expect(() => podSysctls({ [key]: "1" }, {}, own)).toThrow(refused(key));
});

test("a value that smuggles another sysctl stays one value, and control characters are refused", () => {
  const value = "1+kernel.core_pattern=|/bin/x";
  expect(podSysctls({ "net.core.somaxconn": value }, {}, own)).toEqual({ "net.core.somaxconn": value });
  for (const bad of ["1\n2", "1\u0000", "\u007f"]) {
    expect(() => podSysctls({ "net.core.somaxconn": bad }, {}, own)).toThrow(refused("net.core.somaxconn"));
  }
});

test("the same sysctl in both spellings is refused", () => {
  expect(() => podSysctls({ "net.core.somaxconn": "1", "net/core/somaxconn": "2" }, {}, own)).toThrow(refused("net.core.somaxconn"));
});

test("defaults hold where the pod owns the namespace, and the request wins", () => {
  const defaults = { "net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647" };
  expect(podSysctls({}, defaults, shared)).toEqual({});
  expect(podSysctls({ "net/ipv4/ip_unprivileged_port_start": "80" }, defaults, own)).toEqual({
    "net.ipv4.ip_unprivileged_port_start": "80",
    "net.ipv4.ping_group_range": "0 2147483647",
  });
});
