/**
 * Forest: many heaps over one set of ids, each id in one heap at most; the smallest (major, minor) is the root.
 *
 *   seat  | major u64 | minor u64 | left u32 | right u32 | up u32 | rank u32 | tree u32 | unused u32 |    40 B an id
 *
 * Leftist trees (C. A. Crane, "Linear lists and priority queues as balanced binary trees", 1972), so that a heap needs no
 * room of its own, however ids are split between heaps. Whoever uses the forest keeps the roots.
 *
 * Invariants (`forestValid`):
 * 1. No id has a smaller key than the one above it.
 * 2. rank = 1 + rank of the right child, and no left child has a smaller rank than the right one; 0: in no heap.
 *
 * Add, remove: O(log n).
 */
import { NONE } from "./layout";


@unmanaged
export class Seat {
  major: u64;
  minor: u64;
  left: u32;
  right: u32;
  up: u32;
  rank: u32;
  /** The user's own: which heap it belongs to. */
  tree: u32;
  unused: u32;
}

// @ts-ignore: decorator
@inline
export function seat(seats: usize, id: u32): Seat {
  return changetype<Seat>(seats + <usize>id * offsetof<Seat>());
}

// @ts-ignore: decorator
@inline
function rankOf(seats: usize, id: u32): u32 {
  return id == NONE ? 0 : seat(seats, id).rank;
}

// @ts-ignore: decorator
@inline
function before(a: Seat, b: Seat): bool {
  return a.major < b.major || (a.major == b.major && a.minor < b.minor);
}

/** Puts the child of greater rank on the left; returns whether the rank has changed. */
function settle(seats: usize, own: Seat): bool {
  const left = own.left;
  if (rankOf(seats, left) < rankOf(seats, own.right)) {
    own.left = own.right;
    own.right = left;
  }
  const rank = 1 + rankOf(seats, own.right);
  if (rank == own.rank) return false;
  own.rank = rank;
  return true;
}

function meld(seats: usize, a: u32, b: u32): u32 {
  if (a == NONE) return b;
  if (b == NONE) return a;
  if (before(seat(seats, b), seat(seats, a))) {
    const swapped = a;
    a = b;
    b = swapped;
  }
  const own = seat(seats, a);
  const right = meld(seats, own.right, b);
  own.right = right;
  seat(seats, right).up = a;
  settle(seats, own);
  return a;
}

/** Enters an id whose key is set and that is in no heap; returns the root. */
export function forestAdd(seats: usize, root: u32, id: u32): u32 {
  const own = seat(seats, id);
  own.left = NONE;
  own.right = NONE;
  own.rank = 1;
  const top = meld(seats, root, id);
  seat(seats, top).up = NONE;
  return top;
}

/** Takes an id out of the heap with this root; returns the root. */
export function forestRemove(seats: usize, root: u32, id: u32): u32 {
  const own = seat(seats, id);
  const child = meld(seats, own.left, own.right);
  let up = own.up;
  own.rank = 0;
  if (child != NONE) seat(seats, child).up = up;
  if (up == NONE) return child;
  if (seat(seats, up).left == id) seat(seats, up).left = child;
  else seat(seats, up).right = child;
  while (up != NONE && settle(seats, seat(seats, up))) up = seat(seats, up).up;
  return root;
}

/** Whether an id that is in the heap with this root stands where its neighbours say. */
export function forestValid(seats: usize, root: u32, id: u32): bool {
  const own = seat(seats, id);
  if (rankOf(seats, own.left) < rankOf(seats, own.right)) return false;
  if (own.rank != 1 + rankOf(seats, own.right)) return false;
  if (own.up == NONE) return root == id;
  const above = seat(seats, own.up);
  return !before(own, above) && (above.left == id || above.right == id);
}
