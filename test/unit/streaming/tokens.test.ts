import { describe, expect, it } from "vitest";
import { maxTokens, TokenStore, tokenTtlMs } from "../../../src/streaming/tokens.ts";

interface Grant {
  readonly kind: "exec" | "attach";
  readonly name: string;
}

function store(): { tokens: TokenStore<Grant>; pass(ms: number): void } {
  let now = 1_000;
  const pass = (ms: number): void => {
    now += ms;
  };
  return { tokens: new TokenStore(() => now), pass };
}

const grant: Grant = { kind: "exec", name: "a" };

describe("TokenStore", () => {
  it("issues 256 random bits that fit a URL", () => {
    const { tokens } = store();
    const issued = new Set(Array.from({ length: 500 }, () => tokens.issue(grant)));
    expect(issued.size).toBe(500);
    for (const token of issued) expect(token).toMatch(/^[A-Za-z0-9_-]{43}$/);
  });

  it("gives the grant once", () => {
    const { tokens } = store();
    const token = tokens.issue(grant);
    expect(tokens.claim("exec", token)).toBe(grant);
    expect(tokens.claim("exec", token)).toBe(null);
    expect(tokens.claim("exec", "unknown")).toBe(null);
  });

  it("is bound to its method, and not lost by a try with another", () => {
    const { tokens } = store();
    const token = tokens.issue(grant);
    expect(tokens.claim("attach", token)).toBe(null);
    expect(tokens.claim("exec", token)).toBe(grant);
  });

  it("expires after a minute", () => {
    const { tokens, pass } = store();
    const old = tokens.issue(grant);
    pass(tokenTtlMs - 1);
    const young = tokens.issue(grant);
    pass(1);
    expect(tokens.size).toBe(1);
    expect(tokens.claim("exec", old)).toBe(null);
    expect(tokens.claim("exec", young)).toBe(grant);
  });

  it("holds a thousand, and has room again when one is used or has expired", () => {
    const { tokens, pass } = store();
    const first = tokens.issue(grant);
    for (let i = 1; i < maxTokens; i += 1) tokens.issue(grant);
    expect(() => tokens.issue(grant)).toThrow(expect.objectContaining({ kind: "resource-exhausted" }));
    tokens.claim("exec", first);
    tokens.issue(grant);
    expect(() => tokens.issue(grant)).toThrow();
    pass(tokenTtlMs);
    expect(tokens.issue(grant)).not.toBe("");
    expect(tokens.size).toBe(1);
  });
});
