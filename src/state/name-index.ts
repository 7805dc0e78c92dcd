/** Finds an object by its full id or by a prefix that is unique among the ids it holds. */
import { DomainError } from "../base/errors.ts";

export class IdIndex {
  readonly #ids = new Set<string>();
  readonly #noun: string;

  constructor(noun: string) {
    this.#noun = noun;
  }

  add(id: string): void {
    this.#ids.add(id);
  }

  delete(id: string): void {
    this.#ids.delete(id);
  }

  /** The full id; null where nothing matches; throws where several do. */
  resolve(text: string): string | null {
    if (this.#ids.has(text)) return text;
    if (text === "" || text.length >= 64) return null;
    let found: string | null = null;
    for (const id of this.#ids) {
      if (!id.startsWith(text)) continue;
      if (found !== null) throw new DomainError("invalid-argument", `${this.#noun} id prefix ${JSON.stringify(text)} is ambiguous`);
      found = id;
    }
    return found;
  }
}
