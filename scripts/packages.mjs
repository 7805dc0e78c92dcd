// The Debian packages that Berth's commands need, each with its reason. docs/dependencies.md lists the same ones,
// and `npm run check` compares the two.

/** Groups, in the order in which they build on each other. A command asks for the groups that it needs and no more. */
export const groups = {
  build: "compile the native programs",
  run: "run pods on a bridge network",
  demo: "the registry and the image of `npm run demo`",
  test: "the test suites",
  vm: "the virtual machine of `npm run test:vm`",
  bench: "the runtimes that benchmarks compare with",
};

/** `oneOf` names packages of which any one will do; the first is what setup installs. */
export const packages = [
  { name: "g++", group: "build", why: "C++20 compiler for core, monitor and addon" },
  { name: "cmake", group: "build", why: "build system of the native programs" },
  { name: "ninja-build", group: "build", why: "fast incremental native builds" },
  { name: "pkg-config", oneOf: ["pkg-config", "pkgconf"], group: "build", why: "finds the libraries below" },
  { name: "libseccomp-dev", group: "build", why: "compiles seccomp profiles to BPF" },
  { name: "libcap-dev", group: "build", why: "capability names and numbers" },
  { name: "libarchive-dev", group: "build", why: "berth-unpack reads layer archives with it" },
  { name: "libzstd-dev", group: "build", why: "zstd layers" },
  { name: "libisal-dev", group: "build", why: "fast gzip decompression of layers" },
  { name: "libssl-dev", group: "build", why: "SHA-256 of layers with the processor's instructions" },
  { name: "rapidjson-dev", group: "build", why: "config.json parser of the core (headers only)" },

  { name: "containernetworking-plugins", group: "run", why: "CNI plugins bridge, host-local, portmap, firewall" },
  { name: "iptables", group: "run", why: "the CNI plugins portmap and firewall call it" },
  { name: "iproute2", group: "run", why: "ip, to look at pod networks" },

  { name: "docker-registry", group: "demo", why: "a real registry on loopback" },
  { name: "busybox", oneOf: ["busybox", "busybox-static"], group: "demo", why: "content of the demo and test images" },

  { name: "runc", group: "test", why: "proves that a bundle made by Berth runs under another runtime" },
  { name: "strace", group: "test", why: "counts the programs exec’ed per operation" },
  { name: "e2fsprogs", group: "test", why: "small filesystems for full-disk tests" },
  { name: "procps", group: "test", why: "the residue checker cross-checks with ps" },
  { name: "zstd", group: "test", why: "compresses zstd layers of test images" },
  { name: "attr", group: "test", why: "sets and reads extended attributes of test layers" },

  { name: "qemu-system-x86", group: "vm", why: "runs the tests on a host with cgroup v2 and AppArmor" },

  { name: "containerd", group: "bench", why: "peer: containerd’s CRI plugin" },
  { name: "crun", group: "bench", why: "peer: crun" },
  { name: "conmon", group: "bench", why: "peer: monitor memory and log speed" },
];
