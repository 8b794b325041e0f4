/**
 * OrderedIndex: records and geometry of the B-skiplist.
 *
 *   header (Index, 128 B) | stripes [1 or MAX_WORKERS], 192 B each
 *   nodes [nodeCapacity], nodeBytes each, 64-byte aligned:
 *
 *     0  lock u64        reader-writer lock and version (memory/locks.ts); unused in a private index
 *     8  count u16 | level u8 | flags u8
 *    12  next u32        right neighbour on the same level, 0 at the end
 *    16  nextHeader u64  copy of the neighbour's first key, KEY_MAX at the end
 *    24  link u32        free list
 *    32  keys u64[capacity]
 *        then values u64|u32 [capacity] in a leaf, children u32 [capacity] above
 *
 * `nextHeader` decides "go right?" without touching the neighbour: half of the structure's locality. Source:
 * "Bridging Cache-Friendliness and Concurrency: A Locality-Optimized In-Memory B-Skiplist" (arXiv
 * 2507.21492).
 */
import { MAX_WORKERS } from "../memory/workers";

/** Keys 0 and 2^64 - 1 are the sentinels at the two ends. */
// @ts-ignore: decorator
@inline export const KEY_MIN: u64 = 0;
// @ts-ignore: decorator
@inline export const KEY_MAX: u64 = u64.MAX_VALUE;
// @ts-ignore: decorator
@inline export const MAX_LEVELS: u32 = 8;
// @ts-ignore: decorator
@inline export const KEYS: usize = 32;
// @ts-ignore: decorator
@inline export const DEFAULT_NODE_BYTES: u32 = 1024;
// @ts-ignore: decorator
@inline const HEADER_BYTES: usize = 128;
// @ts-ignore: decorator
@inline const STRIPE_BYTES: usize = 192;

/** Who may use an index at the same time. */
export const enum Mode {
  /** One thread at a time; no lock is touched. */
  Private = 0,
  /** Readers and writers lock nodes: the paper's protocol. */
  Locked = 1,
  /** Writers lock nodes, readers validate versions instead. */
  Optimistic = 2,
}


@unmanaged
export class Index {
  nodes: u32;
  nodeBytes: u32;
  nodeCapacity: u32;
  valueBytes: u32;
  leafCapacity: u32;
  innerCapacity: u32;
  /** log2 of the inverse of the promotion probability. */
  digitBits: u32;
  levels: u32;
  mode: Mode;
  reserved: u32;
  seed: u64;
  unused: u64;
  unused2: u64;
  /** What follows changes; it starts a cache line of its own. Head of the free nodes: address and a change count. */
  free: u64;
  /** Free nodes that nobody has reserved, those never taken included. */
  freeCount: u32;
  /** Nodes never taken so far start here. */
  fresh: u32;
}

/** What one worker alone writes: plain stores on a cache line of its own. */

@unmanaged
export class Stripe {
  /** Entries added minus removed by this worker, modulo 2^32. */
  entries: u32;
  /** Optimistic reads that had to start again. */
  retries: u32;
  /** Reads and descents that gave up being optimistic. */
  fallbacks: u32;
  /** Calls that may hold locks and that the worker is in: a locked read counts within a batch as well. */
  inside: u32;
  /** Where a shared index hands a value out. */
  result: u64;
  result2: u64;
  /** Mode.Locked: the inner nodes that the worker reads, 0: none (reading.ts). */
  reading: u32;
  reading2: u32;
  /** Sum of what has been asked for ahead (ahead.ts); nobody reads it. */
  asked: u64;
  /** Leaves and slots found ahead for a group of keys (probe.ts), 48 B, and where their scans go on (ahead.ts), 64 B. */
  hintedLeaves: u32;
}


@unmanaged
export class Node {
  lock: u64;
  count: u16;
  level: u8;
  flags: u8;
  next: u32;
  nextHeader: u64;
  link: u32;
  reserved: u32;
}

// @ts-ignore: decorator
@inline
export function isShared(index: Index): bool {
  return ASC_FEATURE_THREADS ? index.mode != Mode.Private : false;
}

// @ts-ignore: decorator
@inline
export function isOptimistic(index: Index): bool {
  return ASC_FEATURE_THREADS ? index.mode == Mode.Optimistic : false;
}

// @ts-ignore: decorator
@inline
function stripesOf(mode: Mode): usize {
  return mode == Mode.Private ? 1 : <usize>MAX_WORKERS;
}

// @ts-ignore: decorator
@inline
export function stripe(index: Index, worker: u32): Stripe {
  return changetype<Stripe>(changetype<usize>(index) + HEADER_BYTES + <usize>worker * STRIPE_BYTES);
}

// @ts-ignore: decorator
@inline
export function stripeCount(index: Index): u32 {
  return <u32>stripesOf(index.mode);
}

// @ts-ignore: decorator
@inline
export function capacityOf(index: Index, level: u32): u32 {
  return level == 0 ? index.leafCapacity : index.innerCapacity;
}

// @ts-ignore: decorator
@inline
export function node(at: u32): Node {
  return changetype<Node>(<usize>at);
}

/** First node of a level. It holds KEY_MIN and lives as long as the index: node `level`. */
// @ts-ignore: decorator
@inline
export function head(index: Index, level: u32): u32 {
  return index.nodes + level * index.nodeBytes;
}

/** Whether `at`, read without a lock, is the address of a node at all. */
// @ts-ignore: decorator
@inline
export function isNode(index: Index, at: u32): bool {
  const offset = at - index.nodes;
  return ((offset & (index.nodeBytes - 1)) | u32(offset >= index.nodeCapacity * index.nodeBytes)) == 0;
}

// @ts-ignore: decorator
@inline
export function keyPtr(at: u32, slot: u32): usize {
  return <usize>at + KEYS + ((<usize>slot) << 3);
}

// @ts-ignore: decorator
@inline
export function keyAt(at: u32, slot: u32): u64 {
  return load<u64>(keyPtr(at, slot));
}

// @ts-ignore: decorator
@inline
export function childPtr(index: Index, at: u32, slot: u32): usize {
  return <usize>at + KEYS + ((<usize>index.innerCapacity) << 3) + ((<usize>slot) << 2);
}

// @ts-ignore: decorator
@inline
export function childAt(index: Index, at: u32, slot: u32): u32 {
  return load<u32>(childPtr(index, at, slot));
}

// @ts-ignore: decorator
@inline
export function valuePtr(index: Index, at: u32, slot: u32): usize {
  return <usize>at + KEYS + ((<usize>index.leafCapacity) << 3) + <usize>slot * <usize>index.valueBytes;
}

// @ts-ignore: decorator
@inline
export function loadValue(index: Index, ptr: usize): u64 {
  return index.valueBytes == 8 ? load<u64>(ptr) : <u64>load<u32>(ptr);
}

// @ts-ignore: decorator
@inline
export function storeValue(index: Index, ptr: usize, value: u64): void {
  if (index.valueBytes == 8) store<u64>(ptr, value);
  else store<u32>(ptr, <u32>value);
}

// @ts-ignore: decorator
@inline
export function leafCapacityOf(nodeBytes: u32, valueBytes: u32): u32 {
  return (nodeBytes - <u32>KEYS) / (8 + valueBytes);
}

/** One key in 2^bits is promoted: by default about one in half a leaf, the paper's c = 1/2. */
export function defaultDigitBits(nodeBytes: u32, valueBytes: u32): u32 {
  const leafCapacity = leafCapacityOf(nodeBytes, valueBytes);
  return max<u32>(1, 31 - clz((leafCapacity * 3) >> 2));
}

// @ts-ignore: decorator
@inline
export function indexRegionBytes(nodeCapacity: u32, nodeBytes: u32, mode: Mode): u64 {
  return <u64>(HEADER_BYTES + stripesOf(mode) * STRIPE_BYTES) + <u64>nodeCapacity * nodeBytes;
}

/**
 * Nodes that hold `entries` entries whatever the order of insertions and deletions, six standard deviations
 * out.
 */
export function nodesFor(entries: u32, nodeBytes: u32, valueBytes: u32, digitBits: u32): u32 {
  const leafCapacity = leafCapacityOf(nodeBytes, valueBytes);
  const promoted = <f64>entries / <f64>(1 << digitBits);
  // A leaf starts with a promoted key, or is more than half full together with its left neighbour.
  const leaves = promoted + 6 * sqrt<f64>(promoted) + (2 * <f64>entries) / <f64>leafCapacity + 2;
  return <u32>(leaves * 1.25) + 2 * MAX_LEVELS + 8;
}

/** Sets the geometry of an index over a region of `indexRegionBytes` bytes. */
export function layOut(
  index: Index,
  nodeCapacity: u32,
  nodeBytes: u32,
  valueBytes: u32,
  digitBits: u32,
  mode: Mode,
  seed: u64,
): void {
  index.nodes = <u32>(changetype<usize>(index) + HEADER_BYTES + stripesOf(mode) * STRIPE_BYTES);
  index.nodeBytes = nodeBytes;
  index.nodeCapacity = nodeCapacity;
  index.valueBytes = valueBytes;
  index.leafCapacity = leafCapacityOf(nodeBytes, valueBytes);
  index.innerCapacity = (nodeBytes - <u32>KEYS) / 12;
  index.digitBits = digitBits;
  index.mode = mode;
  index.seed = seed;
  // Enough levels that the top list is about one node long. The capacity is ample: it holds about a fifth of
  // its slots whatever happens.
  let above: u64 = (<u64>nodeCapacity * index.leafCapacity) / 5;
  let levels: u32 = 1;
  while (levels < MAX_LEVELS && above > (index.innerCapacity * 3) / 4) {
    above >>= digitBits;
    levels += 1;
  }
  index.levels = max<u32>(2, levels);
}
