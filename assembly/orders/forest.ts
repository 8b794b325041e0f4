/**
 * Forest: many heaps over one set of ids, each id in one heap at most; the smallest (major, minor) is the root.
 *
 *   seat  | stamp u64 | left u32 | right u32 | up u32 | tree u24, rank u8 |    24 B an id
 *   key   | major u64 | minor u64 |                                            elsewhere, `stride` bytes apart
 *
 * Where ids go by their stamp alone the seats are the keys too: no two stamps are equal, so what follows them is never asked.
 *
 * Leftist trees (C. A. Crane, "Linear lists and priority queues as balanced binary trees", 1972), so that a heap needs no
 * room of its own, however ids are split between heaps. Whoever uses the forest keeps the roots.
 *
 * Invariants (`forestValid`):
 * 1. No id has a smaller key than the one above it. The key of an id stays as it is as long as the id is in a heap, but for
 *    the moment before it is taken out.
 * 2. rank = 1 + rank of the right child, and no left child has a smaller rank than the right one; 0: in no heap.
 *
 * Add, remove: O(log n).
 */
import { NONE } from "./layout";

/** Trees that can be told apart. */
// @ts-ignore: decorator
@inline export const MAX_TREES: u32 = 1 << 24;


@unmanaged
export class Forest {
  seats: u32;
  keys: u32;
  stride: u32;
}


@unmanaged
export class Seat {
  /** The user's own, and the key where there is no other. */
  stamp: u64;
  left: u32;
  right: u32;
  up: u32;
  /** The user's own: which heap it belongs to; above it the rank. */
  treeAndRank: u32;
}


@unmanaged
export class Key {
  major: u64;
  minor: u64;
}

// @ts-ignore: decorator
@inline
export function seat(forest: Forest, id: u32): Seat {
  return changetype<Seat>(<usize>forest.seats + <usize>id * offsetof<Seat>());
}

// @ts-ignore: decorator
@inline
export function forestKey(forest: Forest, id: u32): Key {
  return changetype<Key>(<usize>forest.keys + <usize>id * <usize>forest.stride);
}

// @ts-ignore: decorator
@inline
export function treeOf(own: Seat): u32 {
  return own.treeAndRank & (MAX_TREES - 1);
}

// @ts-ignore: decorator
@inline
export function isSeated(own: Seat): bool {
  return own.treeAndRank >= MAX_TREES;
}

// @ts-ignore: decorator
@inline
function ownRank(own: Seat): u32 {
  return own.treeAndRank >> 24;
}

function rankOf(forest: Forest, id: u32): u32 {
  return id == NONE ? 0 : ownRank(seat(forest, id));
}

function before(forest: Forest, a: u32, b: u32): bool {
  const first = forestKey(forest, a);
  const second = forestKey(forest, b);
  return first.major < second.major || (first.major == second.major && first.minor < second.minor);
}

/** Puts the child of greater rank on the left; returns whether the rank has changed. */
function settle(forest: Forest, own: Seat): bool {
  const left = own.left;
  if (rankOf(forest, left) < rankOf(forest, own.right)) {
    own.left = own.right;
    own.right = left;
  }
  const ranked = treeOf(own) | ((1 + rankOf(forest, own.right)) << 24);
  if (ranked == own.treeAndRank) return false;
  own.treeAndRank = ranked;
  return true;
}

function meld(forest: Forest, a: u32, b: u32): u32 {
  if (a == NONE) return b;
  if (b == NONE) return a;
  if (before(forest, b, a)) {
    const swapped = a;
    a = b;
    b = swapped;
  }
  const own = seat(forest, a);
  const right = meld(forest, own.right, b);
  own.right = right;
  seat(forest, right).up = a;
  settle(forest, own);
  return a;
}

/** Enters an id whose key is set and that is in no heap; returns the root. */
export function forestAdd(forest: Forest, root: u32, id: u32): u32 {
  const own = seat(forest, id);
  own.left = NONE;
  own.right = NONE;
  own.treeAndRank = treeOf(own) | MAX_TREES;
  const top = meld(forest, root, id);
  seat(forest, top).up = NONE;
  return top;
}

/** Takes an id out of the heap with this root; returns the root. */
export function forestRemove(forest: Forest, root: u32, id: u32): u32 {
  const own = seat(forest, id);
  const child = meld(forest, own.left, own.right);
  let up = own.up;
  own.treeAndRank = treeOf(own);
  if (child != NONE) seat(forest, child).up = up;
  if (up == NONE) return child;
  if (seat(forest, up).left == id) seat(forest, up).left = child;
  else seat(forest, up).right = child;
  while (up != NONE && settle(forest, seat(forest, up))) up = seat(forest, up).up;
  return root;
}

/** Whether an id that is in the heap with this root stands where its neighbours say. */
export function forestValid(forest: Forest, root: u32, id: u32): bool {
  const own = seat(forest, id);
  if (rankOf(forest, own.left) < rankOf(forest, own.right)) return false;
  if (ownRank(own) != 1 + rankOf(forest, own.right)) return false;
  if (own.up == NONE) return root == id;
  const above = seat(forest, own.up);
  return !before(forest, id, own.up) && (above.left == id || above.right == id);
}
