/**
 * Entering a key: one pass from the top down, as the key's height is known before (paper, section on top-down
 * insertion).
 */
import { unlockExclusive, releaseExclusive } from "../memory/locks";
import { INVALID_ARGUMENT, OUT_OF_MEMORY, Status } from "../memory/status";
import { workerId } from "../memory/workers";
import { insertAt, insertIntoFull, leaveGrown, leaveSmaller, leaveUnchanged, splitAtPromoted } from "./edit";
import {
  capacityOf,
  childAt,
  Index,
  isShared,
  KEY_MAX,
  KEY_MIN,
  keyAt,
  node,
  storeValue,
  stripe,
  valuePtr,
} from "./layout";
import { reserveNodes, takeNode } from "./nodes";
import { leftOfPlace, lockPlace, walkRight } from "./place";
import { heightOf, rank } from "./rank";
import { lockNode } from "./reading";

/**
 * Enters or overwrites. Returns 1 inserted, 0 overwritten, INVALID_ARGUMENT for a sentinel key,
 * OUT_OF_MEMORY.
 */
export function indexPut(ptr: usize, key: u64, value: u64): Status {
  const index = changetype<Index>(ptr);
  if (key == KEY_MIN || key == KEY_MAX) return INVALID_ARGUMENT;
  const height = heightOf(index, key);
  const at = lockPlace(index, key, height);
  const left = leftOfPlace();
  const slot = rank(at, key);
  if (keyAt(at, slot) == key) {
    const leaf = descendToEntry(index, left, at, slot, height);
    storeValue(index, valuePtr(index, leaf, height > 0 ? 0 : slot), value);
    if (isShared(index)) unlockExclusive(leaf);
    return 0;
  }
  const full = <u32>node(at).count == capacityOf(index, height);
  const needed = height + u32(full);
  if (needed > 0 && !reserveNodes(index, needed)) {
    leaveUnchanged(index, left, at);
    return OUT_OF_MEMORY;
  }
  if (height == 0 && !full) {
    insertAt(index, at, slot + 1, 0, key, value);
    leaveGrown(index, left, at);
  } else {
    insertTower(index, left, at, slot, height, full, key, value);
  }
  stripe(index, workerId()).entries += 1;
  return 1;
}

/**
 * From the slot of a key that is there, on its highest level, down to its leaf, hand over hand. Every node
 * below that belongs to the key starts with it. The caller unlocks the leaf.
 */
export function descendToEntry(index: Index, left: u32, at: u32, slot: u32, height: u32): u32 {
  if (isShared(index) && left != 0) releaseExclusive(left);
  for (let level = height; level > 0; level--) {
    const child = childAt(index, at, slot);
    if (isShared(index)) {
      lockNode(index, child);
      releaseExclusive(at);
    }
    at = child;
    slot = 0;
  }
  return at;
}

/**
 * Enters a key that is promoted or whose node is full. The new node of the level below is locked before its
 * address is published, so nobody gets past it until it is filled.
 */
function insertTower(
  index: Index,
  left: u32,
  at: u32,
  slot: u32,
  height: u32,
  full: bool,
  key: u64,
  value: u64,
): void {
  let below = height > 0 ? takeNode(index, height - 1) : 0;
  let child = height > 0 ? childAt(index, at, slot) : 0;
  const payload = height > 0 ? <u64>below : value;
  if (full) insertIntoFull(index, at, height, key, payload);
  else insertAt(index, at, slot + 1, height, key, payload);
  for (let level = height; level > 0;) {
    if (isShared(index)) lockNode(index, child);
    leaveSmaller(index, left, at, level);
    level -= 1;
    at = walkRight(index, 0, child, key);
    left = leftOfPlace();
    slot = rank(at, key);
    const fresh = below;
    if (level > 0) {
      child = childAt(index, at, slot);
      below = takeNode(index, level - 1);
    }
    splitAtPromoted(index, at, slot, level, fresh, key, level > 0 ? <u64>below : value);
  }
  leaveSmaller(index, left, at, 0);
}
