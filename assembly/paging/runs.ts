/**
 * Runs: which free blocks lie side by side, and which of them are kept for a sequence's next ones, so that the blocks of a
 * sequence form long runs and its K and V move in few copies. The block groups of "FastSwitch" (arXiv 2411.18424), which
 * here are called runs: groups of a cache are something else (groups.ts). Optional; without it blocks are taken in the
 * order of the free list.
 *
 *   header    (Runs), 1 line
 *   tails     [maxSequences] (start u32, length u32)     free blocks that a sequence takes next
 *   extents   FreeExtents                                free blocks that are in nobody's tail
 *
 * Every free block is also in the pool's free list, reserved or not: what is reserved counts as free, and whoever finds
 * nothing else takes the far half of the longest tail.
 *
 * Invariants (`runsValid`):
 * 1. A free block is in exactly one extent, tail or the freed run; any other block is in none.
 * 2. `reserved` is the sum of the tails. Only open sequences have one.
 *
 * Blocks that are freed one beside the other are entered together. Taking a run and giving it back cost O(log runs), taking
 * from a tail O(1), splitting one O(sequences).
 */
import {
  extentsAllocate,
  extentsAllocateAt,
  extentsBytes,
  extentsCreate,
  extentsFree,
  extentsFrom,
  extentsValidate,
  FreeExtents,
  Fit,
} from "../index/free-extents";
import { alignToLine } from "../memory/arena";
import { OK } from "../memory/status";
import { block, BlockId, KvCache, NONE, sequenceAt } from "./layout";

// @ts-ignore: decorator
@inline const HEADER_BYTES: usize = 64;
/** Below a tenth of the pool available less is reserved ahead, above three tenths more (our figures). */
// @ts-ignore: decorator
@inline const SCARCE: u32 = 1;
// @ts-ignore: decorator
@inline const PLENTY: u32 = 3;


@unmanaged
export class Runs {
  extents: u32;
  tails: u32;
  /** Blocks in tails. */
  reserved: u32;
  /** Blocks that a sequence gets at least when it takes a run, with what it does not need yet; and the most. */
  group: u32;
  most: u32;
  /** Blocks that have been freed one beside the other and are not in the extents yet. */
  freedStart: u32;
  freedLength: u32;
  /** Tails that were split for others, since creation. */
  splits: u32;
}

// @ts-ignore: decorator
@inline
export function runsOf(kv: KvCache): Runs {
  return changetype<Runs>(<usize>kv.runs);
}

/** Exact bytes for a cache of this shape. */
export function runsBytes(blocks: u32, maxSequences: u32): u64 {
  return <u64>HEADER_BYTES + <u64>alignToLine((<usize>maxSequences) << 3) + extentsBytes(blocks);
}

/** Gives a new cache runs, in a zeroed region of `runsBytes` bytes. */
export function runsCreate(kv: KvCache, ptr: usize, most: u32, seed: u64): void {
  const runs = changetype<Runs>(ptr);
  runs.group = most;
  runs.most = most;
  runs.tails = <u32>(ptr + HEADER_BYTES);
  runs.extents = runs.tails + <u32>alignToLine((<usize>kv.maxSequences) << 3);
  extentsCreate(runs.extents, kv.blockCount, seed);
  kv.runs = <u32>ptr;
}

// @ts-ignore: decorator
@inline
function tailPtr(runs: Runs, slot: u32): usize {
  return <usize>runs.tails + ((<usize>slot) << 3);
}

// @ts-ignore: decorator
@inline
export function tailStart(runs: Runs, slot: u32): u32 {
  return load<u32>(tailPtr(runs, slot));
}

// @ts-ignore: decorator
@inline
export function tailLength(runs: Runs, slot: u32): u32 {
  return load<u32>(tailPtr(runs, slot), 4);
}

export function setTail(runs: Runs, slot: u32, start: u32, length: u32): void {
  const at = tailPtr(runs, slot);
  runs.reserved += length - load<u32>(at, 4);
  store<u32>(at, start);
  store<u32>(at, length, 4);
}

/** Enters the freed run into the extents. */
export function settleFreed(runs: Runs): void {
  if (runs.freedLength == 0) return;
  const status = extentsFree(runs.extents, runs.freedStart, runs.freedLength);
  assert(status == OK);
  runs.freedLength = 0;
}

/** Blocks that are free again: they join the freed run if they lie beside it. */
export function runFreed(kv: KvCache, start: BlockId, length: u32): void {
  const runs = runsOf(kv);
  if (start + length == runs.freedStart && runs.freedLength != 0) {
    runs.freedStart = start;
    runs.freedLength += length;
    return;
  }
  if (start != runs.freedStart + runs.freedLength || runs.freedLength == 0) {
    settleFreed(runs);
    runs.freedStart = start;
  }
  runs.freedLength += length;
}

/** Whether a free block is in nobody's tail. */
export function isUnreserved(kv: KvCache): bool {
  return kv.freeCount != runsOf(kv).reserved;
}

/** Cuts off the far half of the longest tail, or `wanted` blocks if that is more: they are the freed run. */
function splitTail(kv: KvCache, runs: Runs, wanted: u32): void {
  let slot: u32 = 0;
  for (let i: u32 = 1; i < kv.maxSequences; i++) if (tailLength(runs, i) > tailLength(runs, slot)) slot = i;
  const length = tailLength(runs, slot);
  const cut = max(min(wanted, length), length >> 1);
  setTail(runs, slot, tailStart(runs, slot), length - cut);
  runs.freedStart = tailStart(runs, slot) + length - cut;
  runs.freedLength = cut;
  runs.splits += 1;
}

/** A free block for whatever purpose, out of the shortest extent; one must be free. It is still in the free list. */
export function anyRunBlock(kv: KvCache): BlockId {
  const runs = runsOf(kv);
  settleFreed(runs);
  if (changetype<FreeExtents>(<usize>runs.extents).freeBlocks == 0) {
    splitTail(kv, runs, 1);
    settleFreed(runs);
  }
  return <u32>extentsAllocate(runs.extents, 1, Fit.Best);
}

/** Less is reserved ahead while blocks are scarce. `available`: free or evictable. */
function adaptGroup(kv: KvCache, runs: Runs, available: u32): void {
  const tenth = kv.blockCount / 10;
  if (available < SCARCE * tenth) runs.group = max(1, runs.group >> 1);
  else if (available > PLENTY * tenth) runs.group = min(runs.most, runs.group << 1);
}

/**
 * Gives the sequence in `slot`, whose tail is empty, a new one of up to `wanted` blocks or a group, whichever is more:
 * right behind its block `last` (or NONE) if that is free, else where it fits best, else all of the longest extent, else
 * half of the longest tail. A block must be free.
 */
export function reserveRun(kv: KvCache, slot: u32, last: BlockId, wanted: u32, available: u32): void {
  const runs = runsOf(kv);
  settleFreed(runs);
  adaptGroup(kv, runs, available);
  let length = max(wanted, runs.group);
  let start = last + 1;
  const behind = last == NONE ? 0 : extentsFrom(runs.extents, start);
  if (behind != 0 && <u32>behind == start) {
    length = min(<u32>(behind >> 32), length);
    extentsAllocateAt(runs.extents, start, length);
  } else {
    if (changetype<FreeExtents>(<usize>runs.extents).freeBlocks == 0) {
      splitTail(kv, runs, wanted);
      settleFreed(runs);
    }
    start = <u32>extentsAllocate(runs.extents, min(length, kv.blockCount), Fit.BestOrLargest);
    length = changetype<FreeExtents>(<usize>runs.extents).allocated;
  }
  setTail(runs, slot, start, length);
}

/** The sequence in `slot` reserves nothing any more. */
export function dropTail(kv: KvCache, slot: u32): void {
  const runs = runsOf(kv);
  const length = tailLength(runs, slot);
  if (length == 0) return;
  const start = tailStart(runs, slot);
  setTail(runs, slot, 0, 0);
  runFreed(kv, start, length);
}

// @ts-ignore: decorator
@inline
function cube(id: BlockId): u64 {
  const x = <u64>id + 1;
  return x * x * x;
}

/** Sum of cubes over a run, to tell sets of blocks of one size apart; 0 for a run that is not all free blocks. */
function digest(kv: KvCache, start: u32, length: u32): u64 {
  if (start > kv.blockCount || length > kv.blockCount - start) return 0;
  let sum: u64 = 0;
  for (let id = start; id < start + length; id++) {
    const record = block(kv, id);
    if (record.refs != 0 || record.parent != NONE) return 0;
    sum += cube(id);
  }
  return sum;
}

/** Whether what is free, and what is in runs, are the same blocks. */
function sameBlocks(kv: KvCache, runs: Runs): bool {
  let sum = digest(kv, runs.freedStart, runs.freedLength);
  for (let slot: u32 = 0; slot < kv.maxSequences; slot++)
    sum += digest(kv, tailStart(runs, slot), tailLength(runs, slot));
  for (let run = extentsFrom(runs.extents, 0); run != 0; run = extentsFrom(runs.extents, <u32>run + 1))
    sum += digest(kv, <u32>run, <u32>(run >> 32));
  for (let id = kv.freeHead; id != NONE; id = block(kv, id).next) sum -= cube(id);
  return sum == 0;
}

/** Checks that as many blocks are free as are in runs; in the debug build, that they are the same ones: O(blocks). */
export function runsValid(kv: KvCache): bool {
  const runs = runsOf(kv);
  if (extentsValidate(runs.extents) != OK) return false;
  let reserved: u32 = 0;
  for (let slot: u32 = 0; slot < kv.maxSequences; slot++) {
    const length = tailLength(runs, slot);
    if (length != 0 && sequenceAt(kv, slot).open == 0) return false;
    reserved += length;
  }
  if (ASC_OPTIMIZE_LEVEL == 0 && !sameBlocks(kv, runs)) return false;
  const others = changetype<FreeExtents>(<usize>runs.extents).freeBlocks + runs.freedLength;
  return others + reserved == kv.freeCount && reserved == runs.reserved;
}
