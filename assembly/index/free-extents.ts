/**
 * Free extents: a set of disjoint runs of free block ids, for contiguous allocation.
 *
 *   header (FreeExtents, 64 B)
 *   starts    ordered index: start + 1            -> length
 *   lengths   ordered index: length << 32 | start -> start
 *
 * `starts` finds the neighbours of a run, `lengths` the run that fits best. A key of `lengths` orders by
 * length, then by start, so ties go to the lowest start.
 *
 * Invariants (checked by `extentsValidate`):
 * 1. Extents lie in [0, blockCount), do not overlap and never touch: a freed run joins both its neighbours.
 * 2. Both indexes hold the same extents; freeBlocks is the sum of their lengths.
 * 3. Every change makes sure of the nodes it may need before its first write, so it happens whole or not at
 *    all. The indexes have room for the most extents there can be, every second block free.
 *
 * One thread at a time. Allocating and freeing cost O(log extents); first fit reads the lengths of the extents
 * before the one it takes, 4 bytes each. Kept by start and by length as in "FastSwitch" (arXiv 2411.18424,
 * block groups).
 */
import {
  ALREADY_FREE,
  CORRUPT,
  INVALID_ARGUMENT,
  OK,
  OUT_OF_BLOCKS,
  OUT_OF_MEMORY,
  Status,
} from "../memory/status";
import { indexDelete } from "./delete";
import { head, Index, KEY_MAX, keyAt, node, valuePtr } from "./layout";
import { indexCeiling, indexFloor, neighbourValue } from "./neighbours";
import { indexBytes, indexCreate, indexNodesFor, indexSize } from "./ordered-index";
import { indexPut } from "./put";
import { indexFind } from "./read";
import { indexValidate } from "./validate";

// @ts-ignore: decorator
@inline export const MAX_EXTENT_BLOCKS: u32 = 1 << 24;
// @ts-ignore: decorator
@inline const HEADER_BYTES: usize = 64;

/** Which extent an allocation is cut from. */
export const enum Fit {
  /** The one with the lowest start that is long enough. */
  First = 0,
  /** The shortest that is long enough. */
  Best = 1,
  /** The shortest that is long enough; when there is none, all of the longest. */
  BestOrLargest = 2,
}


@unmanaged
export class FreeExtents {
  blockCount: u32;
  freeBlocks: u32;
  starts: u32;
  lengths: u32;
  /** Blocks that the last allocation gave. */
  allocated: u32;
}

// @ts-ignore: decorator
@inline
function startKey(start: u32): u64 {
  return <u64>start + 1;
}

// @ts-ignore: decorator
@inline
function lengthKey(length: u32, start: u32): u64 {
  return ((<u64>length) << 32) | (<u64>start);
}

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

// @ts-ignore: decorator
@inline
function nodesOf(blockCount: u32): u32 {
  return indexNodesFor((blockCount + 1) >> 1, 4);
}

/** Exact bytes of the extents of a pool of `blockCount` blocks. */
export function extentsBytes(blockCount: u32): u64 {
  return <u64>HEADER_BYTES + 2 * align(indexBytes(nodesOf(blockCount)));
}

/** All of [0, blockCount) free, in a zeroed region of `extentsBytes` bytes. */
export function extentsCreate(ptr: usize, blockCount: u32, seed: u64): void {
  const set = changetype<FreeExtents>(ptr);
  const nodes = nodesOf(blockCount);
  set.blockCount = blockCount;
  set.starts = <u32>(ptr + HEADER_BYTES);
  set.lengths = set.starts + <u32>align(indexBytes(nodes));
  indexCreate(set.starts, nodes, 4, seed);
  indexCreate(set.lengths, nodes, 4, seed ^ 1);
  set.freeBlocks = blockCount;
  enter(set, 0, blockCount);
}

/** Number of extents. */
// @ts-ignore: decorator
@inline
export function extentsCount(ptr: usize): u32 {
  return indexSize(changetype<FreeExtents>(ptr).starts);
}

/** The first extent whose start is at least `start`: length << 32 | start, 0 when there is none. */
export function extentsFrom(ptr: usize, start: u32): u64 {
  const starts = changetype<FreeExtents>(ptr).starts;
  const key = indexCeiling(starts, startKey(start));
  return key == KEY_MAX ? 0 : lengthKey(<u32>neighbourValue(starts), <u32>(key - 1));
}

/** Length of the longest extent, 0 when no block is free. */
// @ts-ignore: decorator
@inline
export function extentsLargest(ptr: usize): u32 {
  return <u32>(indexFloor(changetype<FreeExtents>(ptr).lengths, KEY_MAX) >> 32);
}

/** Whether both indexes surely have the nodes that entering `entries` extents can take. */
// @ts-ignore: decorator
@inline
function hasRoom(set: FreeExtents, entries: u32): bool {
  const starts = changetype<Index>(set.starts);
  const lengths = changetype<Index>(set.lengths);
  return starts.freeCount >= entries * starts.levels && lengths.freeCount >= entries * lengths.levels;
}

/** Enters an extent; `hasRoom` has been asked. */
function enter(set: FreeExtents, start: u32, length: u32): void {
  const entered = indexPut(set.starts, startKey(start), length);
  const ordered = indexPut(set.lengths, lengthKey(length, start), start);
  assert(entered >= 0 && ordered == 1);
}

function remove(set: FreeExtents, start: u32, length: u32): void {
  indexDelete(set.starts, startKey(start));
  indexDelete(set.lengths, lengthKey(length, start));
}

/** Start of the extent of at least `length` that comes first in the pool; there is one. */
function firstFit(set: FreeExtents, length: u32): u32 {
  const index = changetype<Index>(set.starts);
  // The sentinel at the head has length 0 and never fits.
  for (let at = head(index, 0); at != 0; at = node(at).next) {
    const lengths = valuePtr(index, at, 0);
    const count = <usize>node(at).count;
    for (let slot: usize = 0; slot < count; slot++)
      if (load<u32>(lengths + (slot << 2)) >= length) return <u32>(keyAt(at, <u32>slot) - 1);
  }
  return set.blockCount;
}

/** Takes [start, start + length) out of the extent [from, from + available) that holds it. */
function carve(set: FreeExtents, from: u32, available: u32, start: u32, length: u32): void {
  const before = start - from;
  const after = available - before - length;
  indexDelete(set.lengths, lengthKey(available, from));
  if (before == 0) indexDelete(set.starts, startKey(from));
  else enter(set, from, before);
  if (after > 0) enter(set, start + length, after);
  set.freeBlocks -= length;
}

/**
 * Takes `length` blocks in one run and returns its start; `allocated` is how many it has (fewer than asked for
 * only with Fit.BestOrLargest). OUT_OF_BLOCKS when no extent serves, INVALID_ARGUMENT unless
 * 1 <= length <= blockCount.
 */
export function extentsAllocate(ptr: usize, length: u32, fit: Fit): i32 {
  const set = changetype<FreeExtents>(ptr);
  if (length == 0 || length > set.blockCount || <u32>fit > <u32>Fit.BestOrLargest) return INVALID_ARGUMENT;
  if (!hasRoom(set, 1)) return OUT_OF_MEMORY;
  const longest = extentsLargest(ptr);
  if (longest < length) {
    if (fit != Fit.BestOrLargest || longest == 0) return OUT_OF_BLOCKS;
    length = longest;
  }
  let start: u32 = 0;
  let available: u32 = 0;
  if (fit == Fit.First) {
    start = firstFit(set, length);
    available = load<u32>(indexFind(set.starts, startKey(start)));
  } else {
    const key = indexCeiling(set.lengths, lengthKey(length, 0));
    start = <u32>key;
    available = <u32>(key >> 32);
  }
  carve(set, start, available, start, length);
  set.allocated = length;
  return <i32>start;
}

/** Whether [start, start + length) is a run of this pool. */
// @ts-ignore: decorator
@inline
function isRun(set: FreeExtents, start: u32, length: u32): bool {
  return length >= 1 && start < set.blockCount && length <= set.blockCount - start;
}

/**
 * Takes exactly [start, start + length): to extend a run in place. OUT_OF_BLOCKS unless all of it is free,
 * INVALID_ARGUMENT unless it lies in the pool.
 */
export function extentsAllocateAt(ptr: usize, start: u32, length: u32): Status {
  const set = changetype<FreeExtents>(ptr);
  if (!isRun(set, start, length)) return INVALID_ARGUMENT;
  const key = indexFloor(set.starts, startKey(start));
  if (key == 0) return OUT_OF_BLOCKS;
  const from = <u32>(key - 1);
  const available = <u32>neighbourValue(set.starts);
  if (start + length > from + available) return OUT_OF_BLOCKS;
  if (!hasRoom(set, 2)) return OUT_OF_MEMORY;
  carve(set, from, available, start, length);
  set.allocated = length;
  return OK;
}

/**
 * Gives [start, start + length) back and joins it with the free runs on both sides. ALREADY_FREE if any block
 * of it is free, INVALID_ARGUMENT unless it lies in the pool.
 */
export function extentsFree(ptr: usize, start: u32, length: u32): Status {
  const set = changetype<FreeExtents>(ptr);
  if (!isRun(set, start, length)) return INVALID_ARGUMENT;
  // The last extent that starts at or before the run's end: if it reaches into the run, a block is free twice.
  let from = start;
  let joined = length;
  const key = indexFloor(set.starts, startKey(start + length - 1));
  if (key != 0) {
    const left = <u32>(key - 1);
    const leftLength = <u32>neighbourValue(set.starts);
    if (left + leftLength > start) return ALREADY_FREE;
    if (left + leftLength == start) {
      from = left;
      joined += leftLength;
    }
  }
  if (!hasRoom(set, 1)) return OUT_OF_MEMORY;
  const right = indexFind(set.starts, startKey(start + length));
  if (right != 0) {
    const rightLength = load<u32>(right);
    remove(set, start + length, rightLength);
    joined += rightLength;
  }
  if (from != start) indexDelete(set.lengths, lengthKey(start - from, from));
  enter(set, from, joined);
  set.freeBlocks += length;
  return OK;
}

/**
 * Writes up to `limit` extents whose start is at least `start`, in order, as pairs (start, length) of u32.
 * Returns how many.
 */
export function extentsList(ptr: usize, start: u32, limit: u32, out: usize): u32 {
  const starts = changetype<FreeExtents>(ptr).starts;
  let key = startKey(start);
  let written: u32 = 0;
  while (written < limit) {
    key = indexCeiling(starts, key);
    if (key == KEY_MAX) break;
    store<u32>(out + ((<usize>written) << 3), <u32>(key - 1), 0);
    store<u32>(out + ((<usize>written) << 3), <u32>neighbourValue(starts), 4);
    written += 1;
    key += 1;
  }
  return written;
}

/** OK, or CORRUPT when an invariant is broken. O(extents). */
export function extentsValidate(ptr: usize): Status {
  const set = changetype<FreeExtents>(ptr);
  if (indexValidate(set.starts) != OK || indexValidate(set.lengths) != OK) return CORRUPT;
  if (indexSize(set.starts) != indexSize(set.lengths)) return CORRUPT;
  let free: u32 = 0;
  // First block that may be free: behind an extent there is always a taken one.
  let next: u32 = 0;
  for (let key = indexCeiling(set.starts, 1); key != KEY_MAX; key = indexCeiling(set.starts, key + 1)) {
    const start = <u32>(key - 1);
    const length = <u32>neighbourValue(set.starts);
    if (start < next || !isRun(set, start, length)) return CORRUPT;
    const ordered = indexFind(set.lengths, lengthKey(length, start));
    if (ordered == 0 || load<u32>(ordered) != start) return CORRUPT;
    free += length;
    next = start + length + 1;
  }
  return free == set.freeBlocks ? OK : CORRUPT;
}
