/** Move records that carry K and V of kept slots to their new places. */
import { MOVE_WORDS } from "../../bindings/statistics.js";

/** Where a lane's slots lie: slot s in block (with `slices`: slice) table[floor(s / blockSize)]. */
export interface LanePlace {
  readonly layer: number;
  readonly kvHead: number;
  readonly table: readonly number[];
  readonly blockSize: number;
  /** Default false. */
  readonly slices?: boolean;
  /** Keys are rotated by their slot: they turn as they move. Default false. */
  readonly turns?: boolean;
}

/** Appends records that move `count` slots, first those at the front: right wherever target <= source. */
export function pushMoves(
  records: number[],
  { layer, kvHead, table: from, blockSize, slices = false, turns = false }: LanePlace,
  source: number,
  target: number,
  count: number,
  to: readonly number[] = from,
): void {
  const how = Number(slices) + (turns ? 2 * (source - target) : 0);
  for (let done = 0; done < count;) {
    const [s, t] = [source + done, target + done];
    const run = Math.min(count - done, blockSize - (s % blockSize), blockSize - (t % blockSize));
    const [sourceBlock, targetBlock] = [from[Math.floor(s / blockSize)], to[Math.floor(t / blockSize)]];
    records.push(layer, kvHead, sourceBlock, s % blockSize, targetBlock, t % blockSize, run, how);
    done += run;
  }
}

/** Appends records that pack ascending slots: slot keep[i] becomes slot i. */
export function pushPacking(records: number[], place: LanePlace, keep: Uint32Array): void {
  for (let i = 0; i < keep.length;) {
    let end = i + 1;
    while (end < keep.length && keep[end] === keep[end - 1] + 1) end += 1;
    if (keep[i] !== i) pushMoves(records, place, keep[i], i, end - i);
    i = end;
  }
}

/** Slots that records move. */
export function movedSlots(records: readonly number[]): number {
  let slots = 0;
  for (let at = 6; at < records.length; at += MOVE_WORDS) slots += records[at];
  return slots;
}
