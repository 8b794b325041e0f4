/**
 * Order: in which order the cached blocks that nobody needs are forgotten. It works on ids 0 to capacity - 1 and
 * knows nothing of blocks: who uses it reports what happens to an id (order.ts) and asks for the next victim.
 *
 *   header     (Order, 2 lines)
 *   records    [capacity] 8 to 24 B                 what the kind remembers of an id
 *   heaps      up to 2 of [capacity] u32            candidates, next victim first (heap.ts), or bags of them (bag.ts)
 *   lists      heads and tails                      candidates of the learned order and of those by advice (lists.ts)
 *   lifetimes  learned order only                   what it has learned (lifetimes.ts)
 *   terms      priority order only                  times at which priorities fall back (priority.ts)
 *   history    [history] trace, 10 to 24 B          ids that have left, by key (history.ts), or a filter of their keys
 *                                                   (seen-filter.ts)
 *
 * In a record, besides what the kind goes by, is the id's place: its position in a heap, above 3 bits that are free to use,
 * its position in a bag, or the id before it in a list. The upper 29 bits are set where it is in none.
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

/** Bytes of a record, which is what kinds have in common. */
export const enum Stride {
  /** S3-FIFO: | place u32 | clock u32 | */
  Queued = 8,
  /** FIFO, LFU, seen twice, priority: | key u64 | place u32 | */
  Keyed = 12,
  /** By advice: | place u32 | next u32 | phase u32 | state u32 | */
  Advised = 16,
  /** Learned: | place u32 | next u32 | stamp u64 | state u32 | */
  Learned = 20,
  /** GDSF, scored: | major u64 | minor u64 | place u32 | uses u32 | */
  Deep = 24,
}

// @ts-ignore: decorator
@inline export const LAST_KIND: u32 = OrderKind.SeenTwice;
// @ts-ignore: decorator
@inline export const MAX_HISTORY: u32 = 1 << 26;

/** Bits of a place that are an order's own, below the 29 that say where an id is. */
// @ts-ignore: decorator
@inline export const FLAG_BITS: u32 = 3;
// @ts-ignore: decorator
@inline export const FLAGS: u32 = (1 << FLAG_BITS) - 1;
/** Of a key: times that an id was let go of, below what else it says. */
// @ts-ignore: decorator
@inline export const STAMP_BITS: u64 = 40;
// @ts-ignore: decorator
@inline export const STAMP: u64 = (1 << STAMP_BITS) - 1;


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
  /** Orders by advice: the phase, of Flush-When-All-0s from flush to flush; state of the random draws. */
  phase: u64;
  random: u64;
  /** Priority order: addresses of its terms and of the heap of their deadlines. */
  terms: u32;
  deadlines: u32;
  /** Seen-twice order: address of its filter, 0: it remembers nothing. */
  filter: u32;
  /** Bytes from one record to the next, and from its beginning to the place. */
  stride: u32;
  placeAt: u32;
}

/** Whether the kind is one of advice.ts. */
// @ts-ignore: decorator
@inline
export function takesAdvice(kind: u32): bool {
  return kind >= <u32>OrderKind.Marker && kind <= <u32>OrderKind.MarkPredict;
}

export function strideOf(kind: u32): u32 {
  if (kind == OrderKind.Gittins) return Stride.Learned;
  if (takesAdvice(kind)) return Stride.Advised;
  if (kind == OrderKind.Gdsf || kind == OrderKind.Scored) return Stride.Deep;
  return kind == OrderKind.S3Fifo ? Stride.Queued : Stride.Keyed;
}

// @ts-ignore: decorator
@inline
export function recordPtr(order: Order, id: u32): usize {
  return <usize>order.records + <usize>id * <usize>order.stride;
}

/** Whether an id is in a heap, a list or a bag. */
// @ts-ignore: decorator
@inline
export function isPlaced(order: Order, id: u32): bool {
  return load<u32>(recordPtr(order, id) + <usize>order.placeAt) < ~FLAGS;
}
