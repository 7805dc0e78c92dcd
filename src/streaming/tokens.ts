/**
 * Tokens of streaming URLs: 256 random bits, good for one request of one method within a minute. They are secrets until
 * they are used: kept as digests, so that a look-up takes the same time whatever was guessed, and never logged.
 */
import { createHash, randomBytes } from "node:crypto";
import { monotonicMs } from "../base/clock.ts";
import { DomainError } from "../base/errors.ts";

export const tokenTtlMs = 60_000;
export const maxTokens = 1_000;

interface Entry<Grant> {
  readonly grant: Grant;
  readonly expiresAtMs: number;
}

export class TokenStore<Grant extends { readonly kind: string }> {
  /** In the order of issue, so the first ones expire first. */
  readonly #entries = new Map<string, Entry<Grant>>();
  readonly #now: () => number;

  constructor(now: () => number = monotonicMs) {
    this.#now = now;
  }

  /** Tokens that can still be used. */
  get size(): number {
    this.#expire();
    return this.#entries.size;
  }

  /** Throws resource-exhausted where too many wait to be used. */
  issue(grant: Grant): string {
    this.#expire();
    if (this.#entries.size >= maxTokens) {
      throw new DomainError("resource-exhausted", `${maxTokens} streaming requests are waiting for their clients already`);
    }
    const token = randomBytes(32).toString("base64url");
    this.#entries.set(digestOf(token), { grant, expiresAtMs: this.#now() + tokenTtlMs });
    return token;
  }

  /** What the token was issued for; null where it is unknown, used, expired or of another method. It cannot be used again. */
  claim(kind: Grant["kind"], token: string): Grant | null {
    this.#expire();
    const digest = digestOf(token);
    const entry = this.#entries.get(digest);
    if (!entry || entry.grant.kind !== kind) return null;
    this.#entries.delete(digest);
    return entry.grant;
  }

  #expire(): void {
    const now = this.#now();
    for (const [digest, entry] of this.#entries) {
      if (entry.expiresAtMs > now) return;
      this.#entries.delete(digest);
    }
  }
}

function digestOf(token: string): string {
  return createHash("sha256").update(token).digest("base64");
}
