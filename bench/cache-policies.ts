/**
 * How many prompt blocks does a prefix cache find, by eviction order and capacity? The Mooncake conversation trace
 * (arXiv 2407.00079: 12,031 requests, 288,500 blocks of 512 tokens, 182,790 distinct) through the real pool and
 * prefix index. An offline optimum (MIN) says how much there was to find.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { linePlot } from "../sim/plot.js";
import { type ReplayOrder, replayPrefixes } from "../sim/prefix-replay.js";
import { readMooncakeTrace } from "../sim/traces.js";
import type { Report } from "./measure.js";

export const title =
  "block hit rate of the eviction orders on a real trace, by capacity; --plot F for the SVG";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const DATA = join(process.env.QUARTERMASTER_DATA ?? join(ROOT, "..", "shared"), "data");
const TRACE = join(DATA, "mooncake", "conversation_trace.jsonl");
const PLOT = join(ROOT, "build", "cache-policies.svg");

const CAPACITIES = [1_000, 3_000, 10_000, 30_000, 50_000, 100_000];
const QUICK = [3_000];
/** Remembers everything that has left. */
const ALL = 2 ** 20;

/** The order that is this project's own. */
const OURS = "gittins";

interface Policy {
  readonly name: string;
  readonly order: ReplayOrder;
  readonly plotted: boolean;
}

/** Orders with their defaults, beside those that count over the whole past; advice is predicted. */
const POLICIES: readonly Policy[] = [
  { name: "lru", order: "lru", plotted: true },
  { name: "fifo", order: "fifo", plotted: false },
  { name: "lfu, since entry", order: { kind: "lfu", history: 0 }, plotted: false },
  { name: "lfu, whole past", order: { kind: "lfu", history: ALL }, plotted: true },
  { name: "s3-fifo", order: "s3-fifo", plotted: true },
  { name: "gdsf", order: "gdsf", plotted: false },
  { name: "gdsf, whole past", order: { kind: "gdsf", history: ALL }, plotted: true },
  { name: OURS, order: "gittins", plotted: true },
  { name: "seen-twice", order: "seen-twice", plotted: false },
  { name: "seen-twice, whole past", order: { kind: "seen-twice", history: ALL }, plotted: false },
  { name: "marker", order: "marker", plotted: false },
  { name: "flush-all-0s", order: "flush-all-0s", plotted: false },
  { name: "mark0", order: "mark0", plotted: false },
  { name: "mark-and-predict", order: "mark-and-predict", plotted: false },
  { name: "min", order: "min", plotted: true },
];

export async function run(report: Report): Promise<void> {
  if (!existsSync(TRACE)) {
    console.error(
      `cache-policies: skipped, ${TRACE} is not there (QUARTERMASTER_DATA names the folder above data/)`,
    );
    return;
  }
  const prompts = readMooncakeTrace(readFileSync(TRACE, "utf8")).map((row) =>
    Uint32Array.from(row.blockIds!),
  );
  const capacities = report.quick ? QUICK : CAPACITIES;
  const rates = new Map<string, number[]>();
  for (const { name, order } of POLICIES) {
    const found: number[] = [];
    for (const capacity of capacities) {
      const start = performance.now();
      const { hitRate, references } = await replayPrefixes(prompts, capacity, order);
      const ns = ((performance.now() - start) * 1e6) / references;
      if (report.json) {
        report.measured(String(capacity), name, "hit-rate", hitRate, "ratio");
        report.measured(String(capacity), name, "replay", ns, "ns", { per: "block reference" });
      }
      found.push(hitRate);
    }
    rates.set(name, found);
  }
  const [ours, best] = [rates.get(OURS)!, rates.get("min")!];
  const gaps = capacities.map((_, i) => best[i] - ours[i]);
  if (report.json)
    gaps.forEach((gap, i) => report.measured(String(capacities[i]), OURS, "gap-to-min", gap, "ratio"));
  else table(report, capacities, [...rates, [`min less ${OURS}`, gaps]]);
  if (!report.quick || report.options.plot) plot(report, capacities, rates);
}

function table(
  report: Report,
  capacities: readonly number[],
  rows: readonly (readonly [name: string, rates: readonly number[]])[],
): void {
  const line = (name: string, cells: readonly (string | number)[]): string =>
    name.padEnd(20) + cells.map((cell) => String(cell).padStart(9)).join("");
  report.note(line("blocks", capacities));
  for (const [name, rates] of rows)
    report.note(
      line(
        name,
        rates.map((rate) => rate.toFixed(4)),
      ),
    );
}

function plot(report: Report, capacities: readonly number[], rates: ReadonlyMap<string, number[]>): void {
  const file = resolve(report.options.plot ?? PLOT);
  mkdirSync(dirname(file), { recursive: true });
  const svg = linePlot({
    title: "Block hit rate by eviction order, Mooncake conversation trace",
    xLabel: "capacity in blocks of 512 tokens",
    yLabel: "hit rate",
    logX: true,
    series: POLICIES.filter(({ plotted }) => plotted).map(({ name }) => ({
      name,
      points: capacities.map((capacity, i) => [capacity, rates.get(name)![i]] as const),
    })),
  });
  writeFileSync(file, svg);
  report.note(`plot: ${file}`);
}
