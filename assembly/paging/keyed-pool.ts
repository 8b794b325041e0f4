/**
 * What a KeyedPool does: whole lists of blocks a call, all or nothing. Layout and states: keyed-layout.ts.
 *
 * The order of eviction is the order of release: a caller that gives back a sequence from its tail to its head loses
 * the tail first. A block that is touched leaves the middle of the list without a search.
 */
import { ALREADY_FREE, CORRUPT, INVALID_ARGUMENT, OK, OUT_OF_BLOCKS, Status } from "../memory/status";
import { dropKey, enterKey, findKey, keyedIndexValid } from "./keyed-index";
import {
  hasKey,
  idAt,
  inFreeList,
  isSetAside,
  KeyedBlock,
  keyedBlock,
  KeyedPool,
  LOST_KEY,
  OUTSIDE,
  putId,
} from "./keyed-layout";
import { NONE } from "./layout";

/** Takes a block out of the free list; `next` becomes NONE when it is held, OUTSIDE when it is set aside. */
function unlink(pool: KeyedPool, block: KeyedBlock, state: u32): void {
  const prev = block.prev;
  const next = block.next;
  if (prev == NONE) pool.freeHead = next;
  else keyedBlock(pool, prev).next = next;
  if (next == NONE) pool.freeTail = prev;
  else keyedBlock(pool, next).prev = prev;
  block.prev = OUTSIDE;
  block.next = state;
  pool.freeCount -= 1;
}

function append(pool: KeyedPool, id: u32): void {
  const block = keyedBlock(pool, id);
  const tail = pool.freeTail;
  block.prev = tail;
  block.next = NONE;
  if (tail == NONE) pool.freeHead = id;
  else keyedBlock(pool, tail).next = id;
  pool.freeTail = id;
  pool.freeCount += 1;
}

/** Whether the first `count` ids name blocks; a call checks that before it changes anything. */
function idsValid(pool: KeyedPool, count: u32): bool {
  if (count > pool.blocks) return false;
  for (let i: u32 = 0; i < count; i++) {
    if (idAt(pool, i) >= pool.blocks) return false;
  }
  return true;
}

/** OK when `needed` blocks would be free after the first `touched` ids have been touched; each names one block. */
export function poolFits(pool: KeyedPool, touched: u32, needed: u32): Status {
  if (!idsValid(pool, touched)) return INVALID_ARGUMENT;
  let leaving: u64 = needed;
  for (let i: u32 = 0; i < touched; i++) leaving += u64(inFreeList(keyedBlock(pool, idAt(pool, i))));
  return leaving <= <u64>pool.freeCount ? OK : OUT_OF_BLOCKS;
}

/** One reference more for each of the first `count` ids. */
function reference(pool: KeyedPool, count: u32): void {
  for (let i: u32 = 0; i < count; i++) {
    const block = keyedBlock(pool, idAt(pool, i));
    if (isSetAside(block)) continue;
    if (inFreeList(block)) {
      unlink(pool, block, NONE);
      pool.held += 1;
    }
    block.refs += 1;
  }
}

/** Takes a block's key away and writes its id, marked if it had one: 1 then, else 0. */
function strip(pool: KeyedPool, index: u32, id: u32): u32 {
  const lost = u32(dropKey(pool, id));
  putId(pool, index, id | (lost * LOST_KEY));
  return lost;
}

/**
 * References the first `touched` ids, then takes `taken` blocks from the head of the free list, into `ids`. Returns
 * how many of these have lost a key.
 */
export function poolAllocate(pool: KeyedPool, touched: u32, taken: u32): i32 {
  const fits = poolFits(pool, touched, taken);
  if (fits != OK) return fits;
  reference(pool, touched);
  let lost: u32 = 0;
  for (let i: u32 = 0; i < taken; i++) {
    const id = pool.freeHead;
    const block = keyedBlock(pool, id);
    unlink(pool, block, NONE);
    block.refs = 1;
    lost += strip(pool, i, id);
  }
  pool.held += taken;
  return lost;
}

/**
 * Takes one reference off each id; each goes to the tail of the free list with its last one. ALREADY_FREE when one has
 * none left.
 */
export function poolRelease(pool: KeyedPool, count: u32): Status {
  if (!idsValid(pool, count)) return INVALID_ARGUMENT;
  for (let i: u32 = 0; i < count; i++) {
    const id = idAt(pool, i);
    const block = keyedBlock(pool, id);
    if (isSetAside(block)) continue;
    if (block.refs == 0) {
      // Leaves from the tail what has come there: the list is as it was.
      reference(pool, i);
      return ALREADY_FREE;
    }
    block.refs -= 1;
    if (block.refs > 0) continue;
    append(pool, id);
    pool.held -= 1;
  }
  return OK;
}

/** Keys are whole words of 8 bytes, at least one. */
function keysValid(pool: KeyedPool, length: u32, count: u32): bool {
  return count <= pool.batch && length - 8 <= pool.keyBytes - 8 && (length & 7) == 0;
}

/**
 * Gives the first `count` ids the keys at `input`, `length` bytes each, one behind the other. Blocks that are set aside
 * are passed over, their keys with them; an id that comes twice keeps the first. INVALID_ARGUMENT when a block has a
 * key already.
 */
export function poolEnterKeys(pool: KeyedPool, group: u32, length: u32, count: u32): Status {
  if (!keysValid(pool, length, count) || !idsValid(pool, count)) return INVALID_ARGUMENT;
  for (let i: u32 = 0; i < count; i++) {
    const block = keyedBlock(pool, idAt(pool, i));
    if (hasKey(block) && !isSetAside(block)) return INVALID_ARGUMENT;
  }
  for (let i: u32 = 0; i < count; i++) {
    const id = idAt(pool, i);
    const block = keyedBlock(pool, id);
    if (!hasKey(block) && !isSetAside(block))
      enterKey(pool, id, group, <usize>pool.input + <usize>i * length, length);
  }
  return OK;
}

/**
 * Looks for the `count` keys at `input` and writes to `ids` the oldest block of each, or NONE. Returns how many were
 * found; unless `all` is set it stops at the first that is not, which is not written.
 */
export function poolFindKeys(pool: KeyedPool, group: u32, length: u32, count: u32, all: bool): i32 {
  if (!keysValid(pool, length, count)) return INVALID_ARGUMENT;
  let found: i32 = 0;
  for (let i: u32 = 0; i < count; i++) {
    const id = findKey(pool, group, <usize>pool.input + <usize>i * length, length);
    if (id == NONE && !all) break;
    putId(pool, i, id);
    found += i32(id != NONE);
  }
  return found;
}

/** Takes the keys of the first `count` ids away. Returns how many had one, and marks these ids. */
export function poolDropKeys(pool: KeyedPool, count: u32): i32 {
  if (!idsValid(pool, count)) return INVALID_ARGUMENT;
  let lost: u32 = 0;
  for (let i: u32 = 0; i < count; i++) lost += strip(pool, i, idAt(pool, i));
  return lost;
}

/**
 * Takes a free block out of the list without a reference (`aside`; it keeps its key), or appends such a block to the
 * list again. INVALID_ARGUMENT unless it is free, or set aside.
 */
export function poolSetAside(pool: KeyedPool, id: u32, aside: bool): Status {
  if (id >= pool.blocks) return INVALID_ARGUMENT;
  const block = keyedBlock(pool, id);
  if (!(aside ? inFreeList(block) : isSetAside(block))) return INVALID_ARGUMENT;
  if (aside) unlink(pool, block, OUTSIDE);
  else append(pool, id);
  return OK;
}

/** OK, or CORRUPT when a list or a count is broken; in the debug build, the index too. */
export function poolCheck(pool: KeyedPool): Status {
  let free: u32 = 0;
  let held: u32 = 0;
  for (let id: u32 = 0; id < pool.blocks; id++) {
    const block = keyedBlock(pool, id);
    const states = u32(block.refs > 0) + u32(inFreeList(block)) + u32(isSetAside(block));
    if (states != 1) return CORRUPT;
    free += u32(inFreeList(block));
    held += u32(block.refs > 0);
  }
  if (free != pool.freeCount || held != pool.held) return CORRUPT;
  let prev: u32 = NONE;
  for (let id = pool.freeHead; id != NONE; id = keyedBlock(pool, id).next) {
    if (id >= pool.blocks || free-- == 0 || keyedBlock(pool, id).prev != prev) return CORRUPT;
    prev = id;
  }
  if (ASC_OPTIMIZE_LEVEL == 0 && !keyedIndexValid(pool)) return CORRUPT;
  return free == 0 && pool.freeTail == prev ? OK : CORRUPT;
}
