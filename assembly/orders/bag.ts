/**
 * Bag of ids in two parts, from which one is drawn at random in O(1): the unmarked first, then the marked.
 *
 *   header (16 B): size, unmarked
 *   items  [capacity] u32     | unmarked | marked |
 *
 * An id's place is its position. All of them become unmarked at once: only the border moves.
 */
import { NONE, Order, recordPtr } from "./layout";

// @ts-ignore: decorator
@inline const HEADER_BYTES: usize = 16;


@unmanaged
class Bag {
  size: u32;
  unmarked: u32;
}

// @ts-ignore: decorator
@inline
function itemPtr(bag: usize, position: u32): usize {
  return bag + HEADER_BYTES + ((<usize>position) << 2);
}

// @ts-ignore: decorator
@inline
function put(order: Order, bag: usize, position: u32, id: u32): void {
  store<u32>(itemPtr(bag, position), id);
  store<u32>(recordPtr(order, id), position);
}

// @ts-ignore: decorator
@inline
export function bagSize(bag: usize): u32 {
  return changetype<Bag>(bag).size;
}

// @ts-ignore: decorator
@inline
export function bagUnmarked(bag: usize): u32 {
  return changetype<Bag>(bag).unmarked;
}

/** The `n`-th id, unmarked ones first. */
// @ts-ignore: decorator
@inline
export function bagItem(bag: usize, n: u32): u32 {
  return load<u32>(itemPtr(bag, n));
}

export function bagAdd(order: Order, bag: usize, id: u32, marked: bool): void {
  const b = changetype<Bag>(bag);
  const end = b.size;
  b.size = end + 1;
  if (marked || b.unmarked == end) {
    put(order, bag, end, id);
  } else {
    put(order, bag, end, bagItem(bag, b.unmarked));
    put(order, bag, b.unmarked, id);
  }
  if (!marked) b.unmarked += 1;
}

export function bagRemove(order: Order, bag: usize, id: u32): void {
  const b = changetype<Bag>(bag);
  let hole = load<u32>(recordPtr(order, id));
  if (hole < b.unmarked) {
    b.unmarked -= 1;
    if (hole != b.unmarked) put(order, bag, hole, bagItem(bag, b.unmarked));
    hole = b.unmarked;
  }
  b.size -= 1;
  if (hole != b.size) put(order, bag, hole, bagItem(bag, b.size));
  store<u32>(recordPtr(order, id), NONE);
}

/** No id is marked any more. */
// @ts-ignore: decorator
@inline
export function bagUnmarkAll(bag: usize): void {
  changetype<Bag>(bag).unmarked = changetype<Bag>(bag).size;
}

export function bagValid(order: Order, bag: usize): bool {
  const b = changetype<Bag>(bag);
  if (b.size > order.capacity || b.unmarked > b.size) return false;
  for (let at: u32 = 0; at < b.size; at++) {
    const id = bagItem(bag, at);
    if (id >= order.capacity || load<u32>(recordPtr(order, id)) != at) return false;
  }
  return true;
}
