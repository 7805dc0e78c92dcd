/**
 * The messages between the daemon and a container's monitor: the one source from which
 * `generate.mjs` makes `build/generated/monitor/protocol.ts` and `build/generated/monitor/protocol.h`.
 *
 * Transport: SOCK_SEQPACKET, one message a packet, at most `maxFrameBytes`; fds by SCM_RIGHTS.
 * Frame: u16 type | u16 version | u32 request id | fields in order, little endian, no padding.
 *   u8 u16 u32 i32 u64 i64   fixed width (u64/i64 are decimal strings in TypeScript)
 *   bool                     u8, 0 or 1
 *   string, bytes            u32 length, then the bytes (strings: UTF-8 without NUL)
 * A reader ignores bytes past the fields that it knows: fields are only ever added at the end, with a new
 * `version`; a missing trailing field reads as zero or empty. A daemon talks to monitors of the version before
 * and after its own.
 *
 * Who says what (D = daemon, M = monitor; `n fds` travel with the message)
 *
 *   D ── configure (plan, logs, …; n fds) ─▶ M      first message on the spawning connection
 *   D ◀─ created | failed ───────────────── M      child has executed the plan up to its start barrier
 *   D ── start ────────────────────────────▶ M
 *   D ◀─ started | failed ───────────────── M      execve has succeeded, or why not
 *   D ── signal, resize, reopenLog, attach, status ─▶ M ──▶ ok | failed | state
 *   D ── exec (plan, stdio; n fds) ────────▶ M ──▶ execStarted | failed … execExited later, same request id
 *   D ◀─ exited (unsolicited, request id 0) M      written to the exit file before it is sent
 *   D ◀─ hello ──────────────────────────── M      first message on every accepted connection
 *
 * The exit file's contents are one `exited` frame with request id 0, byte for byte what is sent; renamed into place.
 * An exec is known by the request id that started it, on the connection that started it; it runs on when that connection
 * ends, and nobody is told of its end. `hello` is also the first message on the spawning connection.
 *
 * The exit file holds one `exited` frame, as it is on the wire. A connection whose peer does not read is closed by the monitor
 * once its buffer is full; the daemon connects again and asks for `state`.
 *
 * `failed` ends the request; it carries the Error of the core (errno, syscall, path, step, detail).
 * A monitor whose create has failed has undone what it made, and exits.
 */

export type FieldType = "u8" | "u16" | "u32" | "i32" | "u64" | "i64" | "bool" | "string" | "bytes";

export interface MessageSchema {
  readonly type: number;
  readonly doc: string;
  readonly fields: readonly { readonly name: string; readonly type: FieldType; readonly doc: string }[];
}

export const protocolVersion = 1;
export const maxFrameBytes = 65536;

export const messages = {
  configure: {
    type: 1,
    doc: "Everything a monitor needs, once. fds: [plan memfd, plan fds…] then, by the flags, log directory, exit directory, cgroup event file.",
    fields: [
      { name: "containerId", type: "string", doc: "64 hex digits" },
      { name: "planFds", type: "u32", doc: "number of fds that follow the plan's memfd and belong to it" },
      { name: "terminal", type: "bool", doc: "a pty instead of pipes" },
      { name: "terminalColumns", type: "u16", doc: "initial size; 0 for the kernel's" },
      { name: "terminalRows", type: "u16", doc: "initial size; 0 for the kernel's" },
      { name: "stdin", type: "bool", doc: "keep stdin open for attach; else /dev/null" },
      { name: "stdinOnce", type: "bool", doc: "close stdin when the first attach that had it ends" },
      { name: "hasLog", type: "bool", doc: "an fd of the log's directory comes along" },
      { name: "logName", type: "string", doc: "file name in that directory: no slash" },
      {
        name: "logMaxBytes",
        type: "u64",
        doc: "what would make the present file larger is dropped and counted until the log is reopened; 0 for no cap",
      },
      { name: "exitName", type: "string", doc: "file name of the exit file in the exit directory, whose fd always comes along" },
      { name: "oomKind", type: "u8", doc: "0 none; 1 v2 memory.events; 2 v1 memory.oom_control; its fd comes along" },
    ],
  },
  created: {
    type: 2,
    doc: "The child waits at its start barrier.",
    fields: [
      { name: "pid", type: "u32", doc: "pid of the container's init in the daemon's pid namespace" },
      { name: "startTime", type: "u64", doc: "field 22 of its /proc stat, ticks" },
    ],
  },
  start: { type: 3, doc: "Lets the child execve.", fields: [] },
  started: { type: 4, doc: "execve has succeeded.", fields: [{ name: "startedAtNs", type: "i64", doc: "CLOCK_REALTIME" }] },
  failed: {
    type: 5,
    doc: "The request has failed; the fields of the core's Error.",
    fields: [
      { name: "errno", type: "i32", doc: "positive; EINVAL for a refused input" },
      { name: "step", type: "string", doc: "step of the plan or of the monitor, e.g. mount.proc" },
      { name: "syscall", type: "string", doc: "" },
      { name: "path", type: "string", doc: "" },
      { name: "detail", type: "string", doc: "" },
    ],
  },
  exited: {
    type: 6,
    doc: "The container's init has ended, its log is drained, its exit file is written.",
    fields: [
      { name: "exitCode", type: "i32", doc: "0-255; 128 + signal when killed" },
      { name: "signal", type: "u32", doc: "0 when it exited by itself" },
      { name: "oomKilled", type: "bool", doc: "the cgroup's counter of OOM kills rose" },
      { name: "startedAtNs", type: "i64", doc: "0 when it never started" },
      { name: "finishedAtNs", type: "i64", doc: "CLOCK_REALTIME" },
      { name: "logDroppedBytes", type: "u64", doc: "bytes that could not be written" },
    ],
  },
  signal: {
    type: 7,
    doc: "Sends a signal to init, or to an exec's process.",
    fields: [
      { name: "number", type: "u32", doc: "1-64" },
      { name: "execId", type: "u32", doc: "0 for init, else the request id of a running exec of this connection" },
    ],
  },
  resize: {
    type: 8,
    doc: "Sets a terminal's size.",
    fields: [
      { name: "execId", type: "u32", doc: "0 for init, else the request id of a running exec of this connection" },
      { name: "columns", type: "u16", doc: "" },
      { name: "rows", type: "u16", doc: "" },
    ],
  },
  reopenLog: {
    type: 9,
    doc: "Opens the log's name anew (O_CREAT), drains what was read into the old file first. `ok` after the new file exists.",
    fields: [],
  },
  attach: {
    type: 10,
    doc: "One more client of stdio. fds: a stream socket each for stdin, stdout, stderr, as the flags say. With a terminal stdout carries all.",
    fields: [
      { name: "stdin", type: "bool", doc: "" },
      { name: "stdout", type: "bool", doc: "" },
      { name: "stderr", type: "bool", doc: "" },
    ],
  },
  exec: {
    type: 11,
    doc: "Runs a process in the container. fds: [plan memfd, plan fds…] then stdin, stdout, stderr (pipes), or one socket relayed to a pty.",
    fields: [
      { name: "planFds", type: "u32", doc: "number of fds that belong to the plan's memfd" },
      { name: "terminal", type: "bool", doc: "one stdio fd instead of three" },
      { name: "terminalColumns", type: "u16", doc: "" },
      { name: "terminalRows", type: "u16", doc: "" },
    ],
  },
  execStarted: { type: 12, doc: "execve has succeeded.", fields: [{ name: "pid", type: "u32", doc: "in the daemon's pid namespace" }] },
  execExited: {
    type: 13,
    doc: "The process has ended; its stdio may still be held open by its children.",
    fields: [
      { name: "exitCode", type: "i32", doc: "0-255; 128 + signal when killed" },
      { name: "signal", type: "u32", doc: "" },
    ],
  },
  status: { type: 14, doc: "Asks for `state`.", fields: [] },
  state: {
    type: 15,
    doc: "The present state; also what a reconnecting daemon asks for first.",
    fields: [
      { name: "phase", type: "u8", doc: "0 configuring, 1 created, 2 running, 3 exited" },
      { name: "pid", type: "u32", doc: "0 before created" },
      { name: "startTime", type: "u64", doc: "" },
      { name: "startedAtNs", type: "i64", doc: "0 before started" },
      { name: "runningExecs", type: "u32", doc: "" },
      { name: "attachedClients", type: "u32", doc: "" },
      { name: "logBytes", type: "u64", doc: "written to the present file" },
      { name: "logDroppedBytes", type: "u64", doc: "" },
    ],
  },
  ok: { type: 16, doc: "The request is done.", fields: [] },
  hello: {
    type: 17,
    doc: "Who this monitor is.",
    fields: [
      { name: "protocolVersion", type: "u32", doc: "" },
      { name: "planVersion", type: "u32", doc: "version of core/plan/format.h that it executes" },
      { name: "containerId", type: "string", doc: "empty before configure" },
      { name: "pid", type: "u32", doc: "of the monitor" },
    ],
  },
  killExec: {
    type: 18,
    doc: "SIGKILL to a running exec: to its process and, where that leads one, its process group.",
    fields: [{ name: "execId", type: "u32", doc: "request id of the exec, on this connection" }],
  },
} as const satisfies Record<string, MessageSchema>;
