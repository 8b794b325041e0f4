/**
 * Heap of ids: the smallest key on top. Each id has a record elsewhere, `stride` bytes apart, that holds its key and its
 * place, so that any id can be moved or taken out.
 *
 *   header (32 B): items, size, records, stride, where the place is, step
 *   items  [capacity] u32
 *   record | major u64 | minor u64 | place u32 |    or | key u64 | place u32 |    or | place u32 | key u32 |
 *   place  | 29 position | 3 the user's own |
 *
 * What is behind the first 8 bytes is asked only where those of two ids are equal: so no two keys without a second word may be,
 * unless what follows stays as it is. Behind a place (its lower half) keys may be equal: a parent has the smaller position.
 *
 * Invariants (checked by `heapValid`):
 * 1. The parent of each item has no greater key.
 * 2. items[position of id] = id for all ids in the heap; in the position of all others all bits are set.
 *
 * Add, remove: O(log n), few steps for a key that is greater than most (a new one usually is). Top: O(1).
 */
import { FLAG_BITS, FLAGS, NONE } from "./layout";

// @ts-ignore: decorator
@inline const HEADER_BYTES: usize = 32;


@unmanaged
class Heap {
  items: u32;
  size: u32;
  records: u32;
  stride: u32;
  placeAt: u32;
  /** Bytes from one item to the next: below 0 in a heap that grows down. */
  step: i32;
}

export function heapBytes(capacity: u32): u64 {
  return <u64>HEADER_BYTES + <u64>capacity * 4;
}

/**
 * An empty heap in `heapBytes` bytes, over the records at `records`, in whose places all bits are set. `placeAt`: where in a
 * record, 0, 8 or 16.
 */
export function heapCreate(ptr: usize, records: usize, stride: u32, placeAt: u32 = 16): void {
  const heap = changetype<Heap>(ptr);
  heap.items = <u32>(ptr + HEADER_BYTES);
  heap.size = 0;
  heap.records = <u32>records;
  heap.stride = stride;
  heap.placeAt = placeAt;
  heap.step = 4;
}

/**
 * Another empty heap in `heapBytes(0)` bytes over the records and in the items of one that has room for `capacity` ids: it
 * begins at their end. Together they hold each id once at most.
 */
export function heapFromTheEnd(ptr: usize, other: usize, capacity: u32): void {
  memory.copy(ptr, other, HEADER_BYTES);
  const heap = changetype<Heap>(ptr);
  heap.items += (capacity - 1) * 4;
  heap.step = -4;
}

// @ts-ignore: decorator
@inline
function recordOf(heap: Heap, id: u32): usize {
  return <usize>heap.records + <usize>id * <usize>heap.stride;
}

// @ts-ignore: decorator
@inline
function itemPtr(heap: Heap, position: u32): usize {
  return <usize>heap.items + <usize>position * <usize>heap.step;
}

// @ts-ignore: decorator
@inline
function item(heap: Heap, position: u32): u32 {
  return load<u32>(itemPtr(heap, position));
}

// @ts-ignore: decorator
@inline
function placePtr(heap: Heap, id: u32): usize {
  return recordOf(heap, id) + <usize>heap.placeAt;
}

// @ts-ignore: decorator
@inline
function setPosition(heap: Heap, id: u32, position: u32): void {
  const place = placePtr(heap, id);
  store<u32>(place, (load<u32>(place) & FLAGS) | (position << FLAG_BITS));
}

// @ts-ignore: decorator
@inline
function put(heap: Heap, position: u32, id: u32): void {
  store<u32>(itemPtr(heap, position), id);
  setPosition(heap, id, position);
}

// @ts-ignore: decorator
@inline
function before(first: usize, second: usize): bool {
  const one = load<u64>(first);
  const other = load<u64>(second);
  return one < other || (one == other && load<u64>(first, 8) < load<u64>(second, 8));
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

/** Enters an id whose key is set and that is in no heap over these records. */
export function heapAdd(ptr: usize, id: u32): void {
  const heap = changetype<Heap>(ptr);
  const size = heap.size;
  heap.size = size + 1;
  settle(heap, size, id);
}

/** Takes an id out. It must be in the heap. */
export function heapRemove(ptr: usize, id: u32): void {
  const heap = changetype<Heap>(ptr);
  const hole = load<u32>(placePtr(heap, id)) >> FLAG_BITS;
  setPosition(heap, id, NONE);
  const size = heap.size - 1;
  heap.size = size;
  const last = item(heap, size);
  if (last != id) settle(heap, hole, last);
}

/** Restores the heap after the key of an id in it has changed. */
export function heapMoved(ptr: usize, id: u32): void {
  const heap = changetype<Heap>(ptr);
  settle(heap, load<u32>(placePtr(heap, id)) >> FLAG_BITS, id);
}

/** Puts `id` at `position`, or above or below, where its key belongs. */
function settle(heap: Heap, position: u32, id: u32): void {
  const own = recordOf(heap, id);
  const hole = position;
  let rising: bool = true;
  let moved: u32;
  do {
    let from = position;
    moved = id;
    if (rising && position != 0) {
      const parent = (position - 1) >> 1;
      const above = item(heap, parent);
      rising = before(own, recordOf(heap, above));
      if (rising) {
        from = parent;
        moved = above;
      }
    }
    // What has risen is smaller than all below its new position.
    if (moved == id && position >= hole) {
      rising = false;
      let child: u32 = 2 * position + 1;
      if (child < heap.size) {
        let below = item(heap, child);
        if (child + 1 < heap.size) {
          const right = item(heap, child + 1);
          if (before(recordOf(heap, right), recordOf(heap, below))) {
            child += 1;
            below = right;
          }
        }
        if (before(recordOf(heap, below), own)) {
          from = child;
          moved = below;
        }
      }
    }
    put(heap, position, moved);
    position = from;
  } while (moved != id);
}

/** Whether both invariants hold for the ids in the heap. */
export function heapValid(ptr: usize, capacity: u32): bool {
  const heap = changetype<Heap>(ptr);
  if (heap.size > capacity) return false;
  for (let position: u32 = 0; position < heap.size; position++) {
    const id = item(heap, position);
    if (id >= capacity || load<u32>(placePtr(heap, id)) >> FLAG_BITS != position) return false;
    if (position != 0 && before(recordOf(heap, id), recordOf(heap, item(heap, (position - 1) >> 1))))
      return false;
  }
  return true;
}
