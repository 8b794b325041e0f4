/**
 * S3-FIFO: a small first-in-first-out queue that new ids pass through, a main one for those that were used there,
 * and the history as its ghost queue. "FIFO queues are all you need for cache eviction" (SOSP 2023), algorithm 1.
 *
 * Each queue is a heap of its candidates by the clock of their entry, so that ids in use or with children keep
 * their place without being walked over.
 *
 * A victim costs one move for each use since the last time (at most 3 count), so O(log n) amortised.
 */
import { heapAdd, heapRemove, heapSize, heapTop } from "./heap";
import { historyAdd, historyTake } from "./history";
import { Order, Record, record } from "./layout";

/** `state` of an id. */
// @ts-ignore: decorator
@inline const SMALL: u32 = 0;
// @ts-ignore: decorator
@inline const MAIN: u32 = 1;
/** Uses that count; an id used more often than once in the small queue moves to the main one. */
// @ts-ignore: decorator
@inline const MAX_USES: u32 = 3;
// @ts-ignore: decorator
@inline const PROMOTED_ABOVE: u32 = 1;
/** The small queue gives when it has more than 1/10 of all ids. */
// @ts-ignore: decorator
@inline const SMALL_SHARE: u32 = 10;

// @ts-ignore: decorator
@inline
function queue(order: Order, r: Record): usize {
  return r.state == SMALL ? order.heap : order.secondHeap;
}

export function s3Enter(order: Order, r: Record, key: u64): void {
  const known = order.history != 0 && historyTake(order.history, key) != 0;
  r.state = known ? MAIN : SMALL;
  r.count = 0;
  r.major = ++order.clock;
  r.minor = 0;
  if (!known) order.smallCount += 1;
}

// @ts-ignore: decorator
@inline
export function s3Use(r: Record): void {
  r.count = min(r.count + 1, MAX_USES);
}

// @ts-ignore: decorator
@inline
export function s3Offer(order: Order, id: u32): void {
  heapAdd(queue(order, record(order, id)), id);
}

// @ts-ignore: decorator
@inline
export function s3Withdraw(order: Order, id: u32): void {
  heapRemove(queue(order, record(order, id)), id);
}

/** To the end of the main queue. */
function requeue(order: Order, id: u32, r: Record, count: u32): void {
  heapRemove(queue(order, r), id);
  if (r.state == SMALL) order.smallCount -= 1;
  r.state = MAIN;
  r.count = count;
  r.major = ++order.clock;
  heapAdd(order.secondHeap, id);
}

export function s3Victim(order: Order): u32 {
  let id = next(order);
  for (let r = record(order, id); r.count > uses(r); r = record(order, id)) {
    requeue(order, id, r, r.state == SMALL ? 0 : r.count - 1);
    id = next(order);
  }
  return id;
}

/** Head of the queue whose turn it is. */
function next(order: Order): u32 {
  const small = heapSize(order.heap);
  const fromSmall =
    heapSize(order.secondHeap) == 0 || (small != 0 && order.smallCount * SMALL_SHARE > order.entered);
  return heapTop(fromSmall ? order.heap : order.secondHeap);
}

/** Uses up to which the head of its queue is the victim. */
// @ts-ignore: decorator
@inline
function uses(r: Record): u32 {
  return r.state == SMALL ? PROMOTED_ABOVE : 0;
}

/** Only what leaves the small queue is remembered. */
export function s3Leave(order: Order, r: Record, key: u64): void {
  if (r.state != SMALL) return;
  order.smallCount -= 1;
  if (order.history != 0) historyAdd(order.history, key);
}
