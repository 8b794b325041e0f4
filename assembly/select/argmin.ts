/**
 * The slot to evict next: the smallest score among those that are not protected, the smaller position on a tie.
 *
 * Two passes: the smallest value, four slots at a time and without a branch; then the slot that has it. NaN counts as
 * -inf: such a slot goes first.
 */
import { keyOf, keysOf, ScoreKind } from "./keys";
import { KEPT } from "./layout";

/** Four values as they compare: NaN is -inf, 2^32 - 1 is 2^32 - 2. */
// @ts-ignore: decorator
@inline
function values4(at: usize, kind: ScoreKind): v128 {
  const four = v128.load(at);
  if (kind == ScoreKind.Unsigned) return v128.min<u32>(four, i32x4.splat(KEPT - 1));
  return v128.bitselect(four, f32x4.splat(-f32.MAX_VALUE * 2), v128.eq<f32>(four, four));
}

// @ts-ignore: decorator
@inline
function smaller4(a: v128, b: v128, kind: ScoreKind): v128 {
  return kind == ScoreKind.Unsigned ? v128.min<u32>(a, b) : v128.pmin<f32>(a, b);
}

// @ts-ignore: decorator
@inline
function open4(positions: usize, lows: v128, highs: v128): v128 {
  const places = v128.load(positions);
  return v128.and(v128.ge<u32>(places, lows), v128.lt<u32>(places, highs));
}

/** The smallest key of the slots from `first` to `end - 1` that are open; KEPT: none is. */
function smallestKey(
  scores: usize,
  kind: ScoreKind,
  positions: usize,
  first: u32,
  end: u32,
  low: u32,
  high: u32,
): u32 {
  let best = KEPT;
  let i = first;
  if (ASC_FEATURE_SIMD && end - first >= 8) {
    // Two runs, so that one does not wait for the other.
    const none = kind == ScoreKind.Unsigned ? i32x4.splat(KEPT) : f32x4.splat(f32.MAX_VALUE * 2);
    const lows = i32x4.splat(low);
    const highs = i32x4.splat(high);
    let even = none;
    let odd = none;
    for (; i + 8 <= end; i += 8) {
      const at = scores + ((<usize>i) << 2);
      let left = values4(at, kind);
      let right = values4(at + 16, kind);
      if (positions != 0) {
        const places = positions + ((<usize>i) << 2);
        left = v128.bitselect(left, none, open4(places, lows, highs));
        right = v128.bitselect(right, none, open4(places + 16, lows, highs));
      }
      even = smaller4(even, left, kind);
      odd = smaller4(odd, right, kind);
    }
    let four = smaller4(even, odd, kind);
    for (let lane = 0; lane < 4; lane++) {
      const bits = <u32>v128.extract_lane<i32>(four, 0);
      // What no slot has is no slot's: 2^32 - 1 among numbers. Among floats +inf may be one's, and is looked for.
      if (kind == ScoreKind.Float || bits != KEPT) best = min(best, keyOf(bits, kind));
      four = v128.shuffle<i32>(four, four, 1, 2, 3, 0);
    }
  }
  for (; i < end; i++) {
    const position = positions == 0 ? i : load<u32>(positions + ((<usize>i) << 2));
    if (position >= low && position < high)
      best = min(best, keyOf(load<u32>(scores + ((<usize>i) << 2)), kind));
  }
  return best;
}

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
  const first = positions == 0 ? min(low, count) : 0;
  const end = positions == 0 ? max(first, min(high, count)) : count;
  const best = smallestKey(scores, kind, positions, first, end, low, high);
  if (best == KEPT) return KEPT;
  let slot: u32 = KEPT;
  let least: u32 = KEPT;
  for (let i = first; i < end; i++) {
    if (ASC_FEATURE_SIMD) {
      const sought = i32x4.splat(best);
      while (
        i + 4 <= end &&
        !v128.any_true(v128.eq<i32>(keysOf(v128.load(scores + ((<usize>i) << 2)), kind), sought))
      )
        i += 4;
      if (i >= end) break;
    }
    if (keyOf(load<u32>(scores + ((<usize>i) << 2)), kind) != best) continue;
    if (positions == 0) return i;
    const position = load<u32>(positions + ((<usize>i) << 2));
    if (position < low || position >= high || (slot != KEPT && position >= least)) continue;
    slot = i;
    least = position;
  }
  return slot;
}
