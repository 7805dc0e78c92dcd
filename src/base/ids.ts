/** Branded ids. A sandbox or container id is 64 lower-case hex digits, as cAdvisor and the kubelet parse them. */
import { randomBytes } from "node:crypto";

declare const brand: unique symbol;
type Branded<T, B> = T & { readonly [brand]: B };

export type SandboxId = Branded<string, "sandbox">;
export type ContainerId = Branded<string, "container">;
/** `sha256:<64 hex>` of the image's config blob. */
export type ImageId = Branded<string, "image">;
/** `sha256:<64 hex>`. */
export type Digest = Branded<string, "digest">;

const hex64 = /^[0-9a-f]{64}$/;

export function newSandboxId(): SandboxId {
  return randomBytes(32).toString("hex") as SandboxId;
}

export function newContainerId(): ContainerId {
  return randomBytes(32).toString("hex") as ContainerId;
}

export function isObjectId(text: string): boolean {
  return hex64.test(text);
}

/** First 12 digits, for people. */
export function shortId(id: string): string {
  return id.replace(/^sha256:/, "").slice(0, 12);
}
