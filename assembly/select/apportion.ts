/**
 * Integer budgets from real weights: who gets how many slots, with an exact sum.
 *
 * All strategies hold `minimum[i] <= out[i] <= maximum[i]` and `sum(out) = clamp(total, sum(minimum), sum(maximum))`,
 * but for the two that are published without an exact sum and say so. Lower index first wherever weights tie.
 *
 *   LargestRemainder  out[i] = clamp(x * weight[i]) for the one x that gives the sum, fractions rounded by size
 *   Cake              the repair of "CAKE: Cascading and Adaptive KV Cache Eviction with Layer Preferences" (ICLR 2025)
 *   ErrorAware        that of "CompressKV: Semantic Retrieval Heads Know What Tokens are Not Important Before
 *                     Generation" (arXiv 2508.02401)
 *   Floors            floor(share), at least the minimum: the sum may be larger. As published with "EpiCache: Episodic KV
 *                     Cache Management for Long Conversational Question Answering" (arXiv 2509.17396)
 *   Pyramid           a straight line from `2 * mean - mean / beta` down to `mean / beta`, clipped at the first maximum:
 *                     "PyramidKV: Dynamic KV Cache Compression based on Pyramidal Information Funneling"
 *                     (arXiv 2406.02069); weights are not read
 *   PyramidSteps      the same with the integer steps that are published: the sum may be smaller
 *
 * Arrays: weights f64, minimum, maximum and out i32, work f64, [count] each. O(count^2) at worst.
 */
import { INVALID_ARGUMENT, Status } from "../memory/status";

export const enum Strategy {
  LargestRemainder = 0,
  Cake = 1,
  ErrorAware = 2,
  Floors = 3,
  Pyramid = 4,
  PyramidSteps = 5,
}

/** Marks an entry of `out` whose share is still open. */
// @ts-ignore: decorator
@inline const OPEN: i32 = -1;

// @ts-ignore: decorator
@inline
function real(list: usize, i: u32): f64 {
  return load<f64>(list + ((<usize>i) << 3));
}

// @ts-ignore: decorator
@inline
function whole(list: usize, i: u32): i32 {
  return load<i32>(list + ((<usize>i) << 2));
}

// @ts-ignore: decorator
@inline
function put(list: usize, i: u32, value: i32): void {
  store<i32>(list + ((<usize>i) << 2), value);
}

function sumOf(list: usize, count: u32): f64 {
  let sum: f64 = 0;
  for (let i: u32 = 0; i < count; i++) sum += <f64>whole(list, i);
  return sum;
}

/** Weights divided by their sum, or all alike when it is 0, to `shares`; false for a weight that is none. */
function normalise(weights: usize, shares: usize, count: u32): bool {
  let largest: f64 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const weight = real(weights, i);
    if (!(weight >= 0 && weight <= f64.MAX_VALUE)) return false;
    largest = max(largest, weight);
  }
  let sum: f64 = 0;
  for (let i: u32 = 0; i < count; i++) sum += largest > 0 ? real(weights, i) / largest : 1;
  for (let i: u32 = 0; i < count; i++) {
    const weight = largest > 0 ? real(weights, i) / largest : 1;
    store<f64>(shares + ((<usize>i) << 3), weight / sum);
  }
  return true;
}

/** Settles the entries whose proportional share lies outside their bounds; returns what is left for the open ones. */
function settleBounds(
  shares: usize,
  minimum: usize,
  maximum: usize,
  total: f64,
  out: usize,
  count: u32,
): f64 {
  let rest = total;
  for (let i: u32 = 0; i < count; i++) put(out, i, OPEN);
  while (true) {
    let sum: f64 = 0;
    let open: f64 = 0;
    for (let i: u32 = 0; i < count; i++) {
      if (whole(out, i) != OPEN) continue;
      sum += real(shares, i);
      open += 1;
    }
    let violation: f64 = 0;
    let below: u32 = 0;
    let above: u32 = 0;
    for (let i: u32 = 0; i < count; i++) {
      if (whole(out, i) != OPEN) continue;
      const share = sum > 0 ? (real(shares, i) * rest) / sum : rest / open;
      const bounded = min(max(share, <f64>whole(minimum, i)), <f64>whole(maximum, i));
      violation += bounded - share;
      below += u32(bounded > share);
      above += u32(bounded < share);
    }
    if (below + above == 0) return rest;
    // Raising to minima takes from the others, cutting at maxima gives: settle the side that weighs more.
    const raise = above == 0 || (below != 0 && violation > 0);
    const before = rest;
    for (let i: u32 = 0; i < count; i++) {
      if (whole(out, i) != OPEN) continue;
      const share = sum > 0 ? (real(shares, i) * before) / sum : before / open;
      const bound = raise ? whole(minimum, i) : whole(maximum, i);
      if (raise ? share >= <f64>bound : share <= <f64>bound) continue;
      put(out, i, bound);
      rest -= <f64>bound;
    }
  }
}

function largestRemainder(
  shares: usize,
  minimum: usize,
  maximum: usize,
  total: f64,
  out: usize,
  count: u32,
): void {
  const rest = settleBounds(shares, minimum, maximum, total, out, count);
  let sum: f64 = 0;
  let open: f64 = 0;
  for (let i: u32 = 0; i < count; i++) {
    if (whole(out, i) != OPEN) continue;
    sum += real(shares, i);
    open += 1;
  }
  let left = rest;
  for (let i: u32 = 0; i < count; i++) {
    if (whole(out, i) != OPEN) {
      store<f64>(shares + ((<usize>i) << 3), OPEN);
      continue;
    }
    const share = sum > 0 ? (real(shares, i) * rest) / sum : rest / open;
    const least = floor(share);
    put(out, i, <i32>least);
    store<f64>(shares + ((<usize>i) << 3), share - least);
    left -= least;
  }
  // From here on `shares` holds the fractions, OPEN for who has had its rounding.
  for (; left >= 1; left -= 1) {
    let best: u32 = count;
    for (let i: u32 = 0; i < count; i++) {
      if (whole(out, i) >= whole(maximum, i)) continue;
      if (best == count || real(shares, i) > real(shares, best)) best = i;
    }
    if (best == count) return;
    put(out, best, whole(out, best) + 1);
    store<f64>(shares + ((<usize>best) << 3), OPEN);
  }
}

/**
 * Spreads `amount` (either sign) evenly over the entries with room between `minimum` (0: 1) and `maximum`, the
 * remainder to the lowest ones; not clipped.
 */
function spread(amount: i32, minimum: usize, maximum: usize, out: usize, count: u32): void {
  let open: i32 = 0;
  for (let i: u32 = 0; i < count; i++) open += i32(hasRoom(amount, minimum, maximum, out, i));
  if (open == 0) return;
  const each = amount / open;
  let remainder = amount - each * open;
  const sign = amount < 0 ? -1 : 1;
  for (let i: u32 = 0; i < count; i++) {
    if (!hasRoom(amount, minimum, maximum, out, i)) continue;
    put(out, i, whole(out, i) + each + (remainder != 0 ? sign : 0));
    if (remainder != 0) remainder -= sign;
  }
}

// @ts-ignore: decorator
@inline
function hasRoom(amount: i32, minimum: usize, maximum: usize, out: usize, i: u32): bool {
  return amount > 0
    ? whole(out, i) < whole(maximum, i)
    : whole(out, i) > (minimum == 0 ? 1 : whole(minimum, i));
}

function clampAll(minimum: usize, maximum: usize, out: usize, count: u32): void {
  for (let i: u32 = 0; i < count; i++)
    put(out, i, min(max(whole(out, i), whole(minimum, i)), whole(maximum, i)));
}

function cake(
  shares: usize,
  total: f64,
  minimum: usize,
  maximum: usize,
  target: f64,
  out: usize,
  count: u32,
): void {
  let excess: f64 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const share = <i32>(real(shares, i) * total);
    const cap = whole(maximum, i);
    if (share > cap) excess += <f64>(share - cap);
    put(out, i, min(share, cap));
  }
  if (excess > 0) spread(<i32>excess, 0, maximum, out, count);
  const off = total - sumOf(out, count);
  if (off != 0) spread(<i32>off, 0, maximum, out, count);
  // What is published ends here and may be out of bounds.
  clampAll(minimum, maximum, out, count);
  while (true) {
    const missing = target - sumOf(out, count);
    if (missing == 0) return;
    spread(<i32>missing, minimum, maximum, out, count);
    clampAll(minimum, maximum, out, count);
  }
}

/** The open entry of the largest (or smallest) share, the lower one on a tie; `count` when all are closed. */
function extreme(shares: usize, closed: usize, count: u32, largest: bool): u32 {
  let best: u32 = count;
  for (let i: u32 = 0; i < count; i++) {
    if (load<u8>(closed + i) != 0) continue;
    if (
      best == count ||
      (largest ? real(shares, i) > real(shares, best) : real(shares, i) < real(shares, best))
    )
      best = i;
  }
  return best;
}

function errorAware(
  shares: usize,
  minimum: usize,
  maximum: usize,
  target: f64,
  out: usize,
  work: usize,
  count: u32,
): void {
  const above = target - sumOf(minimum, count);
  for (let i: u32 = 0; i < count; i++) {
    const bonus = nearest(real(shares, i) * above);
    put(out, i, <i32>min(<f64>whole(minimum, i) + bonus, <f64>whole(maximum, i)));
  }
  let off = target - sumOf(out, count);
  while (off != 0) {
    // One slot each, in the order of scores, until the sum is right.
    memory.fill(work, 0, count);
    for (let turn: u32 = 0; turn < count && off != 0; turn++) {
      const i = extreme(shares, work, count, off > 0);
      store<u8>(work + i, 1);
      const value = whole(out, i);
      if (off > 0 && value < whole(maximum, i)) {
        put(out, i, value + 1);
        off -= 1;
      } else if (off < 0 && value > whole(minimum, i)) {
        put(out, i, value - 1);
        off += 1;
      }
    }
  }
}

/** Writes the pyramid's line to `line`; with `steps` its published integers to `out`. */
function pyramid(
  total: f64,
  beta: f64,
  maximum: usize,
  line: usize,
  out: usize,
  count: u32,
  steps: bool,
): void {
  const mean = steps ? floor(total / <f64>count) : total / <f64>count;
  const cap = <f64>whole(maximum, 0);
  let last = steps ? floor(mean / beta) : mean / beta;
  let first = 2 * mean - last;
  if (first > cap) {
    first = cap;
    last = min(2 * mean - first, cap);
  }
  const drop = count == 1 ? 0 : (first - last) / <f64>(count - 1);
  for (let i: u32 = 0; i < count; i++) {
    if (count == 1) first = mean;
    if (steps) put(out, i, <i32>(first - floor(drop) * <f64>i));
    else store<f64>(line + ((<usize>i) << 3), max(first - drop * <f64>i, 0));
  }
}

/**
 * Splits `total` by the strategy. `work`: 16 bytes an entry, 8-byte aligned. `beta`: the pyramid's steepness, > 0.
 * INVALID_ARGUMENT for a negative, infinite or NaN weight, a minimum that is negative or above its maximum.
 */
export function apportion(
  strategy: Strategy,
  weights: usize,
  count: u32,
  total: i32,
  minimum: usize,
  maximum: usize,
  beta: f64,
  out: usize,
  work: usize,
): Status {
  if (count == 0 || total < 0) return INVALID_ARGUMENT;
  for (let i: u32 = 0; i < count; i++)
    if (whole(minimum, i) < 0 || whole(minimum, i) > whole(maximum, i)) return INVALID_ARGUMENT;
  const shares = work;
  const target = max(min(<f64>total, sumOf(maximum, count)), sumOf(minimum, count));
  if (target > <f64>i32.MAX_VALUE) return INVALID_ARGUMENT;
  const line = strategy == Strategy.Pyramid || strategy == Strategy.PyramidSteps;
  if (line) {
    if (!(beta > 0)) return INVALID_ARGUMENT;
    pyramid(<f64>total, beta, maximum, shares, out, count, strategy == Strategy.PyramidSteps);
  } else if (!normalise(weights, shares, count)) return INVALID_ARGUMENT;
  if (strategy == Strategy.LargestRemainder || strategy == Strategy.Pyramid)
    largestRemainder(shares, minimum, maximum, target, out, count);
  else if (strategy == Strategy.Cake) cake(shares, <f64>total, minimum, maximum, target, out, count);
  else if (strategy == Strategy.ErrorAware)
    errorAware(shares, minimum, maximum, target, out, work + ((<usize>count) << 3), count);
  else if (strategy == Strategy.Floors) {
    for (let i: u32 = 0; i < count; i++) put(out, i, <i32>floor(real(shares, i) * <f64>total));
    clampAll(minimum, maximum, out, count);
  } else if (strategy == Strategy.PyramidSteps) clampAll(minimum, maximum, out, count);
  else return INVALID_ARGUMENT;
  return 0;
}
