/**
 * Orders whose key is set when something happens to an id and then stays: LRU, FIFO, LFU, GDSF, scored, seen twice.
 *
 *   LRU      when it was let go of (a pool's own list does the same)
 *   FIFO     entry
 *   LFU      uses; the least recently used first among equals. Uses are counted since the id entered, or for as long
 *            as the history remembers its key.
 *   GDSF     L + uses * cost(depth) at its last use, L = the key of the last victim; deepest first among equals, then
 *            least recently used. "GreedyDual-Size-Frequency" (Cherkasova, HP Labs TR-98-69R1), blocks of one size.
 *   seen     those used once before those used more often, here or before they left as far as the filter remembers;
 *   twice    least recently used first among equals. What is asked for once never pushes out what is asked for again.
 *   scored   a number that the host gives, the lowest first; deepest first among equals
 *
 * Deepest first: of equals in one chain the last goes first.
 */
import { heapAdd, heapMoved, heapRemove, heapTop } from "./heap";
import { historyAdd, historyTake } from "./history";
import { NONE, Order, OrderKind, Record, record } from "./layout";
import { isSeen, see } from "./seen-filter";

// @ts-ignore: decorator
@inline const STAMP_BITS: u64 = 40;
// @ts-ignore: decorator
@inline const MAX_DEPTH: u64 = (1 << 24) - 1;

/** Key that puts the deeper of two first, and the one let go of earlier when they are equally deep. */
// @ts-ignore: decorator
@inline
function deepestFirst(r: Record): u64 {
  return ((MAX_DEPTH - <u64>r.depth) << STAMP_BITS) | (r.stamp & ((1 << STAMP_BITS) - 1));
}

/** Bits of an f64 that compare, unsigned, as the numbers do. */
// @ts-ignore: decorator
@inline
export function ordered64(value: f64): u64 {
  const bits = reinterpret<u64>(value + 0.0);
  return bits ^ ((<u64>((<i64>bits) >> 63)) | 0x8000000000000000);
}

// @ts-ignore: decorator
@inline
function unordered64(key: u64): f64 {
  return reinterpret<f64>(key ^ ((<u64>((<i64>~key) >> 63)) | 0x8000000000000000));
}

/** Sets the key that depends on the id's uses. */
// @ts-ignore: decorator
@inline
function count(order: Order, r: Record): void {
  r.count += 1;
  if (order.kind == OrderKind.Lfu) r.major = r.count;
  else if (order.kind == OrderKind.SeenTwice) r.major = u64(r.count > 1);
  else if (order.kind == OrderKind.Gdsf)
    r.major = ordered64(order.inflation + <f64>r.count * (order.baseCost + <f64>r.depth * order.depthCost));
}

export function rankedEnter(order: Order, r: Record, key: u64): void {
  r.count = 0;
  r.major = 0;
  if (order.history != 0) {
    const trace = historyTake(order.history, key);
    if (trace != 0) r.count = load<u32>(trace);
  }
  if (order.filter != 0) r.count = u32(isSeen(order.filter, key));
  if (order.kind == OrderKind.Fifo) r.major = ++order.clock;
  else if (order.kind == OrderKind.Scored) r.major = ordered64(0);
  else count(order, r);
}

// @ts-ignore: decorator
@inline
export function rankedUse(order: Order, r: Record): void {
  count(order, r);
}

// @ts-ignore: decorator
@inline
export function rankedRest(order: Order, r: Record): void {
  r.stamp = ++order.clock;
  if (order.kind == OrderKind.Lru) r.major = r.stamp;
  r.minor = order.kind == OrderKind.Lfu || order.kind == OrderKind.SeenTwice ? r.stamp : deepestFirst(r);
}

// @ts-ignore: decorator
@inline
export function rankedOffer(order: Order, id: u32): void {
  heapAdd(order.heap, id);
}

// @ts-ignore: decorator
@inline
export function rankedWithdraw(order: Order, id: u32): void {
  heapRemove(order.heap, id);
}

// @ts-ignore: decorator
@inline
export function rankedVictim(order: Order): u32 {
  return heapTop(order.heap);
}

export function rankedLeave(order: Order, r: Record, key: u64, evicted: bool): void {
  if (evicted && order.kind == OrderKind.Gdsf) order.inflation = unordered64(r.major);
  if (order.history != 0) store<u32>(historyAdd(order.history, key), r.count);
  if (order.filter != 0) see(order.filter, key);
}

/** Gives an id that has entered another score. */
export function setScore(order: Order, id: u32, score: f64): void {
  const r = record(order, id);
  r.major = ordered64(score);
  if (r.position != NONE) heapMoved(order.heap, id);
}
