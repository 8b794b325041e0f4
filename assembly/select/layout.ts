/**
 * Selection: room in which the best of many scores are found without allocating.
 *
 *   header     Selection, 64 B
 *   histogram  [256] u32
 *   keys       [capacity] u32       scores as unsigned numbers of the same order; KEPT once chosen
 *   list       [capacity] u32       candidates that are still open
 *   bitmap     [capacity / 4] u32   output: one row of ceil(stride / 32) words a segment
 *   slots      [capacity] u32       output: chosen slots, ascending, segment behind segment
 *   counts     [capacity / 4] u32   output: chosen slots of each segment
 *   lengths    [capacity / 4] u32   input: scores of each segment
 *   scores, ties, positions  [capacity] each, and rows [floats] f32: where the host may put what lies elsewhere
 *
 * A *segment* is one lane's scores; entry `i` of segment `s` has the id `s * stride + i` in every plane. Nothing here
 * outlives a call but the counter of NaN scores.
 */
import { alignToLine } from "../memory/arena";

/** Scores in one selection. */
// @ts-ignore: decorator
@inline export const MAX_CAPACITY: u32 = 1 << 26;
// @ts-ignore: decorator
@inline export const MAX_FLOATS: u32 = 1 << 28;

/** Key of a slot that stays. No score has it: the largest score's key is that of +inf. */
// @ts-ignore: decorator
@inline export const KEPT: u32 = 0xffffffff;


@unmanaged
export class Selection {
  capacity: u32;
  floats: u32;
  histogram: u32;
  keys: u32;
  list: u32;
  bitmap: u32;
  slots: u32;
  counts: u32;
  lengths: u32;
  scores: u32;
  ties: u32;
  positions: u32;
  rows: u32;
  /** NaN scores met since creation, modulo 2^32. */
  nans: u32;
  /** Between two narrowings: candidates still open, and how many of them stay. */
  open: u32;
  need: u32;
}

/** Bytes of a selection over `capacity` scores (a multiple of 32) and `floats` floats of rows. */
export function selectionBytes(capacity: u32, floats: u32): u64 {
  const plane = alignUp((<u64>capacity) << 2);
  return (
    <u64>alignToLine(offsetof<Selection>()) +
    1024 +
    6 * plane +
    3 * alignUp(<u64>capacity) +
    alignUp((<u64>floats) << 2)
  );
}

// @ts-ignore: decorator
@inline
function alignUp(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

/** Lays a selection out at `selection`, a zeroed region of `selectionBytes` bytes. */
export function selectionCreate(selection: Selection, capacity: u32, floats: u32): void {
  const plane = <u32>alignUp((<u64>capacity) << 2);
  const small = <u32>alignUp(<u64>capacity);
  selection.capacity = capacity;
  selection.floats = floats;
  let at = <u32>(changetype<usize>(selection) + alignToLine(offsetof<Selection>()));
  selection.histogram = at;
  selection.keys = at += 1024;
  selection.list = at += plane;
  selection.slots = at += plane;
  selection.scores = at += plane;
  selection.ties = at += plane;
  selection.positions = at += plane;
  selection.bitmap = at += plane;
  selection.counts = at += small;
  selection.lengths = at += small;
  selection.rows = at + small;
  selection.nans = 0;
}
