/**
 * Reading JSON that strangers wrote: every access says what it expects, and a value of another type is an error with
 * its path, never a crash further down.
 */

export class JsonShapeError extends Error {}

export type JsonObject = Readonly<Record<string, unknown>>;

export function asObject(value: unknown, path: string): JsonObject {
  if (value !== null && typeof value === "object" && !Array.isArray(value)) return value as JsonObject;
  throw new JsonShapeError(`${path} is not an object`);
}

/** Absent and null are the same in these documents. */
export function optionalObject(value: unknown, path: string): JsonObject | null {
  return value === undefined || value === null ? null : asObject(value, path);
}

export function asArray(value: unknown, path: string, maxLength: number): readonly unknown[] {
  if (!Array.isArray(value)) throw new JsonShapeError(`${path} is not an array`);
  if (value.length > maxLength) throw new JsonShapeError(`${path} has more than ${maxLength} elements`);
  return value as readonly unknown[];
}

export function optionalArray(value: unknown, path: string, maxLength: number): readonly unknown[] {
  return value === undefined || value === null ? [] : asArray(value, path, maxLength);
}

export function asString(value: unknown, path: string): string {
  if (typeof value === "string") return value;
  throw new JsonShapeError(`${path} is not a string`);
}

/** "" where absent. */
export function optionalString(value: unknown, path: string): string {
  return value === undefined || value === null ? "" : asString(value, path);
}

export function asSize(value: unknown, path: string): number {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value;
  throw new JsonShapeError(`${path} is not a size`);
}

export function stringArray(value: unknown, path: string, maxLength = 4096): readonly string[] {
  return optionalArray(value, path, maxLength).map((item, index) => asString(item, `${path}[${index}]`));
}

export function stringMap(value: unknown, path: string): Readonly<Record<string, string>> {
  const out: Record<string, string> = Object.create(null) as Record<string, string>;
  for (const [key, item] of Object.entries(optionalObject(value, path) ?? {})) out[key] = asString(item, `${path}.${key}`);
  return out;
}
