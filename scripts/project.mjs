// Where things are, and how the scripts of this folder start programs. Plain Node.js without dependencies: it runs
// before anything is installed or built.

import { spawn } from "node:child_process";
import { accessSync, constants } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Absolute path of the checkout. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Absolute path of something in the checkout. */
export const at = (...parts) => join(root, ...parts);

export const isRoot = process.getuid?.() === 0;

/** What a script prints about itself; programs that it starts write straight to the terminal. */
export const say = (text) => process.stdout.write(`${text}\n`);

/** A failure whose message is the whole story: `main` prints it without a stack. */
export class Failure extends Error {}

const started = new Set();

/**
 * Starts a program in its own process group and resolves to `{code, signal, stdout, stderr, timedOut}` when it has ended.
 * With `capture` the output is returned instead of shown. After `timeout` ms the whole group is ended.
 * A missing program resolves with code 127 rather than rejecting.
 */
export function run(command, args = [], { cwd = root, env = {}, capture = false, timeout = 0, input = null } = {}) {
  return new Promise((resolve) => {
    const output = capture ? "pipe" : "inherit";
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: [input === null ? "ignore" : "pipe", output, output],
      detached: true,
    });
    started.add(child);
    let stdout = "";
    let stderr = "";
    let timedOut = false;
    child.stdout?.setEncoding("utf8").on("data", (text) => {
      stdout += text;
    });
    child.stderr?.setEncoding("utf8").on("data", (text) => {
      stderr += text;
    });
    child.stdin?.on("error", () => {}).end(input ?? "");
    const timer =
      timeout > 0
        ? setTimeout(() => {
            timedOut = true;
            endGroup(child, "SIGTERM");
            setTimeout(() => endGroup(child, "SIGKILL"), 5000).unref();
          }, timeout)
        : null;
    let over = false;
    const finish = (code, signal) => {
      if (over) return;
      over = true;
      if (timer) clearTimeout(timer);
      started.delete(child);
      resolve({ code, signal, stdout, stderr, timedOut });
    };
    child.on("error", (error) => {
      stderr += `${error.message}\n`;
      finish(127, null);
    });
    child.on("close", (code, signal) => finish(code ?? 128, signal));
  });
}

/** Like `run`, but anything other than exit code 0 is a Failure that names the command and, when captured, its last words. */
export async function must(command, args = [], options = {}) {
  const result = await run(command, args, options);
  if (result.code === 0) return result;
  const why = result.timedOut ? `took longer than ${options.timeout} ms` : (result.signal ?? `exit code ${result.code}`);
  const words = options.capture ? `\n${`${result.stdout}${result.stderr}`.trim().split("\n").slice(-30).join("\n")}` : "";
  throw new Failure(`${[command, ...args].join(" ")}: ${why}${words}`);
}

/** Sends a signal to a started program and all that it started. */
export function endGroup(child, signal) {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
  }
}

/** Absolute path of a program on PATH (sbin included, which an ordinary user's PATH leaves out), or null. */
export function which(name) {
  for (const directory of [...(process.env.PATH ?? "").split(delimiter), "/usr/local/sbin", "/usr/sbin", "/sbin"]) {
    if (!directory) continue;
    const path = join(directory, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {}
  }
  return null;
}

/**
 * Runs a script's body when the file is the program itself, not an import. A Failure is printed as its message, exit code 1.
 * Signals end what was started before the script itself ends.
 */
export function main(meta, body) {
  if (process.argv[1] !== fileURLToPath(meta.url)) return;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.once(signal, () => {
      for (const child of started) endGroup(child, "SIGTERM");
      setTimeout(() => {
        for (const child of started) endGroup(child, "SIGKILL");
        process.exit(130);
      }, 3000).unref();
      if (started.size === 0) process.exit(130);
    });
  }
  body(process.argv.slice(2)).then(
    (code) => {
      process.exitCode = code ?? 0;
    },
    (error) => {
      process.stderr.write(`${error instanceof Failure ? error.message : error.stack}\n`);
      process.exitCode = 1;
    },
  );
}
