/** Handlers by the name that a pod asks for. */
import { DomainError } from "../../base/errors.ts";
import type { BerthConfig } from "../../config/types.ts";
import type { Operation } from "../../operation/context.ts";
import type { RuntimeHandler } from "./handler.ts";
import { nativeHandlerName } from "./native.ts";

/** Names that are configured, the native one first. */
export function handlerNames(config: BerthConfig): readonly string[] {
  return [...new Set([nativeHandlerName, ...Object.keys(config.runtime.handlers)])];
}

/** The configured name that a request means: empty is the default. Throws invalid-argument, naming those there are. */
export function resolveHandlerName(config: BerthConfig, requested: string): string {
  const name = requested === "" ? config.runtime.defaultHandler : requested;
  const known = handlerNames(config);
  if (!known.includes(name)) {
    throw new DomainError("invalid-argument", `runtime handler ${JSON.stringify(name)} is not configured; there are ${known.join(", ")}`);
  }
  return name;
}

export class HandlerRegistry {
  readonly #config: BerthConfig;
  readonly #native: RuntimeHandler;

  constructor(config: BerthConfig, native: RuntimeHandler) {
    this.#config = config;
    this.#native = native;
  }

  /** Throws invalid-argument for an unknown name, unimplemented for one whose runtime is a command. */
  get(requested: string): RuntimeHandler {
    const name = resolveHandlerName(this.#config, requested);
    const type = name === nativeHandlerName ? "native" : this.#config.runtime.handlers[name]?.type;
    if (type === "native") return this.#native;
    throw unserved(name);
  }

  /** The handler that made a container, by `RuntimeHandler.name`: the configuration may have changed since. */
  named(name: string): RuntimeHandler {
    if (name === this.#native.name) return this.#native;
    throw unserved(name);
  }

  async open(op: Operation): Promise<void> {
    await this.#native.open(op);
  }

  /** Ids that a handler finds files of. */
  strays(op: Operation): Promise<readonly string[]> {
    return this.#native.strays(op);
  }

  /** As `RuntimeHandler.discard`, where nobody knows which handler it was. */
  async discard(op: Operation, id: string): Promise<void> {
    await this.#native.discard(op, id);
  }

  close(): void {
    this.#native.close();
  }
}

function unserved(name: string): DomainError {
  const message = `runtime handler ${JSON.stringify(name)} is a command, which this version does not run; ${nativeHandlerName} is not`;
  return new DomainError("unimplemented", message);
}
