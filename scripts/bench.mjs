// npm run bench [-- WORK… --OPTION…]: measures, prints a table, and puts the rows into bench/results/latest.json, where they
// replace older rows of the same works. Without a WORK: every one that test/bench has.
//
// A work is a file test/bench/WORK.ts that exports
//
//     measure(options: Readonly<Record<string, string>>): Promise<Measurement[]>
//
// `options` are the command line's `--name=value` (`--name` alone is "1"). A Measurement is a row of latest.json:
//
//     {work, metric, unit, berth, peers: {name: value}, floor, ratio, target, met}
//
// Numbers are in `unit`; `floor`, `ratio` (Berth to the best peer), `target` (text) and `met` are null where there is none.
// A file whose name ends in `-support.ts` is no work. Works clean up after themselves, also when they fail.

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { build, runnable } from "./build.mjs";
import { at, Failure, isRoot, main, say } from "./project.mjs";
import { setup } from "./setup.mjs";

const latest = at("bench/results/latest.json");
const columns = ["work", "metric", "unit", "berth", "peers", "floor", "ratio", "target", "met"];

main(import.meta, async (args) => {
  const known = worksOf();
  const works = args.filter((arg) => !arg.startsWith("--"));
  const options = Object.fromEntries(
    args
      .filter((arg) => arg.startsWith("--"))
      .map((arg) => [arg.slice(2).split("=")[0], arg.includes("=") ? arg.slice(arg.indexOf("=") + 1) : "1"]),
  );
  for (const work of works)
    if (!known.includes(work)) throw new Failure(`bench: no work ${work}; there are: ${known.join(", ") || "none"}`);
  if (known.length === 0) throw new Failure("bench: test/bench has no work");
  if (!isRoot) throw new Failure("bench: runs containers and needs root");
  await setup();
  await build();
  let missed = 0;
  for (const work of works.length > 0 ? works : known) {
    say(`── ${work}`);
    const { measure } = await import(await runnable(at("test/bench", `${work}.ts`)));
    const rows = await measure(options);
    for (const row of rows) {
      const lacking = columns.filter((column) => !(column in row));
      if (lacking.length > 0) throw new Failure(`bench: a row of ${work} lacks ${lacking.join(", ")}: ${JSON.stringify(row)}`);
    }
    keep(work, rows);
    print(rows);
    missed += rows.filter((row) => row.met === false).length;
  }
  if (missed > 0) say(`bench: ${missed} target${missed === 1 ? "" : "s"} missed`);
  return missed > 0 ? 1 : 0;
});

function worksOf() {
  if (!existsSync(at("test/bench"))) return [];
  return readdirSync(at("test/bench"))
    .filter((file) => file.endsWith(".ts") && !file.endsWith("-support.ts") && !file.endsWith(".test.ts"))
    .map((file) => file.replace(/\.ts$/, ""))
    .sort();
}

function keep(work, rows) {
  mkdirSync(at("bench/results"), { recursive: true });
  const before = existsSync(latest) ? JSON.parse(readFileSync(latest, "utf8")) : [];
  writeFileSync(latest, `${JSON.stringify([...before.filter((row) => row.work !== work), ...rows], null, 2)}\n`);
}

function print(rows) {
  const number = (value) =>
    value === null || value === undefined ? "–" : typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value);
  const table = [
    ["metric", "unit", "berth", "peers", "floor", "ratio", "target", "met"],
    ...rows.map((row) => [
      row.metric,
      row.unit,
      number(row.berth),
      Object.entries(row.peers ?? {})
        .map(([name, value]) => `${name} ${number(value)}`)
        .join(", ") || "–",
      number(row.floor),
      number(row.ratio),
      row.target ?? "–",
      row.met === null ? "–" : row.met ? "yes" : "MISSED",
    ]),
  ];
  const widths = table[0].map((_, i) => Math.max(...table.map((row) => row[i].length)));
  for (const row of table)
    say(
      row
        .map((cell, i) => cell.padEnd(widths[i]))
        .join("  ")
        .trimEnd(),
    );
}
