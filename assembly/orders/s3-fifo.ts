/**
 * S3-FIFO: a small first-in-first-out queue that new ids pass through, a main one for those that were used there,
 * and the history as its ghost queue. "FIFO queues are all you need for cache eviction" (SOSP 2023), algorithm 1.
 *
 * Each queue is a heap of its candidates by the clock of their entry, so that ids in use or with children keep
 * their place without being walked over.
 *
 * The clock has 32 bits. When it runs out it goes back by half, and so do the entries: those older than that are then all
 * equally old. A victim costs one move for each use since the last time (at most 3 count), so O(log n) amortised.
 */
import { heapAdd, heapRemove, heapSize, heapTop } from "./heap";
import { historyAdd, historyTake } from "./history";
import { FLAGS, Order } from "./layout";

/** Uses that count, all bits of their number set; an id used more often than once in the small queue moves to the main one. */
// @ts-ignore: decorator
@inline const MAX_USES: u32 = 3;
// @ts-ignore: decorator
@inline const PROMOTED_ABOVE: u32 = 1;
/** The small queue gives when it has more than 1/10 of all ids. */
// @ts-ignore: decorator
@inline const SMALL_SHARE: u32 = 10;

/** Flags of a place: uses, and whether the queue is the main one. */
// @ts-ignore: decorator
@inline const MAIN: u32 = MAX_USES + 1;
// @ts-ignore: decorator
@inline const HALF_TIME: u32 = 1 << 31;


@unmanaged
class Entry {
  place: u32;
  clock: u32;
}

// @ts-ignore: decorator
@inline
function entry(order: Order, id: u32): Entry {
  return changetype<Entry>(<usize>order.records + ((<usize>id) << 3));
}

// @ts-ignore: decorator
@inline
function isSmall(own: Entry): bool {
  return (own.place & MAIN) == 0;
}

// @ts-ignore: decorator
@inline
function queue(order: Order, own: Entry): usize {
  return isSmall(own) ? order.heap : order.secondHeap;
}

/** To the end of a queue, in no heap yet. */
function enqueue(order: Order, own: Entry, flags: u32): void {
  if (order.clock == u32.MAX_VALUE) {
    order.clock -= HALF_TIME;
    for (let id: u32 = 0; id < order.capacity; id++) {
      const other = entry(order, id);
      other.clock -= min(other.clock, HALF_TIME);
    }
  }
  own.place = ~FLAGS | flags;
  own.clock = <u32>++order.clock;
}

export function s3Enter(order: Order, id: u32, key: u64): void {
  const known = order.history != 0 && historyTake(order.history, key) != 0;
  if (!known) order.smallCount += 1;
  enqueue(order, entry(order, id), known ? MAIN : 0);
}

// @ts-ignore: decorator
@inline
export function s3Use(order: Order, id: u32): void {
  const own = entry(order, id);
  own.place += u32((own.place & MAX_USES) != MAX_USES);
}

// @ts-ignore: decorator
@inline
export function s3Offer(order: Order, id: u32): void {
  heapAdd(queue(order, entry(order, id)), id);
}

// @ts-ignore: decorator
@inline
export function s3Withdraw(order: Order, id: u32): void {
  heapRemove(queue(order, entry(order, id)), id);
}

/** Head of the queue whose turn it is. */
function next(order: Order): u32 {
  const small = heapSize(order.heap);
  const fromSmall =
    heapSize(order.secondHeap) == 0 || (small != 0 && order.smallCount * SMALL_SHARE > order.entered);
  return heapTop(fromSmall ? order.heap : order.secondHeap);
}

/** The head that is not used more often than its queue lets pass; the others go to the end of the main queue. */
export function s3Victim(order: Order): u32 {
  let id = next(order);
  let own = entry(order, id);
  for (; (own.place & MAX_USES) > (isSmall(own) ? PROMOTED_ABOVE : 0); own = entry(order, id)) {
    s3Withdraw(order, id);
    if (isSmall(own)) {
      order.smallCount -= 1;
      enqueue(order, own, MAIN);
    } else enqueue(order, own, (own.place & FLAGS) - 1);
    heapAdd(order.secondHeap, id);
    id = next(order);
  }
  return id;
}

/** Only what leaves the small queue is remembered. */
export function s3Leave(order: Order, id: u32, key: u64): void {
  if (!isSmall(entry(order, id))) return;
  order.smallCount -= 1;
  if (order.history != 0) historyAdd(order.history, key);
}
