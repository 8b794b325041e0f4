/** Reductions of attention rows over the query heads of a group. */
import type { StatView } from "../statistics.js";

export type Aggregate = "sum" | "mean" | "max";
export const AGGREGATES: readonly Aggregate[] = ["sum", "mean", "max"];

/**
 * Adds what a lane's heads measured to its plane.
 * @param rows [heads][stride]
 * @returns how many values were none (NaN, negative or above `limit`): they count as 0, or as the limit
 */
export function accumulate(
  plane: Float32Array,
  rows: Float32Array,
  { heads, kvHeads, stride, lengths }: StatView,
  kvHead: number,
  aggregate: Aggregate,
  limit = Infinity,
): number {
  const group = heads / kvHeads;
  let wrong = 0;
  for (let slot = 0; slot < lengths[kvHead]; slot++) {
    let value = 0;
    for (let head = kvHead * group; head < (kvHead + 1) * group; head++) {
      const measured = rows[head * stride + slot];
      const clean = measured >= 0 ? Math.min(measured, limit) : 0;
      if (clean !== measured) wrong += 1;
      value = aggregate === "max" ? Math.max(value, clean) : value + clean;
    }
    plane[slot] += aggregate === "mean" ? value / group : value;
  }
  return wrong;
}

/** Mean over a group's query heads of the last query's row, [length]. */
export function groupMean(
  { heads, kvHeads, stride, lengths, lastRow }: StatView,
  kvHead: number,
): Float32Array {
  const group = heads / kvHeads;
  const mean = new Float32Array(lengths[kvHead]);
  for (let head = kvHead * group; head < (kvHead + 1) * group; head++)
    for (let slot = 0; slot < mean.length; slot++) mean[slot] += lastRow![head * stride + slot] / group;
  return mean;
}

/** Mean over all query heads of a layer of the last query's row, [length]. */
export function meanRow({ heads, stride, lengths, lastRow }: StatView): Float32Array {
  const mean = new Float32Array(lengths[0]);
  for (let head = 0; head < heads; head++)
    for (let slot = 0; slot < mean.length; slot++) mean[slot] += lastRow![head * stride + slot] / heads;
  return mean;
}
