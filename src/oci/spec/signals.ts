/** Signal names and numbers, real-time ones included (signal(7)); the numbers are those of every port that Berth serves. */
import { DomainError } from "../../base/errors.ts";

const standard: Readonly<Record<string, number>> = {
  HUP: 1,
  INT: 2,
  QUIT: 3,
  ILL: 4,
  TRAP: 5,
  ABRT: 6,
  IOT: 6,
  BUS: 7,
  FPE: 8,
  KILL: 9,
  USR1: 10,
  SEGV: 11,
  USR2: 12,
  PIPE: 13,
  ALRM: 14,
  TERM: 15,
  STKFLT: 16,
  CHLD: 17,
  CLD: 17,
  CONT: 18,
  STOP: 19,
  TSTP: 20,
  TTIN: 21,
  TTOU: 22,
  URG: 23,
  XCPU: 24,
  XFSZ: 25,
  VTALRM: 26,
  PROF: 27,
  WINCH: 28,
  IO: 29,
  POLL: 29,
  PWR: 30,
  SYS: 31,
};

/** As the C library numbers them: 32 and 33 are its own. */
const rtMin = 34;
const rtMax = 64;

export interface StopSignal {
  readonly number: number;
  /** With `SIG`, as ContainerStatus reports it. */
  readonly name: string;
}

/** The first of the request's, the image's, SIGTERM that is given. A malformed one is invalid-argument, naming whose it is. */
export function decideStopSignal(requested: string, image: string | null): StopSignal {
  if (requested !== "") return parse(requested, "the request");
  if (image !== null && image !== "") return parse(image, "the image");
  return { number: 15, name: "SIGTERM" };
}

/** `TERM`, `SIGTERM`, `15`, `SIGRTMIN+3`, `RTMAX-1`; null where it is no signal. */
export function parseSignal(text: string): StopSignal | null {
  const upper = text.toUpperCase();
  if (/^[0-9]{1,2}$/.test(upper)) {
    const number = Number(upper);
    return number >= 1 && number <= rtMax ? { number, name: signalName(number) } : null;
  }
  const name = upper.startsWith("SIG") ? upper.slice(3) : upper;
  const number = standard[name];
  if (number !== undefined && Object.hasOwn(standard, name)) return { number, name: `SIG${name}` };
  const realTime = /^RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?$/.exec(name);
  if (!realTime) return null;
  const [, base, sign, digits = "0"] = realTime;
  if (base === "MIN" ? sign === "-" : sign === "+") return null;
  const value = base === "MIN" ? rtMin + Number(digits) : rtMax - Number(digits);
  return value >= rtMin && value <= rtMax ? { number: value, name: `SIG${name}` } : null;
}

function signalName(number: number): string {
  for (const [name, value] of Object.entries(standard)) if (value === number) return `SIG${name}`;
  if (number < rtMin) return `SIG${number}`;
  const offset = number - rtMin;
  return offset === 0 ? "SIGRTMIN" : `SIGRTMIN+${offset}`;
}

function parse(text: string, whose: string): StopSignal {
  const signal = parseSignal(text);
  if (signal === null) throw new DomainError("invalid-argument", `stop signal ${JSON.stringify(text)} of ${whose} is not a signal`);
  return signal;
}
