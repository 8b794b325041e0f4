/**
 * OrderedIndex: records and geometry of the B-skiplist.
 *
 *   header (Index, 128 B)
 *   nodes [nodeCapacity], nodeBytes each, 64-byte aligned:
 *
 *     0  lock u64        reader-writer lock and version of the shared builds; 0 here
 *     8  count u16 | level u8 | flags u8
 *    12  next u32        right neighbour on the same level, 0 at the end
 *    16  nextHeader u64  copy of the neighbour's first key, KEY_MAX at the end
 *    24  link u32        free list
 *    28  owner u32       retired lists of the shared builds
 *    32  keys u64[capacity]
 *        then values u64|u32 [capacity] in a leaf, children u32 [capacity] above
 *
 * `nextHeader` decides "go right?" without touching the neighbour: half of the structure's locality. Source:
 * "Bridging Cache-Friendliness and Concurrency: A Locality-Optimized In-Memory B-Skiplist" (arXiv
 * 2507.21492).
 */

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
  size: u32;
  freeHead: u32;
  freeCount: u32;
  /** Nodes never taken so far start here. */
  fresh: u32;
  seed: u64;
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
  owner: u32;
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
function leafCapacityOf(nodeBytes: u32, valueBytes: u32): u32 {
  return (nodeBytes - <u32>KEYS) / (8 + valueBytes);
}

/** One key in 2^bits is promoted: about one in half a leaf, the paper's c = 1/2. */
function digitBitsOf(leafCapacity: u32): u32 {
  return max<u32>(1, 31 - clz((leafCapacity * 3) >> 2));
}

// @ts-ignore: decorator
@inline
export function indexRegionBytes(nodeCapacity: u32, nodeBytes: u32): u64 {
  return <u64>HEADER_BYTES + <u64>nodeCapacity * nodeBytes;
}

/**
 * Nodes that hold `entries` entries whatever the order of insertions and deletions, six standard deviations
 * out.
 */
export function nodesFor(entries: u32, nodeBytes: u32, valueBytes: u32): u32 {
  const leafCapacity = leafCapacityOf(nodeBytes, valueBytes);
  const promoted = <f64>entries / <f64>(1 << digitBitsOf(leafCapacity));
  // A leaf starts with a promoted key, or is more than half full together with its left neighbour.
  const leaves = promoted + 6 * sqrt<f64>(promoted) + (2 * <f64>entries) / <f64>leafCapacity + 2;
  return <u32>(leaves * 1.25) + 2 * MAX_LEVELS + 8;
}

/** Sets the geometry of an index over a region of `indexRegionBytes` bytes. */
export function layOut(index: Index, nodeCapacity: u32, nodeBytes: u32, valueBytes: u32, seed: u64): void {
  index.nodes = <u32>changetype<usize>(index) + <u32>HEADER_BYTES;
  index.nodeBytes = nodeBytes;
  index.nodeCapacity = nodeCapacity;
  index.valueBytes = valueBytes;
  index.leafCapacity = leafCapacityOf(nodeBytes, valueBytes);
  index.innerCapacity = (nodeBytes - <u32>KEYS) / 12;
  index.digitBits = digitBitsOf(index.leafCapacity);
  index.seed = seed;
  // Enough levels that the top list stays about as short as one node.
  const entries = <u64>nodeCapacity * index.leafCapacity;
  let levels: u32 = 1;
  while (levels < MAX_LEVELS && entries >> (levels * index.digitBits) > 0) levels += 1;
  index.levels = max<u32>(2, levels);
}
