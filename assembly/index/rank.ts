/** Places of a key: its height, its slot in a node, its way right on a level. */
import { finalize64 } from "../memory/hash";
import { Index, KEYS, keyAt, node } from "./layout";

/**
 * Highest level of a key: the zero digits at the end of its hash. A pure function of key and seed, so that
 * equal keys always meet on the same level; hashed, so that regular keys (multiples of a power of two) stay
 * geometric.
 */
// @ts-ignore: decorator
@inline
export function heightHere(index: Index, key: u64): u32 {
  const zeros = <u32>ctz(finalize64(key ^ index.seed));
  // Comparing first saves the division for all keys but the promoted ones.
  return zeros < index.digitBits ? 0 : min(zeros / index.digitBits, index.levels - 1);
}

/** `heightHere` as a call, where it is asked once for an operation: it is long. */
export function heightOf(index: Index, key: u64): u32 {
  return heightHere(index, key);
}

/**
 * Slot of the largest of the first `count` keys that is <= `key`; slot 0 is always taken for one.
 * Branch-free: the comparison becomes a conditional move.
 */
// @ts-ignore: decorator
@inline
export function rankAmong(at: u32, key: u64, count: u32): u32 {
  let base: u32 = 0;
  let length = count;
  while (length > 1) {
    const half = length >> 1;
    base = select<u32>(base + half, base, keyAt(at, base + half) <= key);
    length -= half;
  }
  return base;
}

// @ts-ignore: decorator
@inline
export function rank(at: u32, key: u64): u32 {
  return rankAmong(at, key, <u32>node(at).count);
}

/** A guess of a slot where there is none. */
// @ts-ignore: decorator
@inline export const NOWHERE: u32 = u32.MAX_VALUE;

/**
 * As `rankAmong`, for a guess that is right unless the node has changed since: two comparisons instead of a
 * search. `key` is not below the node's first key.
 */
// @ts-ignore: decorator
@inline
export function rankNear(at: u32, key: u64, near: u32, count: u32): u32 {
  const right = near < count && keyAt(at, near) <= key && (near + 1 == count || keyAt(at, near + 1) > key);
  return right ? near : rankAmong(at, key, count);
}

/**
 * As `rankAmong`, by counting: every line is asked for at once, where halving waits for one after the other. Pays for
 * a node that is not in cache and a key that is looked up alone.
 */
// @ts-ignore: decorator
@inline
export function rankCounting(at: u32, key: u64, count: u32): u32 {
  if (!ASC_FEATURE_SIMD) return rankAmong(at, key, count);
  const flip = i64x2.splat(1 << 63);
  const bound = v128.xor(i64x2.splat(key), flip);
  let sums = i64x2.splat(0);
  const end = <usize>at + KEYS + ((<usize>count) << 3);
  let ptr = <usize>at + KEYS;
  for (; ptr + 16 <= end; ptr += 16)
    sums = i64x2.sub(sums, i64x2.le_s(v128.xor(v128.load(ptr), flip), bound));
  let sum = <u32>(i64x2.extract_lane(sums, 0) + i64x2.extract_lane(sums, 1));
  if (ptr < end) sum += u32(load<u64>(ptr) <= key);
  return max<u32>(sum, 1) - 1;
}
