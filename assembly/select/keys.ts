/**
 * Scores as unsigned numbers of the same order: selection is integer work from here on, so that every build chooses
 * alike.
 *
 * An f32 whose sign is clear gets its highest bit set, any other all its bits flipped: -inf < ... < -0 = +0 < ... <
 * +inf. NaN counts as -inf. A u32 is its own key; 2^32 - 1 counts as 2^32 - 2, because KEPT is nobody's key.
 */
import { KEPT } from "./layout";

/** What a plane of scores holds. */
export const enum ScoreKind {
  Float = 0,
  Unsigned = 1,
}

// @ts-ignore: decorator
@inline const SIGN: u32 = 0x80000000;

/** Key of one score, by its bits. */
// @ts-ignore: decorator
@inline
export function keyOf(bits: u32, kind: ScoreKind): u32 {
  if (kind == ScoreKind.Unsigned) return min<u32>(bits, KEPT - 1);
  const score = reinterpret<f32>(bits);
  // Adding 0 turns -0 to +0.
  const plain = reinterpret<u32>((score == score ? score : -f32.MAX_VALUE * 2) + 0);
  return plain ^ ((<u32>((<i32>plain) >> 31)) | SIGN);
}

/** Keys of four scores. */
// @ts-ignore: decorator
@inline
export function keysOf(scores: v128, kind: ScoreKind): v128 {
  if (kind == ScoreKind.Unsigned) return v128.min<u32>(scores, i32x4.splat(KEPT - 1));
  const ordered = v128.eq<f32>(scores, scores);
  const plain = v128.add<f32>(
    v128.bitselect(scores, f32x4.splat(-f32.MAX_VALUE * 2), ordered),
    f32x4.splat(0),
  );
  const sign = v128.or(v128.shr<i32>(plain, 31), i32x4.splat(SIGN));
  return v128.xor(plain, sign);
}

/** Writes the keys of `count` scores; returns how many were NaN. */
export function writeKeys(scores: usize, kind: ScoreKind, count: u32, keys: usize): u32 {
  let nans: u32 = 0;
  let i: u32 = 0;
  if (ASC_FEATURE_SIMD) {
    for (; i + 4 <= count; i += 4) {
      const at = (<usize>i) << 2;
      const four = v128.load(scores + at);
      v128.store(keys + at, keysOf(four, kind));
      if (kind == ScoreKind.Float) nans += popcnt(v128.bitmask<i32>(v128.ne<f32>(four, four)));
    }
  }
  for (; i < count; i++) {
    const at = (<usize>i) << 2;
    const bits = load<u32>(scores + at);
    store<u32>(keys + at, keyOf(bits, kind));
    if (kind == ScoreKind.Float) nans += u32((bits & ~SIGN) > 0x7f800000);
  }
  return nans;
}
