import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { SystemError } from "../../../src/base/errors.ts";
import { eventually, failure, kernel, program, shell } from "./rig.ts";

const text = (data: Uint8Array): string => Buffer.from(data).toString();

test("gives exit code, outputs, environment, directory and arguments", async () => {
  const result = await kernel.runProgram(
    shell('cat; echo "$0 $1 $ONLY $(pwd)"; echo problem >&2; exit 3', {
      args: ["sh", "-c", 'cat; echo "$0 $1 $ONLY $(pwd)"; echo problem >&2; env | wc -l; exit 3', "zero", "one"],
      env: ["ONLY=this"],
      cwd: "/usr",
      stdin: Buffer.from("input\n"),
    }),
  ).result;
  expect(text(result.stdout).split("\n").slice(0, 2)).toEqual(["input", "zero one this /usr"]);
  expect(text(result.stderr)).toBe("problem\n");
  expect(result).toMatchObject({ exitCode: 3, signal: null, timedOut: false, outputExceeded: false });
});

test("a program that cannot be run is a SystemError with its path", async () => {
  const missing = await failure(kernel.runProgram(program("/proc/none/program", [])).result);
  expect(missing).toBeInstanceOf(SystemError);
  expect(missing).toMatchObject({ errno: "ENOENT", syscall: "execve", path: "/proc/none/program", step: "program.start" });
  expect(await failure(kernel.runProgram(program("/etc/passwd", [])).result)).toMatchObject({ errno: "EACCES" });
  expect(await failure(kernel.runProgram(program("/bin/true", [], { cwd: "/no/where" })).result)).toMatchObject({
    errno: "ENOENT",
    syscall: "chdir",
    path: "/no/where",
  });
});

test("a lot of input and output flow at once", async () => {
  const stdin = Buffer.alloc(3_000_000, "0123456789abcde\n");
  const result = await kernel.runProgram(program("/bin/cat", [], { stdin, maxOutputBytes: 4_000_000 })).result;
  expect(Buffer.from(result.stdout).equals(stdin)).toBe(true);
});

test("a program that does not read its input ends well", async () => {
  const result = await kernel.runProgram(shell("exit 0", { stdin: Buffer.alloc(1_000_000) })).result;
  expect(result.exitCode).toBe(0);
});

test("too much output kills it, and the output is cut at the limit", async () => {
  const result = await kernel.runProgram(program("/usr/bin/yes", [], { maxOutputBytes: 1000 })).result;
  expect(result).toMatchObject({ exitCode: null, signal: 9, outputExceeded: true, timedOut: false });
  expect(result.stdout.length).toBe(1000);
});

test("past its time the whole group is killed", async () => {
  const startedAt = performance.now();
  const result = await kernel.runProgram(shell("sleep 30 & echo $!; wait", { timeoutMs: 200 })).result;
  expect(result).toMatchObject({ exitCode: null, signal: 9, timedOut: true });
  expect(performance.now() - startedAt).toBeLessThan(3000);
  await eventually(() => !isRunning(Number(text(result.stdout))), "the grandchild is gone");
});

test("kill before, during and after", async () => {
  const early = kernel.runProgram(shell("sleep 30"));
  early.kill();
  expect(await early.result).toMatchObject({ signal: 9, timedOut: false });
  const during = kernel.runProgram(shell("sleep 30"));
  await new Promise((resolve) => setTimeout(resolve, 100));
  during.kill();
  expect(await during.result).toMatchObject({ signal: 9 });
  during.kill();
});

test("what stays in the background with the outputs open does not hold up the result", async () => {
  const startedAt = performance.now();
  const result = await kernel.runProgram(shell("sleep 5 & echo $!")).result;
  expect(performance.now() - startedAt).toBeLessThan(3000);
  expect(result.exitCode).toBe(0);
  const background = Number(text(result.stdout));
  expect(isRunning(background)).toBe(true);
  process.kill(background, "SIGKILL");
});

test("starts with default signals, an empty mask, the usual file limit and no descriptor of the daemon's", async () => {
  const held = kernel.openNull();
  const result = await kernel.runProgram(shell("cat /proc/self/status; ls /proc/self/fd; ulimit -Sn; umask")).result;
  held.close();
  const output = text(result.stdout);
  const field = (name: string): string | undefined => new RegExp(`^${name}:\\s*(\\w+)`, "m").exec(output)?.[1];
  expect(field("SigIgn")).toBe("0000000000000000");
  expect(field("SigCgt")).toBe("0000000000000000");
  expect(field("SigBlk")).toBe("0000000000000000");
  // ls has its own directory open as 3.
  expect(output.split("\n").slice(-7, -1)).toEqual(["0", "1", "2", "3", "1024", "0022"]);
});

test("SIGPIPE ends a program, as it expects", async () => {
  const result = await kernel.runProgram(shell("yes | head -n 1")).result;
  expect(text(result.stdout)).toBe("y\n");
  expect(text(result.stderr)).toBe("");
});

test("a short program takes milliseconds", async () => {
  const times: number[] = [];
  for (let i = 0; i < 100; i += 1) {
    const startedAt = performance.now();
    await kernel.runProgram(program("/bin/true", [])).result;
    times.push(performance.now() - startedAt);
  }
  times.sort((a, b) => a - b);
  // Typically 0.8 ms; the bound is one for machines under load.
  expect(times[10]).toBeLessThan(10);
});

function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}
