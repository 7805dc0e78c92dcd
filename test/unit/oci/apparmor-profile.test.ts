import { describe, expect, it } from "vitest";
import { defaultAppArmorProfile, othersThan } from "../../../src/oci/spec/apparmor-profile.ts";

const profile = (changes: Partial<Parameters<typeof defaultAppArmorProfile>[0]> = {}): string =>
  defaultAppArmorProfile({ name: "berth-default", daemonProfile: null, pinAbi: true, ...changes });

/** The denied access to a path, by an interpreter of the few patterns that the profile uses. */
function denied(text: string, path: string): string {
  const found = new Set<string>();
  for (const [, pattern = "", access = ""] of text.matchAll(/^ {2}deny (\/\S+) (\w+),$/gm)) {
    const expression = pattern
      .replace(/[.+()]/g, "\\$&")
      .replaceAll("**", "\0")
      .replaceAll("*", "[^/]*")
      .replaceAll("\0", ".*");
    if (new RegExp(`^${expression}$`).test(path)) for (const letter of access) found.add(letter);
  }
  return [...found].sort().join("");
}

describe("the default AppArmor profile", () => {
  it.each([
    ["/proc/sys/kernel/core_pattern", "w"],
    ["/proc/sys/kernel/s", "w"],
    ["/proc/sys/kernel/sysrq", "w"],
    ["/proc/sys/kernel/sched_domain/cpu0", "w"],
    ["/proc/sys/vm/overcommit_memory", "w"],
    ["/proc/sys/net/ipv4/ip_forward", "w"],
    ["/proc/sys/k", "w"],
    ["/proc/irq/1/smp_affinity", "w"],
    ["/proc/bus/pci/00/00.0", "w"],
    ["/proc/scsi/scsi", "w"],
    ["/proc/sysvipc/shm", "w"],
    ["/proc/mtrr", "w"],
    ["/proc/sysrq-trigger", "klrwx"],
    ["/proc/kcore", "klrwx"],
    ["/sys/kernel/uevent_helper", "klw"],
    ["/sys/fs/bpf/x", "klw"],
    ["/sys/fs/cg", "klw"],
    ["/sys/fs/cgroups/x", "klw"],
    ["/sys/firmware/efi/efivars/x", "klrwx"],
    ["/sys/kernel/security/apparmor/.load", "klrwx"],
    ["/sys/devices/virtual/powercap/intel-rapl/x", "klrwx"],
  ])("denies %s %s", (path, access) => {
    expect(denied(profile(), path)).toBe(access);
  });

  it.each([
    "/proc/1/oom_score_adj",
    "/proc/4711/task/4712/comm",
    "/proc/sys/kernel/shmmax",
    "/proc/sys/kernel/shm_rmid_forced",
    "/sys/fs/cgroup/memory/x/cgroup.procs",
    "/sys/fs/cgroup/cgroup.procs",
    "/etc/passwd",
    "/procession/sys",
    "/system/a",
  ])("leaves %s alone", (path) => {
    expect(denied(profile(), path)).toBe("");
  });

  it("lets signals in from the daemon and between its own", () => {
    const text = profile({ daemonProfile: "/usr/bin/berth" });
    expect(text).toContain('signal (receive) peer="/usr/bin/berth",');
    expect(text).toContain('signal (receive) peer="unconfined",');
    expect(text).toContain('signal (send, receive) peer="berth-default",');
  });

  it("pins the features it speaks of", () => {
    expect(profile()).toMatch(/^abi <abi\/3\.0>,$/m);
    expect(profile({ pinAbi: false })).not.toContain("abi <");
  });

  it.each(['x" { file, }', "a b", "", "x\n", "x#y"])("refuses the name %j", (name) => {
    expect(() => profile({ name })).toThrow(TypeError);
  });
});

describe("othersThan", () => {
  it("matches everything below the prefix but the word", () => {
    const patterns = othersThan("/a/", "bc", "**").map((pattern) => new RegExp(`^${pattern.replace("**", ".*")}$`));
    const matches = (path: string): boolean => patterns.some((pattern) => pattern.test(path));
    for (const path of ["/a/b", "/a/x", "/a/bx", "/a/bx/y", "/a/cb"]) expect(matches(path), path).toBe(true);
    for (const path of ["/a/bc", "/a/bcd", "/a/bc/d", "/b/x"]) expect(matches(path), path).toBe(false);
  });
});
