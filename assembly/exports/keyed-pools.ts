/**
 * Keyed pools as the host sees them: `pool` is the pointer of a region of kind KeyedPool. Ids go in and come back in the
 * region `ids`, keys go in through `input`; their addresses are words of the header (docs/abi.md). A refused call changes
 * nothing. In the debug build every changing call is followed by a full check.
 */
import { ARENA, arenaSeed, arenaTake, RegionKind } from "../memory/arena";
import { INVALID_ARGUMENT, OK, OUT_OF_MEMORY, Status } from "../memory/status";
import { KeyedPool, keyedPoolBytesFor, keyedPoolLayOut, MAX_KEY_BYTES } from "../paging/keyed-layout";
import {
  poolAllocate,
  poolCheck,
  poolDropKeys,
  poolEnterKeys,
  poolFindKeys,
  poolFits,
  poolRelease,
  poolSetAside,
} from "../paging/keyed-pool";
import { MAX_BLOCKS } from "../paging/layout";

// @ts-ignore: decorator
@inline
function at(pool: usize): KeyedPool {
  return changetype<KeyedPool>(pool);
}

// @ts-ignore: decorator
@inline
function checked(pool: usize, result: i32): i32 {
  if (ASC_OPTIMIZE_LEVEL == 0) assert(poolCheck(at(pool)) == OK);
  return result;
}

/** Bytes of a pool of this shape, or INVALID_ARGUMENT. `keyBytes`: of the longest key, a multiple of 8; `batch`: keys a call. */
export function keyedPoolBytes(blocks: u32, keyBytes: u32, batch: u32): f64 {
  if (blocks - 1 >= MAX_BLOCKS || batch - 1 >= blocks) return INVALID_ARGUMENT;
  if (keyBytes - 8 > MAX_KEY_BYTES - 8 || (keyBytes & 7) != 0) return INVALID_ARGUMENT;
  return <f64>keyedPoolBytesFor(blocks, keyBytes, batch);
}

/** Creates a pool in a region of its own; afterwards it is the arena's last region. */
export function keyedPoolCreate(blocks: u32, keyBytes: u32, batch: u32): Status {
  const bytes = keyedPoolBytes(blocks, keyBytes, batch);
  if (bytes < 0) return INVALID_ARGUMENT;
  const pool = arenaTake(ARENA, RegionKind.KeyedPool, <u64>bytes);
  if (pool == 0) return OUT_OF_MEMORY;
  keyedPoolLayOut(pool, blocks, keyBytes, batch, arenaSeed(ARENA));
  return checked(pool, OK);
}

/** OK when `needed` blocks are free beside the first `touched` ids, else OUT_OF_BLOCKS. */
export function keyedPoolFits(pool: usize, touched: u32, needed: u32): Status {
  return poolFits(at(pool), touched, needed);
}

/**
 * References the first `touched` ids and takes `taken` more blocks, or does nothing (OUT_OF_BLOCKS). `ids`: the blocks
 * taken, with bit 31 set in those that have lost their key. Returns the number of these.
 */
export function keyedPoolAllocate(pool: usize, touched: u32, taken: u32): i32 {
  return checked(pool, poolAllocate(at(pool), touched, taken));
}

/** One reference less for each of `count` ids, in order of eviction; ALREADY_FREE when one has none left. */
export function keyedPoolRelease(pool: usize, count: u32): Status {
  return checked(pool, poolRelease(at(pool), count));
}

/** Gives `count` ids without a key the keys at `input`, `length` bytes each. */
export function keyedPoolEnterKeys(pool: usize, group: u32, length: u32, count: u32): Status {
  return checked(pool, poolEnterKeys(at(pool), group, length, count));
}

/**
 * `ids`: the oldest block with each of `count` keys at `input`. `all` 0: stops at the first key that no block has; else
 * 2^32 - 1 stands in its place. Returns the number found.
 */
export function keyedPoolFindKeys(pool: usize, group: u32, length: u32, count: u32, all: u32): i32 {
  return poolFindKeys(at(pool), group, length, count, all != 0);
}

/** Takes the keys of `count` ids away; `ids`: the ids, with bit 31 set in those that had one. Returns the number of these. */
export function keyedPoolDropKeys(pool: usize, count: u32): i32 {
  return checked(pool, poolDropKeys(at(pool), count));
}

/**
 * `aside` 1: takes a free block out of circulation: it is neither given out nor released from then on, and keeps its
 * key. 0: puts such a block back, as the last to be taken.
 */
export function keyedPoolSetAside(pool: usize, id: u32, aside: u32): Status {
  return checked(pool, poolSetAside(at(pool), id, aside != 0));
}

export function keyedPoolValidate(pool: usize): Status {
  return poolCheck(at(pool));
}
