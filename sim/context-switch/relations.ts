/** What must hold between systems that switch contexts, and the summary of a run that it is read from. */
import { percentile } from "../report.js";
import type { SwitchFigures } from "./simulate.js";
import { ABLATION, SWAP_INS, SYSTEMS } from "./systems.js";

/** A run in the numbers that it is judged by. */
export interface SwitchSummary {
  readonly ttftMs: Readonly<Record<"p50" | "p95" | "p99" | "p999", number>>;
  readonly tbtMs: Readonly<Record<"p50" | "p99" | "p999", number>>;
  /** From the first arrival to the last token; and in the time that the device computes or is waited for. */
  readonly tokensPerSecond: number;
  readonly tokensPerBusySecond: number;
  /** Mean blocks in a copy. */
  readonly granularity: number;
  readonly gigabytesOut: number;
  readonly gigabytesIn: number;
  readonly stallSeconds: number;
  /** Of the time that steps took and waited. */
  readonly stallShare: number;
  readonly preemptions: number;
  readonly starved: number;
}

export interface Relation {
  readonly name: string;
  readonly value: number;
  readonly is: ">=" | "<";
  readonly than: number;
}

/**
 * How much worse an ablation step may make a figure. Runs that wait equally little for copies have different histories all the
 * same, and the tails of a few hundred turns differ between them, either way.
 */
const TOLERANCE = 0.1;

export function summarize(figures: SwitchFigures, blockBytes: number): SwitchSummary {
  const ms = (us: Float64Array, share: number): number => percentile(us, share) / 1000;
  const { ttftUs, tbtUs, busyUs, stallUs } = figures;
  return {
    ttftMs: { p50: ms(ttftUs, 0.5), p95: ms(ttftUs, 0.95), p99: ms(ttftUs, 0.99), p999: ms(ttftUs, 0.999) },
    tbtMs: { p50: ms(tbtUs, 0.5), p99: ms(tbtUs, 0.99), p999: ms(tbtUs, 0.999) },
    tokensPerSecond: (figures.tokens / figures.elapsedUs) * 1e6,
    tokensPerBusySecond: (figures.tokens / (busyUs + stallUs)) * 1e6,
    granularity: figures.granularity,
    gigabytesOut: (figures.blocksOut * blockBytes) / 1e9,
    gigabytesIn: (figures.blocksIn * blockBytes) / 1e9,
    stallSeconds: stallUs / 1e6,
    stallShare: stallUs / (stallUs + busyUs),
    preemptions: figures.preemptions,
    starved: figures.starved,
  };
}

type Summaries = ReadonlyMap<string, SwitchSummary>;

/**
 * Better is greater: P99 time to first token, P99.9 time between tokens, tokens a busy second (when the last conversation
 * ends is left out: one of many turns decides it).
 */
function gains(before: SwitchSummary, after: SwitchSummary): Record<"ttft" | "tbt" | "throughput", number> {
  return {
    ttft: before.ttftMs.p99 / after.ttftMs.p99,
    tbt: before.tbtMs.p999 / after.tbtMs.p999,
    throughput: after.tokensPerBusySecond / before.tokensPerBusySecond,
  };
}

/** What changing priorities must show ("FastSwitch", arXiv 2411.18424; the thresholds are ours). */
export function relations(summaries: Summaries): Relation[] {
  const of = ({ name }: { name: string }): SwitchSummary => summaries.get(name)!;
  const { BASELINE, GROUPS, GROUPS_REUSE, ALL } = SYSTEMS;
  const all = gains(of(BASELINE), of(ALL));
  const checks: Relation[] = [
    { name: "blocks in a copy, groups", value: of(GROUPS).granularity, is: ">=", than: 8 },
    { name: "blocks in a copy, baseline", value: of(BASELINE).granularity, is: "<", than: 1.01 },
    {
      name: "stall of the baseline over that of groups alone",
      value: of(BASELINE).stallSeconds / of(GROUPS).stallSeconds,
      is: ">=",
      than: 3,
    },
    {
      name: "bytes of swap-outs that reuse saves",
      value: 1 - of(GROUPS_REUSE).gigabytesOut / of(GROUPS).gigabytesOut,
      is: ">=",
      than: 0.4,
    },
    { name: "P99 time to first token, baseline over all", value: all.ttft, is: ">=", than: 1.4 },
    { name: "P99.9 time between tokens, baseline over all", value: all.tbt, is: ">=", than: 1.5 },
    {
      name: "tokens a second, all over baseline",
      value: of(ALL).tokensPerSecond / of(BASELINE).tokensPerSecond,
      is: ">=",
      than: 1,
    },
  ];
  for (const [before, after] of ABLATION)
    for (const [figure, value] of Object.entries(gains(of(before), of(after))))
      checks.push({
        name: `${after.name} over ${before.name}: ${figure}`,
        value,
        is: ">=",
        than: 1 - TOLERANCE,
      });
  return checks;
}

/**
 * Adaptive swap-in has the first tokens of sync where the machine keeps up (`light`), and where it does not the tails of async,
 * without the stall of sync (thresholds ours).
 */
export function swapInRelations(summaries: Summaries, light: boolean): Relation[] {
  const [async, sync, adaptive] = Object.values(SWAP_INS).map(({ name }) => summaries.get(name)!);
  const over = (
    name: string,
    figure: (summary: SwitchSummary) => number,
    summary: SwitchSummary,
    bar: Pick<Relation, "is" | "than">,
  ): Relation => ({ name, value: figure(summary) / figure(adaptive), ...bar });
  const median = ({ ttftMs }: SwitchSummary): number => ttftMs.p50;
  const first = ({ ttftMs }: SwitchSummary): number => ttftMs.p99;
  const between = ({ tbtMs }: SwitchSummary): number => tbtMs.p999;
  const atLeast = (than: number) => ({ is: ">=", than }) as const;
  if (light)
    return [
      over("P50 time to first token, async over adaptive", median, async, atLeast(1.2)),
      over("P50 time to first token, sync over adaptive", median, sync, atLeast(1 - TOLERANCE)),
      over("P99 time to first token, async over adaptive", first, async, atLeast(1)),
      over("P99.9 time between tokens, async over adaptive", between, async, atLeast(1 - TOLERANCE)),
    ];
  return [
    over("P99 time to first token, async over adaptive", first, async, atLeast(1 - TOLERANCE)),
    over("P99.9 time between tokens, async over adaptive", between, async, atLeast(1 - TOLERANCE)),
    over("stall, sync over adaptive", ({ stallSeconds }) => stallSeconds, sync, atLeast(4)),
  ];
}

/** Without context switches nothing may tell the systems apart: greatest over least of each figure. */
export function equalities(summaries: Summaries): Relation[] {
  const spread = (name: string, figure: (summary: SwitchSummary) => number): Relation => {
    const values = [...summaries.values()].map(figure);
    return { name, value: Math.max(...values) / Math.min(...values), is: "<", than: 1.02 };
  };
  return [
    spread("P99 time to first token", ({ ttftMs }) => ttftMs.p99),
    spread("P99.9 time between tokens", ({ tbtMs }) => tbtMs.p999),
    spread("tokens a second", ({ tokensPerSecond }) => tokensPerSecond),
  ];
}

export function holds({ value, is, than }: Relation): boolean {
  return is === "<" ? value < than : value >= than;
}
