/**
 * Searches of one node: how many of `count` ascending u64 keys are at most `key`, at least 1. Nodes lie at
 * `nodes`, `stride` bytes apart; u32 node addresses and u64 keys of the queries at `places` and `keys`. Each run sums
 * the ranks it found. `dependent`: a query's node is known only after the one before has been answered, as on the way
 * down through a tree; else searches may overlap.
 */

// @ts-ignore: decorator
@inline
function key(at: usize, slot: u32): u64 {
  return load<u64>(at + ((<usize>slot) << 3));
}

// @ts-ignore: decorator
@inline
function linear(at: usize, wanted: u64, count: u32): u32 {
  let slot: u32 = 1;
  while (slot < count && key(at, slot) <= wanted) slot++;
  return slot;
}

// @ts-ignore: decorator
@inline
function counting(at: usize, wanted: u64, count: u32): u32 {
  const flip = i64x2.splat(1 << 63);
  const bound = v128.xor(i64x2.splat(wanted), flip);
  let sums = i64x2.splat(0);
  const pairs = at + (((<usize>count) & ~1) << 3);
  let ptr = at;
  for (; ptr < pairs; ptr += 16) sums = i64x2.sub(sums, i64x2.le_s(v128.xor(v128.load(ptr), flip), bound));
  let sum = <u32>(i64x2.extract_lane(sums, 0) + i64x2.extract_lane(sums, 1));
  if ((count & 1) != 0) sum += u32(load<u64>(ptr) <= wanted);
  return sum;
}

// @ts-ignore: decorator
@inline
function branching(at: usize, wanted: u64, count: u32): u32 {
  let low: u32 = 0;
  let high = count;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (key(at, middle) <= wanted) low = middle;
    else high = middle;
  }
  return low + 1;
}

// @ts-ignore: decorator
@inline
function halving(at: usize, wanted: u64, count: u32): u32 {
  let base: u32 = 0;
  let length = count;
  while (length > 1) {
    const half = length >> 1;
    base = select<u32>(base + half, base, key(at, base + half) <= wanted);
    length -= half;
  }
  return base + 1;
}

// @ts-ignore: decorator
@inline
function quartering(at: usize, wanted: u64, count: u32): u32 {
  let base: u32 = 0;
  let length = count;
  while (length >= 4) {
    const step = length >> 2;
    base +=
      step *
      (u32(key(at, base + step) <= wanted) +
        u32(key(at, base + 2 * step) <= wanted) +
        u32(key(at, base + 3 * step) <= wanted));
    length -= 3 * step;
  }
  while (length > 1) {
    const half = length >> 1;
    base = select<u32>(base + half, base, key(at, base + half) <= wanted);
    length -= half;
  }
  return base + 1;
}

const enum Search {
  Linear = 0,
  Counting = 1,
  Branching = 2,
  Halving = 3,
  Quartering = 4,
}

// @ts-ignore: decorator
@inline
function search(kind: Search, at: usize, wanted: u64, count: u32): u32 {
  if (kind == Search.Linear) return linear(at, wanted, count);
  if (kind == Search.Counting) return counting(at, wanted, count);
  if (kind == Search.Branching) return branching(at, wanted, count);
  if (kind == Search.Halving) return halving(at, wanted, count);
  return quartering(at, wanted, count);
}

// @ts-ignore: decorator
@inline
function run(kind: Search, places: usize, keys: usize, queries: u32, count: u32, dependent: bool): u32 {
  let sum: u32 = 0;
  // Zero that the compiler cannot know to be zero: ties a query to the answer before.
  let tie: usize = 0;
  for (let i: u32 = 0; i < queries; i++) {
    const at = <usize>load<u32>(places + ((<usize>i) << 2)) + tie;
    const rank = search(kind, at, load<u64>(keys + ((<usize>i) << 3)), count);
    if (dependent) tie = <usize>(rank >> 31);
    sum += rank;
  }
  return sum;
}

export function runLinear(places: usize, keys: usize, queries: u32, count: u32, dependent: bool): u32 {
  return dependent
    ? run(Search.Linear, places, keys, queries, count, true)
    : run(Search.Linear, places, keys, queries, count, false);
}

export function runCounting(places: usize, keys: usize, queries: u32, count: u32, dependent: bool): u32 {
  return dependent
    ? run(Search.Counting, places, keys, queries, count, true)
    : run(Search.Counting, places, keys, queries, count, false);
}

export function runBranching(places: usize, keys: usize, queries: u32, count: u32, dependent: bool): u32 {
  return dependent
    ? run(Search.Branching, places, keys, queries, count, true)
    : run(Search.Branching, places, keys, queries, count, false);
}

export function runHalving(places: usize, keys: usize, queries: u32, count: u32, dependent: bool): u32 {
  return dependent
    ? run(Search.Halving, places, keys, queries, count, true)
    : run(Search.Halving, places, keys, queries, count, false);
}

export function runQuartering(places: usize, keys: usize, queries: u32, count: u32, dependent: bool): u32 {
  return dependent
    ? run(Search.Quartering, places, keys, queries, count, true)
    : run(Search.Quartering, places, keys, queries, count, false);
}
