/**
 * Heap of ids: the smallest (major, minor) on top. Each id has a place elsewhere, `stride` bytes apart, that holds
 * its key and its position, so that any id can be moved or taken out.
 *
 *   header (16 B): items, size, places, stride
 *   items  [capacity] u32
 *   place  | major u64 | minor u64 | position u32 |
 *
 * Invariants (checked by `heapValid`):
 * 1. The parent of each item has no greater key.
 * 2. items[position of id] = id for all ids in the heap; the position of all others is NONE.
 *
 * Add, remove: O(log n), few steps for a key that is greater than most (a new one usually is). Top: O(1).
 */
import { NONE } from "./layout";

// @ts-ignore: decorator
@inline const HEADER_BYTES: usize = 16;


@unmanaged
class Heap {
  items: u32;
  size: u32;
  places: u32;
  stride: u32;
}


@unmanaged
class Place {
  major: u64;
  minor: u64;
  position: u32;
}

export function heapBytes(capacity: u32): u64 {
  return <u64>HEADER_BYTES + <u64>capacity * 4;
}

/** An empty heap in `heapBytes` bytes, over the places at `places`, whose positions are NONE. */
export function heapCreate(ptr: usize, places: usize, stride: u32): void {
  const heap = changetype<Heap>(ptr);
  heap.items = <u32>(ptr + HEADER_BYTES);
  heap.size = 0;
  heap.places = <u32>places;
  heap.stride = stride;
}

// @ts-ignore: decorator
@inline
function place(heap: Heap, id: u32): Place {
  return changetype<Place>(<usize>heap.places + <usize>id * <usize>heap.stride);
}

// @ts-ignore: decorator
@inline
function item(heap: Heap, position: u32): u32 {
  return load<u32>(<usize>heap.items + ((<usize>position) << 2));
}

// @ts-ignore: decorator
@inline
function put(heap: Heap, position: u32, id: u32): void {
  store<u32>(<usize>heap.items + ((<usize>position) << 2), id);
  place(heap, id).position = position;
}

// @ts-ignore: decorator
@inline
function before(a: Place, b: Place): bool {
  return a.major < b.major || (a.major == b.major && a.minor < b.minor);
}

// @ts-ignore: decorator
@inline
export function heapSize(ptr: usize): u32 {
  return changetype<Heap>(ptr).size;
}

/** The first id. The heap must not be empty. */
// @ts-ignore: decorator
@inline
export function heapTop(ptr: usize): u32 {
  return item(changetype<Heap>(ptr), 0);
}

/** Enters an id whose key is set and that is in no heap over these places. */
export function heapAdd(ptr: usize, id: u32): void {
  const heap = changetype<Heap>(ptr);
  const size = heap.size;
  heap.size = size + 1;
  rise(heap, size, id);
}

/** Takes an id out. It must be in the heap. */
export function heapRemove(ptr: usize, id: u32): void {
  const heap = changetype<Heap>(ptr);
  const hole = place(heap, id).position;
  place(heap, id).position = NONE;
  const size = heap.size - 1;
  heap.size = size;
  const last = item(heap, size);
  if (last == id) return;
  if (hole != 0 && before(place(heap, last), place(heap, item(heap, (hole - 1) >> 1))))
    rise(heap, hole, last);
  else sink(heap, hole, last);
}

/** Restores the heap after the key of an id in it has changed. */
export function heapMoved(ptr: usize, id: u32): void {
  const heap = changetype<Heap>(ptr);
  const position = place(heap, id).position;
  if (position != 0 && before(place(heap, id), place(heap, item(heap, (position - 1) >> 1))))
    rise(heap, position, id);
  else sink(heap, position, id);
}

/** Puts `id` at `position` or above. */
function rise(heap: Heap, position: u32, id: u32): void {
  const own = place(heap, id);
  while (position != 0) {
    const parent = (position - 1) >> 1;
    const above = item(heap, parent);
    if (!before(own, place(heap, above))) break;
    put(heap, position, above);
    position = parent;
  }
  put(heap, position, id);
}

/** Puts `id` at `position` or below. */
function sink(heap: Heap, position: u32, id: u32): void {
  const own = place(heap, id);
  const size = heap.size;
  for (;;) {
    let child: u32 = 2 * position + 1;
    if (child >= size) break;
    let below = item(heap, child);
    if (child + 1 < size) {
      const right = item(heap, child + 1);
      if (before(place(heap, right), place(heap, below))) {
        child += 1;
        below = right;
      }
    }
    if (!before(place(heap, below), own)) break;
    put(heap, position, below);
    position = child;
  }
  put(heap, position, id);
}

/** Whether both invariants hold for the ids in the heap. */
export function heapValid(ptr: usize, capacity: u32): bool {
  const heap = changetype<Heap>(ptr);
  if (heap.size > capacity) return false;
  for (let position: u32 = 0; position < heap.size; position++) {
    const id = item(heap, position);
    if (id >= capacity || place(heap, id).position != position) return false;
    if (position != 0 && before(place(heap, id), place(heap, item(heap, (position - 1) >> 1)))) return false;
  }
  return true;
}
