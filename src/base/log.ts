/** Structured logs: JSON lines on standard error, or readable text. */
import { type Logger as PinoLogger, pino } from "pino";

export type Logger = PinoLogger;
export type LogLevel = "trace" | "debug" | "info" | "warn" | "error" | "fatal" | "silent";

export interface LogOptions {
  readonly level: LogLevel;
  readonly format: "json" | "text";
  /** File descriptor to write to; 2 by default. */
  readonly fd?: number;
}

export function createLogger(options: LogOptions): Logger {
  const destination = pino.destination({ fd: options.fd ?? 2, sync: true });
  const base = {
    level: options.level,
    base: null,
    timestamp: () => `,"time":"${new Date().toISOString()}"`,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: { paths: ["auth", "password", "*.auth", "*.password", "registryToken", "identityToken"], censor: "[redacted]" },
  };
  if (options.format === "json") return pino(base, destination);
  return pino(base, {
    write(line: string) {
      destination.write(`${toText(line)}\n`);
    },
  });
}

/** A logger that drops everything, for tests. */
export function silentLogger(): Logger {
  return pino({ level: "silent" });
}

/** `time LEVEL message key=value …`; control bytes stay escaped because values are printed as JSON. */
function toText(line: string): string {
  const { time, level, msg, ...rest } = JSON.parse(line) as Record<string, unknown>;
  const fields = Object.entries(rest).map(([key, value]) => `${key}=${JSON.stringify(value)}`);
  const message = JSON.stringify(String(msg ?? "")).slice(1, -1);
  return [String(time), String(level).toUpperCase().padEnd(5), message, ...fields].join(" ");
}
