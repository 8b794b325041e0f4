/**
 * Order: in which order the cached blocks that nobody needs are forgotten. It works on ids 0 to capacity - 1 and
 * knows nothing of blocks: who uses it reports what happens to an id (order.ts) and asks for the next victim.
 *
 *   header     (Order, 2 lines)
 *   records    [capacity] Record, 48 B              what the orders remember of an id
 *   heaps      up to 2 of [capacity] u32            candidates, next victim first (heap.ts), or bags of them (bag.ts)
 *   lists      heads and tails                      candidates of the learned order and of those by advice (lists.ts)
 *   lifetimes  learned order only                   what it has learned (lifetimes.ts)
 *   terms      priority order only                  times at which priorities fall back (priority.ts)
 *   history    [history] Trace, 32 B, and buckets   ids that have left, by key (history.ts), or a filter of their keys
 *                                                   (seen-filter.ts)
 *
 * Least recently used needs none of this: it is the pool's own list.
 */
import { ADVICE_LISTS } from "./advice";
import { heapBytes, heapCreate } from "./heap";
import { historyBytes, historyCreate } from "./history";
import { CLASSES, lifetimesBytes, lifetimesCreate } from "./lifetimes";
import { listsBytes, listsCreate } from "./lists";
import { seenFilterBytes, seenFilterCreate } from "./seen-filter";
import { termsBytes, termsCreate } from "./priority";

/** No id, no position, end of a list. */
// @ts-ignore: decorator
@inline export const NONE: u32 = 0xffffffff;

/** What an order goes by. The numbers are the host's. */
export const enum OrderKind {
  /** The pool's own list; there is no Order. */
  Lru = 0,
  Fifo = 1,
  Lfu = 2,
  S3Fifo = 3,
  Gdsf = 4,
  Scored = 5,
  Gittins = 6,
  Marker = 7,
  FlushAll0 = 8,
  Mark0 = 9,
  MarkPredict = 10,
  Priority = 11,
  SeenTwice = 12,
}

// @ts-ignore: decorator
@inline export const LAST_KIND: u32 = OrderKind.SeenTwice;
// @ts-ignore: decorator
@inline export const MAX_HISTORY: u32 = 1 << 26;


@unmanaged
export class Record {
  /** Key in a heap, the smallest first, and the position there (heap.ts); in a list `major` holds the links. */
  major: u64;
  minor: u64;
  /** NONE: in no heap and no list. */
  position: u32;
  /** Ids in front of it in its chain. */
  depth: u32;
  /** Clock when the id was last let go of. */
  stamp: u64;
  /** Uses, as the order counts them. */
  count: u32;
  /** An order's own: queue, class, flags. */
  state: u32;
}


@unmanaged
export class Order {
  kind: u32;
  capacity: u32;
  records: u32;
  /** Addresses of what this kind has, else 0. */
  heap: u32;
  secondHeap: u32;
  lists: u32;
  lifetimes: u32;
  history: u32;
  /** Ids that have entered and not left. */
  entered: u32;
  /** Times that an id was let go of, or entered a queue. */
  clock: u64;
  /** GDSF: priority of the last victim. */
  inflation: f64;
  /** GDSF: cost of the first id of a chain, and what each id in front of it adds. */
  baseCost: f64;
  depthCost: f64;
  /** S3-FIFO: ids in the small queue. */
  smallCount: u32;
  /** Mark0: whether a victim has been drawn for the next id to come. */
  madeRoom: u32;
  /** Marking orders: the phase; Flush-When-All-0s: clock of the last flush; state of the random draws. */
  phase: u64;
  flushed: u64;
  random: u64;
  /** Priority order: addresses of its terms and of the heap of their deadlines. */
  terms: u32;
  deadlines: u32;
  /** Seen-twice order: address of its filter, 0: it remembers nothing. */
  filter: u32;
}

// @ts-ignore: decorator
@inline
export function record(order: Order, id: u32): Record {
  return changetype<Record>(<usize>order.records + <usize>id * offsetof<Record>());
}

// @ts-ignore: decorator
@inline
function align(bytes: u64): u64 {
  return (bytes + 63) & ~63;
}

// @ts-ignore: decorator
@inline
function heapsOf(kind: u32): u32 {
  if (kind == OrderKind.Gittins || kind == OrderKind.FlushAll0) return 0;
  return kind == OrderKind.S3Fifo || kind == OrderKind.MarkPredict ? 2 : 1;
}

// @ts-ignore: decorator
@inline
function listsOf(kind: u32): u32 {
  return kind == OrderKind.Gittins ? CLASSES : takesAdvice(kind) ? ADVICE_LISTS : 0;
}

/** Whether the kind is one of advice.ts. */
// @ts-ignore: decorator
@inline
export function takesAdvice(kind: u32): bool {
  return kind >= <u32>OrderKind.Marker && kind <= <u32>OrderKind.MarkPredict;
}

/** Exact bytes of an order of this kind over `capacity` ids that remembers `history` of those that have left. */
export function orderBytes(kind: u32, capacity: u32, history: u32): u64 {
  let bytes = align(offsetof<Order>()) + align(<u64>capacity * offsetof<Record>());
  bytes += align(kind == OrderKind.SeenTwice ? seenFilterBytes(history) : historyBytes(history));
  bytes += <u64>heapsOf(kind) * align(heapBytes(capacity));
  bytes += align(listsBytes(listsOf(kind)));
  if (kind == OrderKind.Gittins) bytes += align(lifetimesBytes(capacity));
  if (kind == OrderKind.Priority) bytes += termsBytes(capacity);
  return bytes;
}

/** An order without ids in a zeroed region of `orderBytes` bytes. */
export function orderLayOut(order: Order, kind: u32, capacity: u32, history: u32, seed: u64): void {
  order.kind = kind;
  order.capacity = capacity;
  let at = changetype<usize>(order) + <usize>align(offsetof<Order>());
  const records = at;
  order.records = <u32>at;
  for (let id: u32 = 0; id < capacity; id++) record(order, id).position = NONE;
  at += <usize>align(<u64>capacity * offsetof<Record>());
  if (history != 0 && kind == OrderKind.SeenTwice) {
    order.filter = <u32>at;
    seenFilterCreate(at, history);
    at += <usize>align(seenFilterBytes(history));
  } else if (history != 0) {
    order.history = <u32>at;
    historyCreate(at, history);
    at += <usize>align(historyBytes(history));
  }
  const lists = listsOf(kind);
  if (lists != 0) {
    order.lists = <u32>at;
    listsCreate(at, lists);
    at += <usize>align(listsBytes(lists));
  }
  if (kind == OrderKind.Gittins) {
    order.lifetimes = <u32>at;
    lifetimesCreate(at, capacity);
  }
  if (kind == OrderKind.Priority) {
    termsCreate(order, at);
    at += <usize>termsBytes(capacity);
  }
  order.phase = 1;
  order.random = seed;
  if (heapsOf(kind) == 0) return;
  order.heap = <u32>at;
  if (heapsOf(kind) == 2) order.secondHeap = <u32>(at + <usize>align(heapBytes(capacity)));
  if (takesAdvice(kind)) return; // zeroed memory is an empty bag
  heapCreate(order.heap, records, <u32>offsetof<Record>());
  if (order.secondHeap != 0) heapCreate(order.secondHeap, records, <u32>offsetof<Record>());
}
