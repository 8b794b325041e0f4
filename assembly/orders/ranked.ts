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
 * Deepest first: of equals in one chain the last goes first. What is above a stamp, in the key or in its second word, is what
 * matters more: uses, up to 2^24 - 1 of them, or how much less deep an id is than it could be.
 */
import { heapAdd, heapMoved, heapRemove, heapTop } from "./heap";
import { historyAdd, historyTake } from "./history";
import { isPlaced, NONE, Order, OrderKind, recordPtr, STAMP, STAMP_BITS, Stride } from "./layout";
import { isSeen, see } from "./seen-filter";

/** Most uses, and greatest depth, that there is room for above a stamp. */
// @ts-ignore: decorator
@inline const MOST: u64 = u64.MAX_VALUE >> STAMP_BITS;

/** GDSF, scored; `minor`: MOST - depth, above a stamp. */
@unmanaged
class Record {
  major: u64;
  minor: u64;
  place: u32;
  uses: u32;
}

// @ts-ignore: decorator
@inline
function record(order: Order, id: u32): Record {
  return changetype<Record>(recordPtr(order, id));
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

/** One use more. */
export function rankedUse(order: Order, id: u32): void {
  const r = record(order, id);
  if (order.kind == OrderKind.Lfu) {
    if (r.major >> STAMP_BITS < MOST) r.major += STAMP + 1;
  } else if (order.kind == OrderKind.SeenTwice) r.major |= STAMP + 1;
  else if (order.kind == OrderKind.Gdsf) {
    r.uses += 1;
    const depth = <f64>(MOST - (r.minor >> STAMP_BITS));
    r.major = ordered64(order.inflation + <f64>r.uses * (order.baseCost + depth * order.depthCost));
  }
}

export function rankedEnter(order: Order, id: u32, parent: u32, key: u64): void {
  const r = record(order, id);
  let uses: u32 = 0;
  if (order.history != 0) {
    const trace = historyTake(order.history, key);
    if (trace != 0) uses = load<u32>(trace);
  }
  if (order.stride == Stride.Deep) {
    r.minor = (parent == NONE ? MOST : (record(order, parent).minor >> STAMP_BITS) - 1) << STAMP_BITS;
    r.uses = uses;
    r.major = ordered64(0);
  } else if (order.kind == OrderKind.Fifo) r.major = ++order.clock;
  else if (order.filter != 0) r.major = (<u64>isSeen(order.filter, key)) << STAMP_BITS;
  else r.major = (<u64>uses) << STAMP_BITS;
  if (order.kind != OrderKind.SeenTwice) rankedUse(order, id);
}

/** Sets the stamp of an id that has been let go of. */
// @ts-ignore: decorator
@inline
export function rankedRest(order: Order, id: u32): void {
  if (order.kind == OrderKind.Fifo) return;
  const stamped = recordPtr(order, id) + (order.stride == Stride.Deep ? offsetof<Record>("minor") : 0);
  store<u64>(stamped, (load<u64>(stamped) & ~STAMP) | (++order.clock & STAMP));
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

export function rankedLeave(order: Order, id: u32, key: u64, evicted: bool): void {
  const r = record(order, id);
  if (evicted && order.kind == OrderKind.Gdsf) order.inflation = unordered64(r.major);
  if (order.history != 0)
    store<u32>(
      historyAdd(order.history, key),
      order.stride == Stride.Deep ? r.uses : <u32>(r.major >> STAMP_BITS),
    );
  if (order.filter != 0) see(order.filter, key);
}

/** Gives an id that has entered another score. */
export function setScore(order: Order, id: u32, score: f64): void {
  record(order, id).major = ordered64(score);
  if (isPlaced(order, id)) heapMoved(order.heap, id);
}
