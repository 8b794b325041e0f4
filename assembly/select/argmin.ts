/**
 * The slot to evict next: the smallest score among those that are not protected, the smaller position on a tie.
 *
 * One pass; four slots at a time keep each their own best, and the best of the four wins. NaN counts as -inf: such a
 * slot goes first.
 */
import { keyOf, keysOf, ScoreKind } from "./keys";
import { KEPT } from "./layout";

/**
 * Slot of the smallest of `count` scores whose position is from `low` to `high - 1`, or 2^32 - 1 when there is none.
 * `positions` 0: a slot is its own position.
 */
export function argminMasked(
  scores: usize,
  kind: ScoreKind,
  positions: usize,
  count: u32,
  low: u32,
  high: u32,
): u32 {
  let bestKey = KEPT;
  let bestPosition: u32 = KEPT;
  let bestSlot: u32 = KEPT;
  let i: u32 = 0;
  if (ASC_FEATURE_SIMD) {
    const none = i32x4.splat(KEPT);
    const lows = i32x4.splat(low);
    const highs = i32x4.splat(high);
    let slots = i32x4(0, 1, 2, 3);
    let keys4 = none;
    let positions4 = none;
    let slots4 = none;
    for (; i + 4 <= count; i += 4) {
      const offset = (<usize>i) << 2;
      const places = positions == 0 ? slots : v128.load(positions + offset);
      const open = v128.and(v128.ge<u32>(places, lows), v128.lt<u32>(places, highs));
      const keys = v128.bitselect(keysOf(v128.load(scores + offset), kind), none, open);
      const better = v128.or(
        v128.lt<u32>(keys, keys4),
        v128.and(v128.eq<i32>(keys, keys4), v128.lt<u32>(places, positions4)),
      );
      keys4 = v128.bitselect(keys, keys4, better);
      positions4 = v128.bitselect(places, positions4, better);
      slots4 = v128.bitselect(slots, slots4, better);
      slots = v128.add<i32>(slots, i32x4.splat(4));
    }
    for (let lane = 0; lane < 4; lane++) {
      const key = <u32>v128.extract_lane<i32>(keys4, 0);
      const position = <u32>v128.extract_lane<i32>(positions4, 0);
      if (key < bestKey || (key == bestKey && position < bestPosition)) {
        bestKey = key;
        bestPosition = position;
        bestSlot = <u32>v128.extract_lane<i32>(slots4, 0);
      }
      keys4 = v128.shuffle<i32>(keys4, keys4, 1, 2, 3, 0);
      positions4 = v128.shuffle<i32>(positions4, positions4, 1, 2, 3, 0);
      slots4 = v128.shuffle<i32>(slots4, slots4, 1, 2, 3, 0);
    }
  }
  for (; i < count; i++) {
    const offset = (<usize>i) << 2;
    const position = positions == 0 ? i : load<u32>(positions + offset);
    if (position < low || position >= high) continue;
    const key = keyOf(load<u32>(scores + offset), kind);
    if (key < bestKey || (key == bestKey && position < bestPosition)) {
      bestKey = key;
      bestPosition = position;
      bestSlot = i;
    }
  }
  return bestKey == KEPT ? KEPT : bestSlot;
}
