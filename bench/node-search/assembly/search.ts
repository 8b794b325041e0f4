/**
 * Searches of one node: how many of `count` ascending u64 keys are at most `key`, at least 1. `mask + 1` nodes, a power
 * of two, lie back to back at `nodes`; which of them a query goes to is drawn from `seed`, and, if `dependent`, from the
 * answer before, as on the way down through a tree; else searches may overlap. Each run sums the ranks it found.
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

/** Finalizer of MurmurHash3. */
// @ts-ignore: decorator
@inline
function mix(word: u32): u32 {
  let h = word;
  h = (h ^ (h >> 16)) * 0x85ebca6b;
  h = (h ^ (h >> 13)) * 0xc2b2ae35;
  return h ^ (h >> 16);
}

// @ts-ignore: decorator
@inline
function run(
  kind: Search,
  keys: usize,
  queries: u32,
  nodes: usize,
  mask: u32,
  count: u32,
  seed: u32,
  dependent: bool,
): u32 {
  let sum: u32 = 0;
  let rank: u32 = 0;
  for (let i: u32 = 0; i < queries; i++) {
    const node = mix(seed + i * 0x9e3779b1 + (dependent ? rank * 0x85ebca77 : 0)) & mask;
    rank = search(kind, nodes + ((<usize>node * count) << 3), load<u64>(keys + ((<usize>i) << 3)), count);
    sum += rank;
  }
  return sum;
}

export function runLinear(
  keys: usize,
  queries: u32,
  nodes: usize,
  mask: u32,
  count: u32,
  seed: u32,
  dependent: bool,
): u32 {
  return dependent
    ? run(Search.Linear, keys, queries, nodes, mask, count, seed, true)
    : run(Search.Linear, keys, queries, nodes, mask, count, seed, false);
}

export function runCounting(
  keys: usize,
  queries: u32,
  nodes: usize,
  mask: u32,
  count: u32,
  seed: u32,
  dependent: bool,
): u32 {
  return dependent
    ? run(Search.Counting, keys, queries, nodes, mask, count, seed, true)
    : run(Search.Counting, keys, queries, nodes, mask, count, seed, false);
}

export function runBranching(
  keys: usize,
  queries: u32,
  nodes: usize,
  mask: u32,
  count: u32,
  seed: u32,
  dependent: bool,
): u32 {
  return dependent
    ? run(Search.Branching, keys, queries, nodes, mask, count, seed, true)
    : run(Search.Branching, keys, queries, nodes, mask, count, seed, false);
}

export function runHalving(
  keys: usize,
  queries: u32,
  nodes: usize,
  mask: u32,
  count: u32,
  seed: u32,
  dependent: bool,
): u32 {
  return dependent
    ? run(Search.Halving, keys, queries, nodes, mask, count, seed, true)
    : run(Search.Halving, keys, queries, nodes, mask, count, seed, false);
}

export function runQuartering(
  keys: usize,
  queries: u32,
  nodes: usize,
  mask: u32,
  count: u32,
  seed: u32,
  dependent: bool,
): u32 {
  return dependent
    ? run(Search.Quartering, keys, queries, nodes, mask, count, seed, true)
    : run(Search.Quartering, keys, queries, nodes, mask, count, seed, false);
}
