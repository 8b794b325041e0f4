/**
 * Ordered view: ids 0 to capacity - 1, each at most once, in the order of a u64 given for each.
 *
 *   header (View, 64 B)
 *   entries   [capacity] Entry, 16 B: the order of each id, and a ring of the ids with equal order
 *   index     ordered index: order + 1 -> first id of the ring
 *
 * Equal orders stay in the order in which they were set: the ring's first id was set first, and its `previous`
 * is the last. So the whole order is a function of the calls, and all 64 bits belong to the caller
 * (view-orders.ts packs times, eviction and tenant orders into them).
 *
 * Invariants (checked by `viewValidate`):
 * 1. An id is in the view if and only if its key is not 0; it then is on the ring of its key, once.
 * 2. The index holds exactly the keys of the entries, each with a member of its ring.
 * 3. The index has room for `capacity` keys, and a change makes sure of its nodes before the first write.
 *
 * One thread at a time. set, remove, pop, first: O(log n); next: O(1) within a ring.
 */
import { CORRUPT, INVALID_ARGUMENT, NOT_FOUND, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { indexDelete } from "./delete";
import { Index, KEY_MAX } from "./layout";
import { indexCeiling, neighbourPtr } from "./neighbours";
import { indexBytes, indexClear, indexCreate, indexNodesFor, indexSize } from "./ordered-index";
import { indexPut } from "./put";
import { indexFind } from "./read";
import { indexValidate } from "./validate";

// @ts-ignore: decorator
@inline export const MAX_VIEW_CAPACITY: u32 = 1 << 24;
/** Largest order: the index keeps the two ends of its keys for itself, and the key is the order plus 1. */
// @ts-ignore: decorator
@inline export const MAX_ORDER: u64 = u64.MAX_VALUE - 2;
// @ts-ignore: decorator
@inline const HEADER_BYTES: usize = 64;


@unmanaged
export class View {
  capacity: u32;
  /** Ids in the view. */
  size: u32;
  entries: u32;
  index: u32;
  /** What the orders mean; the view itself does not look at it. */
  kind: u32;
}


@unmanaged
class Entry {
  /** Order plus 1; 0 = not in the view. */
  key: u64;
  next: u32;
  previous: u32;
}

// @ts-ignore: decorator
@inline
function entry(view: View, id: u32): Entry {
  return changetype<Entry>(<usize>view.entries + <usize>id * offsetof<Entry>());
}

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

/** Exact bytes of a view of `capacity` ids. */
export function viewBytes(capacity: u32): u64 {
  return (
    <u64>HEADER_BYTES + align(<u64>capacity * offsetof<Entry>()) + indexBytes(indexNodesFor(capacity, 4))
  );
}

/** An empty view in a zeroed region of `viewBytes` bytes. */
export function viewCreate(ptr: usize, capacity: u32, kind: u32, seed: u64): void {
  const view = changetype<View>(ptr);
  view.capacity = capacity;
  view.kind = kind;
  view.entries = <u32>(ptr + HEADER_BYTES);
  view.index = view.entries + <u32>align(<u64>capacity * offsetof<Entry>());
  indexCreate(view.index, indexNodesFor(capacity, 4), 4, seed);
}

/** Takes every id out, O(capacity). */
export function viewClear(ptr: usize): void {
  const view = changetype<View>(ptr);
  memory.fill(view.entries, 0, <usize>view.capacity * offsetof<Entry>());
  indexClear(view.index);
  view.size = 0;
}

// @ts-ignore: decorator
@inline
export function viewHas(ptr: usize, id: u32): bool {
  const view = changetype<View>(ptr);
  return id < view.capacity && entry(view, id).key != 0;
}

/** Order of an id that is in the view. */
// @ts-ignore: decorator
@inline
export function viewOrder(ptr: usize, id: u32): u64 {
  return entry(changetype<View>(ptr), id).key - 1;
}

/**
 * Gives an id its place, or another place. 1 entered, 0 moved (or left where it is, if it has that order);
 * INVALID_ARGUMENT for an id or order out of range.
 */
export function viewSet(ptr: usize, id: u32, order: u64): Status {
  const view = changetype<View>(ptr);
  if (id >= view.capacity || order > MAX_ORDER) return INVALID_ARGUMENT;
  const key = order + 1;
  const e = entry(view, id);
  if (e.key == key) return 0;
  const index = changetype<Index>(view.index);
  if (index.freeCount < index.levels) return OUT_OF_MEMORY;
  const entered = e.key == 0;
  if (!entered) leaveRing(view, id, e);
  e.key = key;
  enterRing(view, id, e);
  view.size += u32(entered);
  return i32(entered);
}

/** As the last of its equals. */
function enterRing(view: View, id: u32, e: Entry): void {
  const place = indexFind(view.index, e.key);
  if (place == 0) {
    e.next = id;
    e.previous = id;
    const entered = indexPut(view.index, e.key, id);
    assert(entered == 1);
    return;
  }
  const first = load<u32>(place);
  const last = entry(view, first).previous;
  e.next = first;
  e.previous = last;
  entry(view, last).next = id;
  entry(view, first).previous = id;
}

function leaveRing(view: View, id: u32, e: Entry): void {
  if (e.next == id) {
    indexDelete(view.index, e.key);
    return;
  }
  const place = indexFind(view.index, e.key);
  if (load<u32>(place) == id) store<u32>(place, e.next);
  unlink(view, e);
}

// @ts-ignore: decorator
@inline
function unlink(view: View, e: Entry): void {
  entry(view, e.previous).next = e.next;
  entry(view, e.next).previous = e.previous;
}

/** Takes an id out. 1, or 0 when it is not in the view. */
export function viewRemove(ptr: usize, id: u32): Status {
  const view = changetype<View>(ptr);
  if (!viewHas(ptr, id)) return 0;
  const e = entry(view, id);
  leaveRing(view, id, e);
  e.key = 0;
  view.size -= 1;
  return 1;
}

/** First id with lowest <= order <= highest, or NOT_FOUND. */
export function viewFirst(ptr: usize, lowest: u64, highest: u64): i32 {
  const key = firstKey(changetype<View>(ptr), lowest, highest);
  return key == KEY_MAX ? NOT_FOUND : <i32>load<u32>(neighbourPtr());
}

/** Smallest key in the range, or KEY_MAX. */
// @ts-ignore: decorator
@inline
function firstKey(view: View, lowest: u64, highest: u64): u64 {
  if (lowest > MAX_ORDER) return KEY_MAX;
  const key = indexCeiling(view.index, lowest + 1);
  return key - 1 > highest ? KEY_MAX : key;
}

/** Takes the first id with lowest <= order <= highest out and returns it, or NOT_FOUND. */
export function viewPop(ptr: usize, lowest: u64, highest: u64): i32 {
  const view = changetype<View>(ptr);
  const key = firstKey(view, lowest, highest);
  if (key == KEY_MAX) return NOT_FOUND;
  const place = neighbourPtr();
  const id = load<u32>(place);
  const e = entry(view, id);
  if (e.next == id) {
    indexDelete(view.index, key);
  } else {
    store<u32>(place, e.next);
    unlink(view, e);
  }
  e.key = 0;
  view.size -= 1;
  return <i32>id;
}

/** Takes ids out in order while order <= highest, at most `limit`, and writes them (u32). Returns how many. */
export function viewPopMany(ptr: usize, highest: u64, limit: u32, out: usize): u32 {
  let count: u32 = 0;
  while (count < limit) {
    const id = viewPop(ptr, 0, highest);
    if (id < 0) break;
    store<u32>(out + ((<usize>count) << 2), <u32>id);
    count += 1;
  }
  return count;
}

/** The id behind `id`, which is in the view, or NOT_FOUND behind the last. */
export function viewNext(ptr: usize, id: u32): i32 {
  const view = changetype<View>(ptr);
  const e = entry(view, id);
  if (e.next != id) {
    const first = load<u32>(indexFind(view.index, e.key));
    if (e.next != first) return <i32>e.next;
  }
  return viewFirst(ptr, e.key, MAX_ORDER);
}

/**
 * Writes up to `limit` ids (u32) in order, from the id `from`, which is in the view, while order <= highest.
 * Returns how many.
 */
export function viewList(ptr: usize, from: u32, highest: u64, limit: u32, out: usize): u32 {
  const view = changetype<View>(ptr);
  let id = <i32>from;
  let count: u32 = 0;
  while (id >= 0 && count < limit && entry(view, id).key - 1 <= highest) {
    store<u32>(out + ((<usize>count) << 2), <u32>id);
    count += 1;
    if (count < limit) id = viewNext(ptr, id);
  }
  return count;
}

/** OK, or CORRUPT when an invariant is broken. O(capacity). */
export function viewValidate(ptr: usize): Status {
  const view = changetype<View>(ptr);
  if (indexValidate(view.index) != OK) return CORRUPT;
  let entered: u32 = 0;
  for (let id: u32 = 0; id < view.capacity; id++) entered += u32(entry(view, id).key != 0);
  let onRings: u32 = 0;
  let rings: u32 = 0;
  for (let key = indexCeiling(view.index, 1); key != KEY_MAX; key = indexCeiling(view.index, key + 1)) {
    const first = load<u32>(neighbourPtr());
    let id = first;
    do {
      if (id >= view.capacity || onRings == entered) return CORRUPT;
      const e = entry(view, id);
      if (e.key != key || e.next >= view.capacity || entry(view, e.next).previous != id) return CORRUPT;
      onRings += 1;
      id = e.next;
    } while (id != first);
    rings += 1;
  }
  return rings == indexSize(view.index) && onRings == entered && entered == view.size ? OK : CORRUPT;
}
