/**
 * Lists of ids through their Records, each with a head and a tail. Links are the two halves of `major`; an id is in
 * one list at most, and its `position` says only whether it is in one.
 */
import { NONE, Order, Record, record } from "./layout";

/** `position` of an id in a list. */
// @ts-ignore: decorator
@inline const LISTED: u32 = 0;

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

/** First id of a list, or NONE. */
// @ts-ignore: decorator
@inline
export function listHead(order: Order, list: u32): u32 {
  return load<u32>(headPtr(order, list));
}

// @ts-ignore: decorator
@inline
export function listNext(r: Record): u32 {
  return load<u32>(nextPtr(r));
}

export function listAppend(order: Order, list: u32, id: u32, r: Record): void {
  const head = headPtr(order, list);
  const tail = load<u32>(head, 4);
  store<u32>(previousPtr(r), tail);
  store<u32>(nextPtr(r), NONE);
  if (tail == NONE) store<u32>(head, id);
  else store<u32>(nextPtr(record(order, tail)), id);
  store<u32>(head, id, 4);
  r.position = LISTED;
}

export function listRemove(order: Order, list: u32, r: Record): void {
  const head = headPtr(order, list);
  const previous = load<u32>(previousPtr(r));
  const next = load<u32>(nextPtr(r));
  if (previous == NONE) store<u32>(head, next);
  else store<u32>(nextPtr(record(order, previous)), next);
  if (next == NONE) store<u32>(head, previous, 4);
  else store<u32>(previousPtr(record(order, next)), previous);
  r.position = NONE;
}

/** Ids in a list that is sound, or -1. */
export function listLength(order: Order, list: u32): i32 {
  let length: u32 = 0;
  let previous = NONE;
  for (let id = listHead(order, list); id != NONE; id = listNext(record(order, id))) {
    if (id >= order.capacity || length == order.capacity) return -1;
    const r = record(order, id);
    if (load<u32>(previousPtr(r)) != previous || r.position == NONE) return -1;
    previous = id;
    length += 1;
  }
  return load<u32>(headPtr(order, list), 4) == previous ? <i32>length : -1;
}
