import { describe, expect, test } from "vitest";
import type { Kernel } from "../../../src/kernel/contract.ts";
import { kernelFunctions } from "../../../src/kernel/load.ts";
import { kernel, program } from "./rig.ts";

type Loose = Record<keyof Kernel, (...args: unknown[]) => unknown>;
const loose = kernel as unknown as Loose;

describe("arguments that break the contract", () => {
  test("a wrong type names function, argument and key", () => {
    expect(() => loose.removeTree({ path: 7 })).toThrow(new TypeError("removeTree.args.path: must be a string, is a number"));
    expect(() => loose.writeFileAtomic({ path: "/x", data: "text", mode: 0o600, durable: false })).toThrow(
      /writeFileAtomic\.args\.data: must be a Uint8Array, is a string/,
    );
    expect(() => loose.openTree({ path: "/", clone: 1, recursive: false, readOnly: false })).toThrow(/openTree\.args\.clone/);
    expect(() => loose.mountOverlay({ lowers: ["/a", null], upper: null, work: null })).toThrow(/mountOverlay\.args\.lowers\[1\]/);
    expect(() => loose.runProgram({ ...program("/bin/true", []), env: "A=b" })).toThrow(/runProgram\.args\.env/);
  });

  test("an absent or undefined key is an error, null is not absent", () => {
    expect(() => loose.openProcess({ pid: 1 })).toThrow(/openProcess\.args\.startTime: missing \(an absent value is null\)/);
    expect(() => loose.openProcess({ pid: 1, startTime: undefined })).toThrow(/openProcess\.args\.startTime: must be a string or null/);
    expect(() => loose.removeTree({ path: null })).toThrow(/removeTree\.args\.path: must be a string, is null/);
  });

  test("an unknown or misspelt key is an error", () => {
    expect(() => loose.openProcess({ pid: 1, startTime: null, starttime: null })).toThrow(/openProcess\.args\.starttime: unknown key/);
  });

  test("keys of nested objects are named by their whole path", () => {
    const args = { hostname: null, sysctls: {}, cgroup: null, oomScoreAdj: 0, loopback: false };
    expect(() => loose.startPause({ ...args, namespaces: { net: true, ipc: true, uts: true } })).toThrow(
      /startPause\.args\.namespaces\.pid: missing/,
    );
    const namespaces = { net: false, ipc: false, uts: false, pid: false };
    expect(() => loose.startPause({ ...args, namespaces, sysctls: { "net.a": 1 } })).toThrow(/startPause\.args\.sysctls\.net\.a/);
    expect(() => loose.startPause({ ...args, namespaces, hostname: "h" })).toThrow(/startPause\.args\.hostname: only with a uts namespace/);
    expect(() => loose.startPause({ ...args, namespaces, loopback: true })).toThrow(/startPause\.args\.loopback/);
  });

  test("numbers are whole and in range", () => {
    for (const maxBytes of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 40]) {
      expect(() => loose.collectPipe({ maxBytes })).toThrow(/collectPipe\.args\.maxBytes: must be a whole number/);
    }
    expect(() => loose.makeDirectories({ path: "/tmp", mode: 0o17777 })).toThrow(/makeDirectories\.args\.mode/);
  });

  test("a NUL in a string is refused, not cut at", () => {
    expect(() => loose.removeTree({ path: "/tmp/a\0/../../etc" })).toThrow(/removeTree\.args\.path: contains a NUL/);
  });

  test("no argument at all, or another kind of thing, is refused by every function that takes one", () => {
    const without = new Set(["features", "programDigests", "listMounts", "openNull"]);
    for (const name of kernelFunctions) {
      if (without.has(name)) continue;
      for (const bad of [undefined, null, 3, "text", [], () => 0]) {
        expect(() => loose[name](bad), `${name}(${String(bad)})`).toThrow(new RegExp(`^${name}\\.args: must be an object`));
      }
      expect(() => loose[name]({}), name).toThrow(/missing \(an absent value is null\)/);
    }
  });

  test("a getter that throws is passed on", () => {
    const args = {
      get path(): string {
        throw new RangeError("from the getter");
      },
    };
    expect(() => loose.removeTree(args)).toThrow("from the getter");
  });
});

describe("handles as arguments", () => {
  test("another class, a look-alike or a closed handle is refused by name", () => {
    const pipe = kernel.collectPipe({ maxBytes: 10 });
    pipe.stop();
    expect(() => loose.attachMount({ mount: pipe, path: "/x" })).toThrow(/attachMount\.args\.mount: must be a FdHandle/);
    expect(() => loose.attachMount({ mount: { number: 3, close() {} }, path: "/x" })).toThrow(
      /attachMount\.args\.mount: must be a FdHandle/,
    );
    expect(() => loose.attachMount({ mount: Object.create(kernel.openNull()), path: "/x" })).toThrow(/must be a FdHandle/);
    const closed = kernel.openNull();
    closed.close();
    expect(() => loose.attachMount({ mount: closed, path: "/x" })).toThrow(/attachMount\.args\.mount: FdHandle is closed/);
    expect(() => loose.cgroupStats({ cgroups: [closed] })).toThrow(/cgroupStats\.args\.cgroups\[0\]: must be a CgroupHandle/);
    pipe.writeEnd.close();
  });

  test("JavaScript cannot make a handle", () => {
    const handle = kernel.openNull();
    const FdHandle = handle.constructor as new (...args: unknown[]) => unknown;
    expect(() => new FdHandle()).toThrow(/made by the kernel alone/);
    expect(() => new FdHandle(handle)).toThrow(/made by the kernel alone/);
    expect(() => (handle.close as () => void).call({})).toThrow();
    handle.close();
  });
});
