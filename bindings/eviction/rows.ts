/** Reductions of attention rows over the query heads of a group. */
import type { StatView } from "../statistics.js";
import type { SequenceLanes } from "./policy.js";
import type { Selection } from "./select.js";

export type Aggregate = "sum" | "mean" | "max";
/** Larger than any sum of probabilities. */
const MAX_F32 = 3.4028234663852886e38;

export const AGGREGATES: readonly Aggregate[] = ["sum", "mean", "max"];

/**
 * Adds what a layer's heads measured to the score planes of its lanes: in the core's memory by its kernel, in a host's
 * arrays here, to the same bits.
 * @param rows [heads][stride]
 * @returns how many values were none (NaN, negative or above `limit`): they count as 0, or as the limit
 */
export function accumulateLayer(
  selection: Selection,
  lanes: SequenceLanes,
  rows: Float32Array,
  stats: StatView,
  aggregate: Aggregate,
  limit = MAX_F32,
): number {
  const { layer, heads, kvHeads, stride, lengths } = stats;
  const planes = Array.from({ length: kvHeads }, (_, kvHead) => lanes.lane(layer, kvHead).score!);
  const { buffer } = selection.core.memory;
  const used = rows.subarray(0, heads * stride);
  if (planes[0].buffer !== buffer || (rows.buffer !== buffer && used.length > selection.floats))
    return planes.reduce(
      (wrong, plane, kvHead) => wrong + accumulate(plane, rows, stats, kvHead, aggregate, limit),
      0,
    );
  // Lanes of a layer lie one after another.
  const planeStride = kvHeads > 1 ? (planes[1].byteOffset - planes[0].byteOffset) / 4 : planes[0].length;
  const plane = new Float32Array(buffer, planes[0].byteOffset, kvHeads * planeStride);
  return selection.accumulate(
    plane,
    { rows: used, rowStride: stride, heads, lengths, planeStride, aggregate },
    limit,
  );
}

/** One lane of the above, over any array. */
export function accumulate(
  plane: Float32Array,
  rows: Float32Array,
  { heads, kvHeads, stride, lengths }: StatView,
  kvHead: number,
  aggregate: Aggregate,
  limit = MAX_F32,
): number {
  const group = heads / kvHeads;
  let wrong = 0;
  for (let slot = 0; slot < lengths[kvHead]; slot++) {
    let value = 0;
    for (let head = kvHead * group; head < (kvHead + 1) * group; head++) {
      const measured = rows[head * stride + slot];
      const clean = measured >= 0 ? Math.min(measured, limit) : 0;
      if (clean !== measured) wrong += 1;
      value = aggregate === "max" ? Math.max(value, clean) : Math.fround(value + clean);
    }
    plane[slot] += aggregate === "mean" ? Math.fround(value / group) : value;
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
