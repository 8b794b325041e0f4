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
 *   history    [history] trace, 10 to 28 B          ids that have left, by key (history.ts), or a filter of their keys
 *                                                   (seen-filter.ts)
 *
 * Least recently used needs none of this: it is the pool's own list.
 */
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

/** Whether the kind is one of advice.ts. */
// @ts-ignore: decorator
@inline
export function takesAdvice(kind: u32): bool {
  return kind >= <u32>OrderKind.Marker && kind <= <u32>OrderKind.MarkPredict;
}
