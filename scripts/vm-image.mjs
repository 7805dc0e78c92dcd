// The disks of the virtual machine in which `npm run test:vm` runs the tests: a kernel and a small root file system out of Debian
// packages, and the project's npm packages. Both are kept in .cache/vm under a name that says what they were made of.
//
// Nothing is installed on this machine: apt resolves and fetches against an empty package database, dpkg-deb unpacks, no package's
// script is run. What such a script would have made and a test needs is made here.

import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { at, Failure, must, run, say, which } from "./project.mjs";

export const cache = at(".cache/vm");

/** The root's packages; what they depend on comes along. */
const packages = [
  // A system to stand on.
  ...["base-files", "bash", "busybox", "coreutils", "dash", "findutils", "grep", "gzip", "kmod", "libc-bin", "mount", "procps", "sed"],
  ...["tar", "util-linux"],
  // What Berth's programs are linked with.
  ...["libarchive13", "libcap2", "libisal2", "libseccomp2", "libssl3", "libstdc++6", "libzstd1"],
  // What Berth runs, and what the tests do.
  ...["containernetworking-plugins", "iptables", "nftables", "iproute2", "apparmor", "runc"],
  ...["docker-registry", "e2fsprogs", "attr", "strace", "zstd"],
];

/** Dependencies that only the packages' scripts need, or features that no test uses. */
const unwanted =
  /^(adduser|debconf|dpkg|init-system-helpers|krb5.*|lib(audit-common|db5\.3|edit2|gdbm.*|semanage.*|sepol2|.*-perl|perl.*|pam-modules.*)|lsb-base|passwd|perl.*|sysvinit-utils|usrmerge)$/;

const mebibyte = 1024 * 1024;
const headroom = 2048 * mebibyte;

/**
 * Makes what is missing and returns `{kernel, root, modules}`: paths of the kernel and of two ext4 images. They are shared by all
 * runs, so a machine has to start with them as snapshots.
 */
export async function vmImages() {
  mkdirSync(cache, { recursive: true });
  const { kernel, root } = await system();
  return { kernel, root, modules: await nodeModules() };
}

/** An ext4 image with what is below a directory, and `spare` bytes beside it. */
export async function makeImage(directory, image, { spare = 64 * mebibyte } = {}) {
  const used = await must("du", ["-s", "--block-size=1", directory], { capture: true });
  const blocks = Math.ceil((Number(used.stdout.split("\t")[0]) * 1.15 + spare) / 4096);
  rmSync(`${image}.new`, { force: true });
  // Without a journal and with its tables already written, the guest writes less.
  const features = ["-O", "^has_journal", "-E", "root_owner=0:0,lazy_itable_init=0", "-m", "0", "-N", "131072"];
  await must("mke2fs", ["-q", "-F", "-t", "ext4", "-b", "4096", ...features, "-d", directory, `${image}.new`, String(blocks)], {
    capture: true,
    env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
  });
  renameSync(`${image}.new`, image);
}

// --- kernel and root ---

async function system() {
  const version = await kernelVersion();
  const files = await resolve();
  const recipe = [readFileSync(at("scripts/vm-image.mjs")), ...files.map((file) => file.name), version, await digestOfNode()];
  const name = `system-${digest(recipe)}`;
  const kernel = join(cache, name, "vmlinuz");
  const root = join(cache, name, "root.img");
  if (!existsSync(root)) {
    const started = Date.now();
    say(`vm: making the root file system out of ${files.length} Debian packages, kernel ${version}`);
    await makeSystem(join(cache, name), version, files);
    say(`vm: made in ${((Date.now() - started) / 1000).toFixed(0)} s`);
  }
  keepOnly(name, /^system-/);
  return { kernel, root };
}

const aptOptions = (status, archives) =>
  [
    `Dir::State::status=${status}`,
    `Dir::Cache::archives=${archives}`,
    "APT::Install-Recommends=false",
    "APT::Sandbox::User=root",
    "Acquire::Retries=3",
    "Debug::NoLocking=true",
  ].flatMap((option) => ["-o", option]);

/** The packages with all that they need, as `{name, package}` of their files; newest version that this machine's sources offer. */
async function resolve() {
  const status = join(cache, "no-packages");
  writeFileSync(status, "");
  const listed = await apt([...aptOptions(status, join(cache, "archives")), "-q", "-y", "--print-uris", "install", ...packages]);
  const files = [...listed.matchAll(/^'[^']+' (([^_\s]+)_\S+\.deb) \d+/gm)].map(([, name, of]) => ({ name, package: of }));
  if (files.length === 0) throw new Failure("vm: apt-get names no packages for the root file system");
  return files.filter((file) => !unwanted.test(file.package)).sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The package that holds the newest kernel for virtual machines. */
async function kernelVersion() {
  const shown = await run("apt-cache", ["depends", "linux-image-cloud-amd64"], { capture: true });
  const found = /Depends: linux-image-(\S+)/.exec(shown.stdout)?.[1];
  if (found !== undefined) return found;
  await apt(["-q", "update"]);
  const again = await must("apt-cache", ["depends", "linux-image-cloud-amd64"], { capture: true });
  return /Depends: linux-image-(\S+)/.exec(again.stdout)?.[1] ?? fail("vm: no kernel package linux-image-cloud-amd64");
}

/** Once more with fresh lists when it fails: old ones name files that the archive no longer has. */
async function apt(args) {
  const first = await run("apt-get", args, { capture: true, env: { LC_ALL: "C.UTF-8" } });
  if (first.code === 0) return first.stdout;
  await must("apt-get", ["-q", "update"], { capture: true });
  return (await must("apt-get", args, { capture: true, env: { LC_ALL: "C.UTF-8" } })).stdout;
}

async function makeSystem(directory, version, files) {
  const building = `${directory}.new`;
  rmSync(building, { recursive: true, force: true });
  const archives = join(building, "archives");
  const root = join(building, "root");
  mkdirSync(join(archives, "partial"), { recursive: true });
  const status = join(cache, "no-packages");
  const wanted = files.map((file) => file.package);
  await apt([...aptOptions(status, archives), "-q", "-y", "--download-only", "install", ...packages]);
  await must("apt-get", ["-q", "download", `linux-image-${version}`], { capture: true, cwd: archives });

  // Directories of a merged /usr first: packages still name /bin and /lib.
  mkdirSync(root);
  for (const name of ["bin", "sbin", "lib", "lib64"]) {
    mkdirSync(join(root, "usr", name), { recursive: true });
    symlinkSync(`usr/${name}`, join(root, name));
  }
  for (const file of readdirSync(archives).filter((name) => name.endsWith(".deb"))) {
    const name = file.split("_")[0];
    if (name === `linux-image-${version}`) await unpackDeb(join(archives, file), join(building, "kernel"));
    else if (wanted.includes(name)) await unpackDeb(join(archives, file), root);
  }
  await addModules(join(building, "kernel/lib/modules", version), root, version);
  await addNode(root);
  await finishRoot(root);
  copyFileSync(join(building, "kernel/boot", `vmlinuz-${version}`), join(building, "vmlinuz"));
  await makeImage(root, join(building, "root.img"), { spare: headroom });
  for (const name of ["archives", "root", "kernel"]) rmSync(join(building, name), { recursive: true, force: true });
  rmSync(directory, { recursive: true, force: true });
  renameSync(building, directory);
}

async function unpackDeb(file, into) {
  mkdirSync(into, { recursive: true });
  // dpkg-deb -x would replace the links of the merged /usr by directories.
  const without = ["doc", "man", "locale", "i18n", "info", "lintian", "bug"].map((name) => `--exclude=./usr/share/${name}`).join(" ");
  const script = `set -o pipefail; dpkg-deb --fsys-tarfile "$1" | tar -xp --keep-directory-symlink ${without} -C "$2"`;
  await must("bash", ["-c", script, "unpack", file, into], { capture: true });
}

/** Modules of what containers and their networks use; drivers of machines that are never there stay out. */
async function addModules(from, root, version) {
  const to = join(root, "usr/lib/modules", version);
  mkdirSync(join(to, "kernel/drivers"), { recursive: true });
  for (const name of readdirSync(from).filter((entry) => entry.startsWith("modules."))) copyFileSync(join(from, name), join(to, name));
  for (const name of ["arch", "crypto", "fs", "lib", "mm", "net", "security", "drivers/net", "drivers/block"]) {
    const source = join(from, "kernel", name);
    if (existsSync(source)) await must("cp", ["-a", source, join(to, "kernel", dirname(name))], { capture: true });
  }
  // The unpacked depmod under its own loader: this machine's may be missing.
  const libraries = join(root, "usr/lib/x86_64-linux-gnu");
  const loader = join(root, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2");
  await must(loader, ["--library-path", libraries, "--argv0", "depmod", join(root, "usr/bin/kmod"), "-b", root, version], {
    capture: true,
  });
}

/** The Node.js that runs this, and the libraries that the root does not have yet. */
async function addNode(root) {
  const program = realpathSync(process.execPath);
  copyFileSync(program, join(root, "usr/bin/node"));
  chmodSync(join(root, "usr/bin/node"), 0o755);
  const { stdout } = await run("ldd", [program], { capture: true });
  for (const [, path] of stdout.matchAll(/=> (\/\S+)/g)) {
    const inside = ["usr/lib/x86_64-linux-gnu", "usr/lib"].map((name) => join(root, name, basename(path)));
    if (!inside.some(existsSync)) copyFileSync(realpathSync(path), inside[0]);
  }
}

async function digestOfNode() {
  const { size, mtimeMs } = statSync(realpathSync(process.execPath));
  return `${process.version} ${size} ${mtimeMs}`;
}

/** What the packages' scripts would have made. */
async function finishRoot(root) {
  for (const name of ["proc", "sys", "dev", "run", "tmp", "root", "mnt", "etc", "var/lib", "var/tmp"]) {
    mkdirSync(join(root, name), { recursive: true });
  }
  for (const name of ["tmp", "var/tmp"]) chmodSync(join(root, name), 0o1777);
  rmSync(join(root, "var/run"), { recursive: true, force: true });
  symlinkSync("../run", join(root, "var/run"));
  const iptables = ["iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"];
  const links = {
    "usr/bin/sh": "dash",
    "usr/bin/awk": "busybox",
    ...Object.fromEntries(iptables.map((name) => [`usr/sbin/${name}`, "xtables-nft-multi"])),
  };
  for (const [name, target] of Object.entries(links)) {
    rmSync(join(root, name), { force: true });
    symlinkSync(target, join(root, name));
  }
  const files = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nbin:x:2:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 berth-vm\n",
    "etc/hostname": "berth-vm\n",
    "etc/resolv.conf": "nameserver 127.0.0.1\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/machine-id": `${createHash("md5").update("berth").digest("hex")}\n`,
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(root, name), text);
  // Made here once: it takes seconds there.
  await must("ldconfig", ["-r", root], { capture: true, env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin` } });
}

// --- npm packages ---

/** Programs of `npm run check`, big and never run by a test. */
const unneeded = ["@biomejs", "@typescript", "typescript", ".cache", ".vite", ".vite-temp"];

async function nodeModules() {
  const name = `modules-${digest([readFileSync(at("scripts/vm-image.mjs")), readFileSync(at("node_modules/.package-lock.json"))])}.img`;
  const image = join(cache, name);
  if (!existsSync(image)) {
    say("vm: packing node_modules");
    const staging = join(cache, "modules.new");
    rmSync(staging, { recursive: true, force: true });
    mkdirSync(staging);
    const entries = readdirSync(at("node_modules")).filter((entry) => !unneeded.includes(entry));
    // Hard links: nothing is copied twice.
    await must("cp", ["-al", ...entries.map((entry) => at("node_modules", entry)), staging], { capture: true });
    await makeImage(staging, image);
    rmSync(staging, { recursive: true, force: true });
  }
  keepOnly(name, /^modules-/);
  return image;
}

// --- the cache ---

const digest = (parts) => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part).update("\0");
  return hash.digest("hex").slice(0, 16);
};

/** Removes older makes of the same kind, but for the last one: two branches may take turns. */
function keepOnly(name, kind) {
  const now = new Date();
  utimesSync(join(cache, name), now, now);
  const others = readdirSync(cache)
    .filter((entry) => kind.test(entry) && entry !== name)
    .map((entry) => ({ entry, time: statSync(join(cache, entry)).mtimeMs }))
    .sort((a, b) => b.time - a.time);
  for (const { entry } of others.slice(1)) rmSync(join(cache, entry), { recursive: true, force: true });
}

function fail(message) {
  throw new Failure(message);
}

/** Why this machine cannot make or start the virtual machine, or null. */
export function whyNot() {
  if (process.arch !== "x64") return `the virtual machine is an amd64 one, this is ${process.arch}`;
  if (process.getuid?.() !== 0) return "making its root file system needs root";
  for (const program of ["apt-get", "dpkg-deb", "mke2fs", "qemu-system-x86_64"]) if (which(program) === null) return `no ${program} here`;
  return null;
}
