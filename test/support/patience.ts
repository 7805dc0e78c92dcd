/**
 * How long tests wait for what is bound to come. An emulated machine takes ten times as long for everything (BERTH_TEST_SLOWNESS, set
 * by test/vm/init); what a test promises to a user is not stretched, only its patience.
 */
const slowness = Math.max(1, Number(process.env["BERTH_TEST_SLOWNESS"] ?? 1));

export const isSlowMachine = slowness > 1;

export function stretched(ms: number): number {
  return ms * slowness;
}
