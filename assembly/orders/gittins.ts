/**
 * Gittins order: the id of which the fewest uses per unit of time are to be expected goes first, by what lifetimes.ts
 * has learned of ids like it. Nothing is tuned to the size of the cache: the index asks what an id earns while it
 * stays, and the space goes to those that earn most.
 *
 * Ids are classed by their uses (1, 2, 3, 4, 5, 6-11, 12-23, more; remembered by the history after they have left)
 * and by whether they had a child when they were let go of. All ids that rest stand in the list of their class, the
 * one let go of first at its head. Only heads compete: within a class the one that has waited longest goes.
 *
 * Why there always is a victim: a parent rests no earlier than its child, so the head that has rested longest of all
 * has no child. Heads with children sit out. rest, hold: O(1) and a few reads; victim: O(classes).
 */
import { historyAdd, historyTake } from "./history";
import { isPlaced, NONE, Order, recordPtr } from "./layout";
import { listAppend, listHead, listLength, listNext, listRemove } from "./lists";
import { CLASSES, lifeBegin, lifeEnd, lifeIndex } from "./lifetimes";

/**
 * State of an id: class, whether the life that began at `stamp` goes on, whether there is no cached child, and above them its
 * uses.
 */
// @ts-ignore: decorator
@inline const CLASS_MASK: u32 = CLASSES - 1;
// @ts-ignore: decorator
@inline const LIVING: u32 = 0x10;
// @ts-ignore: decorator
@inline const CHILDLESS: u32 = 0x20;
// @ts-ignore: decorator
@inline const USE: u32 = 0x100;
/** From so many uses on their number makes no difference. */
// @ts-ignore: decorator
@inline const MANY: u32 = 24;


@unmanaged
class Life {
  place: u32;
  next: u32;
  stamp: u64;
  state: u32;
}

// @ts-ignore: decorator
@inline
function lifeOf(order: Order, id: u32): Life {
  return changetype<Life>(recordPtr(order, id));
}

/** A state's uses, one more, and no life. */
// @ts-ignore: decorator
@inline
function usedOnceMore(state: u32): u32 {
  return min(state / USE + 1, MANY) * USE;
}

function classOf(uses: u32, childless: bool): u32 {
  let group = uses - 1;
  if (uses > 5) group = uses < 12 ? 5 : uses < MANY ? 6 : 7;
  return (group << 1) | u32(childless);
}

export function gittinsEnter(order: Order, id: u32, key: u64): void {
  const own = lifeOf(order, id);
  own.state = USE;
  if (order.history == 0) return;
  const trace = historyTake(order.history, key);
  if (trace == 0) return;
  const state = load<u32>(trace, 8);
  if ((state & LIVING) == 0 || lifeEnd(order.lifetimes, load<u64>(trace), state & CLASS_MASK, true))
    own.state = usedOnceMore(state);
}

export function gittinsUse(order: Order, id: u32): void {
  const own = lifeOf(order, id);
  endLife(order, own, true);
  own.state = usedOnceMore(own.state);
}

function endLife(order: Order, own: Life, used: bool): void {
  if ((own.state & LIVING) == 0) return;
  lifeEnd(order.lifetimes, own.stamp, own.state & CLASS_MASK, used);
  own.state &= ~LIVING;
}

export function gittinsRest(order: Order, id: u32, childless: bool): void {
  const own = lifeOf(order, id);
  endLife(order, own, false);
  const klass = classOf(own.state / USE, childless);
  own.stamp = lifeBegin(order.lifetimes, klass);
  own.state = (own.state & ~(USE - 1)) | klass | LIVING | (childless ? CHILDLESS : 0);
  listAppend(order, klass, id);
}

/** An id that rests has lost its last child. */
export function gittinsBare(order: Order, id: u32): void {
  lifeOf(order, id).state |= CHILDLESS;
}

export function gittinsHold(order: Order, id: u32): void {
  listRemove(order, lifeOf(order, id).state & CLASS_MASK, id);
}

export function gittinsVictim(order: Order): u32 {
  let victim = NONE;
  let least: f64 = Infinity;
  let oldest = u64.MAX_VALUE;
  for (let klass: u32 = 0; klass < CLASSES; klass++) {
    const id = listHead(order, klass);
    if (id == NONE) continue;
    const own = lifeOf(order, id);
    if ((own.state & CHILDLESS) == 0) continue;
    const index = lifeIndex(order.lifetimes, own.stamp, klass);
    if (index < least || (index == least && own.stamp < oldest)) {
      victim = id;
      least = index;
      oldest = own.stamp;
    }
  }
  return victim;
}

export function gittinsLeave(order: Order, id: u32, key: u64): void {
  if (order.history == 0) return;
  const trace = historyAdd(order.history, key);
  store<u64>(trace, lifeOf(order, id).stamp);
  store<u32>(trace, lifeOf(order, id).state, 8);
}

// @ts-ignore: decorator
@inline
export function gittinsCandidate(order: Order, id: u32): bool {
  return isPlaced(order, id) && (lifeOf(order, id).state & CHILDLESS) != 0;
}

/** Whether each list is sound, in order of rest, and of its class; returns the ids in them, or -1. */
export function gittinsListed(order: Order): i32 {
  let listed = 0;
  for (let klass: u32 = 0; klass < CLASSES; klass++) {
    const length = listLength(order, klass);
    if (length < 0) return -1;
    listed += length;
    let previous = NONE;
    for (let id = listHead(order, klass); id != NONE; id = listNext(order, id)) {
      if ((lifeOf(order, id).state & CLASS_MASK) != klass) return -1;
      if (previous != NONE && lifeOf(order, id).stamp <= lifeOf(order, previous).stamp) return -1;
      previous = id;
    }
  }
  return listed;
}
