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
import { NONE, Order, Record, record } from "./layout";
import { listAppend, listHead, listLength, listNext, listRemove } from "./lists";
import { CLASSES, lifeBegin, lifeEnd, lifeIndex } from "./lifetimes";

/** `state`: class, whether the life that began at `stamp` goes on, whether there is no cached child. */
// @ts-ignore: decorator
@inline const CLASS_MASK: u32 = CLASSES - 1;
// @ts-ignore: decorator
@inline const LIVING: u32 = 0x100;
// @ts-ignore: decorator
@inline const CHILDLESS: u32 = 0x200;
function classOf(uses: u32, childless: bool): u32 {
  let group = uses - 1;
  if (uses > 5) group = uses < 12 ? 5 : uses < 24 ? 6 : 7;
  return (group << 1) | u32(childless);
}

export function gittinsEnter(order: Order, r: Record, key: u64): void {
  r.state = 0;
  r.count = 1;
  if (order.history == 0) return;
  const trace = historyTake(order.history, key);
  if (trace == 0) return;
  const state = load<u32>(trace, 12);
  if ((state & LIVING) == 0 || lifeEnd(order.lifetimes, load<u64>(trace), state & CLASS_MASK, true))
    r.count = load<u32>(trace, 8) + 1;
}

export function gittinsUse(order: Order, r: Record): void {
  r.count += 1;
  endLife(order, r, true);
}

function endLife(order: Order, r: Record, used: bool): void {
  if ((r.state & LIVING) == 0) return;
  lifeEnd(order.lifetimes, r.stamp, r.state & CLASS_MASK, used);
  r.state &= ~LIVING;
}

export function gittinsRest(order: Order, id: u32, r: Record, childless: bool): void {
  endLife(order, r, false);
  const klass = classOf(r.count, childless);
  r.stamp = lifeBegin(order.lifetimes, klass);
  r.state = klass | LIVING | (childless ? CHILDLESS : 0);
  listAppend(order, klass, id, r);
}

/** An id that rests has lost its last child. */
export function gittinsBare(r: Record): void {
  r.state |= CHILDLESS;
}

export function gittinsHold(order: Order, r: Record): void {
  listRemove(order, r.state & CLASS_MASK, r);
}

export function gittinsVictim(order: Order): u32 {
  let victim = NONE;
  let least: f64 = Infinity;
  let oldest = u64.MAX_VALUE;
  for (let klass: u32 = 0; klass < CLASSES; klass++) {
    const id = listHead(order, klass);
    if (id == NONE) continue;
    const r = record(order, id);
    if ((r.state & CHILDLESS) == 0) continue;
    const index = lifeIndex(order.lifetimes, r.stamp, klass);
    if (index < least || (index == least && r.stamp < oldest)) {
      victim = id;
      least = index;
      oldest = r.stamp;
    }
  }
  return victim;
}

export function gittinsLeave(order: Order, r: Record, key: u64): void {
  if (order.history == 0) return;
  const trace = historyAdd(order.history, key);
  store<u64>(trace, r.stamp);
  store<u32>(trace, r.count, 8);
  store<u32>(trace, r.state, 12);
}

// @ts-ignore: decorator
@inline
export function gittinsCandidate(r: Record): bool {
  return r.position != NONE && (r.state & CHILDLESS) != 0;
}

/** Whether each list is sound, in order of rest, and of its class; returns the ids in them, or -1. */
export function gittinsListed(order: Order): i32 {
  let listed = 0;
  for (let klass: u32 = 0; klass < CLASSES; klass++) {
    const length = listLength(order, klass);
    if (length < 0) return -1;
    listed += length;
    let previous = NONE;
    for (let id = listHead(order, klass); id != NONE; id = listNext(record(order, id))) {
      if ((record(order, id).state & CLASS_MASK) != klass) return -1;
      if (previous != NONE && record(order, id).stamp <= record(order, previous).stamp) return -1;
      previous = id;
    }
  }
  return listed;
}
