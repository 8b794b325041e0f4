/**
 * What do changing priorities cost? Conversations of several turns on a simulated card of 24 GB, under the shipped cache and
 * scheduler: a vLLM-like baseline, the three ideas of "FastSwitch" (arXiv 2411.18424) one by one and together, and
 * recomputation; and when a request that is read back joins a batch. Times are the machine's of sim/context-switch/machine.ts, not this one's.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import {
  controlCase,
  runCase,
  swapInCase,
  type SwitchCase,
  switchCase,
} from "../sim/context-switch/cases.js";
import { busiestMinutes } from "../sim/context-switch/conversations.js";
import {
  equalities,
  type Relation,
  relations,
  swapInRelations,
  type SwitchSummary,
} from "../sim/context-switch/relations.js";
import { barPlot } from "../sim/plot.js";
import type { Report } from "./measure.js";

export const title = "what changing priorities cost, by how contexts are switched; --plot F for the SVG";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..", "..");
const DATA = join(process.env.QUARTERMASTER_DATA ?? join(ROOT, "..", "shared"), "data");
const BURSTGPT = join(DATA, "burstgpt", "minute_tokens_day0-3.csv");
const PLOT = join(ROOT, "build", "context-switch.svg");

const CONVERSATIONS = 1000;
const QUICK = 200;
const SEED = 1;

type Summaries = ReadonlyMap<string, SwitchSummary>;

function cases(quick: boolean): SwitchCase[] {
  const count = quick ? QUICK : CONVERSATIONS;
  const all = [switchCase("random", "random", count, SEED)];
  if (quick) return all;
  all.push(switchCase("markov", "markov", count, SEED));
  if (existsSync(BURSTGPT)) {
    const load = busiestMinutes(readFileSync(BURSTGPT, "utf8"), Math.ceil(count / 60));
    all.push(switchCase("random, load of BurstGPT", "random", count, SEED, load));
  } else
    console.error(
      `context-switch: no case burstgpt, ${BURSTGPT} is not there (QUARTERMASTER_DATA names the folder above data/)`,
    );
  return all;
}

export async function run(report: Report): Promise<void> {
  const plotted: [string, Summaries][] = [];
  for (const each of cases(report.quick)) {
    const summaries = await measure(report, each);
    plotted.push([each.name, summaries]);
    check(report, each.name, relations(summaries));
  }
  for (const rate of [0.4, 1]) {
    const count = report.quick ? QUICK : CONVERSATIONS;
    const each = swapInCase(`swap-in, ${rate} a second`, count, SEED, rate);
    check(report, each.name, swapInRelations(await measure(report, each), rate < 1));
  }
  const control = controlCase(report.quick ? QUICK : CONVERSATIONS, SEED);
  check(report, control.name, equalities(await measure(report, control)));
  if (!report.quick || report.options.plot) plot(report, plotted);
}

async function measure(report: Report, each: SwitchCase): Promise<Summaries> {
  const summaries = new Map<string, SwitchSummary>();
  for (const system of each.systems) {
    const summary = await runCase(each, system, SEED);
    summaries.set(system.name, summary);
    if (report.json) figures(report, each.name, system.name, summary);
  }
  if (!report.json) table(report, each.name, summaries);
  return summaries;
}

/** Metric, unit, and the figure of a run. */
const METRICS: readonly (readonly [string, string, (summary: SwitchSummary) => number])[] = [
  ["ttft-p50", "ms", ({ ttftMs }) => ttftMs.p50],
  ["ttft-p95", "ms", ({ ttftMs }) => ttftMs.p95],
  ["ttft-p99", "ms", ({ ttftMs }) => ttftMs.p99],
  ["ttft-p99.9", "ms", ({ ttftMs }) => ttftMs.p999],
  ["tbt-p99", "ms", ({ tbtMs }) => tbtMs.p99],
  ["tbt-p99.9", "ms", ({ tbtMs }) => tbtMs.p999],
  ["throughput", "tokens/s", ({ tokensPerSecond }) => tokensPerSecond],
  ["throughput-busy", "tokens/s", ({ tokensPerBusySecond }) => tokensPerBusySecond],
  ["granularity", "blocks", ({ granularity }) => granularity],
  ["swapped-out", "GB", ({ gigabytesOut }) => gigabytesOut],
  ["swapped-in", "GB", ({ gigabytesIn }) => gigabytesIn],
  ["stall", "s", ({ stallSeconds }) => stallSeconds],
  ["stall-share", "ratio", ({ stallShare }) => stallShare],
  ["preemptions", "times", ({ preemptions }) => preemptions],
  ["starved", "turns", ({ starved }) => starved],
];

function figures(report: Report, name: string, subject: string, summary: SwitchSummary): void {
  for (const [metric, unit, figure] of METRICS) report.measured(name, subject, metric, figure(summary), unit);
}

function table(report: Report, name: string, summaries: Summaries): void {
  const cell = (value: number): string => String(Number(value.toPrecision(3))).padStart(9);
  report.note(name);
  report.note("".padEnd(26) + [...summaries.keys()].map((subject) => subject.padStart(16)).join(""));
  for (const [metric, unit, figure] of METRICS)
    report.note(
      `${metric} ${unit}`.padEnd(26) +
        [...summaries.values()].map((summary) => cell(figure(summary)).padStart(16)).join(""),
    );
}

function check(report: Report, name: string, checks: readonly Relation[]): void {
  for (const { name: what, value, is, than } of checks) report.bar(`${name}: ${what}`, value, is, than);
}

function plot(report: Report, cases: readonly (readonly [string, Summaries])[]): void {
  const file = resolve(report.options.plot ?? PLOT);
  mkdirSync(dirname(file), { recursive: true });
  const subjects = [...cases[0][1].keys()].filter((subject) => subject !== "recompute");
  const svg = barPlot({
    title: "P99 time to first token under changing priorities, seconds",
    groups: cases.map(([name]) => name),
    series: subjects.map((subject) => ({
      name: subject,
      values: cases.map(([, summaries]) => summaries.get(subject)!.ttftMs.p99 / 1000),
    })),
  });
  writeFileSync(file, svg);
  report.note(`plot: ${file}`);
}
