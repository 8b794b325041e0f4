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
import { CLASSES, lifeBegin, lifeEnd, lifeIndex } from "./lifetimes";

/** `state`: class, whether the life that began at `stamp` goes on, whether there is no cached child. */
// @ts-ignore: decorator
@inline const CLASS_MASK: u32 = CLASSES - 1;
// @ts-ignore: decorator
@inline const LIVING: u32 = 0x100;
// @ts-ignore: decorator
@inline const CHILDLESS: u32 = 0x200;
/** `position` of an id in a list. */
// @ts-ignore: decorator
@inline const LISTED: u32 = 0;

// @ts-ignore: decorator
@inline export const LIST_BYTES: u32 = CLASSES * 8;

/** Neighbours in the list: the two halves of `major`. */
// @ts-ignore: decorator
@inline
function previousPtr(r: Record): usize {
  return changetype<usize>(r) + offsetof<Record>("major");
}

// @ts-ignore: decorator
@inline
function nextPtr(r: Record): usize {
  return previousPtr(r) + 4;
}

/** Head of a class's list; the tail is behind it. */
// @ts-ignore: decorator
@inline
function headPtr(order: Order, klass: u32): usize {
  return <usize>order.lists + ((<usize>klass) << 3);
}

function classOf(uses: u32, childless: bool): u32 {
  let group = uses - 1;
  if (uses > 5) group = uses < 12 ? 5 : uses < 24 ? 6 : 7;
  return (group << 1) | u32(childless);
}

/** Empty lists. */
export function listsCreate(ptr: usize): void {
  memory.fill(ptr, 0xff, LIST_BYTES);
}

export function gittinsEnter(order: Order, r: Record, key: u64): void {
  r.state = 0;
  r.count = 1;
  if (order.history == 0) return;
  if (order.history == 0) return;
  const trace = historyTake(order.history, key);
  if (trace == null) return;
  const living = (trace.state & LIVING) != 0;
  if (!living || lifeEnd(order.lifetimes, trace.stamp, trace.state & CLASS_MASK, true))
    r.count = trace.count + 1;
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
  const head = headPtr(order, klass);
  const tail = load<u32>(head, 4);
  store<u32>(previousPtr(r), tail);
  store<u32>(nextPtr(r), NONE);
  if (tail == NONE) store<u32>(head, id);
  else store<u32>(nextPtr(record(order, tail)), id);
  store<u32>(head, id, 4);
  r.position = LISTED;
}

/** An id that rests has lost its last child. */
export function gittinsBare(r: Record): void {
  r.state |= CHILDLESS;
}

export function gittinsHold(order: Order, r: Record): void {
  const head = headPtr(order, r.state & CLASS_MASK);
  const previous = load<u32>(previousPtr(r));
  const next = load<u32>(nextPtr(r));
  if (previous == NONE) store<u32>(head, next);
  else store<u32>(nextPtr(record(order, previous)), next);
  if (next == NONE) store<u32>(head, previous, 4);
  else store<u32>(previousPtr(record(order, next)), previous);
  r.position = NONE;
}

export function gittinsVictim(order: Order): u32 {
  let victim = NONE;
  let least: f64 = Infinity;
  let oldest = u64.MAX_VALUE;
  for (let klass: u32 = 0; klass < CLASSES; klass++) {
    const id = load<u32>(headPtr(order, klass));
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
  trace.stamp = r.stamp;
  trace.count = r.count;
  trace.state = r.state;
}

// @ts-ignore: decorator
@inline
export function gittinsCandidate(r: Record): bool {
  return r.position != NONE && (r.state & CHILDLESS) != 0;
}

/** Whether each list is sound, in order of rest, and of its class; returns the ids in them, or -1. */
export function gittinsListed(order: Order): i32 {
  let listed: u32 = 0;
  for (let klass: u32 = 0; klass < CLASSES; klass++) {
    let previous = NONE;
    let stamp: u64 = 0;
    for (let id = load<u32>(headPtr(order, klass)); id != NONE; id = load<u32>(nextPtr(record(order, id)))) {
      if (id >= order.capacity || listed == order.entered) return -1;
      const r = record(order, id);
      if (load<u32>(previousPtr(r)) != previous || r.position == NONE || (r.state & CLASS_MASK) != klass)
        return -1;
      if (previous != NONE && r.stamp <= stamp) return -1;
      stamp = r.stamp;
      previous = id;
      listed += 1;
    }
    if (load<u32>(headPtr(order, klass), 4) != previous) return -1;
  }
  return <i32>listed;
}
