/**
 * Leaves of eight keys found together. A lookup waits for memory at every node, one miss after the other; eight
 * walks in step wait for their misses at the same time. All walks are on the same level at any moment, and
 * every node is searched in the same number of steps, so that no branch depends on the keys.
 *
 * Nothing is locked or validated on the way. In an optimistic index the results are therefore hints, each to
 * be proved on the leaf itself (`provenLeaf`): a live leaf whose range holds the key is the right one, however
 * it was found.
 */
import { capacityOf, childPtr, head, Index, isNode, isOptimistic, keyAt, node, Stripe } from "./layout";

/** Keys whose walks are interleaved. */
// @ts-ignore: decorator
@inline export const PROBES: u32 = 8;
/** Steps right on a level before a walk among concurrent writers gives up. */
// @ts-ignore: decorator
@inline const RIGHT_STEPS: u32 = 8;

/** What a group of probes found: in the worker's stripe, u32 leaves [PROBES], then u16 slots [PROBES]. */
export type Hints = usize;

// @ts-ignore: decorator
@inline
export function hintsOf(own: Stripe): Hints {
  return changetype<usize>(own) + offsetof<Stripe>("hintedLeaves");
}

// @ts-ignore: decorator
@inline
function setHint(hints: Hints, lane: u32, leaf: u32, slot: u32): void {
  store<u32>(hints + ((<usize>lane) << 2), leaf);
  store<u16>(hints + ((<usize>lane) << 1), <u16>slot, 4 * PROBES);
}

// @ts-ignore: decorator
@inline
export function hintedLeaf(hints: Hints, lane: u32): u32 {
  return load<u32>(hints + ((<usize>lane) << 2));
}

// @ts-ignore: decorator
@inline
export function hintedSlot(hints: Hints, lane: u32): u32 {
  return <u32>load<u16>(hints + ((<usize>lane) << 1), 4 * PROBES);
}

/** One halving step of the branch-free search among the first `count` keys of a node. */
// @ts-ignore: decorator
@inline
function halve(at: u32, base: u32, half: u32, count: u32, key: u64): u32 {
  const middle = base + half;
  return select<u32>(middle, base, (u32(middle < count) & u32(keyAt(at, middle) <= key)) != 0);
}

/** The node to the right while it starts at or before `key`. */
// @ts-ignore: decorator
@inline
function right(index: Index, at: u32, key: u64): u32 {
  return node(at).nextHeader <= key ? farRight(index, at, key) : at;
}

function farRight(index: Index, at: u32, key: u64): u32 {
  if (!isOptimistic(index)) {
    while (node(at).nextHeader <= key) at = node(at).next;
    return at;
  }
  for (let steps: u32 = 0; steps < RIGHT_STEPS && node(at).nextHeader <= key; steps++) {
    const next = node(at).next;
    if (!isNode(index, next)) break;
    at = next;
  }
  return at;
}

// @ts-ignore: decorator
@inline
function below(index: Index, at: u32, slot: u32, level: u32): u32 {
  const child = load<u32>(childPtr(index, at, slot));
  if (isOptimistic(index)) return isNode(index, child) ? child : head(index, level - 1);
  return child;
}

/** Finds the leaf of each of the PROBES u64 keys at `keys`, `stride` bytes apart, and the slot there, for `hints`. */
export function probeLeaves(index: Index, keys: usize, stride: usize, hints: Hints): void {
  const k0 = load<u64>(keys + 0 * stride);
  const k1 = load<u64>(keys + 1 * stride);
  const k2 = load<u64>(keys + 2 * stride);
  const k3 = load<u64>(keys + 3 * stride);
  const k4 = load<u64>(keys + 4 * stride);
  const k5 = load<u64>(keys + 5 * stride);
  const k6 = load<u64>(keys + 6 * stride);
  const k7 = load<u64>(keys + 7 * stride);
  let level = index.levels - 1;
  let n0 = head(index, level);
  let n1 = n0;
  let n2 = n0;
  let n3 = n0;
  let n4 = n0;
  let n5 = n0;
  let n6 = n0;
  let n7 = n0;
  for (;;) {
    n0 = right(index, n0, k0);
    n1 = right(index, n1, k1);
    n2 = right(index, n2, k2);
    n3 = right(index, n3, k3);
    n4 = right(index, n4, k4);
    n5 = right(index, n5, k5);
    n6 = right(index, n6, k6);
    n7 = right(index, n7, k7);
    let b0: u32 = 0;
    let b1: u32 = 0;
    let b2: u32 = 0;
    let b3: u32 = 0;
    let b4: u32 = 0;
    let b5: u32 = 0;
    let b6: u32 = 0;
    let b7: u32 = 0;
    const c0 = <u32>node(n0).count;
    const c1 = <u32>node(n1).count;
    const c2 = <u32>node(n2).count;
    const c3 = <u32>node(n3).count;
    const c4 = <u32>node(n4).count;
    const c5 = <u32>node(n5).count;
    const c6 = <u32>node(n6).count;
    const c7 = <u32>node(n7).count;
    for (let length = capacityOf(index, level); length > 1;) {
      const half = length >> 1;
      b0 = halve(n0, b0, half, c0, k0);
      b1 = halve(n1, b1, half, c1, k1);
      b2 = halve(n2, b2, half, c2, k2);
      b3 = halve(n3, b3, half, c3, k3);
      b4 = halve(n4, b4, half, c4, k4);
      b5 = halve(n5, b5, half, c5, k5);
      b6 = halve(n6, b6, half, c6, k6);
      b7 = halve(n7, b7, half, c7, k7);
      length -= half;
    }
    if (level == 0) {
      setHint(hints, 0, n0, b0);
      setHint(hints, 1, n1, b1);
      setHint(hints, 2, n2, b2);
      setHint(hints, 3, n3, b3);
      setHint(hints, 4, n4, b4);
      setHint(hints, 5, n5, b5);
      setHint(hints, 6, n6, b6);
      setHint(hints, 7, n7, b7);
      return;
    }
    n0 = below(index, n0, b0, level);
    n1 = below(index, n1, b1, level);
    n2 = below(index, n2, b2, level);
    n3 = below(index, n3, b3, level);
    n4 = below(index, n4, b4, level);
    n5 = below(index, n5, b5, level);
    n6 = below(index, n6, b6, level);
    n7 = below(index, n7, b7, level);
    level -= 1;
  }
}
