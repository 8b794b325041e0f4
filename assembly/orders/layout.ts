/**
 * Order: in which order the cached blocks that nobody needs are forgotten. It works on ids 0 to capacity - 1 and
 * knows nothing of blocks: who uses it reports what happens to an id (order.ts) and asks for the next victim.
 *
 *   header     (Order, 2 lines)
 *   records    [capacity] Record, 48 B              what the orders remember of an id
 *   heaps      2 x [capacity] u32                   candidates, next victim first (heap.ts)
 *   history    [history] Trace, 32 B, and buckets   ids that have left, by key (history.ts)
 *
 * Least recently used needs none of this: it is the pool's own list.
 */
import { heapBytes, heapCreate } from "./heap";
import { historyBytes, historyCreate } from "./history";

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
}

// @ts-ignore: decorator
@inline export const LAST_KIND: u32 = OrderKind.Scored;
// @ts-ignore: decorator
@inline export const MAX_HISTORY: u32 = 1 << 26;


@unmanaged
export class Record {
  /** Key in a heap, the smallest first, and the position there (heap.ts). */
  major: u64;
  minor: u64;
  /** NONE: in no heap. */
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
  /** Addresses of the heaps, and of the history (or 0). */
  heap: u32;
  secondHeap: u32;
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

/** Exact bytes of an order of this kind over `capacity` ids that remembers `history` of those that have left. */
export function orderBytes(kind: u32, capacity: u32, history: u32): u64 {
  return (
    align(offsetof<Order>()) +
    align(<u64>capacity * offsetof<Record>()) +
    2 * align(heapBytes(capacity)) +
    align(historyBytes(history))
  );
}

/** An order without ids in a zeroed region of `orderBytes` bytes. */
export function orderLayOut(order: Order, kind: u32, capacity: u32, history: u32): void {
  order.kind = kind;
  order.capacity = capacity;
  let at = changetype<usize>(order) + <usize>align(offsetof<Order>());
  order.records = <u32>at;
  for (let id: u32 = 0; id < capacity; id++) record(order, id).position = NONE;
  const places = at;
  at += <usize>align(<u64>capacity * offsetof<Record>());
  order.heap = <u32>at;
  heapCreate(at, places, <u32>offsetof<Record>());
  at += <usize>align(heapBytes(capacity));
  order.secondHeap = <u32>at;
  heapCreate(at, places, <u32>offsetof<Record>());
  at += <usize>align(heapBytes(capacity));
  if (history != 0) {
    order.history = <u32>at;
    historyCreate(at, history);
  }
}
