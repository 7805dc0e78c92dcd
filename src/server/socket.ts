/**
 * The CRI socket: mode 0660, root and a group, in a directory of mode 0750.
 *
 * It is bound below a private directory (0700), gets its owner and mode there and is then renamed into place: no moment
 * exists at which somebody else could connect, whatever the umask, and a dead socket in its place is replaced in one step.
 * (The umask itself is the whole process's and inherited by every program started meanwhile; it is left alone.)
 */
import { chmod, chown, lstat, mkdir, mkdtemp, readFile, rename, rm, unlink } from "node:fs/promises";
import { connect } from "node:net";
import { basename, dirname, join } from "node:path";
import { DomainError, toError } from "../base/errors.ts";
import type { Operation } from "../operation/context.ts";

/** `sun_path` holds 108 bytes with its NUL. */
const maxPathBytes = 107;
const socketMode = 0o660;
const directoryMode = 0o750;
const probeTimeoutMs = 2000;

export interface BoundSocket {
  readonly path: string;
  /** Removes the socket unless another one stands there by now. */
  remove(): Promise<void>;
}

/**
 * `listen` binds a listener to the path it is given. Throws failed-precondition where a live daemon answers at
 * `path`, where something else than a socket stands there or where the directory is open to all.
 */
export async function bindSocket(
  op: Operation,
  path: string,
  gid: number,
  listen: (temporaryPath: string) => Promise<void>,
): Promise<BoundSocket> {
  const directory = dirname(path);
  // The private directory's name is as long as it must be; the longer of the two paths decides.
  const needed = Math.max(Buffer.byteLength(path), Buffer.byteLength(join(directory, ".bXXXXXX/s")));
  if (needed > maxPathBytes) throw new DomainError("invalid-argument", `socket path ${path} is longer than ${maxPathBytes} bytes`);
  await prepareDirectory(directory, gid);
  await refuseLiveSocket(op, path);
  const temporary = await mkdtemp(join(directory, ".b"));
  try {
    const bound = join(temporary, "s");
    await listen(bound);
    await chown(bound, -1, gid);
    await chmod(bound, socketMode);
    const { ino, dev } = await lstat(bound);
    await rename(bound, path);
    return { path, remove: () => removeIfSame(path, ino, dev) };
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}

/**
 * Makes it 0750 root:group. One that exists is refused where everybody may write to it, opened to the group where it is the
 * daemon's own and private (the group could not reach the socket), and otherwise left as it is: it may be /run itself.
 */
async function prepareDirectory(directory: string, gid: number): Promise<void> {
  const made = await mkdir(directory, { recursive: true, mode: directoryMode });
  if (made !== undefined) {
    await chown(directory, -1, gid);
    await chmod(directory, directoryMode);
    return;
  }
  const { mode, uid } = await lstat(directory).then((stat) => (stat.isDirectory() ? stat : Promise.reject(new Error("not a directory"))));
  if ((mode & 0o002) !== 0)
    throw new DomainError("failed-precondition", `the directory of the socket, ${directory}, is writable by everybody`);
  const own = process.getuid?.();
  if (uid === own && (mode & 0o077) === 0 && gid !== process.getgid?.()) {
    await chown(directory, -1, gid);
    await chmod(directory, directoryMode);
  }
  if (uid !== own && uid !== 0)
    throw new DomainError("failed-precondition", `the directory of the socket, ${directory}, belongs to user ${uid}`);
}

/** A socket that nobody answers on is left by a daemon that has died. */
async function refuseLiveSocket(op: Operation, path: string): Promise<void> {
  const stat = await lstat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw error;
  });
  if (stat === null) return;
  if (!stat.isSocket()) throw new DomainError("failed-precondition", `${path} exists and is not a socket`);
  if (await answers(op, path)) throw new DomainError("failed-precondition", `another daemon serves ${basename(path)} at ${path}`);
}

async function answers(op: Operation, path: string): Promise<boolean> {
  const probe = op.child("socket.probe", probeTimeoutMs);
  const socket = connect({ path });
  try {
    return await probe.race(
      new Promise<boolean>((resolve, reject) => {
        socket.once("connect", () => resolve(true));
        socket.once("error", (error: NodeJS.ErrnoException) => {
          if (error.code === "ECONNREFUSED" || error.code === "ENOENT") resolve(false);
          // A full backlog is a daemon that is busy.
          else if (error.code === "EAGAIN") resolve(true);
          else
            reject(new DomainError("failed-precondition", `${path} can be neither used nor replaced: ${error.message}`, { cause: error }));
        });
      }),
    );
  } catch (error) {
    op.throwIfAborted();
    if (probe.signal.aborted) return true;
    throw error;
  } finally {
    probe.dispose();
    socket.on("error", () => undefined);
    socket.destroy();
  }
}

async function removeIfSame(path: string, ino: number, dev: number): Promise<void> {
  try {
    const stat = await lstat(path);
    if (stat.ino === ino && stat.dev === dev) await unlink(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw toError(error);
  }
}

/** Group id by name or number, out of /etc/group: no name service is asked. */
export async function resolveGroup(group: string, groupFile = "/etc/group"): Promise<number> {
  if (/^\d{1,9}$/.test(group)) return Number(group);
  for (const line of (await readFile(groupFile, "utf8")).split("\n")) {
    const [name, , gid] = line.split(":");
    if (name === group && gid !== undefined && /^\d{1,9}$/.test(gid)) return Number(gid);
  }
  throw new DomainError("invalid-argument", `group ${JSON.stringify(group)} of the socket is not in ${groupFile}`);
}
