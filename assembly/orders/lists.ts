/**
 * Lists of ids through their records, each with a head and a tail. An id is in one list at most; its place is the id before
 * it, behind that the next one.
 */
import { FLAGS, NONE, Order, recordPtr } from "./layout";

/** Place of the first id of a list. */
// @ts-ignore: decorator
@inline const FIRST: u32 = ~FLAGS - 1;

// @ts-ignore: decorator
@inline
export function listsBytes(lists: u32): u64 {
  return <u64>lists * 8;
}

/** Empty lists. */
export function listsCreate(ptr: usize, lists: u32): void {
  memory.fill(ptr, 0xff, <usize>listsBytes(lists));
}

/** Head of a list; the tail is behind it. */
// @ts-ignore: decorator
@inline
function headPtr(order: Order, list: u32): usize {
  return <usize>order.lists + ((<usize>list) << 3);
}

/** First id of a list, or NONE. */
// @ts-ignore: decorator
@inline
export function listHead(order: Order, list: u32): u32 {
  return load<u32>(headPtr(order, list));
}

// @ts-ignore: decorator
@inline
export function listNext(order: Order, id: u32): u32 {
  return load<u32>(recordPtr(order, id), 4);
}

export function listAppend(order: Order, list: u32, id: u32): void {
  const head = headPtr(order, list);
  const own = recordPtr(order, id);
  const tail = load<u32>(head, 4);
  store<u32>(own, tail == NONE ? FIRST : tail);
  store<u32>(own, NONE, 4);
  if (tail == NONE) store<u32>(head, id);
  else store<u32>(recordPtr(order, tail), id, 4);
  store<u32>(head, id, 4);
}

export function listRemove(order: Order, list: u32, id: u32): void {
  const head = headPtr(order, list);
  const own = recordPtr(order, id);
  const previous = load<u32>(own);
  const next = load<u32>(own, 4);
  if (previous == FIRST) store<u32>(head, next);
  else store<u32>(recordPtr(order, previous), next, 4);
  if (next == NONE) store<u32>(head, previous == FIRST ? NONE : previous, 4);
  else store<u32>(recordPtr(order, next), previous);
  store<u32>(own, NONE);
}

/** Ids in a list that is sound, or -1. */
export function listLength(order: Order, list: u32): i32 {
  let length: u32 = 0;
  let previous = FIRST;
  for (let id = listHead(order, list); id != NONE; id = listNext(order, id)) {
    if (id >= order.capacity || length == order.capacity) return -1;
    if (load<u32>(recordPtr(order, id)) != previous) return -1;
    previous = id;
    length += 1;
  }
  return load<u32>(headPtr(order, list), 4) == (length == 0 ? NONE : previous) ? <i32>length : -1;
}
