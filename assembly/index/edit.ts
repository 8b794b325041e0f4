/**
 * Edits of one level: entering and removing slots, splitting and merging nodes.
 *
 * In a shared index the caller holds `at` and `left`, its left neighbour, 0 if `at` was reached from above.
 * An edit locks further nodes only to the right of these and unlocks them again; a node that is absorbed or
 * empty is given back. The edit ends with one of the `leave` functions.
 */
import { releaseExclusive, unlockExclusive } from "../memory/locks";
import { capacityOf, childPtr, Index, isShared, keyAt, keyPtr, node, storeValue, valuePtr } from "./layout";
import { giveNode, takeNode } from "./nodes";
import { heightOf, rank } from "./rank";
import { lockNode } from "./reading";

/** Moves the slots from `slot` on one to the right and writes key and payload there. */
export function insertAt(index: Index, at: u32, slot: u32, level: u32, key: u64, payload: u64): void {
  const n = node(at);
  const moved = <u32>n.count - slot;
  if (moved > 0) copySlots(index, level, at, slot + 1, at, slot, moved);
  store<u64>(keyPtr(at, slot), key);
  if (level > 0) store<u32>(childPtr(index, at, slot), <u32>payload);
  else storeValue(index, valuePtr(index, at, slot), payload);
  n.count += 1;
}

/** Copies `count` slots from one node to another of the same level; ranges of one node may overlap. */
function copySlots(
  index: Index,
  level: u32,
  to: u32,
  toSlot: u32,
  from: u32,
  fromSlot: u32,
  count: u32,
): void {
  memory.copy(keyPtr(to, toSlot), keyPtr(from, fromSlot), (<usize>count) << 3);
  if (level > 0)
    memory.copy(childPtr(index, to, toSlot), childPtr(index, from, fromSlot), (<usize>count) << 2);
  else
    memory.copy(
      valuePtr(index, to, toSlot),
      valuePtr(index, from, fromSlot),
      <usize>count * <usize>index.valueBytes,
    );
}

/** Puts `right` behind `at` on its level. */
function link(at: u32, right: u32): void {
  const n = node(at);
  const m = node(right);
  m.next = n.next;
  m.nextHeader = n.nextHeader;
  n.next = right;
  n.nextHeader = keyAt(right, 0);
}

function unlink(at: u32, right: u32): void {
  node(at).next = node(right).next;
  node(at).nextHeader = node(right).nextHeader;
}

/**
 * Takes the right neighbour's slots over if it came from an overflow and both fit one node: keeps invariant 3
 * of ordered-index.ts. `held`: the caller holds the neighbour's lock.
 */
export function absorbNext(index: Index, at: u32, level: u32, held: bool): bool {
  const right = node(at).next;
  if (right == 0 || heightOf(index, node(at).nextHeader) > level) return false;
  const lock = isShared(index) && !held;
  if (lock) lockNode(index, right);
  const count = <u32>node(at).count;
  const more = <u32>node(right).count;
  if (count + more > capacityOf(index, level)) {
    if (lock) releaseExclusive(right);
    return false;
  }
  copySlots(index, level, at, count, right, 0, more);
  node(at).count = <u16>(count + more);
  unlink(at, right);
  giveNode(index, right);
  return true;
}

/** Ends an edit that may have made `at` smaller: `left`, if any, takes it over where it can. Unlocks both. */
export function leaveSmaller(index: Index, left: u32, at: u32, level: u32): void {
  const absorbed = left != 0 && absorbNext(index, left, level, true);
  if (isShared(index)) {
    if (!absorbed) unlockExclusive(at);
    if (left != 0) unlockExclusive(left);
  }
}

/** Ends an edit after which `at` is not smaller. */
// @ts-ignore: decorator
@inline
export function leaveGrown(index: Index, left: u32, at: u32): void {
  if (isShared(index)) {
    unlockExclusive(at);
    if (left != 0) releaseExclusive(left);
  }
}

/** Ends what has changed nothing. */
// @ts-ignore: decorator
@inline
export function leaveUnchanged(index: Index, left: u32, at: u32): void {
  if (isShared(index)) {
    releaseExclusive(at);
    if (left != 0) releaseExclusive(left);
  }
}

/**
 * Enters a key into a full node: its upper half moves to a new right neighbour first.
 */
export function insertIntoFull(index: Index, at: u32, level: u32, key: u64, payload: u64): void {
  const n = node(at);
  const keep = (<u32>n.count + 1) >> 1;
  const right = takeNode(index, level);
  const moved = <u32>n.count - keep;
  copySlots(index, level, right, 0, at, keep, moved);
  node(right).count = <u16>moved;
  n.count = <u16>keep;
  link(at, right);
  const half = keyAt(right, 0) <= key ? right : at;
  insertAt(index, half, rank(half, key) + 1, level, key, payload);
  absorbNext(index, right, level, false);
  if (isShared(index)) unlockExclusive(right);
}

/** Moves everything behind `slot` to `right`, which starts with the new key and is held. */
export function splitAtPromoted(
  index: Index,
  at: u32,
  slot: u32,
  level: u32,
  right: u32,
  key: u64,
  payload: u64,
): void {
  const n = node(at);
  const moved = <u32>n.count - (slot + 1);
  insertAt(index, right, 0, level, key, payload);
  copySlots(index, level, right, 1, at, slot + 1, moved);
  node(right).count = <u16>(moved + 1);
  n.count = <u16>(slot + 1);
  link(at, right);
  absorbNext(index, right, level, false);
  if (isShared(index)) unlockExclusive(right);
}

function removeAt(index: Index, at: u32, slot: u32, level: u32): void {
  const n = node(at);
  copySlots(index, level, at, slot, at, slot + 1, <u32>n.count - slot - 1);
  n.count -= 1;
}

/** Removes a slot of `at` and leaves `at` and `left`. Slot 0 needs the left neighbour. */
export function removeSlot(index: Index, left: u32, at: u32, slot: u32, level: u32): void {
  removeAt(index, at, slot, level);
  if (node(at).count == 0) {
    unlink(left, at);
    giveNode(index, at);
    absorbNext(index, left, level, false);
    if (isShared(index)) unlockExclusive(left);
    return;
  }
  // What starts the node now was not promoted past this level: it is like a node from an overflow.
  if (slot == 0) node(left).nextHeader = keyAt(at, 0);
  absorbNext(index, at, level, false);
  leaveSmaller(index, left, at, level);
}
