/** A real registry on loopback: Debian's docker-registry with its storage in a directory of the caller's. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { stretched } from "./patience.ts";

export const registryProgram = "/usr/bin/docker-registry";

export interface RunningRegistry {
  /** `127.0.0.1:<port>`. */
  readonly host: string;
  readonly process: ChildProcess;
  stop(): Promise<void>;
}

export interface RegistryOptions {
  readonly directory: string;
  /** `user:bcrypt-hash` lines; absent for anonymous access. */
  readonly htpasswd?: string;
  readonly token?: { readonly realm: string; readonly service: string; readonly issuer: string; readonly rootCertificate: string };
  /** Makes it a pull-through mirror of this URL. */
  readonly proxyOf?: string;
}

export async function startRegistry(options: RegistryOptions): Promise<RunningRegistry> {
  if (!existsSync(registryProgram)) throw new Error(`${registryProgram} is missing: install the package docker-registry`);
  mkdirSync(join(options.directory, "data"), { recursive: true });
  const port = await freePort();
  const host = `127.0.0.1:${port}`;
  const config: Record<string, unknown> = {
    version: 0.1,
    log: { level: "error", accesslog: { disabled: true } },
    storage: { filesystem: { rootdirectory: join(options.directory, "data") }, delete: { enabled: true } },
    http: { addr: host, secret: "loopback" },
  };
  if (options.htpasswd !== undefined) {
    const path = join(options.directory, "htpasswd");
    writeFileSync(path, options.htpasswd, { mode: 0o600 });
    config["auth"] = { htpasswd: { realm: "test", path } };
  }
  if (options.token) {
    const { realm, service, issuer, rootCertificate } = options.token;
    config["auth"] = { token: { realm, service, issuer, rootcertbundle: rootCertificate } };
  }
  if (options.proxyOf !== undefined) config["proxy"] = { remoteurl: options.proxyOf };
  const configPath = join(options.directory, "config.yml");
  // JSON is YAML.
  writeFileSync(configPath, JSON.stringify(config));
  const log = openSync(join(options.directory, "registry.log"), "a");
  const child = spawn(registryProgram, ["serve", configPath], { stdio: ["ignore", log, log] });
  closeSync(log);
  await waitForHttp(`http://${host}/v2/`, child);
  return {
    host,
    process: child,
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
      child.kill("SIGKILL");
      await ended;
    },
  };
}

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  const address = server.address();
  await new Promise<void>((resolve) => server.close(() => resolve()));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}

async function waitForHttp(url: string, child: ChildProcess): Promise<void> {
  const end = performance.now() + stretched(15_000);
  for (;;) {
    if (child.exitCode !== null) throw new Error(`docker-registry ended with code ${child.exitCode}`);
    try {
      await fetch(url);
      return;
    } catch (error) {
      if (performance.now() > end) throw error;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
