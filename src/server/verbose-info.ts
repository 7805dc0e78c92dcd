/** The `info` map of verbose answers: one JSON text under the key `info`, as crictl prints it. */

export function verboseInfo(info: Record<string, unknown>): Record<string, string> {
  return { info: JSON.stringify(info, (_key, value: unknown) => (typeof value === "bigint" ? value.toString() : value)) };
}
