/**
 * Node slab of an index: reserve, take, give.
 *
 * A change first reserves every node it may need; what is reserved is always there to take, so running out is
 * noticed before anything has changed. Shared: a stack whose head carries a change count (a pop is not fooled
 * by a node that was popped and pushed again meanwhile), and a counter of unreserved nodes.
 *
 * Nodes never change size or address, and their versions only grow, whatever they are used for. A stale
 * address therefore always leads to a node, and its version tells that it is stale: optimistic readers need no
 * epochs and a freed node is used again at once (docs/decisions/0005).
 *
 * Invariant: free nodes + nodes never taken = freeCount + reserved and not yet taken.
 */
import { lockPrivate, unlockExclusive } from "../memory/locks";
import { Index, isShared, KEY_MAX, Node, node } from "./layout";

// @ts-ignore: decorator
@inline
function freeWord(index: Index): usize {
  return changetype<usize>(index) + offsetof<Index>("free");
}

// @ts-ignore: decorator
@inline
function freeCountWord(index: Index): usize {
  return changetype<usize>(index) + offsetof<Index>("freeCount");
}

// @ts-ignore: decorator
@inline
function freshWord(index: Index): usize {
  return changetype<usize>(index) + offsetof<Index>("fresh");
}

/** Reserves `count` nodes, or none and returns false. */
export function reserveNodes(index: Index, count: u32): bool {
  if (ASC_FEATURE_THREADS) {
    if (isShared(index)) {
      for (;;) {
        const free = atomic.load<u32>(freeCountWord(index));
        if (free < count) return false;
        if (atomic.cmpxchg<u32>(freeCountWord(index), free, free - count) == free) return true;
      }
    }
  }
  if (index.freeCount < count) return false;
  index.freeCount -= count;
  return true;
}

/** Takes a reserved node as an empty node of `level`; in a shared index its lock is held. */
export function takeNode(index: Index, level: u32): u32 {
  const at = isShared(index) ? popShared(index) : pop(index);
  const n = node(at);
  if (isShared(index)) lockPrivate(at);
  n.count = 0;
  n.level = <u8>level;
  n.flags = 0;
  n.next = 0;
  n.nextHeader = KEY_MAX;
  return at;
}

function pop(index: Index): u32 {
  const at = <u32>index.free;
  if (at == 0) return index.nodes + index.fresh++ * index.nodeBytes;
  index.free = <u64>node(at).link;
  return at;
}

function popShared(index: Index): u32 {
  if (ASC_FEATURE_THREADS) {
    for (;;) {
      const seen = atomic.load<u64>(freeWord(index));
      const at = <u32>seen;
      if (at == 0) {
        const fresh = atomic.load<u32>(freshWord(index));
        // All taken: what was reserved here is on its way back to the stack.
        if (fresh == index.nodeCapacity) continue;
        if (atomic.cmpxchg<u32>(freshWord(index), fresh, fresh + 1) == fresh)
          return index.nodes + fresh * index.nodeBytes;
        continue;
      }
      const below = <u64>atomic.load<u32>(<usize>at, offsetof<Node>("link"));
      if (atomic.cmpxchg<u64>(freeWord(index), seen, stamped(seen, below)) == seen) return at;
    }
  }
  return 0;
}

/** The next value of the stack's head: a new top under a new change count. */
// @ts-ignore: decorator
@inline
function stamped(seen: u64, top: u64): u64 {
  return (((seen >> 32) + 1) << 32) | top;
}

/** Gives an unreachable node back; in a shared index the caller holds its lock. */
export function giveNode(index: Index, at: u32): void {
  // A stale hint recognises it by this.
  node(at).count = 0;
  if (ASC_FEATURE_THREADS) {
    if (isShared(index)) {
      unlockExclusive(at);
      for (;;) {
        const seen = atomic.load<u64>(freeWord(index));
        atomic.store<u32>(<usize>at, <u32>seen, offsetof<Node>("link"));
        if (atomic.cmpxchg<u64>(freeWord(index), seen, stamped(seen, at)) == seen) break;
      }
      atomic.add<u32>(freeCountWord(index), 1);
      return;
    }
  }
  node(at).link = <u32>index.free;
  index.free = at;
  index.freeCount += 1;
}
