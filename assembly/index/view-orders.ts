/**
 * Orders of a view (ordered-view.ts): times, eviction orders and tenants as u64 numbers that compare as their
 * parts do, one after the other.
 *
 *   time       | 64 bits: f64 microseconds, exact                                                    |
 *   eviction   | 4 class | 18 score | 28 last use | 14 depth, deepest first                          |
 *   tenant     | 10 tenant | 2 class | 15 score | 24 last use | 13 depth, deepest first               |
 *
 * The score is an f32 rounded towards minus infinity to the bits there are: a lower score never comes behind
 * a higher one, and scores that agree to 10 (tenant: 7) significant bits count as equal. All other parts
 * are exact. Deepest first: of equally old blocks of one chain the leaf goes before its ancestors.
 */
import { MAX_ORDER } from "./ordered-view";

// @ts-ignore: decorator
@inline const CLASS_BITS: u32 = 4;
// @ts-ignore: decorator
@inline const SCORE_BITS: u32 = 18;
// @ts-ignore: decorator
@inline const LAST_USE_BITS: u32 = 28;
// @ts-ignore: decorator
@inline const DEPTH_BITS: u32 = 14;
// @ts-ignore: decorator
@inline const TENANT_CLASS_BITS: u32 = 2;
// @ts-ignore: decorator
@inline const TENANT_SCORE_BITS: u32 = 15;
// @ts-ignore: decorator
@inline const TENANT_LAST_USE_BITS: u32 = 24;
// @ts-ignore: decorator
@inline const TENANT_DEPTH_BITS: u32 = 13;
// @ts-ignore: decorator
@inline const TENANT_SHIFT: u64 = 54;
// @ts-ignore: decorator
@inline export const MAX_TENANT: u32 = 1023;

/** No order: a part is out of range. Above MAX_ORDER, so a view refuses it. */
// @ts-ignore: decorator
@inline export const NO_ORDER: u64 = u64.MAX_VALUE;

/** Order of a time in microseconds, finite and >= 0: the bits of a non-negative f64 compare as it does. */
// @ts-ignore: decorator
@inline
export function timeOrder(us: f64): u64 {
  // Adding 0 turns -0 into 0.
  return us >= 0 && us < Infinity ? reinterpret<u64>(us + 0.0) : NO_ORDER;
}

// @ts-ignore: decorator
@inline
export function timeOfOrder(order: u64): f64 {
  return reinterpret<f64>(order);
}

/** Bits of an f32 such that they compare, unsigned, as the numbers do: negative ones reversed, below. */
// @ts-ignore: decorator
@inline
function scoreBits(score: f32): u32 {
  const bits = reinterpret<u32>(score + 0.0);
  return bits ^ ((<u32>((<i32>bits) >> 31)) | 0x80000000);
}

// @ts-ignore: decorator
@inline
function packed(
  klass: u32,
  score: f32,
  lastUse: u32,
  depth: u32,
  classBits: u32,
  scoreBitCount: u32,
  lastUseBits: u32,
  depthBits: u32,
): u64 {
  const inRange =
    (klass >> classBits) + (lastUse >> lastUseBits) + (depth >> depthBits) == 0 && score == score;
  if (!inRange) return NO_ORDER;
  const ordered = ((<u64>klass) << scoreBitCount) | ((<u64>scoreBits(score)) >> (32 - scoreBitCount));
  const deepestFirst = (1 << depthBits) - 1 - depth;
  return (((ordered << lastUseBits) | lastUse) << depthBits) | deepestFirst;
}

/**
 * Eviction order, smallest first: class (0 to 15), score (any f32 but NaN), last use (0 to 2^28 - 1, a count
 * of steps or the like), depth in its chain (0 to 16383). NO_ORDER when a part is out of range.
 */
export function evictionOrder(klass: u32, score: f32, lastUse: u32, depth: u32): u64 {
  return packed(klass, score, lastUse, depth, CLASS_BITS, SCORE_BITS, LAST_USE_BITS, DEPTH_BITS);
}

/**
 * Eviction order within a tenant (0 to 1023), tenants one behind the other: class 0 to 3, score, last use
 * 0 to 2^24 - 1, depth 0 to 8191. NO_ORDER when a part is out of range.
 */
export function tenantOrder(tenant: u32, klass: u32, score: f32, lastUse: u32, depth: u32): u64 {
  const within = packed(
    klass,
    score,
    lastUse,
    depth,
    TENANT_CLASS_BITS,
    TENANT_SCORE_BITS,
    TENANT_LAST_USE_BITS,
    TENANT_DEPTH_BITS,
  );
  return tenant > MAX_TENANT || within == NO_ORDER ? NO_ORDER : tenantFirst(tenant) | within;
}

/** Smallest order of a tenant. */
// @ts-ignore: decorator
@inline
export function tenantFirst(tenant: u32): u64 {
  return (<u64>tenant) << TENANT_SHIFT;
}

/** Largest order of a tenant that a view can hold. */
// @ts-ignore: decorator
@inline
export function tenantLast(tenant: u32): u64 {
  return min(tenantFirst(tenant) | ((1 << TENANT_SHIFT) - 1), MAX_ORDER);
}
