/**
 * Order: in which order the cached blocks that nobody needs are forgotten. It works on ids 0 to capacity - 1 and
 * knows nothing of blocks: who uses it reports what happens to an id (order.ts) and asks for the next victim.
 *
 *   header     (Order, 2 lines)
 *   records    [capacity] Record, 48 B              what the orders remember of an id
 *   heaps      1 or 2 of [capacity] u32             candidates, next victim first (heap.ts)
 *   lists, lifetimes                                learned order only, in place of heaps (gittins.ts, lifetimes.ts)
 *   history    [history] Trace, 32 B, and buckets   ids that have left, by key (history.ts)
 *
 * Least recently used needs none of this: it is the pool's own list.
 */
import { heapBytes, heapCreate } from "./heap";
import { LIST_BYTES, listsCreate } from "./gittins";
import { historyBytes, historyCreate } from "./history";
import { lifetimesBytes, lifetimesCreate } from "./lifetimes";

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
}

// @ts-ignore: decorator
@inline export const LAST_KIND: u32 = OrderKind.Gittins;
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
  return kind == OrderKind.Gittins ? 0 : kind == OrderKind.S3Fifo ? 2 : 1;
}

/** Exact bytes of an order of this kind over `capacity` ids that remembers `history` of those that have left. */
export function orderBytes(kind: u32, capacity: u32, history: u32): u64 {
  let bytes =
    align(offsetof<Order>()) + align(<u64>capacity * offsetof<Record>()) + align(historyBytes(history));
  bytes += <u64>heapsOf(kind) * align(heapBytes(capacity));
  if (kind == OrderKind.Gittins) bytes += align(LIST_BYTES) + align(lifetimesBytes(capacity));
  return bytes;
}

/** An order without ids in a zeroed region of `orderBytes` bytes. */
export function orderLayOut(order: Order, kind: u32, capacity: u32, history: u32): void {
  order.kind = kind;
  order.capacity = capacity;
  let at = changetype<usize>(order) + <usize>align(offsetof<Order>());
  const records = at;
  order.records = <u32>at;
  for (let id: u32 = 0; id < capacity; id++) record(order, id).position = NONE;
  at += <usize>align(<u64>capacity * offsetof<Record>());
  if (history != 0) {
    order.history = <u32>at;
    historyCreate(at, history);
    at += <usize>align(historyBytes(history));
  }
  if (kind == OrderKind.Gittins) {
    order.lists = <u32>at;
    listsCreate(at);
    at += <usize>align(LIST_BYTES);
    order.lifetimes = <u32>at;
    lifetimesCreate(at, capacity);
    return;
  }
  order.heap = <u32>at;
  heapCreate(at, records, <u32>offsetof<Record>());
  if (heapsOf(kind) == 1) return;
  at += <usize>align(heapBytes(capacity));
  order.secondHeap = <u32>at;
  heapCreate(at, records, <u32>offsetof<Record>());
}
