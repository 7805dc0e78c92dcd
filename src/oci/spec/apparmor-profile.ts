/**
 * The text of the default AppArmor profile: a container may do to its own files what it likes, and nothing to the kernel's.
 * It stands beside masked paths, read-only mounts and seccomp, and holds where one of those is missing: a container with
 * SYS_ADMIN may not mount, one with an unmasked /proc still cannot write to sysctls of the whole machine.
 *
 * It includes no file of the distribution, so that it means the same on every host. Language: apparmor.d(5).
 */

export interface AppArmorProfileOptions {
  readonly name: string;
  /** The profile that the daemon itself runs under, null where it is unconfined. Signals of the daemon and its monitors come from there. */
  readonly daemonProfile: string | null;
  /**
   * Whether the parser knows the features that AppArmor 3.0 mediates. Without that pin a newer kernel would also deny what a newer
   * AppArmor mediates (user namespaces, io_uring) and this profile does not speak of.
   */
  readonly pinAbi: boolean;
}

/** Throws where the name or the daemon's profile cannot be written into a profile. */
export function defaultAppArmorProfile(options: AppArmorProfileOptions): string {
  const self = quote(options.name);
  // Tools on the host, and runtimes that some distributions run under a profile of their own.
  const signallers = ["unconfined", "runc", "crun", ...(options.daemonProfile === null ? [] : [options.daemonProfile])];
  const rules = [
    "network,",
    // The sockets of the kernel's own cryptography and of hypervisors. A 32-bit socketcall(2) passes seccomp's arguments by.
    "deny network alg,",
    "deny network vsock,",
    "capability,",
    "file,",
    "umount,",
    "deny mount,",
    ...signallers.map((peer) => `signal (receive) peer=${quote(peer)},`),
    `signal (send, receive) peer=${self},`,
    `ptrace (trace, tracedby, read, readby) peer=${self},`,
    ...kernelFiles().map(({ path, access }) => `deny ${path} ${access},`),
  ];
  return [
    ...(options.pinAbi ? ["abi <abi/3.0>,", ""] : []),
    `profile ${self} flags=(attach_disconnected, mediate_deleted) {`,
    ...rules.map((rule) => `  ${rule}`),
    "}",
    "",
  ].join("\n");
}

const change = "wkl";
const anything = "rwklx";

function kernelFiles(): { readonly path: string; readonly access: string }[] {
  return [
    // Of /proc: the directories of processes, and of sysctls those of System V shared memory alone.
    ...rules("w", ["/proc/*"]),
    ...rules("w", ["/proc/[^1-9s]*/**", ...othersThan("/proc/", "sys/", "**").filter((path) => path !== "/proc/[^s]**")]),
    ...rules("w", othersThan("/proc/sys/", "kernel/", "**")),
    ...rules("w", othersThan("/proc/sys/kernel/", "shm", "**")),
    ...rules(anything, ["/proc/sysrq-trigger", "/proc/kcore"]),
    // Of /sys: the container's cgroups, where they are mounted writable.
    ...rules(change, othersThan("/sys/", "fs/cgroup/", "**")),
    ...rules(anything, ["/sys/firmware/**", "/sys/kernel/security/**", "/sys/devices/virtual/powercap/**"]),
  ];
}

const rules = (access: string, paths: readonly string[]): { path: string; access: string }[] => paths.map((path) => ({ path, access }));

/**
 * Patterns for every path below `prefix` that does not begin with `prefix + word`. The language has no "all but", so they go letter by
 * letter: another first one, the first one and another second one, … and the beginnings themselves.
 */
export function othersThan(prefix: string, word: string, rest: string): string[] {
  return [...word].flatMap((letter, i) => {
    const start = prefix + word.slice(0, i);
    return [...(i === 0 || start.endsWith("/") ? [] : [start]), `${start}[^${letter}]${rest}`];
  });
}

/** A name as apparmor.d takes it. Only what every name in use consists of: nothing has to be escaped, and nothing can end the quotes. */
function quote(name: string): string {
  if (!/^[\w./:+@-]+$/.test(name)) throw new TypeError(`${JSON.stringify(name)} cannot be the name of an AppArmor profile`);
  return `"${name}"`;
}
