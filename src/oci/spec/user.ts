/**
 * Who the container runs as. The image's `/etc/passwd` and `/etc/group` are somebody else's text: they are read through the
 * root's descriptor, with a size and a line cap, and can neither make a number mean a name nor a name mean an overflowing
 * number.
 */
import { DomainError, SystemError } from "../../base/errors.ts";
import type { FdHandle, Kernel } from "../../kernel/contract.ts";
import type { Operation } from "../../operation/context.ts";
import { assertPlainField } from "./command.ts";

/** uid_t and gid_t are 32 bits and the last value means "unchanged" to the kernel: it is no id. */
const maxId = 0xffff_fffe;
const maxFileBytes = 10 << 20;
/** Longer lines are passed over: a group with ten thousand members is still shorter. */
const maxLineLength = 256 << 10;
const maxGroups = 65_536;

export interface UserRequest {
  /** `user`, `uid`, `user:group`, `uid:gid` in any mixture; empty for root. */
  readonly imageUser: string;
  readonly runAsUser: number | null;
  readonly runAsUsername: string;
  readonly runAsGroup: number | null;
  readonly supplementalGroups: readonly number[];
  /** `merge` adds the groups that the image's `/etc/group` lists the user in; `strict` takes the request's alone. */
  readonly policy: "merge" | "strict";
}

export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  /** For setgroups(2): the primary group and all others, ascending. */
  readonly groups: readonly number[];
  readonly home: string;
  /** Name in the image's passwd; empty where it has none. */
  readonly name: string;
}

export interface AccountFiles {
  /** Contents of `/etc/passwd`, `/etc/group`; null where the image has no such file. */
  readonly passwd: string | null;
  readonly group: string | null;
}

/** Reads both files below the root, never outside of it. Throws invalid-argument for one that is no plain file or too large. */
export async function readAccountFiles(op: Operation, kernel: Pick<Kernel, "readInRoot">, root: FdHandle): Promise<AccountFiles> {
  const [passwd, group] = await op.race(Promise.all(["/etc/passwd", "/etc/group"].map((path) => readAccountFile(kernel, root, path))));
  return { passwd: passwd ?? null, group: group ?? null };
}

async function readAccountFile(kernel: Pick<Kernel, "readInRoot">, root: FdHandle, path: string): Promise<string | null> {
  try {
    const data = await kernel.readInRoot({ root, path, maxBytes: maxFileBytes });
    return data === null ? null : Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("utf8");
  } catch (error) {
    if (error instanceof SystemError && ["ENOTSUP", "EFBIG", "ELOOP", "ENOTDIR", "EISDIR", "ENXIO"].includes(error.errno)) {
      const what = error.errno === "EFBIG" ? `larger than ${maxFileBytes} bytes` : "not a regular file";
      throw new DomainError("invalid-argument", `the image's ${path} is ${what}`, { cause: error });
    }
    throw error;
  }
}

/** Pure. Throws invalid-argument where the request contradicts itself or names somebody whom the image does not know. */
export function resolveUser(request: UserRequest, files: AccountFiles): ResolvedUser {
  const { user, group } = splitRequest(request);
  const byId = numericId("user", user);
  const account = byId === null ? findByName(user, files.passwd) : findById(byId, files.passwd);
  if (byId === null && account === null) throw new DomainError("invalid-argument", `the image has no user ${JSON.stringify(user)}`);

  const uid = byId ?? account?.uid ?? 0;
  const gid = group === null ? (account?.gid ?? 0) : resolveGroup(group, files.group);
  const name = account?.name ?? "";
  const home = account?.home || (uid === 0 ? "/root" : "/");
  assertPlainField("user name", name);
  assertPlainField("home directory", home);

  const groups = new Set<number>([gid]);
  for (const id of request.supplementalGroups) groups.add(checkId("supplemental group", id));
  if (request.policy === "merge" && name !== "") for (const id of groupsOf(name, files.group)) groups.add(id);
  if (groups.size > maxGroups)
    throw new DomainError("invalid-argument", `user ${JSON.stringify(user)} is in more than ${maxGroups} groups`);
  return { uid, gid, groups: [...groups].sort((a, b) => a - b), home, name };
}

function splitRequest(request: UserRequest): { user: string; group: string | null } {
  const { runAsUser, runAsUsername, runAsGroup, imageUser } = request;
  if (runAsUser !== null && runAsUsername !== "") {
    throw new DomainError("invalid-argument", "run_as_user and run_as_username exclude each other");
  }
  if (runAsGroup !== null && runAsUser === null && runAsUsername === "") {
    throw new DomainError("invalid-argument", "run_as_group needs run_as_user or run_as_username");
  }
  const requestedGroup = runAsGroup === null ? null : String(checkId("run_as_group", runAsGroup));
  if (runAsUser !== null) return { user: String(checkId("run_as_user", runAsUser)), group: requestedGroup };
  const text = runAsUsername === "" ? imageUser : runAsUsername;
  const at = text.indexOf(":");
  if (text === "") return { user: "0", group: null };
  const user = at < 0 ? text : text.slice(0, at);
  const group = at < 0 ? "" : text.slice(at + 1);
  if (user === "") throw new DomainError("invalid-argument", `user ${JSON.stringify(text)} has no name before its colon`);
  assertPlainField("user", user);
  assertPlainField("group", group);
  return { user, group: requestedGroup ?? (group === "" ? null : group) };
}

/** The id where the text is one, null where it is a name; invalid-argument where it only looks like a number. */
function numericId(what: string, text: string): number | null {
  if (/^[0-9]+$/.test(text)) {
    const id = text.length > 12 ? Number.POSITIVE_INFINITY : Number(text);
    if (id > maxId) throw new DomainError("invalid-argument", `${what} ${text.slice(0, 40)} is not below ${maxId + 1}`);
    return id;
  }
  if (/^[+-]/.test(text)) throw new DomainError("invalid-argument", `${what} ${JSON.stringify(text)} is neither an id nor a name`);
  return null;
}

function checkId(what: string, id: number): number {
  if (!Number.isInteger(id) || id < 0 || id > maxId)
    throw new DomainError("invalid-argument", `${what} ${id} is not an id below ${maxId + 1}`);
  return id;
}

interface Account {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
}

function findByName(name: string, passwd: string | null): Account | null {
  for (const account of accounts(passwd)) if (account.name === name) return account;
  return null;
}

function findById(uid: number, passwd: string | null): Account | null {
  for (const account of accounts(passwd)) if (account.uid === uid) return account;
  return null;
}

/** `name:password:uid:gid:gecos:home:shell`; a line with a malformed id is nobody's. */
function* accounts(passwd: string | null): Generator<Account> {
  for (const line of lines(passwd)) {
    const fields = line.split(":");
    const uid = fieldId(fields[2]);
    const gid = fieldId(fields[3]);
    if (uid === null || gid === null || !fields[0]) continue;
    yield { name: fields[0], uid, gid, home: fields[5] ?? "" };
  }
}

function resolveGroup(text: string, group: string | null): number {
  const id = numericId("group", text);
  if (id !== null) return id;
  for (const line of lines(group)) {
    if (!line.startsWith(`${text}:`)) continue;
    const gid = fieldId(line.split(":", 4)[2]);
    if (gid !== null) return gid;
  }
  throw new DomainError("invalid-argument", `the image has no group ${JSON.stringify(text)}`);
}

/** `name:password:gid:member,member` */
function* groupsOf(name: string, group: string | null): Generator<number> {
  for (const line of lines(group)) {
    if (!line.includes(name)) continue;
    const fields = line.split(":");
    const gid = fieldId(fields[2]);
    if (gid !== null && (fields[3] ?? "").split(",").includes(name)) yield gid;
  }
}

function fieldId(text: string | undefined): number | null {
  if (text === undefined || !/^[0-9]{1,10}$/.test(text)) return null;
  const id = Number(text);
  return id > maxId ? null : id;
}

function* lines(text: string | null): Generator<string> {
  if (text === null) return;
  let at = 0;
  while (at < text.length) {
    const found = text.indexOf("\n", at);
    const end = found < 0 ? text.length : found;
    if (end - at <= maxLineLength) {
      const line = text.slice(at, end).trim();
      if (line !== "" && !line.startsWith("#")) yield line;
    }
    at = end + 1;
  }
}
