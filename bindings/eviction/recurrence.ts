/**
 * When each token was last important, and the longest silence after which it came back: planes lastImp and mri, in decode
 * steps since the prompt. Source: "LazyEviction: Lagged KV Eviction with Attention Pattern Observation for Efficient Long
 * Reasoning" (arXiv 2506.15969) and its released code.
 */
import type { StatView } from "../statistics.js";
import type { LaneView } from "./policy.js";

/** Threshold of importance: a probability, or "auto": 8 / slots, within [1e-4, 0.2]. */
export type Threshold = number | "auto";

/** The threshold for a lane of so many slots. */
export function thresholdFor(alpha: Threshold, slots: number): number {
  return alpha === "auto" ? Math.min(0.2, Math.max(1e-4, 8 / slots)) : alpha;
}

/**
 * Notes which slots are important at step `now`, counted from 1. The newest token counts as important the step before
 * its own, but for those of step 1. `how`: a group's heads become one value by max or mean.
 * @returns how many slots were important
 */
export function track(
  lane: LaneView,
  newest: number,
  { heads, kvHeads, stride, lastRow }: StatView,
  kvHead: number,
  how: "max" | "mean",
  threshold: number,
  now: number,
): number {
  const { length, pos } = lane;
  const [lastImp, mri] = [lane.lastImp!, lane.mri];
  if (now > 1) {
    const slot = pos[length - 1] === newest ? length - 1 : pos.subarray(0, length).indexOf(newest);
    lastImp[slot] = now - 1;
  }
  const group = heads / kvHeads;
  let important = 0;
  for (let slot = 0; slot < length; slot++) {
    let value = 0;
    for (let head = kvHead * group; head < (kvHead + 1) * group; head++) {
      const measured = lastRow![head * stride + slot];
      value = how === "max" ? Math.max(value, measured) : value + measured / group;
    }
    if (!(value >= threshold)) continue;
    important += 1;
    if (mri) mri[slot] = Math.max(mri[slot], now - lastImp[slot]);
    lastImp[slot] = now;
  }
  return important;
}

/** Added to mri where it divides. [code] */
const EPSILON = 1e-5;

/** What part of recurrence a token is judged by. */
export interface RecurrenceScore {
  /** release: the density bonus for every token; gated: only for those important within the last window. */
  readonly kind: "release" | "gated";
  /** Steps of a window. */
  readonly window: number;
  /** 1 in the released code: the silence counts as 2 sigmoid(-(offset + silence / mri)). */
  readonly offset: number;
}

/**
 * 2 / (1 + exp(offset + silence / (mri + 1e-5))), and for tokens that recur densely 2 / (1 + exp(mri - 1)). A token that
 * was important in one short burst has mri 1, and by the released score a bonus of 1 for ever; `gated` takes it back after
 * a window of silence.
 */
export function recurrenceScore(
  lastImp: number,
  mri: number,
  now: number,
  { kind, window, offset }: RecurrenceScore,
): number {
  const silence = now - lastImp;
  const bonus = mri === 0 || (kind === "gated" && silence > window) ? 0 : halfSigmoid(mri - 1);
  return halfSigmoid(offset + silence / (mri + EPSILON)) + bonus;
}

/** 2 / (1 + e^x), 0 where the exponential would overflow an f32. */
function halfSigmoid(x: number): number {
  return x >= 80 ? 0 : 2 / (1 + Math.exp(x));
}

/**
 * The window that most recurrences fall into: the q-quantile of the intervals seen in sample traces, at least 1. Intervals
 * of 0, tokens that never came back, do not count.
 */
export function calibrateWindow(intervals: Iterable<number>, q = 0.8): number {
  const sorted = [...intervals].filter((interval) => interval > 0).sort((a, b) => a - b);
  if (sorted.length === 0) return 1;
  return sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)] || 1;
}

/** Share of tokens whose longest silence lies in [2^i, 2^(i+1)), by i; those that never came back are not counted. */
export function recurrenceHistogram(intervals: Iterable<number>): number[] {
  const counts: number[] = [];
  let total = 0;
  for (const interval of intervals) {
    total += 1;
    if (interval === 0) continue;
    const bucket = Math.floor(Math.log2(interval));
    counts[bucket] = (counts[bucket] ?? 0) + 1;
  }
  return Array.from(counts, (count) => (count ?? 0) / total);
}
