/**
 * Block pool: reference counts and the two intrusive lists of unreferenced blocks.
 *
 *   free list        blocks whose content is worthless; taken first
 *   evictable list   cached, unreferenced blocks, least recently used at the head; kept until somebody needs the room
 *
 * Invariants:
 * 1. refs > 0  <=>  the block is in neither list.  refs = 0 <=> it is in exactly one: evictable if cached, else free.
 * 2. A sequence releases its tail before its head, and nobody holds a cached block without holding its ancestors, so
 *    in the evictable list every block stands before its ancestors: the head never has cached children.
 * 3. With an eviction order (orders/order.ts) there is no evictable list, only a count: the order holds those of its
 *    blocks that have no cached children.
 *
 * Every operation on the lists is O(1); a block reused from the middle of the evictable list is unlinked, not
 * searched for.
 */
import { accountBare, accountHold, accountRest, discharge } from "./accounts";
import { pinsHold, pinsRelease, yieldingBlocks } from "./pin-counts";
import { orderBare, orderHold, orderRest, orderVictim } from "../orders/order";
import { Block, BlockId, block, isCached, KvCache, NONE, orderOf } from "./layout";
import { anyRunBlock, runFreed } from "./runs";

/** Fills the free list in id order. */
export function poolCreate(kv: KvCache): void {
  const count = kv.blockCount;
  for (let id: u32 = 0; id < count; id++) {
    const record = block(kv, id);
    record.prev = id == 0 ? NONE : id - 1;
    record.next = id + 1 == count ? NONE : id + 1;
    record.refs = 0;
    record.parent = NONE;
    record.key = 0;
    record.chain = NONE;
    record.children = 0;
  }
  kv.freeHead = 0;
  kv.freeTail = count - 1;
  kv.freeCount = count;
  kv.evictableHead = NONE;
  kv.evictableTail = NONE;
  kv.evictableCount = 0;
}

/** Whether others can read the block: it must not be written. */
// @ts-ignore: decorator
@inline
export function isShared(kv: KvCache, id: BlockId): bool {
  const record = block(kv, id);
  return record.refs > 1 || isCached(record);
}

/** Blocks that can be had without taking one from a sequence. */
// @ts-ignore: decorator
@inline
export function availableBlocks(kv: KvCache): u32 {
  return kv.freeCount + kv.evictableCount + yieldingBlocks(kv);
}

/** Takes this block out of the free list, referenced once. */
export function takeThis(kv: KvCache, id: BlockId): void {
  const record = block(kv, id);
  const prev = record.prev;
  const next = record.next;
  if (prev == NONE) kv.freeHead = next;
  else block(kv, prev).next = next;
  if (next == NONE) kv.freeTail = prev;
  else block(kv, next).prev = prev;
  kv.freeCount -= 1;
  record.refs = 1;
}

function takeFromRuns(kv: KvCache): BlockId {
  const id = anyRunBlock(kv);
  takeThis(kv, id);
  return id;
}

/** Takes a free block, referenced once: the first, unless blocks are taken in runs. The free list must not be empty. */
// @ts-ignore: decorator
@inline
export function takeFree(kv: KvCache): BlockId {
  if (kv.runs != 0) return takeFromRuns(kv);
  const id = kv.freeHead;
  const record = block(kv, id);
  const next = record.next;
  kv.freeHead = next;
  if (next == NONE) kv.freeTail = NONE;
  else block(kv, next).prev = NONE;
  kv.freeCount -= 1;
  record.refs = 1;
  return id;
}

// @ts-ignore: decorator
@inline
function pushFree(kv: KvCache, id: BlockId, record: Block): void {
  const head = kv.freeHead;
  record.prev = NONE;
  record.next = head;
  if (head == NONE) kv.freeTail = id;
  else block(kv, head).prev = id;
  kv.freeHead = id;
  kv.freeCount += 1;
  if (kv.accounts != 0) discharge(kv, id);
  if (kv.runs != 0) runFreed(kv, id, 1);
}

function pushEvictable(kv: KvCache, id: BlockId, record: Block): void {
  const tail = kv.evictableTail;
  record.next = NONE;
  record.prev = tail;
  if (tail == NONE) kv.evictableHead = id;
  else block(kv, tail).next = id;
  kv.evictableTail = id;
  kv.evictableCount += 1;
}

function unlinkEvictable(kv: KvCache, record: Block): void {
  const prev = record.prev;
  const next = record.next;
  if (prev == NONE) kv.evictableHead = next;
  else block(kv, prev).next = next;
  if (next == NONE) kv.evictableTail = prev;
  else block(kv, next).prev = prev;
  kv.evictableCount -= 1;
}

/** One more holder; an evictable block leaves its list. */
// @ts-ignore: decorator
@inline
export function reference(kv: KvCache, id: BlockId): void {
  const record = block(kv, id);
  if (record.refs == 0) leaveEvictable(kv, id, record);
  else if (kv.pins != 0) pinsHold(kv, id, record.refs);
  record.refs += 1;
}

/** One holder less; the last one puts the block in the list that its content deserves. */
// @ts-ignore: decorator
@inline
export function release(kv: KvCache, id: BlockId): void {
  const record = block(kv, id);
  const refs = record.refs - 1;
  record.refs = refs;
  if (refs > 0) {
    if (kv.pins != 0) pinsRelease(kv, id, refs);
    return;
  }
  if (!isCached(record)) {
    pushFree(kv, id, record);
    return;
  }
  if (kv.order == 0) pushEvictable(kv, id, record);
  else {
    kv.evictableCount += 1;
    orderRest(orderOf(kv), id, record.children == 0);
  }
  if (kv.accounts != 0) accountRest(kv, id, record.children == 0);
}

/** `reference` and `release` as calls, where nobody waits for them: they are long. */
export function hold(kv: KvCache, id: BlockId): void {
  reference(kv, id);
}

export function letGo(kv: KvCache, id: BlockId): void {
  release(kv, id);
}

// @ts-ignore: decorator
@inline
function leaveEvictable(kv: KvCache, id: BlockId, record: Block): void {
  if (kv.order == 0) {
    unlinkEvictable(kv, record);
  } else {
    kv.evictableCount -= 1;
    orderHold(orderOf(kv), id);
  }
  if (kv.accounts != 0) accountHold(kv, id);
}

/** The evictable block to forget next; there must be one. It has no cached children. */
// @ts-ignore: decorator
@inline
export function nextVictim(kv: KvCache): BlockId {
  return kv.order == 0 ? kv.evictableHead : orderVictim(orderOf(kv));
}

/** Moves an evictable block that has just been forgotten to the free list. */
export function evictableToFree(kv: KvCache, id: BlockId): void {
  const record = block(kv, id);
  if (kv.order == 0) unlinkEvictable(kv, record);
  else kv.evictableCount -= 1;
  pushFree(kv, id, record);
}

/** A cached block has lost a child. */
// @ts-ignore: decorator
@inline
export function loseChild(kv: KvCache, id: BlockId): void {
  const record = block(kv, id);
  record.children -= 1;
  if (record.children != 0 || record.refs != 0) return;
  if (kv.order != 0) orderBare(orderOf(kv), id);
  if (kv.accounts != 0) accountBare(kv, id);
}
